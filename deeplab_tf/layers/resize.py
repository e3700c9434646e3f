"""Bilinear resizing with aligned corners, as everywhere in the original."""

import keras
from keras import ops

from deeplab_tf.errors import UserError
from deeplab_tf.layers.names import register

_ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
if _ON_TENSORFLOW:
    import tensorflow as tf


def size_at_stride(size: int, stride: int) -> int:
    """Returns the pixels that a side of `size` pixels has at a stride: ceil(size / stride).

    This is `scale_dimension(size, 1 / stride)` of the original.
    """
    return (size - 1) // stride + 1


@register
class ResizeLike(keras.layers.Layer):
    """Resizes features to the height and width of a reference, bilinear with aligned corners.

    Output pixel `i` reads the input at `i * (in - 1) / (out - 1)`. (`keras.layers.Resizing` aligns
    other points, and it switches later batch norms to training mode.)

    Call arguments:
        features: Float tensor `[B, h, w, C]`.
        reference: Tensor `[B, H, W, D]` of any dtype; only its height and width matter.

    Returns:
        Float tensor `[B, H, W, C]`.

    Raises:
        ValueError: If one of the tensors has another number of axes than 4.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> features = np.array([0, 1, 2], "float32").reshape(1, 1, 3, 1)
    >>> layers.ResizeLike()(features, np.zeros((1, 1, 5, 3))).numpy().ravel()
    array([0. , 0.5, 1. , 1.5, 2. ], dtype=float32)
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, features, reference):
        if len(reference.shape) != 4:
            raise UserError(
                f"The reference has the shape {list(reference.shape)}; it must be [B, H, W, D]."
            )
        known_size = reference.shape[1:3]
        if None not in known_size and features.shape[1:3] == known_size:
            return features
        size = ops.shape(reference)[1:3]
        return ops.cast(_resize(features, size), self.compute_dtype)

    def compute_output_shape(self, features_shape, reference_shape):
        return (features_shape[0], *reference_shape[1:3], features_shape[3])

    def get_config(self):
        # Without this method, Keras refuses to save a layer whose dtype was given as a policy.
        return super().get_config()


@register
class ScaleImage(keras.layers.Layer):
    """Resizes images by a factor, bilinear with aligned corners.

    Args:
        scale: Factor; a side of `size` pixels becomes `int((size - 1) * scale + 1)` pixels.

    Call arguments:
        images: Tensor `[B, H, W, C]`, uint8 or float.

    Returns:
        Float tensor `[B, (H - 1) * scale + 1, (W - 1) * scale + 1, C]`.

    Raises:
        ValueError: If `scale` is not above 0.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> layers.ScaleImage(0.5)(np.zeros((1, 65, 97, 3), "uint8")).shape.as_list()
    [1, 33, 49, 3]
    """

    def __init__(self, scale: float, **kwargs):
        super().__init__(**kwargs)
        if not scale > 0:
            raise UserError(f"scale is {scale!r}; it must be above 0.")
        self.scale = scale
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, images):
        size = [self._scaled(side) for side in ops.shape(images)[1:3]]
        return ops.cast(_resize(ops.cast(images, "float32"), size), self.compute_dtype)

    def _scaled(self, size):
        if size is None or isinstance(size, int):
            return size and int((size - 1) * self.scale + 1)
        return ops.cast((ops.cast(size, "float64") - 1) * self.scale + 1, "int32")

    def compute_output_shape(self, images_shape):
        batch, height, width, channels = images_shape
        return batch, self._scaled(height), self._scaled(width), channels

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


def _resize(images, size):
    """Resizes float images `[B, h, w, C]` to `size`, height and width."""
    if _ON_TENSORFLOW:
        return tf.compat.v1.image.resize(images, size, align_corners=True)
    return resize_by_matrices(images, size)


def resize_by_matrices(images, size):
    """Resizes images by a matrix for the rows and one for the columns, on any backend.

    Args:
        images: Float tensor `[B, h, w, C]` of known height and width.
        size: New height and width.

    Returns:
        Float tensor `[B, *size, C]`.
    """
    rows, columns = map(_interpolation, images.shape[1:3], size)
    return ops.einsum("yh,bhwc,xw->byxc", rows, images, columns)


def _interpolation(old_size: int, new_size: int):
    """Returns float32 [new_size, old_size]: the weight of each old pixel in each new one."""
    positions = ops.arange(new_size, dtype="float32") * (old_size - 1) / max(new_size - 1, 1)
    distances = ops.abs(positions[:, None] - ops.arange(old_size, dtype="float32"))
    return ops.relu(1 - distances)
