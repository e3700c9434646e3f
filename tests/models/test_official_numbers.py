"""The numbers of the original, to the last digits that float32 has."""

import importlib.util
import json

import keras
import numpy as np
import pytest

import deeplab_tf
from conftest import REPOSITORY
from deeplab_tf.layers import official_name

V3_MOBILE = {"version": "v3", "backbone": "mobilenet_v2", "atrous_rates": ()}
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


@pytest.fixture(scope="module")
def make_weights(shared):
    """The rule by which a variable's value follows from its name and shape."""
    spec = importlib.util.spec_from_file_location("weights", shared / "oracles/weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variables_are_the_originals_name_for_name_and_shape_for_shape(shared, variant):
    recorded = json.loads((shared / "oracles" / variant / "variables.json").read_text())
    model = _build(variant)
    got = {official_name(variable): list(variable.shape) for variable in model.weights}
    assert got == {variable["name"]: variable["shape"] for variable in recorded}


@pytest.mark.parametrize(
    "variant, cases",
    [
        ("mobilenet_v2_os16", "abd"),
        ("xception_65_os16_decoder4", "abcd"),
        ("resnet_v1_50_beta_os16_decoder4", "abcd"),
    ],
)
def test_logits_and_labels_are_those_of_the_original(shared, make_weights, variant, cases):
    model = _build(variant)
    for variable in model.weights:
        variable.assign(make_weights(official_name(variable), variable.shape))
    outputs = {"logits": model.get_layer("logits.semantic").output, "upsampled": model.output}
    model = keras.Model(model.input, outputs)
    for case in cases:
        record = np.load(shared / "oracles" / variant / f"{case}.npz")
        got = model(record["image"], training=False)
        np.testing.assert_allclose(got["logits"], record["logits"], atol=1e-4, err_msg=case)
        labels = np.argmax(got["upsampled"], axis=-1)
        assert np.mean(labels != record["labels"]) < 0.001, case


def test_an_image_pyramid_is_merged_as_in_the_original(shared, make_weights):
    arguments = {**V3_MOBILE, "num_classes": 21, "upsample_logits": False}
    model = deeplab_tf.build_model(**arguments, image_pyramid=(0.5, 0.75, 1.0, 1.5))
    for variable in model.weights:
        variable.assign(make_weights(official_name(variable), variable.shape))
    record = np.load(shared / "oracles/multi_scale/mobilenet_v2_os16_image_pyramid_max_97x129.npz")
    names = [name for name in record.files if name.startswith("logits_")]
    outputs = {name: model.get_layer(f"logits_at_{float(name[7:]):g}").output for name in names}
    model = keras.Model(model.input, {**outputs, "merged_logits": model.output})
    got = model(record["image"], training=False)
    for name, logits in got.items():
        np.testing.assert_allclose(logits, record[name], atol=1e-4, err_msg=name)
