"""Fake quantisation: values rounded to 8 bits as a `.tflite` file has them, in floating point.

Training with it teaches a network to live with the rounding, and learns the ranges of values.
"""

import keras
from keras import ops

from deeplab_tf.layers import tracing
from deeplab_tf.layers.names import register

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

_RANGE = "range"  # name of the variable


@register
class FakeQuantize(keras.layers.Layer):
    """Rounds feature maps to 256 values between two limits, which follow those of the batches.

    The limits are moving averages of the smallest and the largest value in training batches, and
    include 0. The first batch sets them. Values outside become the limits, and get no gradient.

    Args:
        decay: Weight of the old limits in an update.
        **kwargs: The arguments of every Keras layer.

    Call arguments:
        inputs: Float tensor of any shape.
        training: Whether to update the limits.

    Returns:
        Float tensor of the same shape.

    Reference: arXiv:1712.05877, section 3.1.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> layer = layers.FakeQuantize()
    >>> _ = layer(np.array([0, 255], "float32"), training=True)
    >>> layer(np.array([-1, 0.4, 0.6, 300], "float32")).numpy()
    array([  0.,   0.,   1., 255.], dtype=float32)
    """

    def __init__(self, decay: float = 0.99, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.decay = decay

    def build(self, inputs_shape):
        self.range = self.add_weight(
            name=_RANGE, shape=(2,), initializer="zeros", trainable=False, aggregation="mean"
        )

    def call(self, inputs, training=None):
        if training:
            self._update(inputs)
        if tracing.graph_options().fake_quantization == "none":
            return inputs
        low, high = ops.unstack(self.range)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high)

    def _update(self, inputs) -> None:
        seen = ops.stack([ops.minimum(ops.min(inputs), 0), ops.maximum(ops.max(inputs), 0)])
        is_first = self.range[0] == self.range[1]
        moved = self.decay * self.range + (1 - self.decay) * seen
        self.range.assign(ops.where(is_first, seen, moved))

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}


def is_range(official_name: str) -> bool:
    """Whether a variable of this name holds the limits of a `FakeQuantize`."""
    return official_name.endswith(f"/{_RANGE}")


def fake_quantized_kernel(kernel):
    """Rounds the weights of each filter to 255 values, symmetric around 0.

    Folding batch norm into the kernel before or after gives the same: it multiplies each filter by
    a number, and the step between two values with it.

    Args:
        kernel: `[h, w, C, filters]`; of a depthwise convolution as `[h, w, C * multiplier]`.

    Returns:
        A tensor of the same shape.

    Reference: arXiv:1806.08342, section 2.3: per-channel, symmetric.
    """
    if tracing.graph_options().fake_quantization != "all":
        return kernel
    kernel = ops.convert_to_tensor(kernel)
    limits = ops.max(ops.abs(kernel), axis=tuple(range(len(kernel.shape) - 1)))
    limits = ops.maximum(ops.stop_gradient(ops.cast(limits, "float32")), 1e-12)
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        ops.cast(kernel, "float32"), -limits, limits, narrow_range=True
    )
    return ops.cast(rounded, kernel.dtype)
