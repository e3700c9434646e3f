"""The numbers of the original, to the last digits that float32 has."""

import importlib.util
import json

import keras
import numpy as np
import pytest

import deeplab_tf
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
    "variant, cases", [("mobilenet_v2_os16", "abd"), ("xception_65_os16_decoder4", "abcd")]
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
