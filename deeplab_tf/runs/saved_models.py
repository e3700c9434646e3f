"""Loading a trained model from a run dir, a `.keras` file, or the Hugging Face Hub."""

import os

import keras

from deeplab_tf import layers  # noqa: F401 - Keras finds the layers of a file by their classes
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import hub
from deeplab_tf.runs import run_dir
from deeplab_tf.runs import run_files


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
    if os.path.isfile(os.path.join(path, run_files.KERAS_CONFIG)):
        return _load_by_keras(path)
    if hub.is_address(given):
        raise UserError(f"{given} is not a Keras model: it has no {run_files.KERAS_CONFIG}.")
    if path.endswith(".keras") or os.path.isfile(path):
        if not os.path.isfile(path):
            raise UserError(f"There is no file {path}. Give a .keras file or a run dir.")
        return _load_by_keras(path)
    return run_dir.load_model(run_dir.read(path))


def _load_by_keras(path: str) -> keras.Model:
    """Loads a `.keras` file, or a folder with the same content."""
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # of many kinds, for all the ways in which a file can be damaged
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be used: it is damaged, or not a Keras model ({reason})."
        ) from error
    checkpoints.check_finite(model, path)
    return model
