"""Weights from run dirs, `.keras` files and checkpoints of the original."""

import dataclasses

import keras
import numpy as np
import pytest

from conftest import TINY_MODEL
from conftest import TWO_UNITS
from conftest import short_mobilenet_v2
from conftest import write_run_as_if_trained
from deeplab_tf import build_model
from deeplab_tf import layers
from deeplab_tf.config import DataConfig
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.models import backbone_of
from deeplab_tf.runs import saved_models
from deeplab_tf.runs import weight_sources
from deeplab_tf.weights import checkpoint_values

MODEL = dataclasses.replace(TINY_MODEL, num_classes=3)


@pytest.fixture(autouse=True, scope="module")
def two_units():
    with short_mobilenet_v2(TWO_UNITS):
        yield


def build() -> keras.Model:
    return build_model(**dataclasses.asdict(MODEL))


def assert_equal_weights(model: keras.Model, expected: keras.Model) -> None:
    for weight, other in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.fixture
def trained(tmp_path) -> keras.Model:
    """A model whose weights are in `run`, `model.keras` and `model.ckpt`."""
    info = records.numbered_classes("numbered", 3)
    write_run_as_if_trained(str(tmp_path / "run"), MODEL, DataConfig(), info)
    model = saved_models.load_model(tmp_path / "run")
    model.save(tmp_path / "model.keras")
    weights = {layers.official_name(weight): weight for weight in model.weights}
    checkpoint_values.write(str(tmp_path / "model.ckpt"), weights)
    return model


@pytest.mark.parametrize(
    "name", ["run", "model.keras", "model.ckpt", "model.ckpt.index", "run/best"]
)
def test_a_model_gets_its_weights_from_anything_that_holds_them(trained, tmp_path, name):
    model = build()
    report = weight_sources.fill(model, str(tmp_path / name))
    assert len(report.loaded) == len(model.weights) and not report.skipped
    assert_equal_weights(model, trained)


def test_a_backbone_fills_a_whole_model_only_where_that_is_wanted(trained, tmp_path):
    backbone = backbone_of(trained)
    weights = {layers.official_name(weight): weight for weight in backbone.weights}
    path = str(tmp_path / "imagenet.ckpt")
    checkpoint_values.write(path, weights)
    model = build()
    with pytest.raises(UserError, match="holds a backbone without a DeepLab head"):
        weight_sources.fill(model, path)
    weight_sources.fill(model, path, allow_backbone=True)
    assert_equal_weights(backbone_of(model), backbone)


def test_a_keras_file_with_weights_that_are_not_finite_is_refused(trained, tmp_path):
    trained.weights[-1].assign(np.full(trained.weights[-1].shape, np.nan))
    trained.save(tmp_path / "diverged.keras")
    with pytest.raises(UserError, match="diverged.keras has weights that are NaN"):
        weight_sources.fill(build(), str(tmp_path / "diverged.keras"))


def test_a_keras_file_of_another_model_is_refused(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="other.keras has no variable of deeplab"):
        weight_sources.fill(build(), str(tmp_path / "other.keras"))
