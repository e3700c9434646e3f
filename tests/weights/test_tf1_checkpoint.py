"""Weights from TensorFlow 1 checkpoints: some written here, and the real ones where they are."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import deeplab_tf
from deeplab_tf.errors import UserError
from deeplab_tf.layers import official_name
from deeplab_tf.weights import checkpoint_paths
from deeplab_tf.weights import tf1_checkpoint
from deeplab_tf.weights.checkpoint_values import CheckpointValues
from deeplab_tf.weights.tf1_checkpoint import is_of_backbone
from deeplab_tf.weights.tf1_checkpoint import load_tf1_checkpoint


def _build(num_classes=3):
    return deeplab_tf.build_model(
        "v3", "mobilenet_v2", num_classes, atrous_rates=(), depth_multiplier=0.25,
        aspp_convs_filters=8,
    )  # fmt: skip


def _write(prefix, values):
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.convert_to_tensor(value) for value in values.values()],
    )


def _values(model):
    """Values that differ from those that the model has, by official name."""
    return {official_name(variable): variable.numpy() + 1 for variable in model.weights}


def _has(model, values):
    return all(
        np.array_equal(variable, values[official_name(variable)]) for variable in model.weights
    )


def test_a_checkpoint_fills_the_model_and_the_report_tells_what_became_of_each_variable(tmp_path):
    model = _build()
    values = _values(model)
    _write(
        tmp_path / "model.ckpt",
        {
            **values,
            "global_step": np.int64(7),
            "aspp0/weights/Momentum": values["aspp0/weights"],
            "aspp0/weights/ExponentialMovingAverage": values["aspp0/weights"],
            "MobilenetV2/Conv_1/weights": np.zeros((1, 1, 80, 9), "float32"),
        },
    )
    report = load_tf1_checkpoint(model, tmp_path / "model.ckpt")
    assert _has(model, values)
    assert sorted(report.loaded) == sorted(values)
    assert report.skipped == []
    assert report.unused == ["MobilenetV2/Conv_1/weights"]
    assert "272 variables loaded" in str(report)


def test_moving_averages_are_taken_where_there_is_nothing_else(tmp_path):
    model = _build()
    values = _values(model)
    average = "aspp0/weights/ExponentialMovingAverage"
    only = "logits/semantic/weights"
    stored = {name: value for name, value in values.items() if name != only}
    stored |= {
        f"{only}/ExponentialMovingAverage": values[only],
        average: values["aspp0/weights"] + 1,
    }
    _write(tmp_path / "model.ckpt", stored)
    report = load_tf1_checkpoint(model, tmp_path / "model.ckpt")
    assert _has(model, values)
    assert report.averaged == [only] and report.unused == []
    assert "1 of them are moving averages" in str(report)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_and_change_nothing(tmp_path, value):
    model = _build()
    before, values = model.get_weights(), _values(model)
    values["logits/semantic/biases"][0] = value
    _write(tmp_path / "model.ckpt", values)
    with pytest.raises(UserError, match="model.ckpt has weights that are NaN .*logits/semantic/bi"):
        load_tf1_checkpoint(model, tmp_path / "model.ckpt")
    for old, variable in zip(before, model.weights):
        np.testing.assert_array_equal(variable, old)


def test_a_folder_stands_for_its_checkpoint_wherever_it_was_written(tmp_path):
    model = _build()
    _write(tmp_path / "model.ckpt-30", _values(model))
    load_tf1_checkpoint(model, tmp_path)
    _write(tmp_path / "model.ckpt-40", _values(model))
    with pytest.raises(UserError, match="model.ckpt-30, model.ckpt-40"):
        load_tf1_checkpoint(model, tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/author/model.ckpt-40"\n')
    assert load_tf1_checkpoint(model, tmp_path).path.endswith("model.ckpt-40")


def test_other_classes_are_refused_and_skip_only_the_last_layer_when_asked(tmp_path):
    _write(tmp_path / "model.ckpt", _values(_build(num_classes=21)))
    model = _build(num_classes=3)
    before = model.get_weights()
    with pytest.raises(UserError) as error:
        load_tf1_checkpoint(model, tmp_path / "model.ckpt")
    message = str(error.value)
    assert "logits/semantic/weights: [1, 1, 8, 3] in the model, [1, 1, 8, 21]" in message
    assert "skip_mismatched=True" in message
    for old, variable in zip(before, model.weights):
        np.testing.assert_array_equal(variable, old)
    report = load_tf1_checkpoint(model, tmp_path / "model.ckpt", skip_mismatched=True)
    skipped = [name for name, _ in report.skipped]
    assert skipped == ["logits/semantic/weights", "logits/semantic/biases"]
    assert len(report.loaded) == 270
    assert "skipped logits/semantic/biases" in str(report)


def test_other_classes_skip_only_the_logits_that_lite_r_aspp_ends_in(tmp_path):
    def build(num_classes):
        return deeplab_tf.build_model(
            "v3plus", "mobilenet_v3_small_seg", num_classes, depth_multiplier=0.25
        )

    _write(tmp_path / "model.ckpt", _values(build(num_classes=19)))
    model = build(num_classes=3)
    with pytest.raises(UserError, match="has other classes"):
        load_tf1_checkpoint(model, tmp_path / "model.ckpt")
    report = load_tf1_checkpoint(model, tmp_path / "model.ckpt", skip_mismatched=True)
    assert sorted(name for name, _ in report.skipped) == [
        f"decoder/{layer}/{kind}"
        for layer in ("decoder_conv0", "feature_projection0")
        for kind in ("biases", "weights")
    ]


@pytest.mark.parametrize(
    "name, scope", [("resnet_v1_50_beta", "resnet_v1_50"), ("vgg_16", "vgg_16")]
)
def test_a_classification_network_fills_a_backbone_and_its_logits_are_not_used(
    name, scope, tmp_path
):
    backbone = deeplab_tf.build_backbone(name)
    values = _values(backbone)
    logits = {f"{scope}/logits/weights": np.zeros((1, 1, 8, 9), "float32")}
    _write(tmp_path / "model.ckpt", {**values, **logits})
    assert is_of_backbone(CheckpointValues(tmp_path / "model.ckpt"))
    report = load_tf1_checkpoint(backbone, tmp_path / "model.ckpt")
    assert _has(backbone, values)
    assert (report.skipped, report.unused) == ([], list(logits))


@pytest.mark.parametrize("in_channels", [1, 2, 4, 7])
def test_a_model_of_other_channels_sees_grey_images_as_the_original_does(in_channels, tmp_path):
    rgb = deeplab_tf.build_backbone("mobilenet_v2", depth_multiplier=0.25)
    generator = np.random.default_rng(0)
    kernel = rgb.get_layer("MobilenetV2.Conv").kernel
    kernel.assign(generator.normal(size=kernel.shape))
    _write(
        tmp_path / "model.ckpt",
        {official_name(variable): variable.numpy() for variable in rgb.weights},
    )
    model = deeplab_tf.build_backbone(
        "mobilenet_v2", depth_multiplier=0.25, in_channels=in_channels
    )
    report = load_tf1_checkpoint(model, tmp_path / "model.ckpt")
    assert [name for name, _ in report.adapted] == ["MobilenetV2/Conv/weights"]
    assert len(report.loaded) == len(rgb.weights) and report.skipped == []
    grey = generator.integers(0, 256, (1, 33, 49, 1), "uint8")
    np.testing.assert_allclose(
        model(np.repeat(grey, in_channels, axis=-1), training=False)["features"],
        rgb(np.repeat(grey, 3, axis=-1), training=False)["features"],
        atol=1e-4,
    )
    # Colours keep their kernels, up to one factor.
    if in_channels > 3:
        got = model.get_layer("MobilenetV2.Conv").kernel
        np.testing.assert_allclose(got[:, :, :3], kernel * (3 / in_channels), rtol=1e-6)


def test_a_backbone_checkpoint_goes_into_the_backbone(tmp_path):
    model = _build()
    backbone = model.get_layer("MobilenetV2")
    values = _values(backbone)
    _write(tmp_path / "model.ckpt", values)
    assert is_of_backbone(CheckpointValues(tmp_path / "model.ckpt"))
    with pytest.raises(UserError, match="without a DeepLab head.*get_layer"):
        load_tf1_checkpoint(model, tmp_path / "model.ckpt")
    load_tf1_checkpoint(backbone, tmp_path / "model.ckpt")
    assert _has(backbone, values)
    report = load_tf1_checkpoint(model, tmp_path / "model.ckpt", skip_mismatched=True)
    assert len(report.loaded) == len(values)
    assert {name.split("/")[0] for name, _ in report.skipped} == {
        "image_pooling", "aspp0", "concat_projection", "logits",
    }  # fmt: skip


def test_a_whole_model_is_not_a_backbone_checkpoint(tmp_path):
    _write(tmp_path / "model.ckpt", _values(_build()))
    assert not is_of_backbone(CheckpointValues(tmp_path / "model.ckpt"))


def test_another_network_is_refused_even_if_mismatches_may_be_skipped(tmp_path):
    _write(tmp_path / "model.ckpt", {"resnet_v1_50/conv1/weights": np.zeros((7, 7, 3, 64))})
    with pytest.raises(UserError, match="another backbone"):
        load_tf1_checkpoint(_build(), tmp_path / "model.ckpt", skip_mismatched=True)


def test_what_is_not_a_checkpoint_is_refused(tmp_path):
    model = _build()
    with pytest.raises(UserError, match="no checkpoint .*nothing"):
        load_tf1_checkpoint(model, tmp_path / "nothing")
    with pytest.raises(UserError, match="none in it"):
        load_tf1_checkpoint(model, tmp_path)
    (tmp_path / "words.txt").write_text("not weights")
    with pytest.raises(UserError, match="cannot be read"):
        load_tf1_checkpoint(model, tmp_path / "words.txt")
    before = model.get_weights()
    _write(tmp_path / "model.ckpt", _values(model))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match="model.ckpt"):
        load_tf1_checkpoint(model, tmp_path / "model.ckpt")
    for old, variable in zip(before, model.weights):
        np.testing.assert_array_equal(variable, old)


@pytest.fixture(scope="module")
def pascal_model(shared):
    model = deeplab_tf.build_model("v3", "mobilenet_v2", 21, atrous_rates=())
    report = load_tf1_checkpoint(model, shared / "checkpoints/deeplabv3_mnv2_pascal")
    assert (len(report.loaded), report.skipped, report.unused) == (272, [], [])
    return model


@pytest.mark.parametrize(
    "file_name, expected",
    [
        ("photos/cat_720p.jpg", 8),
        ("photos/dog.jpg", 12),
        ("photos/horse.jpg", 13),
        ("VOC_mini/JPEGImages/2007_000039.jpg", 20),
    ],
)
def test_the_released_weights_find_what_is_in_a_image(shared, pascal_model, file_name, expected):
    image = Image.open(shared / "data" / file_name).convert("RGB")
    scale = 513 / max(image.size)
    image = image.resize([round(side * scale) for side in image.size])
    labels = np.argmax(pascal_model(np.asarray(image)[None], training=False), axis=-1)
    assert np.mean(labels == expected) > 0.05


def test_the_released_imagenet_weights_fill_the_backbone(shared):
    path = shared / "checkpoints/mobilenet_v2_imagenet"
    with checkpoint_paths.located(path) as (prefix, _):
        assert is_of_backbone(CheckpointValues(prefix))
    report = load_tf1_checkpoint(deeplab_tf.build_backbone("mobilenet_v2"), path)
    assert report.skipped == []
    assert {name.split("/")[1] for name in report.unused} == {"Conv_1", "Logits"}


@pytest.mark.parametrize(
    "in_channels, rgb_bands, taken",
    [
        (5, (), (0, 1, 2, None, None)),
        (5, (3, 2, 1), (2, 1, 0, None, None)),
        (4, (4, 1, 2), (1, 2, None, 0)),
        (2, (), (None, None)),
    ],
)
def test_bands_take_the_weights_of_their_colours_and_others_the_mean(in_channels, rgb_bands, taken):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 2)).astype(np.float32)
    spread = tf1_checkpoint.spread_over_channels(kernel, in_channels, rgb_bands)
    mean = kernel.mean(axis=2)
    expected = [mean if color is None else kernel[:, :, color] for color in taken]
    np.testing.assert_allclose(spread, np.stack(expected, axis=2) * 3 / in_channels, rtol=1e-6)


def test_bands_that_are_several_colours_take_their_mean():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 2)).astype(np.float32)
    spread = tf1_checkpoint.spread_over_channels(kernel, 4, (2, 2, 4))
    np.testing.assert_allclose(spread[:, :, 1], kernel[:, :, :2].mean(axis=2) * 0.75, rtol=1e-6)
