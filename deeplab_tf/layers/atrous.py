"""Atrous convolution and pooling as Keras layers."""

import functools

import keras
from keras import ops

from deeplab_tf.layers import convolution
from deeplab_tf.layers import quantization
from deeplab_tf.layers.arguments import whole_number
from deeplab_tf.layers.names import register

_ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
if _ON_TENSORFLOW:
    import tensorflow as tf

# They need not know which axes are height and width.
_ACTIVATIONS_OF_NUMBERS = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
)


@register
class AtrousConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a fast `dilation_rate`.

    Same arguments, same results and same weights as the stock layer, which regroups pixels by their
    phase and back (space-to-batch). On a map of 33x33, a training step of the stock layer on a CPU
    takes 5 times as long at rate 12 and 11 times as long at rate 24. In training on a CPU, a
    1x1 kernel is multiplied with the pixels as a matrix. Other backends than TensorFlow use the
    stock layer.

    Args:
        filters: Channels of the output.
        kernel_size: Height and width of the kernel before it is spread by `dilation_rate`.
        strides: Strides down and across.
        padding: "valid" or "same".
        data_format: "channels_last" or "channels_first"; the latter uses the stock layer.
        dilation_rate: Atrous rates down and across. Above 1, the strides must be 1.
        quantized: Whether the kernel is rounded to 8 bits, see `models.quantize`.
        **kwargs: The other arguments of `keras.layers.Conv2D`.

    Call arguments:
        inputs: Float tensor `[B, H, W, C]`.
        training: Whether gradients are taken; the outputs differ by rounding alone.

    Returns:
        Float tensor `[B, H', W', filters]`.

    Raises:
        ValueError: As `keras.layers.Conv2D`.

    Reference: DeepLab v2, arXiv:1606.00915, section 3.1.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> layer = layers.AtrousConv2D(256, 3, dilation_rate=12, padding="same")
    >>> layer(np.zeros((1, 33, 33, 320), "float32")).shape.as_list()
    [1, 33, 33, 256]
    """

    def __init__(self, *args, quantized=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.quantized = quantized

    def call(self, inputs, training=None):
        channels = tuple(self.kernel.shape[-2:])
        if _is_product(self) and convolution.are_products_better(training, channels):
            return convolution.of_pixels(self._outputs_of_pixels, inputs)
        return _add_bias_and_activate(self, self.convolution_op(inputs, self.kernel))

    def _outputs_of_pixels(self, pixels):
        """Returns the outputs `[N, filters]` of a 1x1 kernel for pixels `[N, C]`."""
        kernel = self._rounded(ops.convert_to_tensor(self.kernel))
        return _add_bias_and_activate(self, tf.matmul(pixels, kernel[0, 0]))

    def convolution_op(self, inputs, kernel):
        kernel = self._rounded(kernel)
        if not _has_forms(self) or self.groups > 1:
            return super().convolution_op(inputs, kernel)
        return convolution.convolve(
            convolution.DENSE, inputs, kernel, self.dilation_rate, self.padding.upper()
        )

    def _rounded(self, kernel):
        return quantization.fake_quantized_kernel(kernel) if self.quantized else kernel

    def get_config(self):
        return super().get_config() | ({"quantized": True} if self.quantized else {})


@register
class AtrousDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a fast `dilation_rate`.

    Same arguments, same results and same weights as the stock layer, which goes through
    space-to-batch. On a map of 33x33 and a CPU, the stock layer takes 1.3 to 3 times as long in
    inference; in training it takes as long at rate 12 and twice as long at rate 24. Other backends
    than TensorFlow use the stock layer.

    Args:
        kernel_size: Height and width of the kernel before it is spread by `dilation_rate`.
        strides: Strides down and across.
        padding: "valid" or "same".
        depth_multiplier: Output channels per input channel; above 1 uses the stock layer.
        data_format: "channels_last" or "channels_first"; the latter uses the stock layer.
        dilation_rate: Atrous rates down and across. Above 1, the strides must be 1.
        quantized: Whether the kernel is rounded to 8 bits, see `models.quantize`.
        **kwargs: The other arguments of `keras.layers.DepthwiseConv2D`.

    Call arguments:
        inputs: Float tensor `[B, H, W, C]`.

    Returns:
        Float tensor `[B, H', W', C * depth_multiplier]`.

    Raises:
        ValueError: As `keras.layers.DepthwiseConv2D`.

    Reference: DeepLabv3+, arXiv:1802.02611, section 3.1.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> layer = layers.AtrousDepthwiseConv2D(3, dilation_rate=6, padding="same")
    >>> layer(np.zeros((1, 33, 33, 320), "float32")).shape.as_list()
    [1, 33, 33, 320]
    """

    def __init__(self, *args, quantized=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.quantized = quantized

    def call(self, inputs):
        kernel = ops.convert_to_tensor(self.kernel)
        if self.quantized:
            by_filter = ops.reshape(kernel, (*kernel.shape[:2], -1))
            kernel = ops.reshape(quantization.fake_quantized_kernel(by_filter), kernel.shape)
        if not _has_forms(self) or self.depth_multiplier > 1:
            outputs = ops.depthwise_conv(
                inputs,
                kernel,
                strides=self.strides,
                padding=self.padding,
                dilation_rate=self.dilation_rate,
                data_format=self.data_format,
            )
        else:
            forms = convolution.DEPTHWISE_WITH_BIAS if self.use_bias else convolution.DEPTHWISE
            outputs = convolution.convolve(
                forms, inputs, kernel, self.dilation_rate, self.padding.upper()
            )
        return _add_bias_and_activate(self, outputs)

    def get_config(self):
        return super().get_config() | ({"quantized": True} if self.quantized else {})


def _add_bias_and_activate(layer: keras.layers.Layer, outputs):
    """Ends the call of a convolution.

    TensorFlow computes a convolution, `BiasAdd` and ReLU in one kernel. The stock layers add the
    bias by a general addition, which is a pass of its own over the map.
    """
    if layer.use_bias and _ON_TENSORFLOW:
        data_format = "NCHW" if layer.data_format == "channels_first" else "NHWC"
        bias = tf.cast(ops.convert_to_tensor(layer.bias), outputs.dtype)
        outputs = tf.nn.bias_add(outputs, bias, data_format)
    elif layer.use_bias:
        is_first = layer.data_format == "channels_first"
        outputs = ops.add(outputs, ops.reshape(layer.bias, (1, -1, 1, 1) if is_first else (-1,)))
    return layer.activation(outputs)


def _is_product(layer: keras.layers.Conv2D) -> bool:
    """Whether the outputs of a layer are the product of its pixels and its kernel."""
    return (
        _ON_TENSORFLOW
        and max(*layer.kernel_size, *layer.strides, layer.groups) == 1
        and layer.data_format == "channels_last"
        and layer.activation in _ACTIVATIONS_OF_NUMBERS
    )


def _has_forms(layer: keras.layers.Layer) -> bool:
    """Whether `convolution` has several forms for a layer."""
    return (
        _ON_TENSORFLOW
        and max(layer.dilation_rate) > 1
        and max(layer.strides) == 1
        and layer.data_format == "channels_last"
    )


@register
class AtrousMaxPool2D(keras.layers.Layer):
    """Maximum over 3x3 pixels that lie `rate` apart, ignoring those outside the map.

    It replaces a 3x3 pooling that follows removed strides.

    Args:
        rate: Atrous rate.

    Call arguments:
        features: Float tensor `[B, H, W, C]`.

    Returns:
        Float tensor `[B, H, W, C]`.

    Raises:
        ValueError: If `rate` is not a whole number above 0.

    Reference: DeepLab v1, arXiv:1412.7062, section 3.1.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> features = np.arange(5, dtype="float32").reshape(1, 1, 5, 1)
    >>> layers.AtrousMaxPool2D(rate=2)(features).numpy().ravel()
    array([2., 3., 4., 3., 4.], dtype=float32)
    """

    def __init__(self, rate: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.rate = whole_number("rate", rate)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, features):
        if self.rate == 1:
            return ops.max_pool(features, 3, strides=1, padding="same", data_format="channels_last")
        for axis in (1, 2):
            size = ops.shape(features)[axis]
            rate = min(self.rate, size) if isinstance(size, int) else ops.minimum(self.rate, size)
            part = functools.partial(_part, features, axis)
            # Where a neighbour would be outside, the pixel itself takes its place.
            before = ops.concatenate([part(0, rate), part(0, size - rate)], axis)
            behind = ops.concatenate([part(rate, size - rate), part(size - rate, rate)], axis)
            features = ops.maximum(ops.maximum(before, features), behind)
        return features

    def compute_output_shape(self, features_shape):
        return features_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def _part(features, axis: int, start, size):
    """Returns `size` rows (axis 1) or columns (axis 2) of `[B, H, W, C]`.

    It uses `ops.slice` because the gradient of indexing takes three times as long.
    """
    starts, shape = [0, 0, 0, 0], list(ops.shape(features))
    starts[axis], shape[axis] = start, size
    return ops.slice(features, starts, shape)
