"""The constructors of the versions: what they take, and what they refuse."""

import inspect

import keras
import numpy as np
import pytest

import deeplab_tf
from deeplab_tf import backbones
from deeplab_tf import zoo
from deeplab_tf.errors import UserError
from deeplab_tf.layers import official_name
from deeplab_tf.models import VERSIONS
from deeplab_tf.weights import checkpoint_values
from deeplab_tf.weights import tf1_checkpoint

pytestmark = pytest.mark.usefixtures("short_network")
SMALL_HEAD = {"atrous_rates": (2,), "aspp_convs_filters": 8}


def _images(*size, channels=3):
    return np.random.default_rng(0).integers(0, 256, (1, *size, channels), "uint8")


def _by_name(model):
    return {official_name(weight): weight for weight in model.weights}


def _copy(target, source):
    for name, weight in _by_name(source).items():
        _by_name(target)[name].assign(weight)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_backbone_is_given_by_name_or_as_a_model(version):
    head = SMALL_HEAD if version in ("v3", "v3plus") else {"atrous_rates": (2,)}
    head |= {"fc_filters": 8} if version == "v1" else {}
    by_name = VERSIONS[version]("mobilenet_v2", 4, 8, depth_multiplier=0.35, in_channels=5, **head)
    backbone = backbones.MobileNetV2(output_stride=8, depth_multiplier=0.35, in_channels=5)
    by_model = VERSIONS[version](backbone, 4, **head)
    assert by_model.get_layer("MobilenetV2") is backbone
    _copy(by_model, by_name)
    images = _images(49, 33, channels=5)
    np.testing.assert_array_equal(by_model(images, training=False), by_name(images, training=False))


def test_defaults_follow_the_backbone_if_it_is_a_model_too():
    backbone = backbones.MobileNetV3SmallSeg(output_stride=32)
    by_model, by_name = (
        deeplab_tf.DeepLabV3Plus(item, 4) for item in (backbone, "mobilenet_v3_small_seg")
    )
    assert set(_by_name(by_model)) == set(_by_name(by_name))
    assert isinstance(by_model.get_layer("aspp"), deeplab_tf.layers.LiteRASPP)


def test_build_model_is_a_choice_among_the_constructors():
    given = {"output_stride": 8, "upsample_logits": False, **SMALL_HEAD}
    model = deeplab_tf.build_model("v3", "mobilenet_v2", 4, **given)
    twin = deeplab_tf.DeepLabV3("mobilenet_v2", 4, **given)
    assert model.name == twin.name == "deeplab_v3_mobilenet_v2"
    assert model.output_shape == twin.output_shape
    assert set(_by_name(model)) == set(_by_name(twin))


def test_every_constructor_shows_its_own_arguments_only():
    shared = {"backbone", "num_classes", "output_stride", "atrous_rates", "weights", "settings"}
    own = {
        "v1": {"fc6_kernel_size", "fc_filters"},
        "v2": {"fc_filters"},
        "v3": {"last_block"},
        "v3plus": {"decoder_output_stride"},
    }
    for version, constructor in VERSIONS.items():
        assert set(inspect.signature(constructor).parameters) == shared | own[version]
    every = {"output_stride", "in_channels", "weights"}
    own = {
        "mobilenet": {"depth_multiplier", "batch_norm_decay"},
        "xception": {"multi_grid", "batch_norm_decay"},
        "resnet": {"multi_grid", "last_block", "batch_norm_decay"},
        "vgg": set(),
    }
    for name, function in backbones.BACKBONES.items():
        assert set(inspect.signature(function).parameters) == every | own[name.split("_")[0]]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"atrous_rate": (6,)}, TypeError, "'atrous_rate'. Did you mean 'atrous_rates'"),
        ({"colour": "red"}, TypeError, "'colour'"),
        ({"decoder_output_stride": 8}, UserError, "decoder_output_stride is 8, but v3 does not"),
        ({"fc6_kernel_size": 4}, UserError, "fc6_kernel_size is 4, but v3 does not"),
        ({"in_channels": 4}, UserError, "the backbone is built already"),
        ({"output_stride": 8}, UserError, "output_stride is 8, but the backbone .* has 16"),
        ({"weights": "nowhere/model.ckpt"}, UserError, "nowhere/model.ckpt"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(arguments, error, message):
    backbone = backbones.MobileNetV2(depth_multiplier=0.35)
    with pytest.raises(error, match=message):
        deeplab_tf.DeepLabV3(backbone, 4, **{**SMALL_HEAD, **arguments})


@pytest.mark.parametrize(
    "version, backbone, arguments, message",
    [
        ("v3", "Xception65", {}, "Did you mean 'xception_65'"),
        ("v3", None, {}, "backbone is None; it must be an official name"),
        ("v3", backbones.MobileNetV2, {}, "backbone is <function MobileNetV2.*: call it"),
        ("v3", "mobilenet_v2", {"num_classes": 0}, "num_classes is 0; it must be a whole number"),
        ("v3", "mobilenet_v2", {"num_classes": "4"}, "num_classes is '4'"),
        ("v3", "mobilenet_v2", {"output_stride": 16.0}, "output_stride is 16.0; .* one of 4, 8"),
        ("v3", "mobilenet_v2", {"atrous_rates": 6}, r"atrous_rates is 6; .* \(6, 12, 18\)"),
        ("v3", "mobilenet_v2", {"atrous_rates": "6,12"}, "atrous_rates is '6,12'"),
        ("v3", "mobilenet_v2", {"image_pyramid": 2}, "image_pyramid is 2; it must be scales"),
        ("v3", "mobilenet_v2", {"image_pooling_crop_size": 513}, "two whole numbers"),
        ("v3plus", "mobilenet_v2", {"decoder_output_stride": ()}, "or choose version v3"),
        ("v3plus", "resnet_v1_50", {"multi_grid": (1, 2)}, "multi_grid is .* three whole numbers"),
        ("v2", "mobilenet_v2", {"atrous_rates": ()}, "atrous_rates is empty"),
        ("v1", "mobilenet_v2", {"atrous_rates": (6, 12)}, "v1 has a single branch"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_right(version, backbone, arguments, message):
    with pytest.raises(UserError, match=message):
        VERSIONS[version](backbone, **{"num_classes": 4, **arguments})


def test_numbers_may_be_those_of_numpy():
    labels = np.array([0, 3])
    model = deeplab_tf.DeepLabV3(
        "mobilenet_v2",
        labels.max() + 1,
        atrous_rates=np.array([2]),
        in_channels=np.int64(5),
        aspp_convs_filters=8,
    )
    assert model.input_shape[-1] == 5 and model.output_shape[-1] == 4
    assert keras.models.model_from_json(model.to_json()).output_shape[-1] == 4


def test_a_setting_of_another_version_may_be_switched_off():
    off = {"decoder_use_sum_merge": False, "fc_filters": 0, "fc6_kernel_size": None}
    assert deeplab_tf.DeepLabV3("mobilenet_v2", 4, **off, **SMALL_HEAD).output_shape[-1] == 4


def test_a_model_that_does_not_name_its_features_is_not_a_backbone():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Conv2D(4, 3, strides=2)(image))
    with pytest.raises(UserError, match="does not return a dict with `features`"):
        deeplab_tf.DeepLabV3(model, 4)


def test_a_cascade_may_be_built_on_a_model():
    settings = {"output_stride": 16, "multi_grid": (1, 2, 1), "last_block": 5}
    backbone = backbones.ResNetV1_50(**settings)
    model = deeplab_tf.DeepLabV3(backbone, 4, last_block=5)
    assert [layer.name for layer in model.layers[-2:]] == ["logits.semantic", "upsampled_logits"]
    with pytest.raises(UserError, match="has no such block"):
        deeplab_tf.DeepLabV3(backbone, 4, last_block=6)


def test_a_model_and_a_backbone_start_from_a_checkpoint(tmp_path):
    trained = deeplab_tf.DeepLabV3("mobilenet_v2", 4, **SMALL_HEAD)
    checkpoint_values.write(str(tmp_path / "model.ckpt"), _by_name(trained))
    model = deeplab_tf.DeepLabV3("mobilenet_v2", 4, weights=tmp_path / "model.ckpt", **SMALL_HEAD)
    backbone = deeplab_tf.build_backbone("mobilenet_v2", 8, weights=str(tmp_path / "model.ckpt"))
    for filled in (model, backbone):
        for name, weight in _by_name(filled).items():
            np.testing.assert_array_equal(weight, _by_name(trained)[name], err_msg=name)


def test_weights_are_also_found_by_the_name_of_a_release(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "cache"))
    trained = backbones.MobileNetV2()
    (tmp_path / "downloaded").mkdir()
    checkpoint_values.write(str(tmp_path / "downloaded/model.ckpt"), _by_name(trained))
    zoo.add("mobilenet_v2_imagenet", tmp_path / "downloaded")
    model = deeplab_tf.DeepLabV3("mobilenet_v2", 4, weights="imagenet", **SMALL_HEAD)
    for backbone in (
        backbones.MobileNetV2(weights="mobilenet_v2_imagenet"),
        backbones.MobileNetV2(weights="imagenet"),
        model.get_layer("MobilenetV2"),
    ):
        for name, weight in _by_name(backbone).items():
            np.testing.assert_array_equal(weight, _by_name(trained)[name], err_msg=name)
    with pytest.raises(UserError, match="built already. Give weights to the function"):
        deeplab_tf.DeepLabV3(backbone, 4, weights="imagenet", **SMALL_HEAD)


@pytest.mark.parametrize("name", ["resnet_v1_50", "resnet_v1_50_beta"])
def test_imagenet_weights_are_those_of_the_variant(name, monkeypatch):
    loaded = []
    monkeypatch.setattr(tf1_checkpoint, "load_tf1_checkpoint", lambda _, path: loaded.append(path))
    deeplab_tf.build_backbone(name, weights="imagenet")
    assert loaded == [f"{name}_imagenet"]


def test_a_backbone_without_imagenet_weights_says_so():
    with pytest.raises(UserError, match="has none of mobilenet_edgetpu on ImageNet"):
        backbones.MobileNetEdgeTPU(weights="imagenet")
