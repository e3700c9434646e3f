"""Image pooling: averages over the whole map or large windows."""

import keras
from keras import ops

from deeplab_tf.layers import tracing
from deeplab_tf.layers.arguments import pair
from deeplab_tf.layers.names import register


@register
class ImagePooling(keras.layers.Layer):
    """Averages features over windows: the whole map, a part of it or a given size.

    Args:
        pool_size: Height and width of the window in pixels, clipped to those of the map; None for
            those of the map divided by `grid_size`, rounded up. One number for both, here and
            below, or two.
        strides: Steps between windows, down and across.
        grid_size: Parts that the height and the width of the map are divided into.

    Call arguments:
        features: Float tensor `[B, H, W, C]`.

    Returns:
        Float tensor `[B, windows down, windows across, C]`.

    Raises:
        ValueError: If an argument has a wrong value.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.3; strides: MobileNetV3, arXiv:1905.02244,
    section 6.4; grid: arXiv:1809.04184, section 3.2.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> features = np.zeros((1, 33, 65, 320), "float32")
    >>> layers.ImagePooling()(features).shape.as_list()
    [1, 1, 1, 320]
    >>> layers.ImagePooling(pool_size=(25, 25), strides=(4, 5))(features).shape.as_list()
    [1, 3, 9, 320]
    """

    def __init__(self, pool_size=None, strides=(1, 1), grid_size=(1, 1), **kwargs):
        super().__init__(**kwargs)
        self.pool_size = None if pool_size is None else pair("pool_size", pool_size)
        self.strides = pair("strides", strides)
        self.grid_size = pair("grid_size", grid_size)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    @property
    def averages_all(self) -> bool:
        """Whether the window is the whole map, whatever its size."""
        return self.pool_size is None and max(self.grid_size) == 1

    def call(self, features):
        sides = ops.shape(features)[1:3]
        has_known_size = all(isinstance(side, int) for side in sides)
        by_pooling = tracing.graph_options().means_by_pooling and has_known_size
        if self.averages_all and not by_pooling:
            return ops.mean(features, axis=(1, 2), keepdims=True)
        if has_known_size:
            # float32: kernels for CPUs sum in the dtype of the features, and float16 is too coarse.
            means = ops.average_pool(
                ops.cast(features, keras.backend.result_type(features.dtype, "float32")),
                self.window(sides),
                self.strides,
                padding="valid",
                data_format="channels_last",
            )
            return ops.cast(means, features.dtype)
        # No kernel supports a window that is only known at run time.
        rows, columns = map(_windows, sides, self.window(sides), self.strides)
        rows, columns = ops.cast(rows, features.dtype), ops.cast(columns, features.dtype)
        return ops.einsum("yh,bhwc,xw->byxc", rows, features, columns)

    def window(self, sides):
        """Returns height and width of the window on a map with these sides."""
        if self.pool_size is None:
            return tuple(-(-side // parts) for side, parts in zip(sides, self.grid_size))
        return tuple(
            min(side, size) if isinstance(side, int) else ops.minimum(side, size)
            for side, size in zip(sides, self.pool_size)
        )

    def compute_output_shape(self, features_shape):
        batch, *sides, channels = features_shape
        if self.averages_all:
            return batch, 1, 1, channels
        if None in sides:
            return batch, None, None, channels
        windows = [
            (side - window) // stride + 1
            for side, window, stride in zip(sides, self.window(sides), self.strides)
        ]
        return batch, *windows, channels

    def get_config(self):
        config = {
            "pool_size": self.pool_size,
            "strides": self.strides,
            "grid_size": self.grid_size,
        }
        return {**super().get_config(), **config}


def _windows(size, window, stride: int):
    """Returns float32 [windows, size]: the weight of each pixel in the mean over each window."""
    first = ops.arange((size - window) // stride + 1)[:, None] * stride
    pixels = ops.arange(size)[None]
    inside = ops.logical_and(pixels >= first, pixels < first + window)
    return ops.cast(inside, "float32") / ops.cast(window, "float32")
