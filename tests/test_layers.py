"""Layer truths: what a layer computes, held against definitions, stock layers and recordings."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

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


@pytest.mark.parametrize("size", [(33, 33), (16, 21), (7, 9), (5, 6)])
@pytest.mark.parametrize(
    "strides, rate, padding",
    [(1, 1, "same"), (2, 1, "same"), (1, 2, "same"), (1, 2, "valid"), (1, 6, "same"),
     (1, 7, "same"), (1, 12, "same"), (1, 18, "same"), (1, 36, "same")],
)  # fmt: skip
@pytest.mark.parametrize("depthwise", [False, True])
def test_atrous_convolutions_and_their_gradients_equal_the_stock_layers(
    depthwise, strides, rate, padding, size
):
    arguments = {"strides": strides, "dilation_rate": rate, "padding": padding, "use_bias": False}
    if depthwise:
        layer = layers.AtrousDepthwiseConv2D(3, **arguments)
        stock = keras.layers.DepthwiseConv2D(3, **arguments)
    else:
        layer = layers.AtrousConv2D(8, 3, **arguments)
        stock = keras.layers.Conv2D(8, 3, **arguments)
    images = _random(2, *size, 16)
    layer.build(images.shape)
    stock.build(images.shape)
    stock.kernel.assign(layer.kernel)
    expected = _outputs_and_gradients(stock, images)
    for training in (False, True):
        for got, wanted in zip(_outputs_and_gradients(layer, images, training=training), expected):
            np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-6)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-6), ("mixed_bfloat16", 0.02)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_atrous_convolutions_work_in_other_dtypes(depthwise, dtype, tolerance):
    images = _random(2, 9, 11, 16)
    results = []
    for policy in ("float32", dtype):
        arguments = {"dilation_rate": 2, "padding": "same", "use_bias": False, "dtype": policy}
        if depthwise:
            layer = layers.AtrousDepthwiseConv2D(3, **arguments)
        else:
            layer = layers.AtrousConv2D(4, 3, **arguments)
        layer.build(images.shape)
        layer.kernel.assign(_random(*layer.kernel.shape))
        results.append(_outputs_and_gradients(layer, images, training=False))
    for expected, got in zip(*results):
        np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())


def test_atrous_convolutions_have_right_gradients_where_there_is_no_onednn():
    """Not a matter of the test's process: TensorFlow reads the switch when it is imported."""
    this_test = (
        "test_atrous_convolutions_and_their_gradients_equal_the_stock_layers and (2-same or 12)"
    )
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, "-k", this_test],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize("training", [False, True])
def test_a_lowered_convolution_leaves_no_space_to_batch_in_the_graph(training):
    conv = layers.AtrousConv2D(4, 3, dilation_rate=12, padding="same")
    depthwise = layers.AtrousDepthwiseConv2D(3, dilation_rate=12, padding="same")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 4])])
    def run(images):
        images = conv(images, training=training)
        # In training the depthwise layer is the stock one.
        return images if training else depthwise(images, training=False)

    operations = {node.op for node in run.get_concrete_function().graph.as_graph_def().node}
    assert "Conv2D" in operations
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
def test_batch_norm_updates_as_recorded_from_the_original(shared, synchronized):
    record = np.load(shared / "oracles/training/batch_norm_train_decay0.9_eps1e-3.npz")
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
def test_resizing_gives_what_was_recorded_from_the_original(shared, monkeypatch, on_tensorflow):
    monkeypatch.setattr(layers, "_ON_TENSORFLOW", on_tensorflow)
    record = np.load(shared / "oracles/training/resize_align_corners.npz")
    for size in ("5x7", "9x13", "17x25", "3x4", "10x10", "1x1", "2x2"):
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
    np.testing.assert_array_equal(
        model(images, training=False), loaded(images, training=False)
    )
    batch_norm = next(layer for layer in loaded.layers if isinstance(layer, layers.BatchNorm))
    assert (batch_norm.momentum, batch_norm.epsilon, batch_norm.frozen) == (0.7, 1e-4, True)
