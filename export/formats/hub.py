"""A run as a folder for the Hugging Face Hub, and its upload.

The folder is a run dir whose weights are in Keras' format, so `keras.saving.load_model` and all
commands read it. Paths and addresses of this machine are left out.
"""

import dataclasses
import os
import sys
import tempfile

import keras
import numpy as np

from deeplab_tf import command_line
from deeplab_tf import files
from deeplab_tf import settings
from deeplab_tf import zoo
from deeplab_tf.config import IMAGENET
from deeplab_tf.config import NO_WEIGHTS
from deeplab_tf.config import DataConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
from deeplab_tf.evaluation import results
from deeplab_tf.export import model_card
from deeplab_tf.export import parity
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import hub
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files
from deeplab_tf.weights.checkpoint_values import first_line

_CARD = "README.md"
_MAX_RELATIVE_DIFFERENCE = 1e-5  # of logits: the weights are the same, only sums may be reordered


def publish(
    run_dir: str,
    address: str,
    *,
    checkpoint: str = "best",
    license: str = "",
    private: bool = False,
) -> str:
    """Publishes a run with its card on the Hugging Face Hub.

    Args:
        run_dir: Folder of a trained or imported run.
        address: hf://USER/REPO. Its files of the same names are replaced.
        checkpoint: "best" or "last".
        license: Licence of the weights as the Hub names it; empty if none is stated.
        private: Whether a repository that is made is private.

    Returns:
        URL of the repository.

    Raises:
        UserError: The run cannot be used, huggingface_hub is missing, nobody has signed in, or the
            upload fails.
    """
    name = hub.repository(address)
    with extra_for("Publishing on the Hugging Face Hub", extra="hub"):
        import huggingface_hub
    with tempfile.TemporaryDirectory() as parent:
        folder = write_folder(
            run_dir,
            os.path.join(parent, "model"),
            address=address,
            checkpoint=checkpoint,
            license=license,
        )
        try:
            api = huggingface_hub.HfApi(library_name="deeplab_tf")
            url = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Publish the model")
        except Exception as error:  # of many kinds: no network, no token, answers of the server
            raise UserError(
                f"{address} cannot be published: {first_line(error)} Sign in with `hf auth login`, "
                "or set HF_TOKEN, to a token that may write there; or write the files to a folder "
                "by --output_dir."
            ) from error
    return str(url)


def write_folder(
    run_dir: str,
    output_dir: str,
    *,
    address: str = "",
    checkpoint: str = "best",
    license: str = "",
) -> str:
    """Writes what `publish` publishes to a folder; needs no network.

    Args:
        run_dir: Folder of a trained or imported run.
        output_dir: The folder to write, which must not exist.
        address: hf://USER/REPO that the card names; empty for a stand-in.
        checkpoint: "best" or "last".
        license: Licence of the weights as the Hub names it; empty if none is stated.

    Returns:
        The folder.

    Raises:
        UserError: The run cannot be used, or the folder exists or cannot be written.
    """
    if files.as_path(output_dir).exists():
        raise UserError(f"--output_dir={output_dir} exists: give a folder that does not.")
    run = run_dirs.read(run_dir)
    if run_dirs.is_published(run.folder):
        raise UserError(
            f"--run_dir={run_dir} was written by this command: give the run that it was made from, "
            "or upload the folder as it is by `hf upload USER/REPO FOLDER`."
        )
    figures = measured_figures(run, checkpoint)
    model = run_dirs.load_model(run, checkpoint)
    published = without_local_paths(run)
    address = address or f"hf://USER/{files.as_path(files.real(output_dir)).name}"
    card = model_card.ModelCard(
        published,
        name=hub.repository(address).partition("/")[2],
        address=address,
        license=license,
        figures=figures,
        is_imported=not files.as_path(run.folder, run_files.TRAINING_LOG).exists(),
    )
    try:
        with files.replacing(output_dir) as draft:
            folder = str(draft)
            keras.saving.save_model(model, folder, zipped=False)
            run_dirs.write(dataclasses.replace(published, folder=folder))
            files.write_text(draft / _CARD, card.to_text())
            _prove(model, folder, run.dataset.num_channels)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {error}.") from error
    return output_dir


def without_local_paths(run: run_dirs.Run) -> run_dirs.Run:
    """Returns a run without the paths and addresses of the machine that it was trained on.

    The initial weights stay where they are a name; a path becomes `CHECKPOINT`.
    """
    data_config = dataclasses.replace(
        run.data_config, **_default_paths(DataConfig), data_service=DataConfig().data_service
    )
    start = run.train_config.tf_initial_checkpoint
    if start not in ("", IMAGENET, NO_WEIGHTS, *zoo.ENTRIES):
        start = "CHECKPOINT"
    train_config = dataclasses.replace(
        run.train_config, **_default_paths(TrainConfig) | {"tf_initial_checkpoint": start}
    )
    return dataclasses.replace(run, data_config=data_config, train_config=train_config)


def _default_paths(config_class: type[settings.Config]) -> dict:
    return {one.name: one.default for one in settings.settings_of(config_class) if one.is_path}


def measured_figures(run: run_dirs.Run, checkpoint: str) -> dict | None:
    """Returns the figures of the weights that are published; None, and says so, if there are none.

    Figures of another checkpoint, or from before its last change, are not theirs. Figures along
    borders only are left out, too.
    """
    path = files.as_path(run.folder, run_files.METRICS)
    if path.is_file():
        figures = results.read_figures(run.folder)
        weights = files.as_path(checkpoints.find(run.folder, checkpoint) + ".index")
        is_newer = path.stat().st_mtime >= weights.stat().st_mtime
        is_of_whole_images = not figures.get("border_width")
        if figures.get("model") == checkpoint and is_newer and is_of_whole_images:
            return figures
    command = command_line.shell_command(
        "deeplab_tf.eval", run_dir=run.folder, checkpoint=checkpoint
    )
    print(
        f"warning: the card shows no mIoU, as these weights were not evaluated: {command}",
        file=sys.stderr,
    )
    return None


def _prove(model: keras.Model, folder: str, num_channels: int) -> None:
    """Loads what was written, and compares its logits with those of the model.

    Raises:
        UserError: They differ.
    """
    images = parity.draw_images((1, 65, 97, num_channels), seed=0)
    expected = model(images, training=False).numpy()
    found = keras.saving.load_model(folder)(images, training=False).numpy()
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    if not difference <= _MAX_RELATIVE_DIFFERENCE:
        raise UserError(
            f"The model that Keras loads from the files differs from the run's: its logits by "
            f"{difference:.1e} of the largest. Nothing was written."
        )
