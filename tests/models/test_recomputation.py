"""Recomputed activations: equal results from less memory."""

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import build_model
from deeplab_tf import layers
from deeplab_tf.models import activations
from deeplab_tf.models import recomputation
from deeplab_tf.models import segments


def residual_network(num_units: int) -> keras.Model:
    """Units with batch norm, dropout, a branch and a shared layer, and a frozen first kernel."""
    image = keras.Input((None, None, 3), dtype="uint8")
    blocks = layers.ConvBlocks(momentum=0.9)
    shared = layers.AtrousDepthwiseConv2D(3, padding="same", dilation_rate=2, use_bias=False)
    x = layers.call_in_order(blocks.conv(8, 3, "stem", strides=2), layers.ScaleImage(1.0)(image))
    for unit in range(num_units):
        branch = [
            *blocks.conv(24, 1, f"{unit}/expand", "relu6"),
            keras.layers.Dropout(0.5, seed=unit),
            *blocks.conv(8, 1, f"{unit}/project", None),
        ]
        x = shared(keras.layers.Add()([x, layers.call_in_order(branch, x)]))
    model = keras.Model(image, {"coarse": x, "fine": layers.ResizeLike()(x, image)})
    model.layers[2].trainable = False
    return model


def trained(is_recomputed: bool) -> list[np.ndarray]:
    """Outputs and gradients of two calls, and all variables after them."""
    keras.utils.set_random_seed(0)
    model = residual_network(num_units=4)
    network = recomputation.RecomputingNetwork(model) if is_recomputed else model
    images = tf.random.stateless_uniform((2, 33, 33, 3), [0, 1], 0, 256, tf.int32)

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            loss = tf.add_n([tf.reduce_sum(tf.sin(output)) for output in outputs.values()])
        return outputs, tape.gradient(loss, model.trainable_variables)

    results = [step(tf.cast(images, tf.uint8)) for _ in range(2)]
    return [np.asarray(value) for value in tf.nest.flatten([results, model.variables])]


def test_outputs_gradients_statistics_and_random_numbers_are_those_of_the_network():
    for plain, recomputed in zip(trained(False), trained(True), strict=True):
        # The gradients of the shared layer add up in another order.
        np.testing.assert_allclose(recomputed, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())


def calls_at(model: keras.Model, size: int) -> list[activations.Call]:
    return activations.calls_of(model, keras.KerasTensor((1, size, size, 3)))[1]


def all_activations(calls: list[activations.Call]) -> int:
    return sum(dict(kept for call in calls for kept in call.kept()).values())


def test_a_chain_keeps_what_the_square_root_of_its_length_keeps():
    image = keras.Input((None, None, 3))
    blocks = layers.ConvBlocks()
    chain = [layer for index in range(64) for layer in blocks.conv(3, 3, str(index))]
    calls = calls_at(keras.Model(image, layers.call_in_order(chain, image)), 10)
    plan = segments.plan(calls)
    assert [call for segment in plan.segments for call in segment] == calls
    # With s segments: s - 1 maps between them, and 2 maps for each of the 64 / s blocks in one.
    ideal = min(s - 1 + 2 * 64 / s for s in range(1, 65)) * 10 * 10 * 3 * 4
    assert ideal * 0.9 < plan.kept < ideal * 1.1 < all_activations(calls) / 5


def test_less_than_half_of_the_activations_of_each_version_is_kept():
    for version, backbone in (("v1", "vgg_16"), ("v3plus", "mobilenet_v2")):
        calls = calls_at(build_model(version, backbone, 21), 257)
        assert segments.plan(calls).kept < all_activations(calls) / 2
