"""What `build_model` gives, whatever the weights."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError
from deeplab_tf.layers import official_name
from deeplab_tf.models import VERSIONS
from deeplab_tf.models.aspp import aspp_rates


def _small(version="v3plus", **arguments):
    """A model of a few thousand weights."""
    arguments = {"depth_multiplier": 0.25, "aspp_convs_filters": 16, **arguments}
    if version == "v3plus":
        arguments.setdefault("decoder_filters", 16)
    return deeplab_tf.build_model(version, "mobilenet_v2", 5, **arguments)


def _images(height, width):
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), "uint8")


@pytest.mark.parametrize(
    "version, backbone",
    [*((version, "mobilenet_v2") for version in VERSIONS), ("v3plus", "xception_41")],
)
def test_every_version_gives_float32_logits_of_any_size(version, backbone):
    model = deeplab_tf.build_model(version, backbone, num_classes=3, aspp_convs_filters=8)
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, None, None, 3)
    assert model.output.dtype == "float32"


@pytest.mark.parametrize(
    "output_stride, rates",
    [(4, (24, 48, 72)), (8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))],
)
def test_aspp_rates_follow_from_the_output_stride(output_stride, rates):
    assert aspp_rates(output_stride) == rates


def test_the_aspp_of_a_model_has_the_rates_of_its_output_stride():
    model = _small("v3", output_stride=8)
    branches = [model.get_layer(f"aspp{index}_depthwise") for index in (1, 2, 3)]
    assert [branch.dilation_rate for branch in branches] == [(12, 12), (24, 24), (36, 36)]


def test_mobilenet_v3_head_without_aspp_branches_has_the_released_number_of_parameters():
    model = deeplab_tf.build_model("v3", "mobilenet_v2", 21, atrous_rates=())
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == 2113557


@pytest.mark.parametrize("version, stride", [("v3", 16), ("v3plus", 4)])
def test_logits_have_the_size_of_the_input_or_of_the_head(version, stride):
    model, head = _small(version), _small(version, upsample_logits=False)
    for size in ((65, 97), (64, 50), (33, 33)):
        images = _images(*size)
        assert model(images, training=False).shape == (1, *size, 5)
        expected = tuple(-(-side // stride) for side in size)
        assert head(images, training=False).shape == (1, *expected, 5)


def test_one_graph_serves_all_sizes_and_pixels_of_either_dtype():
    model = _small()
    run = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec([None, None, None, 3])],
    )
    for size in ((65, 97), (50, 33)):
        images = _images(*size)
        expected = model(images, training=False)
        np.testing.assert_allclose(run(images.astype("float32")), expected, atol=1e-5)
        np.testing.assert_allclose(
            model(images.astype("float32"), training=False), expected, atol=1e-6
        )


def test_image_pooling_of_a_crop_is_global_pooling_at_that_size_only():
    pooled_globally = _small("v3")
    pooled_by_crop = _small("v3", image_pooling_crop_size=[65, 97])
    pooled_by_crop.set_weights(pooled_globally.get_weights())
    same, larger = _images(65, 97), _images(97, 129)
    np.testing.assert_allclose(
        pooled_by_crop(same, training=False), pooled_globally(same, training=False), atol=1e-5
    )
    difference = pooled_by_crop(larger, training=False) - pooled_globally(larger, training=False)
    assert pooled_by_crop(larger, training=False).shape == (1, 97, 129, 5)
    assert np.abs(difference).max() > 1e-4


def test_a_training_step_reaches_every_weight_and_moves_every_statistic():
    model = _small(output_stride=8)
    before = [variable.numpy() for variable in model.non_trainable_variables]
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (2, 65, 65, 3)), tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(images, training=True) ** 2)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients):
        assert np.abs(gradient).max() > 0, variable.path
    for variable, old in zip(model.non_trainable_variables, before):
        assert np.any(variable.numpy() != old), variable.path


def test_a_model_survives_saving(tmp_path):
    model = _small(multi_grid=None, image_pooling_crop_size=(65, 65))
    images = _images(70, 81)
    model(images.astype("float32"), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded(images, training=False), model(images, training=False)
    )
    assert [official_name(variable) for variable in loaded.weights] == [
        official_name(variable) for variable in model.weights
    ]
    model.save_weights(tmp_path / "model.weights.h5")
    other = _small(image_pooling_crop_size=(65, 65))
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other(images, training=False), model(images, training=False))


def test_a_mixed_precision_model_gives_nearly_the_same_float32_logits():
    model = _small()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = _small()
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(model.get_weights())
    images = _images(65, 65)
    expected = model(images, training=False)
    got = mixed(images, training=False)
    assert got.dtype == tf.float32
    # bfloat16 keeps 8 bits, over some 60 layers.
    assert np.linalg.norm(got - expected) < 0.2 * np.linalg.norm(expected)


def test_the_fields_of_the_config_are_its_arguments():
    config = ModelConfig(num_classes=4, decoder_output_stride=(8,), depth_multiplier=0.25)
    model = deeplab_tf.build_model(**dataclasses.asdict(config), upsample_logits=False)
    assert model(_images(65, 65), training=False).shape == (1, 9, 9, 4)


def test_dense_heads_have_the_originals_names():
    model = _small(aspp_with_separable_conv=False, decoder_use_separable_conv=False)
    names = [official_name(variable) for variable in model.weights]
    assert len(set(names)) == len(names)
    assert "aspp3/weights" in names
    assert "decoder/decoder_conv0/decoder_conv0_2/BatchNorm/moving_variance" in names


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"version": "v5"}, "v3, v3plus"),
        ({"backbone": "mobilenet"}, "mobilenet_v2, xception_41"),
        ({"num_classes": None}, "num_classes is None"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"output_stride": 10}, "4, 8, 16, 32"),
        ({"version": "v3", "decoder_output_stride": 4}, "no decoder"),
        ({"decoder_output_stride": 2}, "decoder at 4, 8, 16"),
        ({"decoder_output_stride": (4, 2)}, "a single stride"),
        ({"atrous_rates": (6, 0)}, "atrous_rates"),
        ({"image_pooling_crop_size": (513,)}, "height and width"),
    ],
)
def test_a_wrong_argument_is_refused_by_saying_what_there_is(arguments, message):
    defaults = {"version": "v3plus", "backbone": "mobilenet_v2", "num_classes": 21}
    with pytest.raises(UserError, match=message):
        deeplab_tf.build_model(**{**defaults, **arguments})
