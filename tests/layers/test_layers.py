"""Layer truths: what a layer computes, held against definitions, stock layers and recordings."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import original
from deeplab_tf import layers

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-3}


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _outputs_and_gradients(layer, images, **kwargs):
    """What a layer gives, and its gradients to inputs and kernel, weighted by position."""
    images = tf.constant(images, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, **kwargs)
        weights = tf.reshape(tf.cos(tf.range(tf.size(outputs), dtype=tf.float32)), outputs.shape)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
    gradients = tape.gradient(loss, [images, layer.kernel.value])
    return [np.asarray(tf.cast(tensor, tf.float32)) for tensor in (outputs, *gradients)]


def test_a_convolution_from_3_to_16_channels_has_432_weights_and_its_separable_form_75():
    dense = layers.AtrousConv2D(16, 3, use_bias=False)
    dense.build((None, 8, 8, 3))
    depthwise = layers.AtrousDepthwiseConv2D(3, use_bias=False)
    depthwise.build((None, 8, 8, 3))
    pointwise = layers.AtrousConv2D(16, 1, use_bias=False)
    pointwise.build((None, 8, 8, 3))
    assert dense.count_params() == 432
    assert depthwise.count_params() + pointwise.count_params() == 27 + 48


@pytest.mark.parametrize("rate", [2, 3, 6])
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_kernel_at_a_rate_equals_the_dense_kernel_with_zeros_between_its_weights(rate, depthwise):
    kernel = _random(3, 3, 4, 1 if depthwise else 5)
    dense_kernel = np.zeros((2 * rate + 1, 2 * rate + 1, *kernel.shape[2:]), "float32")
    dense_kernel[::rate, ::rate] = kernel
    images = _random(2, 13, 10, 4)
    if depthwise:
        layer = layers.AtrousDepthwiseConv2D(3, dilation_rate=rate, padding="same", use_bias=False)
        expected = tf.nn.depthwise_conv2d(images, dense_kernel, [1, 1, 1, 1], "SAME")
    else:
        layer = layers.AtrousConv2D(5, 3, dilation_rate=rate, padding="same", use_bias=False)
        expected = tf.nn.conv2d(images, dense_kernel, 1, "SAME")
    layer.build(images.shape)
    layer.kernel.assign(kernel)
    np.testing.assert_allclose(layer(images, training=False), expected, atol=1e-4)


def _make(depthwise, kernel_size=3, stock=False, filters=8, **arguments):
    """One of our layers or the stock one; the filters are a dense one's."""
    arguments = {"padding": "same", "use_bias": False, **arguments}
    if depthwise:
        layer_class = keras.layers.DepthwiseConv2D if stock else layers.AtrousDepthwiseConv2D
        return layer_class(kernel_size, **arguments)
    layer_class = keras.layers.Conv2D if stock else layers.AtrousConv2D
    return layer_class(filters, kernel_size, **arguments)


@pytest.mark.parametrize("kernel_size, rate", [(3, 1), (3, 2), (3, 6), (3, 12), (5, 3), (4, 4)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_kernel_at_a_rate_covers_more_pixels_with_the_same_weights(depthwise, kernel_size, rate):
    layer = _make(depthwise, kernel_size, dilation_rate=rate)
    images = tf.ones([1, 41, 41, 1])
    layer.build(images.shape)
    layer.kernel.assign(tf.ones(layer.kernel.shape))
    with tf.GradientTape() as tape:
        tape.watch(images)
        middle = layer(images)[0, 20, 20, 0]
    seen = tape.gradient(middle, images)[0, :, :, 0].numpy()
    rows = np.flatnonzero(seen.any(axis=1))
    assert rows[-1] - rows[0] + 1 == kernel_size + (kernel_size - 1) * (rate - 1)
    assert np.count_nonzero(seen) == kernel_size**2


# Kernel, strides, rate, padding. (18, 15), (6, 21), (1, 6): of the dense prediction cell; 4 and 7:
# of DeepLab v1's fc6.
CONVOLUTIONS = (
    (3, 1, 1, "same"), (3, 2, 1, "same"), (3, 1, 2, "same"), (3, 1, 2, "valid"), (3, 1, 3, "same"),
    (3, 1, 6, "same"), (3, 1, 7, "same"), (3, 1, 12, "same"), (3, 1, 24, "same"),
    (3, 1, 36, "same"), (3, 1, (18, 15), "same"), (3, 1, (6, 21), "same"), (3, 1, (1, 6), "same"),
    (4, 1, 4, "same"), (7, 1, 4, "same"), (2, 1, 8, "same"),
)  # fmt: skip


@pytest.mark.parametrize("size", [(33, 33), (16, 21), (7, 9), (5, 6)])
@pytest.mark.parametrize("kernel_size, strides, rate, padding", CONVOLUTIONS)
@pytest.mark.parametrize("depthwise", [False, True])
def test_atrous_convolutions_and_their_gradients_equal_the_stock_layers(
    depthwise, kernel_size, strides, rate, padding, size
):
    arguments = {"strides": strides, "dilation_rate": rate, "padding": padding}
    layer = _make(depthwise, kernel_size, **arguments)
    stock = _make(depthwise, kernel_size, stock=True, dtype="float64", **arguments)
    images = _random(2, *size, 16)
    layer.build(images.shape)
    stock.build(images.shape)
    stock.kernel.assign(layer.kernel)
    expected = _outputs_and_gradients(stock, images)
    for got, wanted in zip(_outputs_and_gradients(layer, images), expected):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-6)


@pytest.mark.parametrize("rate", [1, 2, 3, (1, 3), (2, 1), 7])
@pytest.mark.parametrize("depthwise", [False, True])
def test_gradients_of_atrous_convolutions_equal_finite_differences(depthwise, rate):
    # Convolution is linear in the image and in the kernel: any step is right, and whole numbers
    # make the differences exact.
    generator = np.random.default_rng(0)
    height, width = (9, 8) if rate == 7 else (5, 4)
    layer = _make(depthwise, filters=2, dilation_rate=rate)
    layer.build((None, None, None, 1))
    images = generator.integers(-2, 3, (1, height, width, 1)).astype("float32")
    kernel = generator.integers(-2, 3, layer.kernel.shape).astype("float32")

    @tf.function
    def convolve(images, kernel):
        return layer.stateless_call([kernel], [], images)[0]

    for function, argument in (
        (lambda images: convolve(images, kernel), images),
        (lambda kernel: convolve(images, kernel), kernel),
    ):
        got, expected = tf.test.compute_gradient(function, [argument], delta=1.0)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rate", [2, 12, 24, (6, 21), (1, 6)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_atrous_convolutions_work_where_sizes_are_known_only_at_run_time(depthwise, rate):
    images = _random(2, 17, 14, 16)
    layer = _make(depthwise, dilation_rate=rate)
    layer.build(images.shape)
    expected = _outputs_and_gradients(layer, images)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 16])])
    def run(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images)
            size = tf.size(outputs)
            weights = tf.reshape(tf.cos(tf.range(size, dtype=tf.float32)), tf.shape(outputs))
            loss = tf.reduce_sum(outputs * weights)
        return outputs, *tape.gradient(loss, [images, layer.kernel.value])

    for got, wanted in zip(run(images), expected):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_weights_that_only_meet_padding_cost_nothing():
    layer = layers.AtrousConv2D(5, 3, dilation_rate=12, padding="same", use_bias=False)
    layer.build((None, None, None, 4))

    def kernel_of_the_graph(*size):
        run = tf.function(lambda images: layer(images))
        graph = run.get_concrete_function(tf.TensorSpec([1, *size, 4])).graph
        (convolution,) = [node for node in graph.get_operations() if node.type == "Conv2D"]
        return convolution.inputs[1].shape[:2]

    assert kernel_of_the_graph(13, 13) == (3, 3)
    assert kernel_of_the_graph(13, 12) == (3, 1)
    assert kernel_of_the_graph(12, 12) == (1, 1)
    assert kernel_of_the_graph(None, None) == (3, 3)


@pytest.mark.parametrize("rate", [2, 8])
@pytest.mark.parametrize(
    "dtype, tolerance", [("float64", 1e-6), ("mixed_bfloat16", 0.02), ("mixed_float16", 0.003)]
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_atrous_convolutions_work_in_other_dtypes(depthwise, dtype, tolerance, rate):
    images = _random(2, 9, 11, 16)
    results = []
    for policy in ("float32", dtype):
        layer = _make(depthwise, dilation_rate=rate, dtype=policy)
        layer.build(images.shape)
        layer.kernel.assign(_random(*layer.kernel.shape))
        results.append(_outputs_and_gradients(layer, images))
    for expected, got in zip(*results):
        np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())


def test_atrous_convolutions_have_right_gradients_where_there_is_no_onednn():
    """Not a matter of the test's process: TensorFlow reads the switch when it is imported."""
    tests = "equal_the_stock_layers and size0 and (2-same or 12 or rate12) or portable_dense"
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, "-k", tests],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout


def _operations(layer, *shape):
    """Names of the operations in a layer's graph."""
    run = tf.function(lambda images: layer(images))
    graph = run.get_concrete_function(tf.TensorSpec(shape)).graph
    return {node.type for node in graph.get_operations()}


@pytest.mark.parametrize("rate", [2, 12, (6, 21)])
@pytest.mark.parametrize("shape", [(None, None, None, 4), (1, 33, 33, 4)])
def test_a_portable_dense_convolution_has_no_space_to_batch_in_its_graph(shape, rate):
    layer = _make(depthwise=False, dilation_rate=rate)
    layer.build(shape)
    with layers.portable_graphs():
        operations = _operations(layer, *shape)
        images = _random(1, 33, 33, 4)
        stock = _make(depthwise=False, dilation_rate=rate, stock=True)
        stock.build(shape)
        stock.kernel.assign(layer.kernel)
        np.testing.assert_allclose(layer(images), stock(images), atol=1e-4)
    assert "Conv2D" in operations
    assert not operations & {"SpaceToBatchND", "BatchToSpaceND"}


def test_a_dilated_kernel_leaves_no_space_to_batch_where_there_is_onednn():
    for depthwise in (False, True):
        layer = _make(depthwise, dilation_rate=12)
        layer.build((None, None, None, 4))
        operations = _operations(layer, None, None, None, 4)
        assert not operations & {"SpaceToBatchND", "BatchToSpaceND"}


def test_a_portable_graph_has_no_dilated_depthwise_kernel():
    layer = layers.AtrousDepthwiseConv2D(3, dilation_rate=2, padding="same")
    layer.build((None, None, None, 4))

    def rates():
        run = tf.function(lambda images: layer(images, training=False))
        graph = run.get_concrete_function(tf.TensorSpec([1, 9, 9, 4])).graph.as_graph_def()
        return {
            tuple(node.attr["dilations"].list.i)
            for node in graph.node
            if node.op == "DepthwiseConv2dNative"
        }

    with layers.portable_graphs():
        assert rates() == {(1, 1, 1, 1)}
    assert rates() == {(1, 2, 2, 1)}


@pytest.mark.parametrize("synchronized", [False, True])
def test_batch_norm_updates_as_recorded_from_the_original(synchronized):
    record = {name: np.float32(value) for name, value in original.load("batch_norm").items()}
    layer = layers.BatchNorm(**BATCH_NORM, synchronized=synchronized)
    layer.build(record["x"].shape)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        getattr(layer, name).assign(record[f"before_{name}"])
    np.testing.assert_allclose(layer(record["x"], training=True), record["y"], atol=1e-5)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        np.testing.assert_allclose(getattr(layer, name), record[f"after_{name}"], atol=1e-6)


@pytest.mark.parametrize("synchronized", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_batch_norm_normalizes_by_the_biased_variance_and_keeps_the_unbiased(policy, synchronized):
    images = 3 + 2 * _random(2, 3, 4, 5)
    layer = layers.BatchNorm(**BATCH_NORM, synchronized=synchronized, dtype=policy)
    outputs = np.asarray(tf.cast(layer(images, training=True), tf.float32))
    tolerance = 1e-5 if policy == "float32" else 0.03
    normalized = (images - images.mean((0, 1, 2))) / np.sqrt(images.var((0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(outputs, normalized, atol=tolerance)
    unbiased = images.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * unbiased, rtol=tolerance)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * images.mean((0, 1, 2)), rtol=tolerance)


@pytest.mark.parametrize("synchronized", [False, True])
def test_batch_norm_has_the_gradients_of_the_stock_layer(synchronized):
    images = tf.constant(_random(2, 5, 7, 8))
    ours = layers.BatchNorm(**BATCH_NORM, synchronized=synchronized)
    gradients = []
    for layer in (ours, keras.layers.BatchNormalization(**BATCH_NORM)):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(tf.sin(layer(images, training=True)))
        gradients.append(tape.gradient(loss, [images, layer.gamma.value, layer.beta.value]))
    for got, expected in zip(*gradients):
        np.testing.assert_allclose(got, expected, atol=1e-4)


TWO_REPLICAS = """
import numpy as np, tensorflow as tf
from deeplab_tf.layers import BatchNorm

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
images = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 8)).astype("float32")

def step(layer, images):
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = tf.reduce_sum(tf.sin(layer(images, training=True)))
    return tape.gradient(loss, images)

alone = BatchNorm(momentum=0.9)
expected = step(alone, tf.constant(images))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    shared = BatchNorm(momentum=0.9, synchronized=True)
    shared.build(images.shape)
halves = strategy.experimental_distribute_values_from_function(
    lambda replica: tf.constant(np.split(images, 2)[replica.replica_id_in_sync_group])
)
gradients = tf.function(lambda: strategy.run(step, args=(shared, halves)))()
np.testing.assert_allclose(np.concatenate(gradients.values), expected, atol=1e-4)
np.testing.assert_allclose(shared.moving_mean.numpy(), alone.moving_mean.numpy(), rtol=1e-5)
np.testing.assert_allclose(shared.moving_variance.numpy(), alone.moving_variance.numpy(), rtol=1e-5)
"""


def test_synchronized_batch_norm_on_two_replicas_equals_one_with_the_whole_batch():
    """In a process of its own: devices are divided before TensorFlow starts."""
    finished = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr


def test_frozen_batch_norm_keeps_its_statistics_while_gamma_and_beta_train():
    inner = keras.Sequential([keras.Input((4, 4, 3)), layers.BatchNorm()])
    model = keras.Sequential([keras.Input((4, 4, 3)), inner, layers.BatchNorm()])
    for variable in model.non_trainable_variables:
        variable.assign(np.arange(1, 4))
    before = [variable.numpy() for variable in model.non_trainable_variables]
    layers.freeze_batch_norm(model)
    images = tf.constant(_random(2, 4, 4, 3))
    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = tf.reduce_sum(outputs**2)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    np.testing.assert_allclose(outputs, model(images, training=False), atol=1e-6)
    np.testing.assert_array_equal(before, [v.numpy() for v in model.non_trainable_variables])
    assert len(gradients) == 4
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


def _interpolate(values, position):
    low = min(int(position), len(values) - 2) if len(values) > 1 else 0
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)


@pytest.mark.parametrize("on_tensorflow", [True, False])
@pytest.mark.parametrize("old, new", [((3, 4), (9, 5)), ((1, 1), (4, 3)), ((5, 6), (1, 2))])
def test_resizing_aligns_the_corners(monkeypatch, on_tensorflow, old, new):
    monkeypatch.setattr(layers, "_ON_TENSORFLOW", on_tensorflow)
    features = _random(1, *old, 2)
    expected = features[0]
    for axis in (0, 1):
        step = (old[axis] - 1) / max(new[axis] - 1, 1)
        rows = np.moveaxis(expected, axis, 0)
        rows = np.stack([_interpolate(rows, index * step) for index in range(new[axis])])
        expected = np.moveaxis(rows, 0, axis)
    got = layers.ResizeLike()(features, np.zeros((1, *new, 7), "float32"))
    np.testing.assert_allclose(got[0], expected, atol=1e-5)


@pytest.mark.parametrize("on_tensorflow", [True, False])
def test_resizing_gives_what_was_recorded_from_the_original(monkeypatch, on_tensorflow):
    monkeypatch.setattr(layers, "_ON_TENSORFLOW", on_tensorflow)
    record = {
        name: np.float32(value)[np.newaxis, ..., np.newaxis]
        for name, value in original.load("resizing").items()
    }
    for size in ("5x7", "9x13", "3x4", "1x1", "2x2"):
        expected = record[f"bilinear_{size}"]
        got = layers.ResizeLike()(record["input"], np.zeros(expected.shape, "float32"))
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max(), err_msg=size)


def test_resizing_works_where_sizes_are_known_only_at_run_time():
    layer = layers.ResizeLike()

    @tf.function(input_signature=[tf.TensorSpec([1, 1, 1, 2]), tf.TensorSpec([1, None, None, 3])])
    def run(features, reference):
        return layer(features, reference)

    assert run(_random(1, 1, 1, 2), _random(1, 5, 6, 3)).shape == (1, 5, 6, 2)


def test_official_names_of_variables():
    inputs = keras.Input((9, 9, 3))
    x = layers.separable_conv_batch_norm(inputs, 4, "decoder/decoder_conv0", BATCH_NORM)
    x = keras.layers.Conv2D(2, 1, name="logits.semantic")(x)
    inner = keras.Model(inputs, x)
    outer_inputs = keras.Input((9, 9, 3))
    model = keras.Model(outer_inputs, inner(outer_inputs))
    assert [layers.official_name(variable) for variable in model.trainable_variables] == [
        "decoder/decoder_conv0_depthwise/depthwise_weights",
        "decoder/decoder_conv0_depthwise/BatchNorm/gamma",
        "decoder/decoder_conv0_depthwise/BatchNorm/beta",
        "decoder/decoder_conv0_pointwise/weights",
        "decoder/decoder_conv0_pointwise/BatchNorm/gamma",
        "decoder/decoder_conv0_pointwise/BatchNorm/beta",
        "logits/semantic/weights",
        "logits/semantic/biases",
    ]


def test_every_layer_survives_saving(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = layers.AtrousConv2D(4, 3, dilation_rate=2, padding="same")(inputs)
    x = layers.AtrousDepthwiseConv2D(3, dilation_rate=2, padding="same")(x)
    x = layers.BatchNorm(momentum=0.7, epsilon=1e-4, frozen=True)(x)
    x = layers.ResizeLike()(keras.layers.AveragePooling2D(3)(x), inputs)
    model = keras.Model(inputs, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = _random(1, 9, 12, 3)
    np.testing.assert_array_equal(model(images, training=False), loaded(images, training=False))
    batch_norm = next(layer for layer in loaded.layers if isinstance(layer, layers.BatchNorm))
    assert (batch_norm.momentum, batch_norm.epsilon, batch_norm.frozen) == (0.7, 1e-4, True)


def test_h_swish_and_q_sigmoid_are_those_of_mobilenet_v3():
    x = np.array([-4, -3, -1.5, 0, 1.5, 3, 4], "float32")
    np.testing.assert_allclose(layers.h_swish(x), [0, 0, -0.375, 0, 1.125, 3, 4], atol=1e-6)
    gates = np.array([0, 0, 1.5, 3, 4.5, 6, 6]) * 0.16667
    np.testing.assert_allclose(layers.q_sigmoid(x), gates, rtol=1e-6)


@pytest.mark.parametrize("size", [(9, 12), (5, 4), (2, 1)])
@pytest.mark.parametrize("rate", [1, 2, 3, 8])
@pytest.mark.parametrize("is_static", [True, False])
def test_atrous_pooling_takes_the_maximum_of_pixels_that_lie_apart(size, rate, is_static):
    images = _random(2, *size, 3) - 5
    padded = np.pad(images, [(0, 0), (rate, rate), (rate, rate), (0, 0)], constant_values=-np.inf)
    shifted = [
        padded[:, rate * row :, rate * column :][:, : size[0], : size[1]]
        for row in range(3)
        for column in range(3)
    ]
    layer = layers.AtrousMaxPool2D(rate)
    shape = images.shape if is_static else [None, None, None, 3]
    run = tf.function(layer, input_signature=[tf.TensorSpec(shape)])
    np.testing.assert_array_equal(run(images), np.max(shifted, axis=0))


def test_the_gradient_of_atrous_pooling_goes_to_the_maxima():
    images = tf.constant(_random(1, 7, 6, 2))
    layer = layers.AtrousMaxPool2D(2)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images)
    gradient = tape.gradient(outputs, images)
    counts = [np.sum(outputs == pixel) for pixel in np.ravel(images)]
    np.testing.assert_array_equal(np.ravel(gradient), counts)


def test_activations_and_atrous_pooling_survive_saving(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = layers.conv_batch_norm(inputs, 4, 3, "first", BATCH_NORM, layers.h_swish)
    x = layers.AtrousMaxPool2D(3)(x)
    x = layers.conv_batch_norm(x, 4, 1, "second", BATCH_NORM, layers.q_sigmoid)
    model = keras.Model(inputs, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("first.h_swish").activation is layers.h_swish
    assert loaded.get_layer("second.q_sigmoid").activation is layers.q_sigmoid
    images = _random(1, 9, 12, 3)
    np.testing.assert_array_equal(model(images, training=False), loaded(images, training=False))


@pytest.mark.parametrize(
    "settings, size, windows",
    [
        ({"pool_size": (3, 4)}, (7, 9), (5, 6)),
        ({"pool_size": (3, 4), "strides": (2, 3)}, (7, 9), (3, 2)),
        ({"pool_size": (3, 20)}, (7, 9), (5, 1)),  # no larger than the map
        ({"grid_size": (2, 3)}, (7, 9), (4, 7)),
        ({}, (7, 9), (1, 1)),
    ],
)
def test_image_pooling_means_over_windows_whether_the_size_is_known_or_not(settings, size, windows):
    features = _random(2, *size, 3)
    layer = layers.ImagePooling(**settings)
    pooled = layer(features)
    assert pooled.shape == (2, *windows, 3) == layer.compute_output_shape(features.shape)
    height, width = (min(pair) for pair in zip(size, settings.get("pool_size", size)))
    if "grid_size" in settings:
        height, width = 4, 3
    last = [(count - 1) * step for count, step in zip(windows, settings.get("strides", (1, 1)))]
    expected = features[:, last[0] : last[0] + height, last[1] : last[1] + width].mean((1, 2))
    np.testing.assert_allclose(pooled[:, -1, -1], expected, atol=1e-6)
    dynamic = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_allclose(dynamic(features), pooled, atol=1e-6)


@pytest.mark.parametrize("scale, size", [(0.5, (4, 5)), (0.75, (5, 7)), (1.5, (10, 13))])
def test_a_scaled_image_has_the_originals_size_and_its_corners(scale, size):
    image = _random(1, 7, 9, 3)
    layer = layers.ScaleImage(scale)
    scaled = layer(image)
    assert scaled.shape == (1, *size, 3) == layer.compute_output_shape(image.shape)
    corners = np.ix_([0], [0, -1], [0, -1], range(3))
    np.testing.assert_allclose(np.asarray(scaled)[corners], image[corners], atol=1e-5)
    dynamic = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_allclose(dynamic(image), scaled, atol=1e-6)
