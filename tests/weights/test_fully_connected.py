"""VGG-16's fully connected layers in the heads of v1 and v2."""

import keras
import numpy as np
import pytest

from deeplab_tf import build_model
from deeplab_tf import layers
from deeplab_tf.backbones import vgg
from deeplab_tf.models import backbone_of
from deeplab_tf.runs import weight_sources
from deeplab_tf.weights import checkpoint_values
from deeplab_tf.weights.fully_connected import subsampled

FILTERS = 16  # of the classifier's fc6 and fc7, in place of 4096


@pytest.fixture(autouse=True)
def narrow_vgg(monkeypatch):
    monkeypatch.setattr(vgg, "BLOCKS", ((2, 4), (2, 4), (3, 4), (3, 4), (3, 8)))


@pytest.fixture
def classifier(tmp_path) -> tuple[str, dict[str, np.ndarray]]:
    """A checkpoint of a narrow VGG-16 with its fully connected layers."""
    generator = np.random.default_rng(0)
    shapes = {
        "fc6/weights": (7, 7, 8, FILTERS),
        "fc6/biases": (FILTERS,),
        "fc7/weights": (1, 1, FILTERS, FILTERS),
        "fc7/biases": (FILTERS,),
        "fc8/weights": (1, 1, FILTERS, 5),
    }
    backbone = backbone_of(build_model("v1", "vgg_16", 3, fc_filters=4))
    values = {layers.official_name(v): v.numpy() + 1 for v in backbone.weights}
    values |= {
        f"vgg_16/{name}": generator.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    path = str(tmp_path / "vgg_16.ckpt")
    checkpoint_values.write(path, values)
    return path, values


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {layers.official_name(weight): weight.numpy() for weight in model.weights}


def test_fc6_and_fc7_of_v1_are_every_third_place_and_every_fourth_channel(classifier):
    path, values = classifier
    model = build_model("v1", "vgg_16", 3, fc_filters=4)
    report = weight_sources.fill(model, path, allow_backbone=True)
    filled = weights_of(model)
    fc6, fc7 = values["vgg_16/fc6/weights"], values["vgg_16/fc7/weights"]
    np.testing.assert_array_equal(filled["fc6/weights"], fc6[::3, ::3, :, ::4])
    np.testing.assert_array_equal(filled["fc6/biases"], values["vgg_16/fc6/biases"][::4])
    np.testing.assert_array_equal(filled["fc7/weights"], fc7[:, :, ::4, ::4])
    name = "vgg_16/conv5/conv5_3/weights"
    np.testing.assert_array_equal(filled[name], values[name])
    assert report.unused == ["vgg_16/fc8/weights"] and report.skipped == []
    assert {"fc6/weights", "fc6/biases", "fc7/weights", "fc7/biases"} <= set(report.loaded)
    assert "adapted fc6/weights: subsampled from vgg_16/fc6/weights [7, 7, 8, 16]" in str(report)


def test_every_branch_of_v2_gets_them(classifier):
    path, values = classifier
    model = build_model("v2", "vgg_16", 3, fc_filters=8)
    weight_sources.fill(model, path, allow_backbone=True)
    filled = weights_of(model)
    for branch in range(1, 5):
        np.testing.assert_array_equal(
            filled[f"fc6_{branch}/weights"], values["vgg_16/fc6/weights"][::3, ::3, :, ::2]
        )


def test_a_head_that_is_larger_than_the_classifiers_stays_as_it_is(classifier):
    model = build_model("v1", "vgg_16", 3, fc_filters=2 * FILTERS)
    before = weights_of(model)
    report = weight_sources.fill(model, classifier[0], allow_backbone=True)
    np.testing.assert_array_equal(weights_of(model)["fc7/weights"], before["fc7/weights"])
    assert "vgg_16/fc7/weights" in report.unused


@pytest.mark.parametrize(
    "size, places", [(1, [3]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (7, list(range(7)))]
)
def test_the_papers_kernels_are_spread_over_seven_places(size, places):
    kernel = np.arange(49.0).reshape(7, 7, 1, 1)
    found = subsampled(kernel, (size, size, 1, 1))
    np.testing.assert_array_equal(found, kernel[places][:, places])
