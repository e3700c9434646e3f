"""Lists the commands, and runs one: `python -m deeplab_tf COMMAND`, or `deeplab-tf COMMAND`.

Nothing slow is imported here. The docstring of a command's module says what it does.
"""

import ast
import difflib
import os
import pathlib
import runpy
import sys

from deeplab_tf.errors import quiet_when_unread
from deeplab_tf.errors import shortened

# By group, in the order of use.
COMMANDS = {
    "Data": (
        "check_data",
        "datasets.build",
        "datasets.shapes.draw",
        "data_service",
    ),
    "Training": (
        "describe",
        "train",
        "supervise",
    ),
    "Released weights": (
        "zoo",
        "import_checkpoint",
    ),
    "Trained models": (
        "eval",
        "predict",
        "tune_crf",
    ),
    "Deployment": (
        "export.savedmodel",
        "export.tflite",
        "export.onnx",
        "export.web",
        "export.serve",
        "export.client",
        "export.hub",
    ),
}
NAMES = tuple(name for names in COMMANDS.values() for name in names)

# What a newcomer may try first: a title, and the lines to type.
FIRST_STEPS = {
    "Label your photos with released weights": (
        "predict --weights=mobilenetv2_dm05_coco_voc_trainaug --images=PHOTOS --output_dir=LABELS",
    ),
    "Train on drawn images": (
        "datasets.build --dataset=shapes --data_dir=DATA",
        "train --data_dir=DATA --run_dir=RUN",
    ),
    "Train on your own images and labels": (
        "check_data --data=MY_DATA",
        "datasets.build --dataset=folder --manual_dir=MY_DATA --data_dir=DATA",
        "train --data_dir=DATA --run_dir=RUN",
    ),
}

_HELP = ("--help", "--helpshort", "--helpfull", "-help", "-h", "help")


def main() -> None:
    """Runs the command that the command line names; without one, lists all of them."""
    _, *arguments = sys.argv
    if not arguments or arguments[0] in _HELP:
        with quiet_when_unread():
            print(overview(_program()))
        return
    name, *own_arguments = arguments
    if name not in NAMES:
        sys.exit(f"error: {_complaint(name)} {_program()} lists all commands.")
    sys.argv[1:] = own_arguments
    runpy.run_module(f"deeplab_tf.{name}", run_name="__main__", alter_sys=True)


def overview(program: str) -> str:
    """Returns the first steps and the list of all commands.

    Args:
        program: What comes before the name of a command, such as "python -m deeplab_tf".
    """
    width = max(map(len, NAMES))
    lines = ["DeepLab semantic segmentation: from label files to models on servers and phones.", ""]
    for title, commands in FIRST_STEPS.items():
        lines += [f"{title}:", *(f"    {program} {command}" for command in commands), ""]
    for group, names in COMMANDS.items():
        lines += [f"{group}:", *(f"    {name:{width}}  {summary(name)}" for name in names), ""]
    return "\n".join([*lines, f"{program} COMMAND --help lists the flags of a command."])


def summary(name: str) -> str:
    """Returns the first line of a command's docstring, which is read but not imported."""
    path = pathlib.Path(__file__).parent.joinpath(*name.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _program() -> str:
    """Returns the words that this was called with."""
    is_module = os.path.basename(sys.argv[0]) == "__main__.py"
    return "python -m deeplab_tf" if is_module else "deeplab-tf"


def _complaint(word: str) -> str:
    """Returns what is wrong with a word that is not the name of a command."""
    if word.startswith("-"):
        return f"the name of a command comes first, before {shortened(word)}."
    known = {name.rpartition(".")[2]: name for name in NAMES} | {name: name for name in NAMES}
    typed = word.removeprefix("deeplab_tf.").removesuffix(".py").replace("-", "_")
    near = difflib.get_close_matches(typed, known, 1)
    ask = f" Did you mean {known[near[0]]}?" if near else ""
    return f"there is no command {shortened(word)!r}.{ask}"


if __name__ == "__main__":
    main()
