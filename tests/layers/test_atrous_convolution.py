"""Atrous convolution and pooling, against definitions and the stock layers."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import layers


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _outputs_and_gradients(layer, images, **kwargs):
    """Returns outputs, and gradients to inputs and kernel of a sum weighted by position."""
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
    """Returns one of our layers or a stock one; only dense ones have filters."""
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


@pytest.mark.parametrize(
    "activation, dtype, tolerance",
    [
        (None, "float32", 1e-5),
        ("relu6", "float32", 1e-5),
        ("softmax", "float32", 1e-5),
        (None, "mixed_bfloat16", 2e-2),
    ],
)
@pytest.mark.parametrize("use_bias", [False, True])
def test_in_training_a_kernel_of_one_pixel_and_its_gradients_equal_the_stock_layer(
    use_bias, activation, dtype, tolerance
):
    arguments = {"kernel_size": 1, "use_bias": use_bias, "activation": activation}
    layer = _make(False, dtype=dtype, **arguments)
    stock = _make(False, stock=True, dtype="float64", **arguments)
    images = _random(2, 7, 9, 16)
    layer.build(images.shape)
    stock.build(images.shape)
    weights = [_random(*weight.shape) / 3 for weight in layer.weights]
    layer.set_weights(weights)
    stock.set_weights(weights)
    results = _outputs_and_gradients(layer, images, training=True)
    for got, wanted in zip(results, _outputs_and_gradients(stock, images)):
        np.testing.assert_allclose(got, wanted, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("channels, is_wide", [(4, False), (512, True)])
def test_graphs_of_training_or_wide_ones_for_this_process_multiply_and_others_convolve(
    channels, is_wide
):
    layer = layers.AtrousConv2D(channels, kernel_size=1)
    layer.build((None, None, None, channels))
    for shape in ([2, 9, 8, channels], [None, None, None, channels]):
        assert "Conv2D" in _operations(layer, *shape)
        assert "Conv2D" not in _operations(layer, *shape, training=True)
        with layers.local_graphs():
            assert ("Conv2D" not in _operations(layer, *shape)) == is_wide


@pytest.mark.parametrize("arguments", [{"kernel_size": 3}, {"kernel_size": 1, "strides": 2}])
def test_graphs_of_training_convolve_where_outputs_are_not_of_single_pixels(arguments):
    layer = _make(False, **arguments)
    layer.build((None, None, None, 4))
    assert "Conv2D" in _operations(layer, 2, 9, 8, 4, training=True)


@pytest.mark.parametrize("rate", [2, 8])
def test_a_graph_fuses_bias_and_relu_into_a_depthwise_convolution_with_equal_outputs(rate):
    layer = _make(True, dilation_rate=rate, use_bias=True, activation="relu")
    images = _random(2, 20, 17, 8)
    layer.build(images.shape)
    layer.bias.assign(_random(8))
    np.testing.assert_allclose(tf.function(layer)(images), layer(images), atol=1e-5)


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
def test_atrous_convolutions_work_if_sizes_are_only_known_at_run_time(depthwise, rate):
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


def test_atrous_convolutions_have_right_gradients_without_onednn():
    """Runs in another process: TensorFlow reads the switch when it is imported."""
    tests = "equal_the_stock_layers and size0 and (2-same or 12 or rate12) or portable_dense"
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, "-k", tests],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout


def _operations(layer, *shape, training=False):
    """Returns the names of the operations in a layer's graph."""
    run = tf.function(lambda images: layer(images, training=training))
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


def test_a_dilated_kernel_needs_no_space_to_batch_with_onednn():
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
