"""Saving and loading of layers."""

import keras
import numpy as np

from deeplab_tf import layers


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_saved_layers_load_with_equal_outputs(tmp_path):
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


def test_saved_activations_and_atrous_pooling_load_with_equal_outputs(tmp_path):
    inputs = keras.Input((None, None, 3))
    blocks = layers.ConvBlocks()
    first = blocks.conv(4, 3, "first", layers.h_swish)
    second = blocks.conv(4, 1, "second", layers.q_sigmoid)
    x = layers.call_in_order([*first, layers.AtrousMaxPool2D(3), *second], inputs)
    model = keras.Model(inputs, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("first.h_swish").activation is layers.h_swish
    assert loaded.get_layer("second.q_sigmoid").activation is layers.q_sigmoid
    images = _random(1, 9, 12, 3)
    np.testing.assert_array_equal(model(images, training=False), loaded(images, training=False))


def test_a_layer_whose_dtype_is_a_policy_can_be_saved(tmp_path):
    policy = keras.DTypePolicy("mixed_bfloat16")
    inputs = keras.Input((None, None, 3))
    x = layers.ASPP(4, rates=(2,), dtype=policy)(inputs)
    model = keras.Model(inputs, layers.ResizeLike(dtype=policy)(x, inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.dtype_policy.name for layer in loaded.layers[1:]] == ["mixed_bfloat16"] * 2


def test_files_of_the_first_version_find_their_classes():
    names = (
        *("AtrousConv2D", "AtrousDepthwiseConv2D", "AtrousMaxPool2D", "BatchNorm", "ImagePooling"),
        *("ResizeLike", "ScaleImage", "h_swish", "q_sigmoid"),
    )
    for name in names:
        assert keras.saving.get_registered_object(f"deeplab_tf>{name}") is getattr(layers, name)
