"""The layers that DeepLab is made of; the one place that knows how atrous convolution is lowered.

Every layer that owns variables is named after the original's scope, with "." for "/", which Keras
keeps for itself. So `official_name` finds the original's name of every variable.
"""

import concurrent.futures
import contextlib
import functools

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


@contextlib.contextmanager
def portable_graphs():
    """Graphs that are traced within it run on any device, not only on one like this one.

    The dilated depthwise kernel, which inference uses where it works, exists on CPUs with oneDNN
    only. To be used around the tracing of what is exported.
    """
    global _portable
    before, _portable = _portable, True
    try:
        yield
    finally:
        _portable = before


@_register
class AtrousConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose `dilation_rate` goes to TensorFlow's dilated kernel.

    The stock layer regroups pixels by their phase and back (space-to-batch). On a CPU that costs 4
    times as much at rate 12, and 20 to 50 times as much at rates 24 to 36.
    """

    def convolution_op(self, inputs, kernel):
        if self.groups == 1 and _can_use(_dilated_conv, _stock_conv, self, inputs):
            return _dilated_conv(inputs, kernel, self.dilation_rate, self.padding.upper())
        return super().convolution_op(inputs, kernel)


@_register
class AtrousDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` whose `dilation_rate` goes to a dilated kernel in inference.

    In training the stock form is as fast; in inference it is slower, and leaves space-to-batch in
    exported graphs.
    """

    def call(self, inputs, training=None):
        if (
            training
            or _portable
            or not _can_use(_dilated_depthwise_conv, _stock_depthwise_conv, self, inputs)
        ):
            return super().call(inputs)
        kernel = tf.convert_to_tensor(self.kernel)
        outputs = _dilated_depthwise_conv(
            inputs, kernel, self.dilation_rate, self.padding.upper()
        )
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        return self.activation(outputs)


def _dilated_conv(images, kernel, rates, padding: str):
    return tf.nn.conv2d(images, kernel, strides=1, padding=padding, dilations=rates)


def _stock_conv(images, kernel, rates, padding: str):
    return tf.nn.convolution(images, kernel, padding=padding, dilations=rates)


def _dilated_depthwise_conv(images, kernel, rates, padding: str):
    """Depthwise convolution by the dilated kernel, with the gradient of the stock form.

    The kernel's own gradient is wrong at rates above 1, without an error.
    """
    # oneDNN leaves its fast path where it would have to pad by more than 6 pixels itself.
    spread = [rate * (size - 1) for rate, size in zip(rates, kernel.shape[:2])]
    pads_itself = padding == "VALID" or max(spread) // 2 <= 6
    padded = [[0, 0], *([pixels // 2, pixels - pixels // 2] for pixels in spread), [0, 0]]

    @tf.custom_gradient
    def convolve(images, kernel):
        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch([images, kernel])
                outputs = _stock_depthwise_conv(images, kernel, rates, padding)
            return tape.gradient(outputs, [images, kernel], upstream)

        outputs = tf.raw_ops.DepthwiseConv2dNative(
            input=images if pads_itself else tf.pad(images, padded),
            filter=kernel,
            strides=[1, 1, 1, 1],
            padding=padding if pads_itself else "VALID",
            dilations=[1, *rates, 1],
        )
        return outputs, gradient

    return convolve(images, kernel)


def _stock_depthwise_conv(images, kernel, rates, padding: str):
    return tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], padding, dilations=rates)


def _can_use(native, stock, layer: keras.layers.Layer, inputs) -> bool:
    """Whether a layer's convolution of these inputs can be done by a dilated kernel."""
    return (
        _ON_TENSORFLOW
        and max(layer.dilation_rate) > 1
        and max(layer.strides) == 1
        and layer.data_format == "channels_last"
        and _works_here(native, stock, inputs.dtype)
    )


@functools.cache
def _works_here(native, stock, dtype) -> bool:
    """Tries a dilated kernel and its gradient against the stock form on the device at hand.

    On a CPU the kernels need oneDNN, which has no float64 and may be switched off or absent. Small
    whole numbers make the comparison exact in any dtype.
    """

    def outputs_and_gradients(convolve):
        images = tf.cast(tf.reshape(tf.range(7 * 7 * 16) % 2, [1, 7, 7, 16]), dtype)
        kernel = tf.cast(tf.reshape(tf.range(3 * 3 * 16) % 2, [3, 3, 16, 1]), dtype)
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = convolve(images, kernel, (2, 2), "SAME")
        return [outputs, *tape.gradient(outputs, [images, kernel])]

    def agree():
        try:
            results = zip(outputs_and_gradients(native), outputs_and_gradients(stock))
        except (tf.errors.OpError, ValueError):
            return False
        return all(bool(tf.reduce_all(got == expected)) for got, expected in results)

    # A thread of its own runs at once, whatever graph this one is tracing.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(agree).result()


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
    for layer in _batch_norms(model):
        layer.frozen = True


def synchronize_batch_norm(model: keras.Model) -> None:
    """Makes every `BatchNorm` of a model share its statistics with the other replicas.

    To be called before a training step is traced.
    """
    for layer in _batch_norms(model):
        layer.synchronized = True


def _batch_norms(model: keras.Model) -> list[BatchNorm]:
    """Every `BatchNorm` of a model and of the models in it."""
    nested = [_batch_norms(layer) for layer in model.layers if isinstance(layer, keras.Model)]
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
        if _ON_TENSORFLOW:
            resized = tf.compat.v1.image.resize(features, size, align_corners=True)
        else:
            rows, columns = map(_interpolation, features.shape[1:3], size)
            resized = ops.einsum("yh,bhwc,xw->byxc", rows, features, columns)
        return ops.cast(resized, self.compute_dtype)

    def compute_output_shape(self, features_shape, reference_shape):
        return (features_shape[0], *reference_shape[1:3], features_shape[3])


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
    activation: str | None = "relu",
    strides: int = 1,
    rate: int = 1,
    padding: str = "same",
):
    """Convolution, batch norm, activation.

    Args:
        inputs: `[B, H, W, C]`.
        filters: Channels of the output.
        kernel_size: Height and width of the kernel before it is spread by `rate`.
        name: The original's scope.
        batch_norm: `momentum` and `epsilon`.
        activation: Name of a Keras activation, or None for none.
        strides: Of the convolution.
        rate: Atrous rate.
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
    activation: str | None = "relu",
    strides: int = 1,
    rate: int = 1,
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


def separable_conv_batch_norm(inputs, filters: int, name: str, batch_norm: dict, rate: int = 1):
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


def _normalize_and_activate(inputs, name: str, batch_norm: dict, activation: str | None):
    x = BatchNorm(**batch_norm, name=layer_name(f"{name}/BatchNorm"))(inputs)
    if activation is None:
        return x
    return keras.layers.Activation(activation, name=layer_name(f"{name}/{activation}"))(x)
