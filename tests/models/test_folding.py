"""Folding computes the same with fewer operations, and leaves the given model alone.

`tests/export/test_every_model.py` folds every version and every kind of backbone.
"""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf import models

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 9, 11, 4)).astype(np.float32)


def model_of(*block: keras.layers.Layer) -> keras.Model:
    """Layers one after another, with weights as after training."""
    image = keras.Input((None, None, IMAGES.shape[-1]))
    model = keras.Model(image, layers.call_in_order(block, image))
    generator = np.random.default_rng(1)
    for variable in model.variables:
        variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return model


def check_equal(model: keras.Model) -> keras.Model:
    """Folds a model, and compares what it computes."""
    folded = models.fold_batch_norm(model)
    expected, got = (one(IMAGES, training=False).numpy() for one in (model, folded))
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    return folded


def kinds(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers[1:]]


CONVOLUTIONS = {
    "dense": layers.AtrousConv2D(6, 3, padding="same", use_bias=False),
    "with a bias": keras.layers.Conv2D(6, 3),
    "in groups": keras.layers.Conv2D(6, 3, groups=2, use_bias=False),
    "with a stride": layers.AtrousConv2D(6, 3, strides=2, padding="same", use_bias=False),
    "atrous": layers.AtrousConv2D(6, 3, dilation_rate=2, padding="same", use_bias=False),
    "depthwise": layers.AtrousDepthwiseConv2D(3, padding="same", use_bias=False),
    "depthwise with a multiplier": keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
    "depthwise at a small rate": layers.AtrousDepthwiseConv2D(3, dilation_rate=2, padding="same"),
    "depthwise at a large rate": layers.AtrousDepthwiseConv2D(3, dilation_rate=9, padding="same"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_takes_in_the_batch_norm_and_the_activation(name):
    convolution = CONVOLUTIONS[name]
    norm = layers.BatchNorm(scale=name != "in groups", center=name != "atrous")
    model = model_of(convolution, norm, keras.layers.Activation("relu6"))
    assert kinds(check_equal(model)) == [
        "AtrousDepthwiseConv2D" if "depthwise" in name else "AtrousConv2D"
    ]


def test_what_no_convolution_computes_stays():
    first, norm, last = layers.BatchNorm(), layers.BatchNorm(), keras.layers.Dropout(0.5)
    convolution = keras.layers.Conv2D(6, 1, activation="relu")
    model = model_of(first, convolution, norm, keras.layers.Activation(layers.h_swish), last)
    assert kinds(check_equal(model)) == ["BatchNorm", "AtrousConv2D", "BatchNorm", "Activation"]


def test_a_map_that_is_read_twice_is_kept():
    image = keras.Input((None, None, IMAGES.shape[-1]))
    convolution = keras.layers.Conv2D(4, 1)(image)
    norm = layers.BatchNorm()(convolution)
    model = keras.Model(image, {"sum": convolution + norm, "norm": norm})
    model.layers[2].moving_variance.assign([1, 2, 3, 4])
    folded = models.fold_batch_norm(model)
    expected, got = model(IMAGES, training=False), folded(IMAGES, training=False)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-6)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return models.build_model(
        "v3plus", "mobilenet_v2", num_classes=3, aspp_convs_filters=16, depth_multiplier=0.35
    )


def test_each_convolution_of_a_network_is_one_kernel_with_bias(short_network, network):
    folded = models.fold_batch_norm(network)
    assert not layers.batch_norms(folded)

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3])])
    def logits_of(images):
        return folded(images, training=False)

    graph = logits_of.get_concrete_function().graph
    count = collections.Counter(operation.type for operation in graph.get_operations())
    convolutions = [
        layer
        for layer in layers.all_layers(network)
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)
    ]
    assert count["BiasAdd"] == len(convolutions)
    assert count["Rsqrt"] == 0


def test_the_given_model_can_train_further(short_network, network):
    before = network.get_weights()
    models.fold_batch_norm(network)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(weight.trainable for weight in network.trainable_weights)
    assert layers.batch_norms(network)
    for layer in network.layers[1:]:
        assert layer.output is not None  # raises an error if the layer was called once more
