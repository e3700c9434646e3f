"""The layers that DeepLab is made of; the one place that knows how atrous convolution is lowered.

Every layer that owns variables is named after the original's scope, with "." for "/", which Keras
keeps for itself. So `official_name` finds the original's name of every variable.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

_ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
if _ON_TENSORFLOW:
    import tensorflow as tf

_register = keras.saving.register_keras_serializable(package="deeplab_tf")


def layer_name(scope: str) -> str:
    """The name of the Keras layer that stands for one of the original's scopes."""
    return scope.replace("/", ".")


def official_name(variable: keras.Variable) -> str:
    """The original's name of a model variable, e.g. `xception_65/entry_flow/conv1_1/weights`."""
    layer, kind = variable.path.split("/")[-2:]
    if kind == "kernel":
        kind = "depthwise_weights" if layer.endswith("depthwise") else "weights"
    elif kind == "bias":
        kind = "biases"
    return f"{layer}/{kind}".replace(".", "/")


def size_at_stride(size: int, stride: int) -> int:
    """Pixels that a side of `size` pixels has at a stride: ceil(size / stride).

    This is the original's `scale_dimension(size, 1 / stride)`.
    """
    return (size - 1) // stride + 1


_portable = False
_means_by_pooling = False


@contextlib.contextmanager
def portable_graphs(means_by_pooling: bool = False):
    """Graphs that are traced within it run on any device, not only on one like this one.

    The dilated depthwise kernel, which inference uses where it works, exists on CPUs with oneDNN
    only. To be used around the tracing of what is exported.

    Args:
        means_by_pooling: Whether the mean over a map of a known size is a pooling, which the GPU
            delegate of TensorFlow Lite has, and a mean over axes it may not have. In 8 bits it is
            coarser: a pooling keeps the scale of the map, whose largest value is far above means.
    """
    global _portable, _means_by_pooling
    before = _portable, _means_by_pooling
    _portable, _means_by_pooling = True, means_by_pooling
    try:
        yield
    finally:
        _portable, _means_by_pooling = before


@contextlib.contextmanager
def mixed_precision(dtype: str):
    """Layers that are made within it compute in this dtype, with weights in float32.

    Args:
        dtype: "bfloat16" or "float16"; empty for float32.
    """
    before = keras.config.dtype_policy()
    if dtype:
        keras.config.set_dtype_policy(f"mixed_{dtype}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@_register
class AtrousConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose `dilation_rate` goes to TensorFlow's dilated kernel.

    The stock layer regroups pixels by their phase and back (space-to-batch). On a map of 33x33 a
    training step on a CPU then takes 5 times as long at rate 12, and 11 times at 24.
    """

    def convolution_op(self, inputs, kernel):
        if not _is_atrous(self) or self.groups > 1:
            return super().convolution_op(inputs, kernel)
        forms = _Forms(_dilated_conv, _stock_conv, portable=_dilated_conv)
        return _convolve(forms, inputs, kernel, self.dilation_rate, self.padding.upper())


@_register
class AtrousDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` whose `dilation_rate` goes to a dilated kernel.

    The stock layer goes through space-to-batch. On a map of 33x33 and a CPU that takes 1.3 to 3
    times as long in inference; in training as long at rate 12, and twice as long at 24.
    """

    def call(self, inputs):
        if not _is_atrous(self) or self.depth_multiplier > 1:
            return super().call(inputs)
        forms = _Forms(
            _dilated_depthwise_conv, _stock_depthwise_conv, portable=_stock_depthwise_conv
        )
        kernel = tf.convert_to_tensor(self.kernel)
        outputs = _convolve(forms, inputs, kernel, self.dilation_rate, self.padding.upper())
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        return self.activation(outputs)


def _is_atrous(layer: keras.layers.Layer) -> bool:
    """Whether a layer has rates that TensorFlow offers several forms of convolution for."""
    return (
        _ON_TENSORFLOW
        and max(layer.dilation_rate) > 1
        and max(layer.strides) == 1
        and layer.data_format == "channels_last"
    )


class _Forms(NamedTuple):
    """Functions (images, kernel, rates, padding) -> outputs for the same convolution.

    Attributes:
        native: By a dilated kernel, which is not there or not right on every device.
        stock: By space-to-batch.
        portable: The one of the two whose graph runs everywhere, if not everywhere as fast.
    """

    native: Callable
    stock: Callable
    portable: Callable


def _convolve(forms: _Forms, images, kernel, rates, padding: str):
    """Atrous convolution in the fastest form that is right on the device at hand."""
    kernel, rates = _without_idle_taps(images, kernel, rates, padding)
    if _portable:
        convolve = forms.portable
    elif max(rates) > 1 and _is_right(forms, tuple(kernel.shape[:2]), rates, padding, images.dtype):
        convolve = forms.native
    else:
        convolve = forms.stock
    return convolve(images, kernel, rates, padding)


def _without_idle_taps(images, kernel, rates, padding: str):
    """Takes away the outer weights of a kernel that would meet nothing but padding.

    A 3x3 kernel at a rate that reaches over the whole map is its middle weight (DeepLabv3,
    arXiv:1706.05587, section 3.3). Only where the size of the map is known, and for kernels that
    have a middle.

    Returns:
        The kernel and its rates, where 1 stands for any rate of a single weight.
    """
    sizes = []
    for size, rate, pixels in zip(kernel.shape, rates, images.shape[1:3]):
        if padding == "SAME" and size % 2 and pixels:
            size = 2 * min(size // 2, (pixels - 1) // rate) + 1
        sizes.append(size)
    top, left = [(old - new) // 2 for old, new in zip(kernel.shape, sizes)]
    kernel = kernel[top : top + sizes[0], left : left + sizes[1]]
    return kernel, tuple(rate if size > 1 else 1 for size, rate in zip(sizes, rates))


@functools.cache
def _is_right(forms: _Forms, kernel_size, rates, padding: str, dtype) -> bool:
    """Tries a dilated kernel and its gradients against the stock form on the device at hand.

    On a CPU the kernels need oneDNN, which has no float64 and may be switched off or absent. Small
    whole numbers make the comparison exact in any dtype.
    """
    height, width = [rate * (size - 1) + 3 for size, rate in zip(kernel_size, rates)]

    def whole_numbers(*shape):
        numbers = tf.random.stateless_uniform(shape, [0, 1], -1, 2, tf.int32)
        return tf.cast(numbers, dtype)

    def outputs_and_gradients(convolve):
        images = whole_numbers(2, height, width, 16)
        kernel = whole_numbers(*kernel_size, 16, 1)
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = convolve(images, kernel, rates, padding)
        upstream = whole_numbers(*outputs.shape)
        return [outputs, *tape.gradient(outputs, [images, kernel], upstream)]

    def agree():
        try:
            results = zip(outputs_and_gradients(forms.native), outputs_and_gradients(forms.stock))
        except (tf.errors.OpError, ValueError):
            return False
        return all(bool(tf.reduce_all(got == expected)) for got, expected in results)

    # A thread of its own runs at once, whatever graph this one is tracing.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(agree).result()


def _dilated_conv(images, kernel, rates, padding: str):
    return tf.nn.conv2d(images, kernel, strides=1, padding=padding, dilations=rates)


def _stock_conv(images, kernel, rates, padding: str):
    return tf.nn.convolution(images, kernel, padding=padding, dilations=rates)


def _stock_depthwise_conv(images, kernel, rates, padding: str):
    return tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], padding, dilations=rates)


def _dilated_depthwise_conv(images, kernel, rates, padding: str):
    """Depthwise convolution by the dilated kernel, with gradients of our own.

    Those that TensorFlow has for the kernel are wrong at rates above 1, without an error.
    """
    spreads = [rate * (size - 1) for rate, size in zip(rates, kernel.shape)]
    pads = [(pixels // 2, pixels - pixels // 2) for pixels in spreads]
    if padding == "VALID":
        pads = [(0, 0), (0, 0)]

    @tf.custom_gradient
    def convolve(images, kernel):
        def gradients(upstream):
            # Every pixel hears back from where it was seen, through the kernel turned around.
            pads_back = [
                (pixels - before, pixels - behind)
                for pixels, (before, behind) in zip(spreads, pads)
            ]
            to_images = _native_depthwise_conv(upstream, kernel[::-1, ::-1], pads_back, rates)
            return to_images, _kernel_gradient(images, upstream, kernel, rates, pads, padding)

        return _native_depthwise_conv(images, kernel, pads, rates), gradients

    return convolve(images, kernel)


def _kernel_gradient(images, upstream, kernel, rates, pads, padding: str):
    """The gradient of a depthwise convolution with respect to its kernel."""
    with tf.control_dependencies([upstream]):
        # Now, not as soon as the image is there: what is made of it here would be held until now.
        images = tf.identity(images)
    if len(set(rates)) > 1 or max(rates) <= 6 or images.shape[0] is None:
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            outputs = _stock_depthwise_conv(images, kernel, rates, padding)
        return tape.gradient(outputs, kernel, upstream)
    # It is what an image gives with its upstream gradient as the kernel and the rate as the
    # stride, which is the faster the larger the rate.
    of_each_image = [
        _native_depthwise_conv(image[None], weights[..., None], pads, (1, 1), stride=rates[0])
        for image, weights in zip(tf.unstack(images), tf.unstack(upstream))
    ]
    return tf.add_n(of_each_image)[0][..., None]


def _native_depthwise_conv(images, kernel, pads, rates, stride: int = 1):
    """Depthwise convolution with zeros around the images, `pads` = (top, bottom), (left, right)."""
    # oneDNN leaves its fast path where it has to pad by more than 6 columns itself, or by more
    # columns than it puts out.
    most = 6 if stride == 1 else 0
    own_pads = [*pads[0], *[min(columns, most) for columns in pads[1]]]
    first_pads = [max(columns - most, 0) for columns in pads[1]]
    if any(first_pads):
        images = tf.pad(images, [[0, 0], [0, 0], first_pads, [0, 0]])
    return tf.raw_ops.DepthwiseConv2dNative(
        input=images,
        filter=kernel,
        strides=[1, stride, stride, 1],
        padding="EXPLICIT",
        explicit_paddings=[0, 0, *own_pads, 0, 0],
        dilations=[1, *rates, 1],
    )


@_register
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalization of the last axis as the original has it.

    The moving variance follows the unbiased variance of a batch, N / (N - 1) times the one that
    normalizes it.

    Args:
        momentum: The original's decay: the weight of the old moving statistics in an update.
        epsilon: Added to the variance.
        frozen: Normalize with the moving statistics and leave them as they are in training too,
            while gamma and beta train (the original's `fine_tune_batch_norm=False`).
        synchronized: Whether the replicas of a `tf.distribute` strategy share their statistics.
    """

    def __init__(self, momentum=0.99, epsilon=1e-3, frozen=False, synchronized=False, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=synchronized, **kwargs)
        self.frozen = frozen

    def call(self, inputs, training=None):
        if not training or not self.trainable or self.frozen:
            return super().call(inputs, training=False)
        if _ON_TENSORFLOW and not self.synchronized and inputs.dtype != tf.float64:
            outputs, mean, unbiased_variance = self._normalize_fused(inputs)
        else:
            outputs, mean, unbiased_variance = self._normalize(inputs)
        for statistic, of_batch in (
            (self.moving_mean, mean),
            (self.moving_variance, unbiased_variance),
        ):
            statistic.assign(statistic * self.momentum + of_batch * (1.0 - self.momentum))
        return outputs

    def _normalize_fused(self, inputs):
        """By one kernel, which takes half the time of the separate steps on a CPU."""
        outputs, mean, unbiased_variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        return outputs, mean, unbiased_variance

    def _normalize(self, inputs):
        inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        count = ops.cast(ops.prod(ops.shape(inputs)[:-1]), inputs.dtype)
        if self.synchronized and (replica := tf.distribute.get_replica_context()):
            count *= replica.num_replicas_in_sync  # Each has the same share of the batch.
            sums = tf.stack([tf.reduce_sum(x, [0, 1, 2]) for x in (inputs, inputs**2)])
            mean, mean_square = tf.unstack(_sum_over_replicas(replica, sums) / count)
            variance = tf.maximum(mean_square - mean**2, 0)
        else:
            mean, variance = ops.moments(inputs, axes=[0, 1, 2])
        outputs = ops.batch_normalization(
            inputs, mean, variance, -1, self.beta, self.gamma, self.epsilon
        )
        unbiased_variance = variance * count / ops.maximum(count - 1, 1)
        return ops.cast(outputs, self.compute_dtype), mean, unbiased_variance

    def get_config(self):
        return {**super().get_config(), "frozen": self.frozen}


def _sum_over_replicas(replica, values):
    """Sums tensors over the replicas of a `tf.distribute` strategy, with the gradient of that.

    TensorFlow would look for variables behind the sum through the graphs of all other replicas,
    which takes minutes for a network; it does not look behind `stop_gradient`.
    """

    @tf.custom_gradient
    def all_reduce(values):
        def gradient(upstream):
            return replica.all_reduce("SUM", tf.stop_gradient(upstream))

        return replica.all_reduce("SUM", tf.stop_gradient(values)), gradient

    return all_reduce(values)


def freeze_batch_norm(model: keras.Model) -> None:
    """Makes every `BatchNorm` of a model use and keep its moving statistics, in training too.

    To be called before a training step is traced.
    """
    for layer in batch_norms(model):
        layer.frozen = True


def synchronize_batch_norm(model: keras.Model) -> None:
    """Makes every `BatchNorm` of a model share its statistics with the other replicas.

    To be called before a training step is traced.
    """
    for layer in batch_norms(model):
        layer.synchronized = True


def batch_norms(model: keras.Model) -> list[BatchNorm]:
    """Every `BatchNorm` of a model and of the models in it."""
    nested = [batch_norms(layer) for layer in model.layers if isinstance(layer, keras.Model)]
    own = [layer for layer in model.layers if isinstance(layer, BatchNorm)]
    return sum(nested, own)


@_register
class ResizeLike(keras.layers.Layer):
    """Resizes features to the height and width of a reference, bilinear with aligned corners.

    Output pixel `i` looks at the input at `i * (in - 1) / (out - 1)`, as everywhere in the
    original. (`keras.layers.Resizing` aligns other points, and switches later batch norms to
    training mode.)
    """

    def call(self, features, reference):
        """Features `[B, h, w, C]`, reference `[B, H, W, D]` -> `[B, H, W, C]`."""
        known_size = reference.shape[1:3]
        if None not in known_size and features.shape[1:3] == known_size:
            return features
        size = ops.shape(reference)[1:3]
        return ops.cast(_resize(features, size), self.compute_dtype)

    def compute_output_shape(self, features_shape, reference_shape):
        return (features_shape[0], *reference_shape[1:3], features_shape[3])


@_register
class ScaleImage(keras.layers.Layer):
    """Resizes images by a factor, bilinear with aligned corners.

    Args:
        scale: A side of `size` pixels becomes one of `int((size - 1) * scale + 1)`.
    """

    def __init__(self, scale: float, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, images):
        """Images `[B, H, W, C]` -> `[B, (H - 1) * scale + 1, (W - 1) * scale + 1, C]`."""
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


@_register
class ImagePooling(keras.layers.Layer):
    """Averages features over windows as large as the whole map, a part of it, or a given size.

    Args:
        pool_size: Height and width of the window, at most those of the map; None for the map's
            divided by `grid_size`, rounded up.
        strides: Between windows, down and across.
        grid_size: Windows that a side of the map is divided into, down and across.
    """

    def __init__(self, pool_size=None, strides=(1, 1), grid_size=(1, 1), **kwargs):
        super().__init__(**kwargs)
        self.pool_size = pool_size and tuple(pool_size)
        self.strides = tuple(strides)
        self.grid_size = tuple(grid_size)

    def call(self, features):
        """Features `[B, H, W, C]` -> `[B, windows down, windows across, C]`."""
        sides = ops.shape(features)[1:3]
        has_known_size = all(isinstance(side, int) for side in sides)
        averages_all = self.pool_size is None and max(self.grid_size) == 1
        if averages_all and not (_means_by_pooling and has_known_size):
            return ops.mean(features, axis=(1, 2), keepdims=True)
        if has_known_size:
            return ops.average_pool(features, self._window(sides), self.strides, padding="valid")
        # No kernel takes a window that is known only at run time.
        rows, columns = map(_windows, sides, self._window(sides), self.strides)
        rows, columns = ops.cast(rows, features.dtype), ops.cast(columns, features.dtype)
        return ops.einsum("yh,bhwc,xw->byxc", rows, features, columns)

    def _window(self, sides):
        """Height and width of the window on a map of a given size."""
        if self.pool_size is None:
            return tuple(-(-side // parts) for side, parts in zip(sides, self.grid_size))
        return tuple(
            min(side, size) if isinstance(side, int) else ops.minimum(side, size)
            for side, size in zip(sides, self.pool_size)
        )

    def compute_output_shape(self, features_shape):
        batch, *sides, channels = features_shape
        if self.pool_size is None and max(self.grid_size) == 1:
            return batch, 1, 1, channels
        if None in sides:
            return batch, None, None, channels
        windows = [
            (side - window) // stride + 1
            for side, window, stride in zip(sides, self._window(sides), self.strides)
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
    """float32 [windows, size]: the weight of every pixel in the mean over every window."""
    first = ops.arange((size - window) // stride + 1)[:, None] * stride
    pixels = ops.arange(size)[None]
    inside = ops.logical_and(pixels >= first, pixels < first + window)
    return ops.cast(inside, "float32") / ops.cast(window, "float32")


def _resize(images, size):
    """Bilinear resizing with aligned corners of float images `[B, h, w, C]` to `size`."""
    if _ON_TENSORFLOW:
        return tf.compat.v1.image.resize(images, size, align_corners=True)
    rows, columns = map(_interpolation, images.shape[1:3], size)
    return ops.einsum("yh,bhwc,xw->byxc", rows, images, columns)


def _interpolation(old_size: int, new_size: int):
    """float32 [new_size, old_size]: the weight of every old pixel in every new one."""
    positions = ops.arange(new_size, dtype="float32") * (old_size - 1) / max(new_size - 1, 1)
    distances = ops.abs(positions[:, None] - ops.arange(old_size, dtype="float32"))
    return ops.relu(1 - distances)


def conv_batch_norm(
    inputs,
    filters: int,
    kernel_size: int,
    name: str,
    batch_norm: dict,
    activation: str | Callable | None = "relu",
    strides: int = 1,
    rate: int | tuple[int, int] = 1,
    padding: str = "same",
):
    """Convolution, batch norm, activation.

    Args:
        inputs: `[B, H, W, C]`.
        filters: Channels of the output.
        kernel_size: Height and width of the kernel before it is spread by `rate`.
        name: The original's scope.
        batch_norm: `momentum` and `epsilon`.
        activation: Name of a Keras activation, a function as `h_swish`, or None for none.
        strides: Of the convolution.
        rate: Atrous rate, or one for the height and one for the width.
        padding: Where strides are above 1: TensorFlow's "same", which gives even sizes one zero
            more at the bottom and the right, or "symmetric".

    Returns:
        `[B, ceil(H / strides), ceil(W / strides), filters]`.
    """
    x, padding = _pad(inputs, kernel_size, name, strides, padding)
    x = AtrousConv2D(
        filters,
        kernel_size,
        strides=strides,
        dilation_rate=rate,
        padding=padding,
        use_bias=False,
        # He's 2 / fan-in suits every width; the original draws all with a deviation of 0.09.
        kernel_initializer=keras.initializers.HeNormal(),
        name=layer_name(name),
    )(x)
    return _normalize_and_activate(x, name, batch_norm, activation)


def depthwise_batch_norm(
    inputs,
    kernel_size: int,
    name: str,
    batch_norm: dict,
    activation: str | Callable | None = "relu",
    strides: int = 1,
    rate: int | tuple[int, int] = 1,
    padding: str = "same",
):
    """Depthwise convolution, batch norm, activation; arguments as in `conv_batch_norm`."""
    x, padding = _pad(inputs, kernel_size, name, strides, padding)
    x = AtrousDepthwiseConv2D(
        kernel_size,
        strides=strides,
        dilation_rate=rate,
        padding=padding,
        use_bias=False,
        # He's as well: a depthwise kernel sees its window alone, which Keras counts as fan-out.
        depthwise_initializer=keras.initializers.VarianceScaling(2.0, mode="fan_out"),
        name=layer_name(name),
    )(x)
    return _normalize_and_activate(x, name, batch_norm, activation)


def separable_conv_batch_norm(
    inputs, filters: int, name: str, batch_norm: dict, rate: int | tuple[int, int] = 1
):
    """Atrous separable 3x3 convolution with batch norm and ReLU after both of its halves.

    Reference: DeepLabv3+, arXiv:1802.02611, section 3.1.
    """
    x = depthwise_batch_norm(inputs, 3, f"{name}_depthwise", batch_norm, rate=rate)
    return conv_batch_norm(x, filters, 1, f"{name}_pointwise", batch_norm)


def _pad(inputs, kernel_size: int, name: str, strides: int, padding: str):
    """Pads the inputs where the convolution does not, and says what is left for it to do."""
    if strides == 1 or kernel_size == 1 or padding == "same":
        return inputs, "same"
    name = layer_name(f"{name}/pad")
    return keras.layers.ZeroPadding2D(kernel_size // 2, name=name)(inputs), "valid"


def _normalize_and_activate(inputs, name: str, batch_norm: dict, activation: str | Callable | None):
    x = BatchNorm(**batch_norm, name=layer_name(f"{name}/BatchNorm"))(inputs)
    if activation is None:
        return x
    scope = f"{name}/{getattr(activation, '__name__', activation)}"
    return keras.layers.Activation(activation, name=layer_name(scope))(x)


@_register
def h_swish(x):
    """x * ReLU6(x + 3) / 6, in the original's order of rounding.

    (Keras saves a function named `hard_swish` as its own of that name, which rounds otherwise.)

    Reference: MobileNetV3, arXiv:1905.02244, section 5.2.
    """
    return x * ops.relu6(x + 3) * (1 / 6)


@_register
def q_sigmoid(x):
    """MobileNetV3's gate from 0 to about 1, with the five digits that the original has of 1 / 6."""
    return ops.relu6(x + 3) * 0.16667


@_register
class AtrousMaxPool2D(keras.layers.Layer):
    """The maximum of 3x3 pixels that lie `rate` apart, as far as they are within the image.

    It takes the place of a 3x3 pooling behind strides that were left out.

    Args:
        rate: Atrous rate.
    """

    def __init__(self, rate: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, features):
        """Features `[B, H, W, C]` -> `[B, H, W, C]`."""
        if self.rate == 1:
            return ops.max_pool(features, 3, strides=1, padding="same")
        for axis in (1, 2):
            size = ops.shape(features)[axis]
            rate = min(self.rate, size) if isinstance(size, int) else ops.minimum(self.rate, size)
            part = functools.partial(_part, features, axis)
            # Where a neighbour would be outside, the pixel itself stands in for it.
            before = ops.concatenate([part(0, rate), part(0, size - rate)], axis)
            behind = ops.concatenate([part(rate, size - rate), part(size - rate, rate)], axis)
            features = ops.maximum(ops.maximum(before, features), behind)
        return features

    def compute_output_shape(self, features_shape):
        return features_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def _part(features, axis: int, start, size):
    """`size` rows (axis 1) or columns (axis 2) of `[B, H, W, C]`.

    By `ops.slice`: the gradient of indexing takes three times as long.
    """
    starts, shape = [0, 0, 0, 0], list(ops.shape(features))
    starts[axis], shape[axis] = start, size
    return ops.slice(features, starts, shape)
