"""The numbers of the original, to the last digits that float32 has."""

import functools
import hashlib
import json

import keras
import numpy as np
import pytest

import deeplab_tf
import original
from conftest import REPOSITORY
from deeplab_tf.layers import official_name
from original import rule

V3_MOBILE = {"version": "v3", "backbone": "mobilenet_v2", "atrous_rates": ()}
V3_EDGETPU = {
    "version": "v3",
    "backbone": "mobilenet_edgetpu",
    "atrous_rates": (),
    "num_classes": 19,
}
SLIM = {"depth_multiplier": 0.75, "aspp_convs_filters": 128}
VARIANTS = {
    "mobilenet_v2_os16": V3_MOBILE,
    "mobilenet_v2_os8": {**V3_MOBILE, "output_stride": 8},
    "mobilenet_v2_dm05_os16": {**V3_MOBILE, "depth_multiplier": 0.5},
    "mobilenet_v2_dm05_os8": {**V3_MOBILE, "depth_multiplier": 0.5, "output_stride": 8},
    "extra_mobilenet_v2_os16_decoder4_ade20k": {
        "version": "v3plus",
        "backbone": "mobilenet_v2",
        "atrous_rates": (),
        "num_classes": 151,
    },
    "mobilenet_edgetpu_os32": V3_EDGETPU,
    "mobilenet_edgetpu_os16": {**V3_EDGETPU, "output_stride": 16},
    "mobilenet_edgetpu_dm075_os32": {**V3_EDGETPU, **SLIM},
    "mobilenet_edgetpu_dm075_os16": {**V3_EDGETPU, **SLIM, "output_stride": 16},
    "xception_41_os16_decoder4": {"version": "v3plus", "backbone": "xception_41"},
    "xception_65_os16_decoder4": {"version": "v3plus", "backbone": "xception_65"},
    "xception_65_os8_decoder4": {
        "version": "v3plus",
        "backbone": "xception_65",
        "output_stride": 8,
    },
    "xception_71_os16_decoder4": {"version": "v3plus", "backbone": "xception_71"},
    "resnet_v1_50_beta_os16": {"version": "v3", "backbone": "resnet_v1_50_beta"},
    "resnet_v1_50_beta_os16_decoder4": {"version": "v3plus", "backbone": "resnet_v1_50_beta"},
    "resnet_v1_101_beta_os8_decoder4": {
        "version": "v3plus",
        "backbone": "resnet_v1_101_beta",
        "output_stride": 8,
    },
    "resnet_v1_50_os16_decoder4": {
        "version": "v3plus",
        "backbone": "resnet_v1_50",
        "multi_grid": (1, 1, 1),
    },
    "extra_resnet_v1_50_beta_os16_decoder4_fullconv": {
        "version": "v3plus",
        "backbone": "resnet_v1_50_beta",
        "aspp_with_separable_conv": False,
        "decoder_use_separable_conv": False,
    },
    "extra_resnet_v1_101_os8_deeplabv2": {"version": "v2", "backbone": "resnet_v1_101"},
    "extra_xception_71_dpc_os16_decoder4": {
        "version": "v3plus",
        "backbone": "xception_71",
        "num_classes": 19,
        "dense_prediction_cell_json": str(REPOSITORY / "configs/dense_prediction_cell.json"),
    },
    "mobilenet_v3_large_seg_os32": {
        "version": "v3plus",
        "backbone": "mobilenet_v3_large_seg",
        "num_classes": 19,
    },
    "mobilenet_v3_small_seg_os32": {
        "version": "v3plus",
        "backbone": "mobilenet_v3_small_seg",
        "num_classes": 19,
    },
}


def _build(variant):
    return deeplab_tf.build_model(**{"num_classes": 21, **VARIANTS[variant]})


def set_recorded_weights(model: keras.Model) -> None:
    """Gives every variable the value that it had when the original's numbers were recorded."""
    for variable in model.weights:
        variable.assign(rule.variable(official_name(variable), tuple(variable.shape)))


@functools.cache
def _network(variant) -> keras.Model:
    """Returns a network with the recorded weights; its outputs are `logits` and `upsampled`."""
    model = _build(variant)
    set_recorded_weights(model)
    outputs = {"logits": model.get_layer("logits.semantic").output, "upsampled": model.output}
    return keras.Model(model.input, outputs)


def sample(values: np.ndarray) -> np.ndarray:
    """The first, middle and last row and column of [H, W, C], and every fifth channel."""
    height, width, _ = values.shape
    rows, columns = [0, height // 2, height - 1], [0, width // 2, width - 1]
    return values[rows][:, columns][..., ::5]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variables_are_the_originals_name_for_name_and_shape_for_shape(variant):
    got = {official_name(variable): list(variable.shape) for variable in _build(variant).weights}
    complete = REPOSITORY.parent / "shared/oracles" / variant / "variables.json"
    if complete.exists():  # tells which ones differ
        recorded = json.loads(complete.read_text())
        assert got == {variable["name"]: variable["shape"] for variable in recorded}
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in got.items()))
    assert {
        "variables": len(got),
        "sha256": hashlib.sha256(lines.encode()).hexdigest()[:16],
    } == original.load("variables")[variant]


@pytest.mark.parametrize(
    "variant", ["mobilenet_v2_os16", "xception_65_os16_decoder4", "resnet_v1_50_beta_os16_decoder4"]
)
def test_logits_are_those_of_the_original(variant):
    for case, record in original.load("logits")[variant].items():
        images = rule.images(record["height"], record["width"], record["seed"])
        logits = np.asarray(_network(variant)(images, training=False)["logits"])
        np.testing.assert_allclose(
            sample(logits[0]), record["logits"], atol=1e-4, err_msg=f"{variant} {case}"
        )


@pytest.mark.parametrize(
    "variant, cases",
    [
        ("mobilenet_v2_os16", "abd"),
        ("mobilenet_edgetpu_os32", "abcd"),
        ("xception_65_os16_decoder4", "abcd"),
        ("resnet_v1_50_beta_os16_decoder4", "abcd"),
    ],
)
def test_all_logits_and_labels_are_those_of_the_original(shared, variant, cases):
    for case in cases:
        record = np.load(shared / "oracles" / variant / f"{case}.npz")
        got = _network(variant)(record["image"], training=False)
        np.testing.assert_allclose(got["logits"], record["logits"], atol=1e-4, err_msg=case)
        labels = np.argmax(got["upsampled"], axis=-1)
        assert np.mean(labels != record["labels"]) < 0.001, case


@pytest.fixture(scope="module")
def pyramid() -> keras.Model:
    arguments = {**V3_MOBILE, "num_classes": 21, "upsample_logits": False}
    model = deeplab_tf.build_model(**arguments, image_pyramid=(0.5, 0.75, 1.0, 1.5))
    set_recorded_weights(model)
    return model


def test_an_image_pyramid_is_merged_as_in_the_original(pyramid):
    record = original.load("logits")["multi_scale"]["image_pyramid"]
    images = rule.images(record["height"], record["width"], record["seed"])
    logits = np.asarray(pyramid(images, training=False))
    np.testing.assert_allclose(sample(logits[0]), record["logits"], atol=1e-4)


def test_the_logits_of_every_scale_of_a_pyramid_are_those_of_the_original(shared, pyramid):
    record = np.load(shared / "oracles/multi_scale/mobilenet_v2_os16_image_pyramid_max_97x129.npz")
    names = [name for name in record.files if name.startswith("logits_")]
    outputs = {name: pyramid.get_layer(f"logits_at_{float(name[7:]):g}").output for name in names}
    model = keras.Model(pyramid.input, {**outputs, "merged_logits": pyramid.output})
    got = model(record["image"], training=False)
    for name, logits in got.items():
        np.testing.assert_allclose(logits, record[name], atol=1e-4, err_msg=name)
