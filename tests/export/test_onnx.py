"""ONNX files, run by ONNX Runtime."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from conftest import write_run_as_if_trained
from deeplab_tf.config import DataConfig
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.data.records import default_colors
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import prediction
from deeplab_tf.export import parity
from deeplab_tf.export.config import OnnxConfig
from deeplab_tf.export.config import ProofConfig
from deeplab_tf.export.formats import onnx as onnx_export
from deeplab_tf.runs import run_dir as run_dirs

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

ONE_IMAGE = ProofConfig(num_proof_images=1)
NAMES = ("background", "disc", "box", "star")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> str:
    """A run dir of a network with dense and depthwise atrous convolutions, as if trained."""
    folder = str(tmp_path_factory.mktemp("run"))
    dataset = DatasetInfo("invented", NAMES, default_colors(4), ignore_label=255)
    model_config = dataclasses.replace(
        TINY_MODEL, num_classes=4, output_stride=8, atrous_rates=(2,)
    )
    data_config = DataConfig(train_crop_size=(65, 65))
    with short_mobilenet_v2():
        write_run_as_if_trained(folder, model_config, data_config, dataset)
    return folder


@pytest.fixture(scope="module", autouse=True)
def short_models():
    with short_mobilenet_v2():
        yield


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    """A file that has replaced an earlier one."""
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    path.write_bytes(b"earlier")
    onnx_export.export_onnx(run_dir, str(path), proof_config=ProofConfig(num_proof_images=2))
    return path


def test_it_takes_images_of_any_number_and_size(run_dir, exported):
    run = run_dirs.read(run_dir)
    model = run_dirs.load_model(run)
    session = onnxruntime.InferenceSession(str(exported))
    for shape in ((2, 70, 101, 3), (1, 65, 33, 3)):
        images = parity.draw_images(shape, seed=7)
        labels, scores = session.run(["labels", "scores"], {"images": images})
        expected = prediction.predict_logits(model, images, run.model_config, run.data_config)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, scores.argmax(axis=-1))


def test_axes_of_any_size_are_named(exported):
    session = onnxruntime.InferenceSession(str(exported))
    (takes,), returns = session.get_inputs(), session.get_outputs()
    assert takes.shape == ["N", "H", "W", 3]
    assert [output.shape for output in returns] == [["N", "H", "W"], ["N", "H", "W", 4]]


def test_its_convolutions_are_whole(exported):
    operators = {node.op_type for node in onnx.load(str(exported)).graph.node}
    assert "Conv" in operators and "SpaceToDepth" not in operators


def test_it_names_classes_and_colours(exported):
    metadata = onnxruntime.InferenceSession(str(exported)).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(NAMES)
    assert json.loads(metadata["colors"]) == [list(color) for color in default_colors(4)]
    assert json.loads(metadata["ignore_label"]) == 255


def test_its_figures_lie_beside_it_and_nothing_else_does(exported):
    report = json.loads((exported.parent / "model.parity.json").read_text())
    assert report["label_agreement"] > 0.999
    assert report["ops"]["Conv"] > 10
    names = {path.name for path in exported.parent.iterdir()}
    assert names == {"model.onnx", "model.parity.json"}


def test_it_can_have_fixed_shapes(run_dir, tmp_path):
    path = str(tmp_path / "fixed.onnx")
    config = OnnxConfig(input_size=(60, 80))
    figures = onnx_export.export_onnx(run_dir, path, onnx_config=config, proof_config=ONE_IMAGE)
    assert figures.shapes == ((60, 80),)
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == [1, 60, 80, 3]
    assert [output.shape for output in session.get_outputs()] == [[1, 60, 80], [1, 60, 80, 4]]


def test_an_export_that_disagrees_fails_and_the_earlier_one_stays(
    run_dir, exported, tmp_path, monkeypatch
):
    other = onnx.load(str(exported))
    for weights in other.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            changed = 0.9 * onnx.numpy_helper.to_array(weights)
            weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    content = other.SerializeToString()
    monkeypatch.setattr(onnx_export, "convert", lambda *_: (content, {}))
    with pytest.raises(UserError, match="does not compute what the Keras model does"):
        onnx_export.export_onnx(run_dir, str(path), proof_config=ONE_IMAGE)
    assert path.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_that_onnx_has_no_operator_for_is_refused_by_its_name(run_dir):
    def model(images, training):
        sines = tf.numpy_function(np.sin, [images], tf.float32)
        return tf.ensure_shape(sines, [None, None, None, 3])

    with pytest.raises(UserError, match="cannot be converted to ONNX: .*PyFunc"):
        onnx_export.convert(model, run_dirs.read(run_dir))


def test_missing_packages_are_named_with_their_extra(tmp_path, without_package):
    without_package("tf2onnx")
    with pytest.raises(UserError, match=r"tf2onnx.*pip install 'deeplab_tf\[onnx\]'"):
        onnx_export.export_onnx("run", str(tmp_path / "model.onnx"))


@pytest.mark.parametrize("size", [(513,), (0, 513)])
def test_an_impossible_input_size_is_refused(size):
    with pytest.raises(UserError, match="--input_size"):
        OnnxConfig(input_size=size)


def test_a_name_of_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=".onnx"):
        onnx_export.export_onnx("run", str(tmp_path / "model.tflite"))
