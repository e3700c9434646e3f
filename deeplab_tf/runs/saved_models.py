"""Loading a trained model from a run dir, a `.keras` file, or the Hugging Face Hub."""

import json
import os
import zipfile

import keras

from deeplab_tf import files
from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import hub
from deeplab_tf.runs import run_dir
from deeplab_tf.runs import run_files

_MAX_METADATA_BYTES = 2**20
_MAX_UNPACKED_RATIO = 4  # Keras stores weights as they are; what compresses better is a zip bomb
_FREE_BYTES = 64 * 2**20


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a trained model.

    Args:
        path: A run dir, whose best checkpoint is loaded (the last one, if it has never been
            validated); a `.keras` file; a folder that Keras saved a model in; or the address
            "hf://USER/REPO" of such a folder on the Hugging Face Hub.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to float32
        logits `[B, H, W, num_classes]`. From a file or folder of Keras, whatever model was saved.

    Raises:
        UserError: There is no such run, file or address; it cannot be loaded; or its weights are
            NaN or infinite.

    Example:

    >>> import deeplab_tf
    >>> model = deeplab_tf.DeepLabV3("mobilenet_v2", num_classes=3, atrous_rates=())
    >>> model.save("model.keras")
    >>> deeplab_tf.load_model("model.keras").output_shape
    (None, None, None, 3)
    """
    given = os.path.expanduser(os.fspath(path))
    path = hub.local_folder(given)
    if files.is_remote(path) and not run_dir.is_run_dir(path) and files.as_path(path).exists():
        with files.local_copy(path) as copy:
            return load_model(copy)
    if os.path.isfile(os.path.join(path, run_files.KERAS_CONFIG)):
        return _load_by_keras(path)
    if hub.is_address(given):
        raise UserError(f"{given} is not a Keras model: it has no {run_files.KERAS_CONFIG}.")
    if path.endswith(".keras") or os.path.isfile(path):
        check_keras_file(path)
        return _load_by_keras(path)
    return run_dir.load_model(run_dir.read(path))


def check_keras_file(path: str) -> tuple[str, str]:
    """Checks a `.keras` file, a zip archive, before anything in it is unpacked.

    Args:
        path: The file.

    Returns:
        The version of Keras that wrote it, and when.

    Raises:
        UserError: The file is missing, damaged, or would unpack to far more than it has.
    """
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}: give a .keras file or a run dir.")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            with archive.open(run_files.KERAS_METADATA) as file:
                metadata = json.loads(file.read(_MAX_METADATA_BYTES))
        version, date = str(metadata["keras_version"]), str(metadata["date_saved"])
    except Exception as error:  # of many kinds, for all the ways in which a zip file can be damaged
        raise _damaged(path, error) from error
    if unpacked > _MAX_UNPACKED_RATIO * os.path.getsize(path) + _FREE_BYTES:
        raise UserError(
            f"{path} cannot be used: it would unpack to {unpacked / 2**20:.0f} MiB, which no file "
            "written by Keras does."
        )
    return version, date


def _load_by_keras(path: str) -> keras.Model:
    """Loads a `.keras` file, or a folder with the same content."""
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # of many kinds, for all the ways in which a file can be damaged
        raise _damaged(path, error) from error
    checkpoints.check_finite(model, path)
    return layers.made_exportable(model)


def _damaged(path: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{path} cannot be used: it is damaged, or not a Keras model ({shortened(reason, 200)})."
    )
