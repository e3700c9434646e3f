"""Models that round as their 8-bit files do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts.tflite import TFLiteModel
from deeplab_tf.export import litert
from deeplab_tf.export import parity
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.formats import tflite
from deeplab_tf.layers import quantization

pytestmark = pytest.mark.usefixtures("short_network")

SIZE = (65, 65)


@pytest.fixture(scope="module")
def trained(short_network) -> keras.Model:
    """A network whose statistics are those of images, and that finds several classes."""
    keras.utils.set_random_seed(0)
    model = models.build_model(
        "v3plus",
        "mobilenet_v2",
        4,
        atrous_rates=(2,),
        aspp_convs_filters=16,
        decoder_filters=16,
        depth_multiplier=0.35,
        batch_norm_decay=0.0,
    )
    images = parity.draw_images((4, *SIZE, 3), seed=9)
    model(images, training=True)
    logits = model(images, training=False)
    model.trainable_variables[-1].assign_sub(tf.reduce_mean(logits, axis=[0, 1, 2]))
    return model


@pytest.fixture(scope="module")
def quantized(trained) -> keras.Model:
    """The same network with ranges that were found in training steps."""
    model = models.quantize(trained)
    layers.freeze_batch_norm(model)
    see = tf.function(lambda images: model(images, training=True))
    for seed in range(3):
        see(parity.draw_images((2, *SIZE, 3), seed))
    return model


def rounding_layers(model: keras.Model) -> list[layers.FakeQuantize]:
    return [layer for layer in model.layers if isinstance(layer, layers.FakeQuantize)]


def test_weights_keep_their_official_names_and_ranges_are_added(trained, quantized):
    names = {layers.official_name(variable) for variable in trained.weights}
    of_quantized = [layers.official_name(variable) for variable in quantized.weights]
    assert len(of_quantized) == len(set(of_quantized))
    assert names < set(of_quantized)
    assert all(layers.is_range(name) for name in set(of_quantized) - names)
    assert not any(layers.is_range(name) for name in names)


def test_feature_maps_are_rounded_where_an_operator_ends(quantized):
    rounded = {layer.name.removesuffix(".quantized") for layer in rounding_layers(quantized)}
    unit = "MobilenetV2.expanded_conv_2"
    assert {f"{unit}.depthwise.relu6", f"{unit}.project.BatchNorm", f"{unit}.add"} <= rounded
    assert {"decoder.concat", "image_pooling.mean", "logits.semantic"} <= rounded
    # Within an operator, and before a concatenation, which has one range for all that it joins.
    assert rounded.isdisjoint({f"{unit}.depthwise", f"{unit}.depthwise.BatchNorm", "aspp0.relu"})


def test_without_rounding_it_is_the_same_network_on_pixels_of_half_a_grey_level_less(
    trained, quantized
):
    images = parity.draw_images((2, *SIZE, 3), seed=5).astype("float32")
    with layers.fake_quantization("none"):
        logits = quantized(images, training=False)
    np.testing.assert_allclose(logits, trained(images - 0.5, training=False), atol=1e-4)
    assert np.abs(quantized(images, training=False) - logits).max() > 1e-3


def test_a_file_in_int8_has_the_ranges_and_the_labels(quantized, tmp_path):
    images = [parity.draw_images((1, *SIZE, 3), seed)[0] for seed in range(20, 24)]
    content = tflite.convert(quantized, TFLiteConfig(quantize="int8"), SIZE, images)
    file = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    steps = [
        tensor.quantization.scale[0]
        for tensor in file.subgraphs[0].tensors
        if tensor.type == schema.TensorType.INT8 and len(tensor.quantization.scale) == 1
    ]
    for layer in rounding_layers(quantized):
        step = np.ptp(layer.range) / 255
        assert np.isclose(step, steps, rtol=1e-3).any(), layer.name
    (tmp_path / "model.tflite").write_bytes(content)
    labels_of = TFLiteModel(str(tmp_path / "model.tflite"), 3)
    agreements = [
        np.mean(labels_of(image).numpy() == np.argmax(quantized(image[np.newaxis])[0], axis=-1))
        for image in images
    ]
    assert np.mean(agreements) > 0.9  # of a network whose logits are nearly equal


def test_a_mean_over_windows_has_the_range_of_what_it_averages():
    model = models.quantize(
        models.build_model(
            "v3",
            "mobilenet_v2",
            4,
            atrous_rates=(),
            aspp_convs_filters=16,
            depth_multiplier=0.35,
            image_pooling_crop_size=(33, 33),
            image_pooling_stride=(2, 2),
        )
    )
    layers.freeze_batch_norm(model)
    model(parity.draw_images((2, *SIZE, 3), seed=0), training=True)
    assert "image_pooling.mean.quantized" not in {layer.name for layer in rounding_layers(model)}
    images = [parity.draw_images((1, *SIZE, 3), seed)[0] for seed in range(20, 24)]
    content = tflite.convert(model, TFLiteConfig(quantize="int8"), SIZE, images)
    names = [operator.name for operator in litert.operators(content)]
    assert "AVERAGE_POOL_2D" in names
    assert "DEQUANTIZE" not in names


def test_it_survives_saving(quantized, tmp_path):
    quantized.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = parity.draw_images((1, *SIZE, 3), seed=1)
    np.testing.assert_array_equal(loaded(images), quantized(images))


def test_folding_batch_norm_before_or_after_rounding_is_the_same():
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(3, 3, 4, 5)).astype("float32")
    scale = generator.normal(size=5).astype("float32")
    rounded = quantization.fake_quantized_kernel(kernel)
    assert max(len(np.unique(rounded[..., index])) for index in range(5)) > 30
    np.testing.assert_allclose(
        quantization.fake_quantized_kernel(kernel * scale), rounded * scale, rtol=1e-4, atol=1e-6
    )


def test_limits_follow_the_batches_and_hold_still_in_inference():
    layer = layers.FakeQuantize(decay=0.9)
    layer(np.array([-1, 3], "float32"), training=True)
    np.testing.assert_allclose(layer.range, [-1, 3])
    layer(np.array([1, 4], "float32"), training=True)  # limits include 0
    np.testing.assert_allclose(layer.range, [-0.9, 3.1], rtol=1e-5)
    layer(np.array([-9, 9], "float32"))
    np.testing.assert_allclose(layer.range, [-0.9, 3.1], rtol=1e-5)


def test_an_image_pyramid_is_refused():
    model = models.build_model("v2", "mobilenet_v2", 3, image_pyramid=(0.5, 1))
    with pytest.raises(UserError, match="--image_pyramid"):
        models.quantize(model)
