"""The forms that released checkpoints have: one file, moving averages, simulated quantisation."""

import dataclasses
import pathlib
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from conftest import TWO_UNITS
from conftest import short_mobilenet_v2
from deeplab_tf import backbones
from deeplab_tf import build_model
from deeplab_tf import layers
from deeplab_tf import zoo
from deeplab_tf.runs import imported_run
from deeplab_tf.runs import released
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import weight_sources

AVERAGE = "ExponentialMovingAverage"


@pytest.fixture(autouse=True, scope="module")
def two_units():
    with short_mobilenet_v2(TWO_UNITS):
        yield


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "cache"))


def values_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Values that differ from those that the model has, by official name."""
    return {layers.official_name(weight): weight.numpy() + 1 for weight in model.weights}


def assert_has(model: keras.Model, values: dict[str, np.ndarray]) -> None:
    for weight in model.weights:
        np.testing.assert_array_equal(weight, values[layers.official_name(weight)])


def write_by_tf1(prefix: pathlib.Path, values: dict[str, np.ndarray], version: int) -> None:
    """Writes a checkpoint by the saver of TensorFlow 1, in its first or second format."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [
            tf.compat.v1.get_variable(name, initializer=value) for name, value in values.items()
        ]
        session.run([variable.initializer for variable in variables])
        tf.compat.v1.train.Saver(write_version=version).save(
            session, str(prefix), write_meta_graph=False
        )


def pack(folder: pathlib.Path, path: pathlib.Path) -> None:
    with tarfile.open(path, "w:gz") as file:
        for part in folder.iterdir():
            file.add(part, part.name)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("are_averages_alone", [True, False])
def test_a_classifier_of_slim_fills_a_backbone(tmp_path, version, are_averages_alone):
    values = values_of(backbones.MobileNetV2())
    trained = [name for name in values if "moving" not in name]
    stored = dict(values)
    for name in trained:
        stored[f"{name}/{AVERAGE}"] = stored[name] if are_averages_alone else stored[name] + 1
        if are_averages_alone:
            del stored[name]
    stored["MobilenetV2/Logits/Conv2d_1c_1x1/weights"] = np.zeros((1, 1, 4, 5), np.float32)
    stored["global_step"] = np.int64(7)
    (tmp_path / "slim").mkdir()
    write_by_tf1(tmp_path / "slim/mobilenet_v2.ckpt", stored, version)
    archive = tmp_path / "mobilenet_v2_1.0_224.tgz"
    pack(tmp_path / "slim", archive)
    zoo.add("mobilenet_v2_imagenet", archive)
    assert_has(backbones.MobileNetV2(weights="imagenet"), values)
    model = build_model("v3", "mobilenet_v2", 3, atrous_rates=())
    for source in ("mobilenet_v2_imagenet", str(tmp_path / "slim/mobilenet_v2.ckpt"), str(archive)):
        report = weight_sources.fill(model, source, allow_backbone=True)
        assert_has(model.get_layer("MobilenetV2"), values)
        assert report.averaged == (trained if are_averages_alone else [])
        assert report.unused == ["MobilenetV2/Logits/Conv2d_1c_1x1/weights"]


def test_an_8_bit_checkpoint_is_imported_and_its_ranges_are_reported_as_left_out(tmp_path):
    name = "mobilenetv2_dm05_coco_voc_trainaug_8bit"
    model = build_model(**dataclasses.asdict(released.settings_of(name).model_config))
    values = values_of(model)
    ranges = {
        f"MobilenetV2/{scope}": np.float32(value)
        for scope, value in {
            "Conv/weights_quant/min": -1,
            "Conv/weights_quant/max": 1,
            "Conv/act_quant/MobilenetV2/Conv/act_quant/min/biased": 0,
            "Conv/act_quant/MobilenetV2/Conv/act_quant/min/local_step": 3,
            "Conv/act_quant/min": 0,
            "Conv/act_quant/max": 6,
            "expanded_conv_1/add_quant/max": 6,
        }.items()
    }
    (tmp_path / "release").mkdir()
    write_by_tf1(tmp_path / "release/model.ckpt", values | ranges, 2)
    (tmp_path / "release/frozen_inference_graph.pb").write_bytes(b"graph")
    pack(tmp_path / "release", tmp_path / zoo.ENTRIES[name].file_name)
    zoo.add(name, tmp_path / zoo.ENTRIES[name].file_name)
    report = imported_run.import_checkpoint(name, run_dir=str(tmp_path / "run"))
    assert report.skipped == [] and len(report.loaded) == len(values)
    assert report.unused == report.quantization_ranges == sorted(ranges)
    assert "7 quantisation ranges of the checkpoint left out" in str(report)
    assert "not used" not in str(report)
    assert_has(run_dirs.load_model(run_dirs.read(str(tmp_path / "run"))), values)
