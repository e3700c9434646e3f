"""What models of `build_model` compute and refuse, with any weights."""

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
from deeplab_tf.models import complete
from deeplab_tf.models import with_logits_of_every_scale
from deeplab_tf.models.encoder import aspp_rates

# Settings for small heads.
SMALL = {
    "v1": {"fc_filters": 16},
    "v2": {},
    "v3": {"aspp_convs_filters": 16},
    "v3plus": {"aspp_convs_filters": 16, "decoder_filters": 16},
}
CELL = """[
    {"op": "conv", "kernel": 3, "rate": [1, 6], "input": -1},
    {"op": "pyramid_pooling", "grid_size": [2, 4], "input": -1},
    {"op": "conv", "kernel": [1, 1], "input": 0}
]"""


def _small(version="v3plus", backbone="mobilenet_v2", **arguments):
    """Returns a model of a few thousand weights."""
    arguments = {"depth_multiplier": 0.25, **SMALL[version], **arguments}
    return deeplab_tf.build_model(version, backbone, 5, **arguments)


def _images(height, width):
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), "uint8")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "vgg_16"])
def test_every_version_returns_float32_logits_for_any_size(version, backbone):
    model = deeplab_tf.build_model(version, backbone, num_classes=3, **SMALL[version])
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
    assert model.get_layer("aspp").rates == (12, 24, 36)


@pytest.mark.parametrize(
    "version, rates", [("v1", {"fc6": 12}), ("v2", {"logits.semantic": 6, "logits.semantic_3": 24})]
)
def test_v1_and_v2_keep_their_rates_on_mobilenet_v3(version, rates):
    model = deeplab_tf.build_model(version, "mobilenet_v3_small_seg", 3)
    assert {name: model.get_layer(name).dilation_rate[0] for name in rates} == rates


def test_v3_without_aspp_branches_has_the_released_number_of_parameters():
    model = deeplab_tf.build_model("v3", "mobilenet_v2", 21, atrous_rates=())
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == 2113557


@pytest.mark.parametrize("version, stride", [("v1", 8), ("v2", 8), ("v3", 16), ("v3plus", 4)])
def test_logits_have_the_size_of_the_input_or_of_the_head(version, stride):
    model, head = _small(version), _small(version, upsample_logits=False)
    for size in ((65, 97), (64, 50), (33, 33)):
        images = _images(*size)
        assert model(images, training=False).shape == (1, *size, 5)
        expected = tuple(-(-side // stride) for side in size)
        assert head(images, training=False).shape == (1, *expected, 5)


def test_one_graph_accepts_all_sizes_and_both_dtypes_of_pixels():
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


def test_image_pooling_with_a_crop_size_equals_global_pooling_only_at_that_size():
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


def test_a_training_step_has_gradients_for_every_weight_and_moves_every_statistic():
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


def test_a_saved_model_loads_with_equal_outputs(tmp_path):
    model = _small(multi_grid=None, image_pooling_crop_size=(65, 65))
    images = _images(70, 81)
    model(images.astype("float32"), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images, training=False), model(images, training=False))
    assert [official_name(variable) for variable in loaded.weights] == [
        official_name(variable) for variable in model.weights
    ]
    model.save_weights(tmp_path / "model.weights.h5")
    other = _small(image_pooling_crop_size=(65, 65))
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other(images, training=False), model(images, training=False))


def test_a_mixed_precision_model_returns_nearly_the_same_float32_logits():
    keras.utils.set_random_seed(0)  # Unlucky weights would make logits small and rounding large.
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


def test_the_fields_of_the_config_are_the_arguments():
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
        ({"version": "v5"}, "v1, v2, v3, v3plus"),
        ({"backbone": "mobilenet"}, "resnet_v1_50, resnet_v1_101"),
        ({"num_classes": None}, "num_classes is None"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"output_stride": 10}, "4, 8, 16, 32"),
        (
            {"version": "v3", "decoder_output_stride": 4},
            "decoder_output_stride is 4, but v3 does not",
        ),
        ({"version": "v2", "aspp_convs_filters": 9}, "aspp_convs_filters is 9, but v2 does not"),
        ({"version": "v1", "atrous_rates": (6, 12)}, "a single branch"),
        ({"version": "v2", "last_block": 7}, "last_block is 7, but v2 does not"),
        ({"version": "v3", "last_block": 8, "backbone": "resnet_v1_50"}, "4, 5, 6 or 7"),
        ({"version": "v3", "last_block": 7}, "Only a ResNet can repeat"),
        (
            {"version": "v3", "last_block": 7, "backbone": "resnet_v1_50", "atrous_rates": (6,)},
            "the cascade of v3",
        ),
        ({"image_pyramid": (0.5, 0.75)}, "one must be 1 or more"),
        ({"image_pyramid": (1, 0.5, 0.5)}, "a scale twice"),
        ({"image_pyramid": (1, 0)}, "above 0"),
        ({"image_pyramid": (1, 0.5), "merge_method": "sum"}, "max, avg"),
        ({"image_pyramid": (1, 0.5), "image_pooling_crop_size": (9, 9)}, "another size"),
        (
            {"aspp_with_squeeze_and_excitation": True, "aspp_with_concat_projection": False},
            "a single branch",
        ),
        (
            {"aspp_with_squeeze_and_excitation": True, "add_image_level_feature": False},
            "needs image pooling",
        ),
        ({"decoder_output_is_logits": True}, "decoder_use_sum_merge"),
        ({"dense_prediction_cell_json": CELL, "atrous_rates": (6,)}, "atrous_rates would shape"),
        ({"dense_prediction_cell_json": "nowhere.json"}, "There is no .* cell nowhere.json"),
        ({"dense_prediction_cell_json": "[1, 2"}, "is not JSON"),
        ({"dense_prediction_cell_json": "[]"}, "not a list of 1 to 100 branches"),
        (
            {"dense_prediction_cell_json": '[{"op": "conv", "kernel": 3, "input": 0}]'},
            "not an earlier branch",
        ),
        (
            {"dense_prediction_cell_json": '[{"op": "conv", "kernel": 5, "input": -1}]'},
            "neither 1 nor 3",
        ),
        ({"dense_prediction_cell_json": '[{"op": "max", "input": -1}]'}, "unknown op 'max'"),
        ({"dense_prediction_cell_json": '[{"input": -1}]'}, "unknown op None"),
        ({"dense_prediction_cell_json": '[{"op": "conv", "input": Infinity}]'}, "input inf"),
        (
            {"dense_prediction_cell_json": '[{"op": "conv", "input": -1, "kernel": [1, 1.5]}]'},
            "the kernel .1, 1.5.",
        ),
        ({"dense_prediction_cell_json": "[" * 100_000}, "is not JSON"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"decoder_output_stride": 2}, "decoder at 4, 8, 16"),
        ({"decoder_output_stride": (8, 2)}, "decoder at 4, 8, 16"),
        ({"atrous_rates": (6, 0)}, "atrous_rates"),
        ({"image_pooling_crop_size": (513,)}, "two whole numbers"),
    ],
)
def test_the_error_for_a_wrong_argument_says_what_is_allowed(arguments, message):
    defaults = {"version": "v3plus", "backbone": "mobilenet_v2", "num_classes": 21}
    with pytest.raises(UserError, match=message):
        deeplab_tf.build_model(**{**defaults, **arguments})


def _number_of_parameters(model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


@pytest.mark.parametrize(
    "arguments, millions",
    [
        ({}, 20.5),  # LargeFOV
        ({"fc6_kernel_size": 4, "atrous_rates": (4,)}, 65.1),
        ({"fc6_kernel_size": 7}, 134.3),
    ],
)
def test_the_fields_of_view_of_v1_have_the_parameters_of_the_paper(arguments, millions):
    """arXiv:1412.7062, table 2."""
    model = deeplab_tf.build_model("v1", "vgg_16", 21, **arguments)
    assert round(_number_of_parameters(model) / 1e6, 1) == millions


def test_v1_is_large_fov_at_output_stride_8():
    model = deeplab_tf.build_model("v1", "vgg_16", 21)
    assert model.get_layer("fc6").dilation_rate == (12, 12)
    assert model.get_layer("vgg_16").get_layer("vgg_16.conv5.conv5_1").dilation_rate == (2, 2)
    finer = deeplab_tf.build_model("v1", "vgg_16", 21, output_stride=4)
    assert finer.get_layer("fc6").dilation_rate == (24, 24)


@pytest.mark.parametrize(
    "arguments, rates", [({}, (6, 12, 18, 24)), ({"atrous_rates": (2, 4, 8, 12)}, (2, 4, 8, 12))]
)
def test_v2_sums_a_branch_for_every_rate(arguments, rates):
    model = _small("v2", "vgg_16", depth_multiplier=1, fc_filters=8, **arguments)
    assert tuple(model.get_layer(f"fc6_{i + 1}").dilation_rate[0] for i in range(4)) == rates
    model = _small("v2", upsample_logits=False, **arguments)
    names = ["logits.semantic", *(f"logits.semantic_{index}" for index in (1, 2, 3))]
    assert tuple(model.get_layer(name).dilation_rate[0] for name in names) == rates
    images = _images(65, 97)
    outputs = [model.get_layer(name).output for name in names]
    branches = keras.Model(model.input, outputs)(images, training=False)
    np.testing.assert_allclose(
        model(images, training=False), sum(np.asarray(x) for x in branches), atol=1e-5
    )


def test_the_cascade_of_v3_doubles_the_rate_in_every_block():
    model = deeplab_tf.build_model("v3", "resnet_v1_50", 5, multi_grid=(1, 2, 1), last_block=7)
    backbone = model.get_layer("resnet_v1_50")
    rates = [
        backbone.get_layer(f"resnet_v1_50.block{block}.unit_{unit}.bottleneck_v1.conv2")
        for block in (4, 5, 6, 7)
        for unit in (1, 2, 3)
    ]
    expected = [2, 4, 2, 4, 8, 4, 8, 16, 8, 16, 32, 16]
    assert [layer.dilation_rate[0] for layer in rates] == expected
    assert "aspp" not in [layer.name for layer in model.layers]


@pytest.mark.parametrize(
    "version, backbone, expected",
    [
        ("v3", "resnet_v1_50_beta", (2, 4, 8)),
        ("v3plus", "resnet_v1_50", (2, 4, 8)),
        ("v2", "resnet_v1_50", (4, 4, 4)),
    ],
)
def test_multi_grid_defaults_to_the_papers(version, backbone, expected):
    backbone = deeplab_tf.build_model(version, backbone, 5, **SMALL[version]).layers[1]
    units = (f"{backbone.name}.block4.unit_{unit}.bottleneck_v1.conv2" for unit in (1, 2, 3))
    assert tuple(backbone.get_layer(unit).dilation_rate[0] for unit in units) == expected


def test_a_decoder_of_two_stages_has_the_originals_names():
    model = _small(decoder_output_stride=(8, 4), upsample_logits=False)
    names = {official_name(variable) for variable in model.weights}
    assert {
        "decoder/feature_projection0/weights",
        "decoder/decoder_conv1_depthwise/depthwise_weights",
        "decoder/feature_projection0_1/weights",
        "decoder/decoder_conv1_1_depthwise/depthwise_weights",
    } <= names
    assert model(_images(65, 65), training=False).shape == (1, 17, 17, 5)


@pytest.mark.parametrize("separable", [True, False])
def test_a_decoder_can_add_instead_of_concatenating(separable):
    model = _small(decoder_use_sum_merge=True, decoder_use_separable_conv=separable)
    names = {official_name(variable) for variable in model.weights}
    expected = "decoder/decoder_split_sep_conv0_pointwise" if separable else "decoder/decoder_conv0"
    assert f"{expected}/weights" in names
    assert model.get_layer("decoder.add").output.shape[-1] == 16


def test_a_dense_prediction_cell_replaces_the_aspp():
    model = _small("v3", dense_prediction_cell_json=CELL, output_stride=8, aspp_convs_filters=None)
    names = {official_name(variable) for variable in model.weights}
    assert not any(name.startswith(("aspp", "image_pooling")) for name in names)
    # Rates double at output stride 8.
    assert model.get_layer("meta_architecture.branch0").dilation_rate == (2, 12)
    shape = {official_name(variable): variable.shape for variable in model.weights}
    assert shape["meta_architecture/concat_projection/weights"] == (1, 1, 3 * 256, 256)
    # 9 x 13 features in 2 x 4 parts: windows of 5 x 4 at every position.
    pooling = model.get_layer("meta_architecture.branch1.mean")
    features = np.random.default_rng(0).normal(size=(1, 9, 13, 3)).astype("float32")
    pooled = pooling(features)
    assert pooled.shape == (1, 5, 10, 3)
    np.testing.assert_allclose(pooled[0, 4, 9], features[0, 4:, 9:].mean((0, 1)), atol=1e-6)
    assert model(_images(65, 97), training=False).shape == (1, 65, 97, 5)


def test_an_image_pyramid_merges_the_logits_of_all_scales():
    pyramid = _small("v2", image_pyramid=(0.5, 0.75, 1.0), upsample_logits=False)
    single = _small("v2", upsample_logits=False)
    single.set_weights(pyramid.get_weights())
    images = _images(65, 97)
    scales = [single(images, training=False)]
    for factor in (0.5, 0.75):
        size = [int((side - 1) * factor + 1) for side in (65, 97)]
        scaled = tf.compat.v1.image.resize(images, size, align_corners=True)
        logits = single(scaled, training=False)
        scales.append(tf.compat.v1.image.resize(logits, (9, 13), align_corners=True))
    np.testing.assert_allclose(pyramid(images, training=False), np.max(scales, axis=0), atol=1e-4)
    outputs = with_logits_of_every_scale(pyramid)(images, training=False)
    assert set(outputs) == {"logits_at_0.5", "logits_at_0.75", "logits_at_1", "merged_logits"}
    for factor, logits in zip(("1", "0.5", "0.75"), scales):
        resized = tf.compat.v1.image.resize(logits, (65, 97), align_corners=True)
        np.testing.assert_allclose(outputs[f"logits_at_{factor}"], resized, atol=1e-4)
    (alone,) = with_logits_of_every_scale(single)(images, training=False).values()
    np.testing.assert_array_equal(alone, single(images, training=False))


VARIANTS = {
    "v1": {"version": "v1"},
    "v2 with a pyramid": {"version": "v2", "image_pyramid": (0.5, 1.0)},
    "v3 with a cell": {
        "version": "v3",
        "dense_prediction_cell_json": CELL,
        "aspp_convs_filters": None,
    },
    "v3plus": {"version": "v3plus"},
    "lite R-ASPP": {
        "version": "v3plus",
        "backbone": "mobilenet_v3_small_seg",
        "decoder_filters": None,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_mixed_precision_model_of_four_channels_loads_with_equal_outputs(variant, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = _small(**VARIANTS[variant], in_channels=4)
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).integers(0, 256, (1, 70, 81, 4), "uint8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model(images, training=False)
    assert expected.dtype == tf.float32 and expected.shape == (1, 70, 81, 5)
    np.testing.assert_array_equal(loaded(images, training=False), expected)
    assert [official_name(variable) for variable in loaded.weights] == [
        official_name(variable) for variable in model.weights
    ]


def test_the_config_of_a_run_is_complete_without_files_and_defaults(tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(CELL)
    config = complete(ModelConfig(version="v3", dense_prediction_cell_json=str(path)), 7)
    path.unlink()
    assert (config.num_classes, config.output_stride) == (7, 16)
    model = deeplab_tf.build_model(**dataclasses.asdict(config))
    assert model.get_layer("meta_architecture.branch0").dilation_rate == (1, 6)
    for arguments, stride in (
        ({"version": "v1", "backbone": "vgg_16"}, 8),
        ({"backbone": "mobilenet_v3_large_seg"}, 32),
        ({"output_stride": 4}, 4),
    ):
        assert complete(ModelConfig(**arguments), 7).output_stride == stride
