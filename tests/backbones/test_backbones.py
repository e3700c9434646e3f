"""What holds for every backbone."""

import importlib.util
import json

import keras
import numpy as np
import pytest

from deeplab_tf.backbones import BACKBONES
from deeplab_tf.backbones import build_backbone
from deeplab_tf.backbones import pad_pixel
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones import resnet
from deeplab_tf.backbones.mobilenet_v2 import make_divisible
from deeplab_tf.errors import UserError
from deeplab_tf.layers import all_layers
from deeplab_tf.layers import layer_name
from deeplab_tf.layers import official_name


def _images(height, width, channels=3):
    return np.random.default_rng(0).uniform(0, 255, (1, height, width, channels)).astype("float32")


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Dense kernels are zeros at first: drawing them takes longest, and most tests set them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(keras.initializers, "HeNormal", keras.initializers.Zeros)
        yield


def _scatter(model):
    """Draws weights for which batch norm and biases matter, at moderate activations.

    The gates of squeeze and excite become constants: otherwise they follow from the mean over a
    map, which changes with the pixels that are in it.
    """
    generator = np.random.default_rng(0)
    for variable in model.weights:
        name, shape = official_name(variable), variable.shape
        if name.endswith("squeeze_excite/Conv_1/weights"):
            variable.assign(np.zeros(shape))
        elif name.endswith("/weights"):
            values = generator.standard_normal(shape, "float32")
            variable.assign(values * np.sqrt(2 / np.prod(shape[:-1]), dtype="float32"))
        elif name.endswith(("gamma", "moving_variance")):
            variable.assign(generator.uniform(0.5, 1.0, shape))
        elif name.endswith(("beta", "moving_mean", "biases")):
            variable.assign(generator.normal(0, 0.1, shape))


@pytest.fixture(scope="module", params=BACKBONES)
def coarse(request, undrawn):
    """Every backbone at output stride 32; pytest runs all tests of one before it builds the next.

    The name of the backbone is its attribute `variant`; it is not to be changed.
    """
    model = build_backbone(request.param, output_stride=32)
    _scatter(model)
    model.variant = request.param
    return model


@pytest.fixture
def short_resnets(monkeypatch):
    """Gives ResNets two units in each block, which is quick."""
    monkeypatch.setattr(resnet, "UNITS", dict.fromkeys(resnet.UNITS, (2, 2, 2, 2)))


@pytest.fixture(scope="module")
def rule(shared):
    """The rules by which variables follow from their name and shape, and images from a seed."""
    spec = importlib.util.spec_from_file_location("weights", shared / "oracles/weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _assert_equals_subsampled(fine, coarse, output_stride):
    """Features at an output stride, every so many pixels, are those at output stride 32."""
    fine.set_weights(coarse.get_weights())
    images = _images(33, 65)
    expected = coarse(images, training=False)["features"]
    assert expected.shape[1:3] == (2, 3)
    step = 32 // output_stride
    np.testing.assert_allclose(
        fine(images, training=False)["features"][:, ::step, ::step],
        expected,
        atol=1e-4 * np.abs(expected).max(),
        err_msg=f"output stride {output_stride}",
    )


# Backbones with many units take long to build: one stride each.
FINER_STRIDES = {
    **dict.fromkeys(BACKBONES, (16, 8, 4)),
    "mobilenet_edgetpu": (16, 8),
    "xception_41": (16,),
    "xception_65": (8,),
    "xception_71": (4,),
    "resnet_v1_50": (4,),
    "resnet_v1_101": (16,),
    "resnet_v1_50_beta": (16,),
    "resnet_v1_101_beta": (8,),
}


def test_features_at_stride_32_equal_subsampled_features_at_smaller_strides(coarse):
    for output_stride in FINER_STRIDES[coarse.variant]:
        fine = build_backbone(coarse.variant, output_stride)
        _assert_equals_subsampled(fine, coarse, output_stride)
        # At even sizes, too, a stride leaves every second pixel, rounded up.
        for height, width in ((33, 65), (38, 52)):
            outputs = fine(np.zeros((1, height, width, 3), "uint8"), training=False)
            strides = [stride for stride in (4, 8, 16) if stride <= output_stride]
            if not CHANNELS[coarse.variant]:
                strides = []
            assert set(outputs) == {"features", *(f"stride_{stride}" for stride in strides)}
            for name, features in outputs.items():
                stride = output_stride if name == "features" else int(name.removeprefix("stride_"))
                assert features.shape[1:3] == (-(-height // stride), -(-width // stride)), name


def test_features_of_a_cascade_with_multi_grid_are_subsampled_ones_too(short_resnets):
    arguments = {"multi_grid": (1, 2, 4), "last_block": 7}
    coarse = build_backbone("resnet_v1_50", 32, **arguments)
    _scatter(coarse)
    fine = build_backbone("resnet_v1_50", 8, **arguments)
    _assert_equals_subsampled(fine, coarse, 8)


# What a decoder gets at strides 4, 8 and 16.
CHANNELS = {
    "mobilenet_edgetpu": (),  # the original has no decoder on it
    "mobilenet_v3_large_seg": (72, 120, 672),
    "mobilenet_v3_small_seg": (16, 88, 144),
    "mobilenet_v2": (144, 192, 576),
    **dict.fromkeys(("xception_41", "xception_65"), (256, 728, 1024)),
    "xception_71": (256, 728, 1024),
    **dict.fromkeys(resnet.UNITS, (256, 512, 1024)),
    **dict.fromkeys([f"{name}_beta" for name in resnet.UNITS], (256, 512, 1024)),
    "vgg_16": (256, 512, 512),
}


def test_a_decoder_gets_features_of_the_originals_layers(coarse):
    channels = CHANNELS[coarse.variant]
    expected = dict(zip((f"stride_{stride}" for stride in (4, 8, 16)), channels))
    outputs = {name: features.shape[-1] for name, features in coarse.output.items()}
    assert outputs == {**expected, "features": outputs["features"]}


def test_the_pixel_that_images_are_padded_with_becomes_zeros(coarse):
    padding = np.broadcast_to(pad_pixel(coarse.variant), (1, 2, 2, 3))
    np.testing.assert_allclose(coarse.get_layer("rescaling")(padding), 0, atol=1e-5)


# Momentum and epsilon of the batch norms.
BATCH_NORMS = {"mobilenet": {(0.997, 1e-3)}, "xception": {(0.9997, 1e-3)}, "resnet": {(0.95, 1e-5)}}


def _batch_norms(model):
    return {
        (layer.momentum, layer.epsilon)
        for layer in all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    }


def test_batch_norm_has_the_originals_decay_and_epsilon(coarse):
    assert _batch_norms(coarse) == BATCH_NORMS.get(coarse.variant.split("_")[0], set())


def test_the_decay_of_the_moving_statistics_can_be_given(short_resnets):
    model = build_backbone("resnet_v1_50", batch_norm_decay=0.9)
    assert _batch_norms(model) == {(0.9, 1e-5)}


# Recorded variables of a model with the backbone.
RECORDED = {
    "mobilenet_edgetpu": "mobilenet_edgetpu_os32",
    "mobilenet_v3_large_seg": "mobilenet_v3_large_seg_os32",
    "mobilenet_v3_small_seg": "mobilenet_v3_small_seg_os32",
    "mobilenet_v2": "mobilenet_v2_os16",
    "xception_41": "xception_41_os16_decoder4",
    "xception_65": "xception_65_os16_decoder4",
    "xception_71": "xception_71_os16_decoder4",
    "resnet_v1_50": "resnet_v1_50_os16_decoder4",
    "resnet_v1_101": "extra_resnet_v1_101_os8_deeplabv2",
    "resnet_v1_50_beta": "resnet_v1_50_beta_os16_decoder4",
    "resnet_v1_101_beta": "resnet_v1_101_beta_os8_decoder4",
}


def test_the_variables_are_the_originals_name_for_name_and_shape_for_shape(shared, coarse):
    if coarse.variant == "vgg_16":
        pytest.skip("VGG is of another original; its names are tested by themselves")
    folder = shared / "oracles" / RECORDED[coarse.variant]
    recorded = json.loads((folder / "variables.json").read_text())
    got = {official_name(variable): list(variable.shape) for variable in coarse.weights}
    assert got == {
        variable["name"]: variable["shape"]
        for variable in recorded
        if variable["name"].startswith(f"{coarse.name}/")
    }


def test_the_variables_of_vgg_are_those_of_its_classification_network():
    model = build_backbone("vgg_16")
    names = [official_name(variable) for variable in model.weights]
    convs = [(1, 2), (2, 2), (3, 3), (4, 3), (5, 3)]
    assert names == [
        f"vgg_16/conv{block}/conv{block}_{index}/{kind}"
        for block, count in convs
        for index in range(1, count + 1)
        for kind in ("weights", "biases")
    ]
    assert model.count_params() == 14714688


def test_features_of_resnet_are_those_of_the_original_layer_by_layer(shared, rule):
    folder = shared / "oracles/resnet_v1_50_beta_os16_decoder4"
    options = json.loads((folder / "config.json").read_text())["model_options"]
    model = build_backbone("resnet_v1_50_beta", 16, multi_grid=options["multi_grid"])
    for variable in model.weights:
        variable.assign(rule.make(official_name(variable), variable.shape))
    layers = {layer.name: layer.output for layer in model.layers}
    every_layer = keras.Model(model.input, {**layers, "features": model.output["features"]})
    for case in "abd":
        record = np.load(folder / f"{case}.npz")
        got = every_layer(record["image"], training=False)
        np.testing.assert_allclose(
            got["features"][..., ::16], record["backbone_every16"], atol=1e-4, err_msg=case
        )
        compared = 0
        for key, endpoint in json.loads((folder / f"{case}.endpoints.json").read_text()).items():
            # Convolutions and units end in a ReLU or, without one, in batch norm.
            for end in ("relu", "BatchNorm"):
                outputs = got.get(layer_name(f"{key}/{end}"))
                if outputs is not None:
                    break
            else:
                continue
            assert list(outputs.shape) == endpoint["shape"], key
            for place, expected in endpoint["at"].items():
                row, column = map(int, place.split(","))
                np.testing.assert_allclose(
                    outputs[0, row, column, :6], expected, atol=1e-4, err_msg=f"{case} {key}"
                )
            compared += 1
        # The stem, three convolutions and the sum of 16 units, four shortcuts.
        assert compared == 3 + 4 * 16 + 4


# Features at output stride 32, as float64: mean and deviation, first channels at the top left and
# last at the bottom right. The original left no recordings of these, so a second implementation
# computed them with plain convolutions, written from the description of the original.
MOBILENET_V3_FEATURES = {
    "large": (
        (1.1103686, 2.1500504),
        (-0.3467227, 0.0, 0.4594128, -0.2327753),
        (-0.1699648, 1.5311073, 3.1008195, -0.1624162),
    ),
    "small": (
        (0.0413781, 0.2854730),
        (0.0160488, -0.2004658, -0.1184455, 0.1993970),
        (0.0801765, -0.1812796, -0.3749358, 0.2256633),
    ),
}


@pytest.mark.parametrize("size", MOBILENET_V3_FEATURES)
def test_features_of_mobilenet_v3_are_those_of_a_second_implementation(rule, size):
    model = build_backbone(f"mobilenet_v3_{size}_seg", 32)
    for variable in model.weights:
        variable.assign(rule.make(official_name(variable), variable.shape))
    features = np.asarray(model(rule.image(110, 134, seed=1), training=False)["features"])
    (mean, deviation), first, last = MOBILENET_V3_FEATURES[size]
    np.testing.assert_allclose((features.mean(), features.std()), (mean, deviation), atol=1e-5)
    np.testing.assert_allclose(features[0, 0, 0, :4], first, atol=1e-4)
    np.testing.assert_allclose(features[0, -1, -1, -4:], last, atol=1e-4)


# Output stride, last block, multi-grid, and (stride, rate) of the units of block1 to that block.
# The cascade is figure 3 (b) of DeepLabv3, where every copy of block4 doubles the rates.
RESNETS = [
    (16, 7, (1, 2, 1), "11 11 21  11 11 11 21  11 11 11 11 11 11  12 14 12  14 18 14  "
     "18 116 18  116 132 116"),
    (8, 4, (1, 2, 4), "11 11 21  11 11 11 11  12 12 12 12 12 12  14 18 116"),
]  # fmt: skip


@pytest.mark.parametrize("output_stride, last_block, multi_grid, expected", RESNETS)
def test_strides_and_rates_of_resnet_are_those_of_original_and_paper(
    output_stride, last_block, multi_grid, expected
):
    model = build_backbone(
        "resnet_v1_50", output_stride, multi_grid=multi_grid, last_block=last_block
    )
    got = [
        f"{layer.strides[0]}{layer.dilation_rate[0]}"
        for layer in model.layers
        if layer.name.endswith("conv2")
    ]
    assert got == expected.split()


def test_poolings_of_vgg_behind_removed_strides_are_atrous():
    model = build_backbone("vgg_16", 8)
    layers = [model.get_layer(f"vgg_16.{name}") for name in ("conv4.conv4_3", "conv5.conv5_1")]
    assert [layer.dilation_rate for layer in layers] == [(1, 1), (2, 2)]
    assert [model.get_layer(f"vgg_16.pool{block}").rate for block in (4, 5)] == [1, 2]
    assert [model.get_layer(f"vgg_16.pool{block}").strides for block in (1, 2, 3)] == [(2, 2)] * 3


def test_multi_grid_multiplies_the_rates_of_the_last_block():
    backbone = build_backbone("xception_41", output_stride=8, multi_grid=[1, 2, 4])
    scope = "xception_41.exit_flow.block2.unit_1.xception_module"
    rates = [
        backbone.get_layer(f"{scope}.separable_conv{index}").dilation_rate for index in (1, 2, 3)
    ]
    assert rates == [(4, 4), (8, 8), (16, 16)]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet_v1_50", "vgg_16"])
def test_channels_behind_rgb_change_nothing_if_their_weights_are_zero(short_resnets, name):
    images = _images(33, 49, channels=5)
    usual, wide = build_backbone(name), build_backbone(name, in_channels=5)
    _scatter(usual)
    assert wide.input_shape == (None, None, None, 5)
    weights = usual.get_weights()
    kernel = weights[0]
    weights[0] = np.concatenate([kernel, np.zeros_like(kernel[:, :, :2])], axis=2)
    wide.set_weights(weights)
    np.testing.assert_allclose(
        wide(images, training=False)["features"],
        usual(images[..., :3], training=False)["features"],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "in_channels, expected",
    [(1, [20]), (3, [10, 20, 30]), (5, [10, 20, 30, 20, 20])],
)
def test_the_mean_of_the_means_is_subtracted_from_other_channels(in_channels, expected):
    image = pixels.image_input(in_channels)
    model = keras.Model(image, pixels.subtract_mean(image, (10, 20, 30)))
    outputs = model(np.zeros((1, 1, 1, in_channels)))
    np.testing.assert_allclose(outputs[0, 0, 0], -np.array(expected))


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v3_large_seg", "mobilenet_v3_small_seg", "resnet_v1_50", "resnet_v1_50_beta",
     "vgg_16"],
)  # fmt: skip
def test_a_saved_backbone_loads_with_equal_outputs(short_resnets, tmp_path, name):
    model = build_backbone(name, output_stride=8)
    _scatter(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = _images(38, 65)
    expected, got = model(images, training=False), loaded(images, training=False)
    assert set(got) == set(expected)
    for key, features in got.items():
        np.testing.assert_array_equal(features, expected[key])
    assert [official_name(variable) for variable in loaded.weights] == [
        official_name(variable) for variable in model.weights
    ]


@pytest.mark.parametrize(
    "value, divisor, expected", [(32, 8, 32), (12, 8, 16), (18, 8, 24), (11, 8, 16), (2.4, 1, 3)]
)
def test_filters_are_rounded_to_multiples_but_lose_at_most_a_tenth(value, divisor, expected):
    assert make_divisible(value, divisor) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "resnet_18"}, "mobilenet_v2, xception_41"),
        ({"name": "mobilenet_v2", "output_stride": 12}, "4, 8, 16, 32"),
        ({"name": "mobilenet_edgetpu", "output_stride": 4}, "must be 8, 16 or 32"),
        ({"name": "mobilenet_v2", "depth_multiplier": 0}, "above 0"),
        ({"name": "mobilenet_v3_small_seg", "depth_multiplier": -1}, "above 0"),
        ({"name": "mobilenet_v2", "multi_grid": (1, 2, 4)}, "Only Xception and ResNet"),
        ({"name": "mobilenet_v2", "in_channels": 0}, "in_channels is 0"),
        ({"name": "mobilenet_v2", "in_channels": 2.5}, "in_channels is 2.5"),
        ({"name": "mobilenet_v2", "last_block": 5}, "Only a ResNet"),
        ({"name": "resnet_v1_50", "last_block": 3}, "4, 5, 6 or 7"),
        ({"name": "resnet_v1_50", "last_block": 8}, "4, 5, 6 or 7"),
        ({"name": "resnet_v1_50", "multi_grid": (1, 2, 0)}, "three"),
        ({"name": "resnet_v1_101_beta", "depth_multiplier": 0.5}, "Only a MobileNet can be scaled"),
        ({"name": "vgg_16", "depth_multiplier": 0.5}, "Only a MobileNet can be scaled"),
        ({"name": "vgg_16", "multi_grid": (1, 2, 4)}, "Only Xception and ResNet"),
        ({"name": "xception_65", "depth_multiplier": 0.5}, "Only a MobileNet can be scaled"),
        ({"name": "xception_65", "multi_grid": (1, 2)}, "three"),
    ],
)
def test_the_error_for_a_wrong_argument_says_what_is_allowed(arguments, message):
    with pytest.raises(UserError, match=message):
        build_backbone(**arguments)
