"""The commands that pages tell readers to type are right, and those of the first guide run."""

import contextlib
import dataclasses
import glob
import importlib
import pathlib
import re
import shlex
import shutil

import cv2
import numpy as np
import pytest

import deeplab_tf
from conftest import COMMANDS
from conftest import REPOSITORY
from conftest import configs_of
from deeplab_tf import command_line
from deeplab_tf.crf import PRESETS
from deeplab_tf.datasets.shapes import drawing

GUIDES = REPOSITORY / "docs/guides"
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "datasets").rglob("README.md"),
    ]
)
# Guides whose commands start from a folder of images, MY_DATA, and from what the first one made.
JOURNEY = (
    "annotation_tools",
    "difficult_data",
    "evaluation",
    "crf",
    "long_trainings",
    "export",
    "tflite_and_onnx",
    "hub",
)
# Above a code block, for the reason that it states: only the flags of its commands are checked.
_MARK = "<!-- parsed only: "
# Flags of paths that a command reads; all other paths are written.
_INPUTS = ("run_dir", "data_dir", "data", "manual_dir", "images", "model", "checkpoint", "compare")
_WRITES = {
    "datasets.build": ("data_dir",),
    "train": ("run_dir",),
    "supervise": ("run_dir",),
    "import_checkpoint": ("run_dir",),
}
FEW_STEPS = (
    "--training_number_of_steps=1",
    "--train_batch_size=1",
    "--train_crop_size=65,65",
    "--batch_statistics_images=0",
    "--depth_multiplier=0.35",
    "--version=v3",
    "--atrous_rates=",
    "--aspp_convs_filters=32",
    "--tf_initial_checkpoint=none",
)

FLAGS_OF_OTHERS = {"help", "flagfile", "name"}
FLAGS_OF_OTHERS |= {"requeue"}  # of Slurm
# Of TF Serving and Docker.
FLAGS_OF_OTHERS |= {"gpus", "enable_batching", "batching_parameters_file", "ssl_config_file"}
FLAGS_OF_OTHERS |= {"allow_version_labels_for_unavailable_models"}
# Of benchmarks.
for script in (REPOSITORY / "benchmarks").glob("*.py"):
    FLAGS_OF_OTHERS |= set(re.findall(r'"--(\w+)"', script.read_text(encoding="utf-8")))


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the package, as a page shows it."""

    module: str
    arguments: tuple[str, ...]
    is_parsed_only: bool = False

    @property
    def name(self) -> str:
        return self.module.removeprefix("deeplab_tf.")

    def configs(self, *more: str) -> tuple:
        return command_line.parse([*self.arguments, *more], *configs_of(self.module))

    def without_the_flags_of_runs(self) -> "Command":
        """The command without the flagfiles in run dirs, which the reader has."""
        arguments = [one for one in self.arguments if not re.match("--flagfile=RUN", one)]
        return dataclasses.replace(self, arguments=tuple(arguments))

    def for_an_untrained_run(self) -> "Command":
        """The command without 8 bits, for which the scores of its classes are too close."""
        arguments = [one for one in self.arguments if one != "--quantize=int8"]
        return dataclasses.replace(self, arguments=tuple(arguments))


def commands_in(text: str) -> list[Command]:
    """Returns the commands `python -m deeplab_tf...` in the code blocks of a page."""
    commands, is_marked = [], False
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip().startswith(_MARK):
            is_marked = True
        elif line.strip() == "```":  # the end of a block
            is_marked = False
        elif match := re.match(r"\s*python -m (deeplab_tf\S*) *(.*)", line):
            words = shlex.split(match[2], comments=True)
            ends = [index for index, word in enumerate(words) if word in ("&", "|", ">", "&&")]
            arguments = tuple(words[: min(ends, default=len(words))])
            commands.append(Command(match[1], arguments, is_marked))
    return commands


def python_in(text: str) -> list[str]:
    """Returns the blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def guide(name: str) -> str:
    return (GUIDES / f"{name}.md").read_text(encoding="utf-8")


def test_commands_are_found_over_several_lines_and_up_to_pipes():
    text = "    python -m deeplab_tf.eval --run_dir=RUN \\\n        --split=val | head  # here\n"
    assert commands_in(text) == [Command("deeplab_tf.eval", ("--run_dir=RUN", "--split=val"))]


def test_a_mark_is_for_the_next_block_alone():
    block = "```sh\npython -m deeplab_tf.train\n```\n"
    marks = [one.is_parsed_only for one in commands_in(_MARK + "why -->\n" + block + block)]
    assert marks == [True, False]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_flag_in_a_command_exists_and_takes_the_value(page, monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # where flagfiles are looked up
    for command in commands_in(page.read_text(encoding="utf-8")):
        if "X.flagfile" in " ".join(command.arguments) or "--help" in command.arguments:
            continue
        if command.module in COMMANDS:
            command.without_the_flags_of_runs().configs()
        else:  # `deeplab_tf` and those that parse their flags themselves
            assert importlib.util.find_spec(command.module), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_python_in_a_page_is_python_and_names_what_exists(page):
    for block in python_in(page.read_text(encoding="utf-8")):
        compile(block, str(page), "exec")
        for names in re.findall(r"\bdeeplab_tf((?:\.[A-Za-z]\w*)+)\(", block):
            value = deeplab_tf
            for name in names[1:].split("."):
                value = getattr(value, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_flags_that_a_page_speaks_of_exist(page):
    flags = {
        setting
        for command in COMMANDS
        for config in configs_of(command)
        for setting in config.__dataclass_fields__
    }
    words = set(re.findall(r"`--(\w+)(?=[=`\s])", page.read_text(encoding="utf-8")))
    assert words - flags - FLAGS_OF_OTHERS == set()


def test_the_guide_to_install_lists_every_extra():
    text = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    extras = set(re.findall(r'^(?:    |EXTRAS\[)"(\w+)"(?:: \[|\] = )', text, re.MULTILINE))
    rows = re.findall(r"^\| (`.*`) \|", guide("install"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == extras


def test_the_tables_of_the_crf_are_its_parameters():
    text = (REPOSITORY / "docs/concepts/crf.md").read_text(encoding="utf-8")
    for name in PRESETS["v1"]:
        if name != "iterations":
            v1, v2 = (f"{PRESETS[version][name]:g}" for version in ("v1", "v2"))
            assert f"`--crf_{name}` | {v1} | {v2} |" in text


@pytest.fixture
def folder(tiny_raw, tiny_records, tiny_run_dir, short_network, tmp_path, monkeypatch):
    """A working directory with what the first guide starts from, and a run dir on the side."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_raw, "MY_DATA")
    pathlib.Path("photos").mkdir()
    image, _ = drawing.draw("photos", 0)
    cv2.imwrite("photos/photo.jpg", image[..., ::-1])
    return tmp_path


def run(command: Command, *more: str) -> None:
    """Runs a command in this process."""
    with contextlib.suppress(SystemExit):
        importlib.import_module(command.module).main(*command.configs(*more))


def test_the_first_guide_runs_from_a_folder_of_images_to_labels(folder, tiny_run_dir):
    text = guide("own_data")
    commands = {command.name: command for command in commands_in(text)}
    assert list(commands)[:5] == ["check_data", "datasets.build", "train", "eval", "predict"]
    run(commands["check_data"])
    run(commands["datasets.build"])
    commands["train"].configs()
    shutil.copytree(tiny_run_dir, "RUN")  # what the training makes; tests/test_train.py runs it
    run(commands["eval"])
    run(commands["predict"])
    variables = {}
    for block in python_in(text):
        exec(block, variables)
    assert variables["labels"].shape == drawing.draw("photos", 0)[1].shape
    made = ("data_check/report.json", "DATA", "report.html", "PREDICTIONS/overview.png")
    assert [path for path in made if not pathlib.Path(path).exists()] == []
    label = cv2.imread("PREDICTIONS/photo.png", cv2.IMREAD_UNCHANGED)
    assert label is not None and np.ndim(label) >= 2


@pytest.mark.parametrize("name", JOURNEY)
def test_what_the_commands_of_a_guide_read_was_given_or_made_before(name):
    made = {"MY_DATA", "DATA", "RUN", "photos/*.jpg", "OTHER_RUN", "CHECKPOINT/model.ckpt-0"}
    made |= {"EXPORT", "MODEL.tflite"} if name != "export" else set()
    for command in commands_in(guide(name)):
        if command.is_parsed_only or command.module not in COMMANDS:
            continue
        paths = dict(re.findall(r"--(\w+)=(\S+)", " ".join(command.arguments)))
        written = _WRITES.get(command.name, ())
        reads = {flag: path for flag, path in paths.items() if flag in _INPUTS}
        missing = {path for flag, path in reads.items() if flag not in written} - made
        assert missing == set(), command
        made |= {path for flag, path in paths.items() if flag in (*written, "output", "output_dir")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_data", *JOURNEY])
def test_all_commands_of_a_guide_run(name, folder, tiny_run_dir):
    for run_dir in ("RUN", "OTHER_RUN"):
        shutil.copytree(tiny_run_dir, run_dir)
    commands = [one for one in commands_in(guide(name)) if not one.is_parsed_only]
    if name != "own_data":
        for command in commands_in(guide("own_data")):
            if command.name in ("datasets.build", "export.tflite"):
                run(command)
    for command in commands:
        if command.name == "train":
            shutil.rmtree("RUN", ignore_errors=True)
        trains = command.name in ("train", "supervise")
        run(command.for_an_untrained_run(), *(FEW_STEPS if trains else ()))
        for flag in ("output", "output_dir", *(("run_dir",) if trains else ())):
            for path in re.findall(rf"--{flag}=(\S+)", " ".join(command.arguments)):
                assert glob.glob(path), command
