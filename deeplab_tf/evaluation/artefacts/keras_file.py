"""`.keras` files of models of `deeplab_tf.build_model`."""

import keras

from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts.answers import printable
from deeplab_tf.evaluation.artefacts.answers import reason
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import saved_models


def describe(path: str) -> str:
    """Describes a `.keras` file without loading the model.

    Raises:
        UserError: The file is missing or damaged.
    """
    version, date = saved_models.check_keras_file(path)
    return f"{path}: a file of Keras {printable(version)}, saved {printable(date)}"


def load(path: str, num_classes: int, in_channels: int = 3) -> keras.Model:
    """Loads the model; Keras refuses files with code in them.

    Args:
        path: The file.
        num_classes: Number of classes that the model must have.
        in_channels: Number of channels of the images that it must take.

    Returns:
        A model of images of any size.

    Raises:
        UserError: The file is damaged, holds another model, or weights that are NaN or infinite.
    """
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise _damaged(path, error) from error
    takes, returns = (getattr(model, name, None) for name in ("input_shape", "output_shape"))
    is_of_run = (
        takes == (None, None, None, in_channels)
        and isinstance(returns, tuple)
        and len(returns) == 4
        and returns[-1] == num_classes
    )
    if not is_of_run:
        raise UserError(
            f"{path} takes {takes} and returns {returns}, but a model of this run takes images of "
            f"any size and {in_channels} channels and returns {num_classes} classes: give a file "
            "that a model of this run was saved in."
        )
    checkpoints.check_finite(model, path)
    return model


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be used: it is damaged, or not a model of deeplab_tf ({reason(error)})."
    )
