"""How TensorFlow computes convolution. Only this module depends on it.

Atrous convolution has two forms. The native one uses a dilated kernel. The stock one regroups
pixels by their phase and back (space-to-batch): it runs everywhere, but is several times slower at
large rates.

A convolution with one weight per channel and filter (1x1) is a matrix product of pixels and kernel.
"""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import NamedTuple

import keras

from deeplab_tf.layers import tracing

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


_WIDE = 512  # channels


def are_products_better(training: bool | None, channels: tuple[int, int]) -> bool:
    """Whether to compute a 1x1 convolution as a matrix product.

    On a CPU, a training step of Xception-65 takes 1.3 times as long with the convolution, and
    inference 1.1 times. In inference, products of few channels are slower, above all on small maps.
    Graphs that may be converted keep the convolution.

    Args:
        training: Whether gradients are taken.
        channels: Of the images and of the outputs.
    """
    is_wide = min(channels) >= _WIDE and tracing.graph_options().local
    return bool(training or is_wide) and tracing.has_cpus_only()


def of_pixels(function: Callable, images):
    """Applies a function of pixels, `[N, C]` to `[N, filters]`, to images `[B, H, W, C]`."""
    outputs = function(tf.reshape(images, [-1, images.shape[-1]]))
    return tf.reshape(outputs, [*_sizes(images)[:-1], outputs.shape[-1]])


def _sizes(tensor) -> list:
    """Returns the size of every axis: a number where it is known, else a tensor."""
    sizes = tf.unstack(tf.shape(tensor))
    return [size if known is None else known for known, size in zip(tensor.shape, sizes)]


class Forms(NamedTuple):
    """Functions (images, kernel, rates, padding) -> outputs that compute the same convolution.

    Attributes:
        native: By a dilated kernel, which some devices lack or compute wrongly.
        stock: By space-to-batch.
        portable: The one of the two whose graph runs on every device.
    """

    native: Callable
    stock: Callable
    portable: Callable


def convolve(forms: Forms, images, kernel, rates: tuple[int, int], padding: str):
    """Computes an atrous convolution in the fastest form that is correct on this device.

    Args:
        forms: `DENSE`, `DEPTHWISE` or, where a bias is added, `DEPTHWISE_WITH_BIAS`.
        images: `[B, H, W, C]`.
        kernel: `[h, w, C, filters]`, or `[h, w, C, 1]` for a depthwise convolution.
        rates: Down and across.
        padding: "SAME" or "VALID".

    Returns:
        `[B, H', W', filters]`, in the dtype of the images.
    """
    kernel, rates = _without_idle_taps(images, kernel, rates, padding)
    if tracing.graph_options().portable:
        function = forms.portable
    elif max(rates) > 1 and _is_right(forms, tuple(kernel.shape[:2]), rates, padding, images.dtype):
        function = forms.native
    else:
        function = forms.stock
    return function(images, kernel, rates, padding)


def _without_idle_taps(images, kernel, rates, padding: str):
    """Removes the outer weights of a kernel that only see padding.

    A 3x3 kernel whose rate reaches over the whole map is its middle weight (DeepLabv3,
    arXiv:1706.05587, section 3.3). This needs a map of known size and a kernel of odd size.

    Returns:
        The kernel and its rates; the rate of a single weight is 1.
    """
    sizes = []
    for size, rate, pixels in zip(kernel.shape, rates, images.shape[1:3]):
        if padding == "SAME" and size % 2 and pixels:
            size = 2 * min(size // 2, (pixels - 1) // rate) + 1
        sizes.append(size)
    kernel = tf.convert_to_tensor(kernel)
    if sizes != list(kernel.shape[:2]):
        top, left = [(old - new) // 2 for old, new in zip(kernel.shape, sizes)]
        kernel = kernel[top : top + sizes[0], left : left + sizes[1]]
    return kernel, tuple(rate if size > 1 else 1 for size, rate in zip(sizes, rates))


@functools.cache
def _is_right(forms: Forms, kernel_size, rates, padding: str, dtype) -> bool:
    """Compares the native form and its gradients with the stock form on this device.

    On a CPU the native kernels need oneDNN, which lacks float64 and may be absent or switched off.
    Small whole numbers make the comparison exact in any dtype.
    """
    height, width = [rate * (size - 1) + 3 for size, rate in zip(kernel_size, rates)]

    def whole_numbers(*shape):
        numbers = tf.random.stateless_uniform(shape, [0, 1], -1, 2, tf.int32)
        return tf.cast(numbers, dtype)

    def outputs_and_gradients(function):
        images = whole_numbers(2, height, width, 16)
        kernel = whole_numbers(*kernel_size, 16, 1)
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = function(images, kernel, rates, padding)
        upstream = whole_numbers(*outputs.shape)
        return [outputs, *tape.gradient(outputs, [images, kernel], upstream)]

    def agree():
        try:
            results = zip(outputs_and_gradients(forms.native), outputs_and_gradients(forms.stock))
        except (tf.errors.OpError, ValueError):
            return False
        return all(bool(tf.reduce_all(got == expected)) for got, expected in results)

    # Another thread runs eagerly even while this one traces a graph.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(agree).result()


def _native_conv(images, kernel, rates, padding: str):
    return tf.nn.conv2d(images, kernel, strides=1, padding=padding, dilations=rates)


def _stock_conv(images, kernel, rates, padding: str):
    return tf.nn.convolution(images, kernel, padding=padding, dilations=rates)


def _stock_depthwise_conv(images, kernel, rates, padding: str):
    return tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], padding, dilations=rates)


def _native_depthwise_conv(images, kernel, rates, padding: str, is_biased: bool = False):
    """Depthwise convolution by the dilated kernel, with our own gradients.

    TensorFlow's gradients of this kernel are wrong at rates above 1, without an error.
    """
    pads = _zeros_around(kernel, rates, padding)

    @tf.custom_gradient
    def convolve_with_gradients(images, kernel):
        def gradients(upstream):
            # Each pixel collects from every output that depends on it: the kernel turned around.
            pads_back = [
                (rate * (size - 1) - before, rate * (size - 1) - behind)
                for rate, size, (before, behind) in zip(rates, kernel.shape, pads)
            ]
            to_images = _dilated_kernel(upstream, kernel[::-1, ::-1], pads_back, rates)
            return to_images, _kernel_gradient(images, upstream, kernel, rates, padding)

        return _dilated_kernel(images, kernel, pads, rates, is_biased=is_biased), gradients

    return convolve_with_gradients(images, kernel)


def _kernel_gradient(images, upstream, kernel, rates, padding: str):
    """Returns the gradient of a depthwise convolution with respect to its kernel."""
    with tf.control_dependencies([upstream]):
        # Computed now, not as soon as the image is there: its results would be kept until now.
        images = tf.identity(images)
    if len(set(rates)) > 1 or max(rates) <= 6 or images.shape[0] is None:
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            outputs = _stock_depthwise_conv(images, kernel, rates, padding)
        return tape.gradient(outputs, kernel, upstream)
    # Equal to convolving each image with its upstream gradient as the kernel, and with the rate as
    # the stride: the larger the rate, the faster.
    pads = _zeros_around(kernel, rates, padding)
    gradients = [
        _dilated_kernel(image[None], weights[..., None], pads, (1, 1), stride=rates[0])
        for image, weights in zip(tf.unstack(images), tf.unstack(upstream))
    ]
    return tf.add_n(gradients)[0][..., None]


def _zeros_around(kernel, rates, padding: str) -> list[tuple[int, int]]:
    """Returns the zeros that padding adds: (top, bottom), (left, right)."""
    if padding == "VALID":
        return [(0, 0), (0, 0)]
    spreads = [rate * (size - 1) for rate, size in zip(rates, kernel.shape)]
    return [(pixels // 2, pixels - pixels // 2) for pixels in spreads]


def _dilated_kernel(images, kernel, pads, rates, stride: int = 1, is_biased: bool = False):
    """Depthwise convolution of images with zeros around: `pads` = (top, bottom), (left, right)."""
    # oneDNN leaves its fast path if it has to pad by more than 6 columns itself, or by more columns
    # than it puts out.
    pads_itself = stride == 1 and max(pads[1]) <= 6 and pads == _zeros_around(kernel, rates, "SAME")
    if not pads_itself and any(map(any, pads)):
        images = tf.pad(images, [(0, 0), *pads, (0, 0)])
    convolve_images = functools.partial(
        tf.raw_ops.DepthwiseConv2dNative,
        input=images,
        filter=kernel,
        strides=[1, stride, stride, 1],
        dilations=[1, *rates, 1],
    )
    if not pads_itself:
        return convolve_images(padding="VALID")
    if is_biased:  # TensorFlow loses explicit paddings when it fuses a bias, and then aborts
        return convolve_images(padding="SAME")
    # ONNX Runtime cannot dilate with "SAME".
    edges = [0, 0, *pads[0], *pads[1], 0, 0]
    return convolve_images(padding="EXPLICIT", explicit_paddings=edges)


DENSE = Forms(_native_conv, _stock_conv, portable=_native_conv)
DEPTHWISE = Forms(_native_depthwise_conv, _stock_depthwise_conv, portable=_stock_depthwise_conv)
DEPTHWISE_WITH_BIAS = DEPTHWISE._replace(
    native=functools.partial(_native_depthwise_conv, is_biased=True)
)
