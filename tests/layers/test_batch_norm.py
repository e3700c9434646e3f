"""Batch norm, against recordings of the original, its definition and the stock layer."""

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


def test_channels_that_are_added_for_bfloat16_change_nothing():
    images, weights = (tf.cast(_random(2, 9, 7, 24) + offset, tf.bfloat16) for offset in (1, 2))

    def results(policy):
        layer = layers.BatchNorm(**BATCH_NORM, dtype=policy)
        layer.build(images.shape)
        layer.gamma.assign(_random(24))
        layer.beta.assign(_random(24))
        inputs = tf.cast(images, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(
                tf.cast(outputs * tf.cast(weights, outputs.dtype), tf.float32) ** 2
            )
        gradients = tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])
        return [outputs, *gradients, layer.moving_mean, layer.moving_variance]

    for added, plain in zip(results("mixed_bfloat16"), results("float32"), strict=True):
        plain = np.asarray(plain)
        added = tf.cast(tf.convert_to_tensor(added), tf.float32)
        assert added.shape == plain.shape
        np.testing.assert_allclose(added, plain, atol=0.02 * np.abs(plain).max())


@pytest.mark.parametrize("synchronized", [False, True])
@pytest.mark.parametrize(
    "arguments, shape",
    [
        ({}, (8, 5)),
        ({}, (2, 4, 5)),
        ({}, (2, 2, 3, 4, 5)),
        ({"axis": 1}, (2, 5, 3, 4)),
        ({"center": False}, (2, 3, 4, 5)),
        ({"scale": False}, (2, 3, 4, 5)),
        ({"center": False, "scale": False}, (2, 3, 4, 5)),
        ({"dtype": "float16"}, (2, 3, 4, 5)),
        ({"dtype": "float64"}, (2, 3, 4, 5)),
    ],
    ids=str,
)
def test_batch_norm_trains_wherever_the_stock_layer_does(arguments, shape, synchronized):
    inputs = 3 + 2 * _random(*shape)
    layer = layers.BatchNorm(**BATCH_NORM, **arguments, synchronized=synchronized)
    stock = keras.layers.BatchNormalization(**BATCH_NORM, **arguments)
    outputs, expected = layer(inputs, training=True), stock(inputs, training=True)
    tolerance = 5e-3 if arguments.get("dtype") == "float16" else 1e-5
    np.testing.assert_allclose(outputs, expected, atol=tolerance)
    np.testing.assert_allclose(layer.moving_mean, stock.moving_mean, atol=tolerance)
    assert outputs.dtype == expected.dtype


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
    """Runs in another process: devices are divided before TensorFlow starts."""
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
