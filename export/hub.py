"""Publishes a run on the Hugging Face Hub, with a card that describes it.

    python -m deeplab_tf.export.hub --run_dir=RUN --repo=hf://USER/REPO --license=apache-2.0
    python -m deeplab_tf.export.hub --run_dir=RUN --output_dir=FOLDER

The first form needs a token with write permission: sign in with `hf auth login`, or set the
environment variable HF_TOKEN. The second form writes the same files to a folder, and needs no
network.

The card, README.md, shows the classes, the figures of the last evaluation, the flags of the
training and how to load the model: deeplab_tf.load_model("hf://USER/REPO"). Run deeplab_tf.eval
before. Paths of this machine are not published. Needs the package of the extra `hub`.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.errors import UserError
from deeplab_tf.settings import setting

publish = command_line.lazy_function("deeplab_tf.export.formats.hub", "publish")
write_folder = command_line.lazy_function("deeplab_tf.export.formats.hub", "write_folder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    run_dir: str = config.run_dir()
    repo: str = setting(
        "",
        "Address hf://USER/REPO to publish at. The repository is created if it does not exist.",
        is_common=True,
    )
    license: str = setting(
        "",
        "Licence of the weights, as the Hub names it: apache-2.0, cc-by-4.0, other.",
        default_help="none is stated",
        is_common=True,
    )
    private: bool = setting(False, "Whether a new repository is private.")
    output_dir: str = config.output_dir("", "not written: the files are published")
    checkpoint: str = config.checkpoint()


def main(arguments: Arguments) -> None:
    card = {"checkpoint": arguments.checkpoint, "license": arguments.license}
    if arguments.output_dir:
        folder = write_folder(
            arguments.run_dir, arguments.output_dir, address=arguments.repo, **card
        )
        print(f"{folder}: nothing was published; the card is {folder}/README.md")
    elif arguments.repo:
        url = publish(arguments.run_dir, arguments.repo, private=arguments.private, **card)
        print(f'{url}: load it by deeplab_tf.load_model("{arguments.repo}")')
    else:
        raise UserError("--repo must be given to publish the run, or --output_dir to write it.")


if __name__ == "__main__":
    command_line.run(main)
