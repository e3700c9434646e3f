"""Loading a trained model, from a run dir or a `.keras` file."""

import os

import keras

from deeplab_tf import layers  # noqa: F401 - Keras finds the layers of a file by their classes
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a trained model.

    Args:
        path: A run dir, whose best checkpoint is loaded (the last one, if it has never been
            validated), or a `.keras` file.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to float32
        logits `[B, H, W, num_classes]`; of a `.keras` file, whatever model was saved.

    Raises:
        UserError: If there is no such run or file, it cannot be loaded, or its weights are NaN or
            infinite.

    Example:

    >>> import deeplab_tf
    >>> model = deeplab_tf.DeepLabV3("mobilenet_v2", num_classes=3, atrous_rates=())
    >>> model.save("model.keras")
    >>> deeplab_tf.load_model("model.keras").output_shape
    (None, None, None, 3)
    """
    path = os.path.expanduser(os.fspath(path))
    if path.endswith(".keras") or os.path.isfile(path):
        return _load_keras_file(path)
    return run_dir.load_model(run_dir.read(path))


def _load_keras_file(path: str) -> keras.Model:
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}. Give a .keras file or a run dir.")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # of many kinds, for all the ways in which a zip file can be damaged
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be used: it is damaged, or not a Keras model ({reason})."
        ) from error
    checkpoints.check_finite(model, path)
    return model
