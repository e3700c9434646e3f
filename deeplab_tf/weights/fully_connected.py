"""VGG-16's fully connected layers as the convolutions fc6 and fc7 of DeepLab v1 and v2.

Reference: arXiv:1412.7062, section 3.1: kernels and filters are subsampled, by simple decimation.
"""

import re

import keras
import numpy as np

from deeplab_tf.layers import official_name
from deeplab_tf.weights import checkpoint_values

_OURS = re.compile(r"(fc[67])(?:_\d+)?/(weights|biases)")  # v2 has a pair for every rate


def fill(model: keras.Model, values) -> dict[str, str]:
    """Fills fc6 and fc7 of a model from the layers of a classifier, if both have them.

    Args:
        model: A whole model.
        values: Weights of TF-Slim's `vgg_16`, as `tf1_checkpoint.opened` gives them.

    Returns:
        The classifier's name of each variable that was filled, by its own name.

    Raises:
        UserError: The weights are damaged, or NaN or infinite.
    """
    variables = {official_name(variable): variable for variable in model.weights}
    sources = {
        name: f"vgg_16/{match[1]}/{match[2]}"
        for name in variables
        if (match := _OURS.fullmatch(name))
    }
    sources = {
        name: theirs
        for name, theirs in sources.items()
        if _can_be_subsampled(values.shapes.get(theirs), list(variables[name].shape))
    }
    for theirs in sorted(set(sources.values())):
        value = values.read(theirs)
        checkpoint_values.check_finite([(theirs, value)], values.origin)
        for name in sources:
            if sources[name] == theirs:
                variables[name].assign(subsampled(value, variables[name].shape))
    return sources


def subsampled(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Takes evenly spread entries along every axis.

    Of a 7x7 kernel, 3x3 are those of the borders and the middle. Of 4096 channels, 1024 are every
    fourth, in the outputs of fc6 and the inputs of fc7 alike.

    Args:
        value: A kernel `[H, W, in_channels, filters]` or biases `[filters]`.
        shape: The shape to make, not larger in any axis.

    Returns:
        An array of that shape.
    """
    for axis, (have, want) in enumerate(zip(value.shape, shape, strict=True)):
        is_place = value.ndim == 4 and axis < 2
        if is_place and want > 1:
            indices = np.linspace(0, have - 1, want).round().astype(int)
        elif is_place:
            indices = np.array([have // 2])
        else:
            indices = np.arange(want) * have // want
        value = np.take(value, indices, axis)
    return value


def _can_be_subsampled(theirs: list[int] | None, ours: list[int]) -> bool:
    if theirs is None or len(theirs) != len(ours):
        return False
    return all(have >= want for have, want in zip(theirs, ours, strict=True))
