"""The values that a checkpoint holds, by the names that the original gives them.

A checkpoint of a run has the format of a TensorFlow 1 checkpoint of the original, so that the same
readers work for both, and it does not depend on how layers are nested:

    SCOPE/weights ...                  the model's weights and moving statistics
    NAME/Momentum, /Adam, /Adam_1      what the optimizer keeps for the weight NAME
    NAME/ExponentialMovingAverage      the moving average of the weight NAME
    global_step                        the training step
    best_miou                          the highest validation mIoU so far
    loss_scale/scale, /good_steps      the state of float16's loss scale
    dropout_seed/0 ...                 the state of the dropout layers, in the model's order
    record_order                       the version of the order in which records come
"""

import os
import re
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.weights import object_graph

AVERAGE = "ExponentialMovingAverage"
STEP = "global_step"
BEST_MIOU = "best_miou"
LOSS_SCALE = "loss_scale"
DROPOUT_SEED = "dropout_seed"
RECORD_ORDER = "record_order"

# The parts of a checkpoint that belong to the training that wrote it, not to the model.
_TRAINING_STATE = re.compile(
    rf"(^|.*/)({STEP}|Momentum|Adam(_1)?|RMSProp(_1)?|{AVERAGE}|beta[12]_power)"
    rf"|{BEST_MIOU}|{LOSS_SCALE}/.*|{DROPOUT_SEED}/.*|{RECORD_ORDER}"
)

# Smallest and largest values of weights and activations, as tf.contrib.quantize named them:
# SCOPE/weights_quant/min, SCOPE/act_quant/SCOPE/act_quant/max/biased.
_QUANTIZATION_RANGE = re.compile(r"(.*/)?\w*quant/(.*/)?(min|max)(/\w+)?")

# What TensorFlow raises on files that are cut off, missing, or not checkpoints.
_UNREADABLE = (tf.errors.OpError, OSError, LookupError, RuntimeError, ValueError, DecodeError)


class CheckpointValues:
    """Reads a checkpoint by name.

    Checkpoints of deeplab_tf 0.1, whose names followed the nesting of the layers, are read under
    the same names as all others.

    Args:
        prefix: Prefix of the checkpoint's files; or the file of a checkpoint in TensorFlow's first
            format.
        origin: What to call it in messages; None for the prefix.

    Attributes:
        origin: What to call it in messages.
        shapes: Shape of each value, by name.

    Raises:
        UserError: The files are missing, damaged, or not a checkpoint.
    """

    def __init__(self, prefix: str | os.PathLike, origin: str | None = None):
        self.origin = origin or os.fspath(prefix)
        try:
            if files.is_remote(prefix):
                # Kept as long as the reader, which opens the files when values are asked for.
                self._copy = files.copy_of_prefix(prefix)
                prefix = os.path.join(self._copy.name, os.path.basename(prefix))
            self._reader = tf.train.load_checkpoint(os.fspath(prefix))
            self._keys = object_graph.keys_by_name(self._reader)
        except _UNREADABLE as error:
            raise UserError(
                f"{self.origin} cannot be read as a TensorFlow checkpoint: {first_line(error)}"
            ) from error
        shapes = self._reader.get_variable_to_shape_map()
        self.shapes = {name: list(shapes[key]) for name, key in self._keys.items()}

    def read(self, name: str) -> np.ndarray:
        """Returns a value.

        Raises:
            UserError: The checkpoint is damaged.
        """
        try:
            return self._reader.get_tensor(self._keys[name])
        except _UNREADABLE as error:
            raise UserError(
                f"{self.origin} is damaged: {first_line(error)}. Copy or download it again, or "
                "take another checkpoint."
            ) from error


def write(prefix: str, variables: dict) -> None:
    """Writes the values of variables as a checkpoint.

    Args:
        prefix: Prefix of the checkpoint's files.
        variables: Keras or TensorFlow variables by name. Of a variable that several devices hold,
            the value of the first is written.

    Raises:
        tf.errors.OpError: The files cannot be written.
    """
    names = sorted(variables)
    with tf.device("/cpu:0"):
        values = [tf.identity(tf.convert_to_tensor(variables[name])) for name in names]
        tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
        )


def restore(values: CheckpointValues, variables: dict) -> None:
    """Gives variables the values of their names, whose shapes have been compared.

    Args:
        values: The checkpoint.
        variables: Keras or TensorFlow variables by name.

    Raises:
        UserError: The checkpoint is damaged.
    """
    for name, variable in variables.items():
        variable.assign(values.read(name))


def is_of_training(name: str) -> bool:
    """Whether a value belongs to the training that wrote it, and not to the model."""
    return bool(_TRAINING_STATE.fullmatch(name))


def is_quantization_range(name: str) -> bool:
    """Whether a value is a range that simulated quantisation keeps beside the weights."""
    return bool(_QUANTIZATION_RANGE.fullmatch(name))


def misfits(shapes: dict[str, list[int]], variables: dict) -> dict[str, str]:
    """Returns what variables a checkpoint cannot fill, and why, by name.

    Args:
        shapes: Shape of each value of the checkpoint, by name.
        variables: Keras or TensorFlow variables by name.
    """
    reasons = {}
    for name, variable in variables.items():
        here, there = list(variable.shape), shapes.get(name)
        if there is None:
            reasons[name] = f"{here} in the model, missing in the checkpoint"
        elif there != here:
            reasons[name] = f"{here} in the model, {there} in the checkpoint"
    return reasons


def check_finite(values: Iterable[tuple[str, np.ndarray]], origin: str) -> None:
    """Refuses weights that are not finite, with which every pixel would get the class 0.

    Args:
        values: The weights and their names.
        origin: Where they come from, for the message.

    Raises:
        UserError: A weight is NaN or infinite.
    """
    broken = [name for name, value in values if not np.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{origin} has weights that are NaN or infinite: {few(broken)}. The training that "
            "wrote it diverged: take an earlier checkpoint, or train again with a lower "
            "--base_learning_rate or with --clip_gradient_norm."
        )


def few(names: Iterable[str], separator: str = ", ") -> str:
    """Lists the first three of some names, and says how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return separator.join(names[:3]) + more


def first_line(error: Exception) -> str:
    """The first line of an error, without details for TensorFlow's developers."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"\{\{.*?\}\} | \[Op:\w+\]", "", line)
