"""Exports of a network for images of four bands."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from conftest import TINY_MODEL
from conftest import write_run_as_if_trained
from deeplab_tf.config import DataConfig
from deeplab_tf.data import bands
from deeplab_tf.data import decoding
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import artefacts
from deeplab_tf.evaluation import prediction
from deeplab_tf.export import client
from deeplab_tf.export import parity
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.formats import onnx
from deeplab_tf.export.formats import savedmodel
from deeplab_tf.export.formats import tflite
from deeplab_tf.runs import run_dir as run_dirs

pytestmark = pytest.mark.usefixtures("short_network")

MODEL = dataclasses.replace(TINY_MODEL, num_classes=2)
BANDS = tuple(bands.Band(number, f"B{number}", 0, 3000) for number in range(1, 5))
DATASET = records.DatasetInfo(
    "fields", ("soil", "crop"), ((0, 0, 0), (0, 200, 0)), 255, BANDS, (3, 2, 1)
)
IMAGE = parity.draw_images((1, 65, 65, 4), seed=7)[0]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("run"))
    write_run_as_if_trained(folder, MODEL, DataConfig(train_crop_size=(65, 65)), DATASET)
    return folder


@pytest.fixture(scope="module")
def expected(run_dir) -> np.ndarray:
    run = run_dirs.read(run_dir)
    label_of = prediction.label_function(
        run_dirs.load_model(run), run.model_config, run.data_config
    )
    labels = label_of(IMAGE)
    assert len(np.unique(labels)) == 2
    return labels


def labels_of(artefact: str, run_dir: str) -> np.ndarray:
    run = run_dirs.read(run_dir)
    return artefacts.load_artefact(artefact, run.model_config, run.data_config)(IMAGE)


def test_a_savedmodel_takes_pixels_and_files_of_four_bands(run_dir, expected, tmp_path):
    pytest.importorskip("tensorflow_serving")
    folder, _ = savedmodel.export_savedmodel(run_dir, str(tmp_path))
    np.testing.assert_array_equal(labels_of(folder, run_dir), expected)
    loaded = tf.saved_model.load(folder)
    file = tf.constant([decoding.encode_bands(IMAGE)])
    (mask,) = loaded.signatures["serving_bytes"](image_bytes=file)["mask_png_bytes"]
    np.testing.assert_array_equal(tf.io.decode_png(mask)[..., 0], expected)
    palette = json.loads((tmp_path / "1" / "assets" / "palette.json").read_text())
    assert [band["name"] for band in palette["bands"]] == ["B1", "B2", "B3", "B4"]


def test_a_tflite_file_takes_four_bands(run_dir, expected, tmp_path):
    pytest.importorskip("ai_edge_litert")
    output = str(tmp_path / "model.tflite")
    tflite.export_tflite(run_dir, output, tflite_config=TFLiteConfig(quantize="none"))
    assert np.mean(labels_of(output, run_dir) == expected) > 0.999


def test_an_onnx_file_takes_four_bands(run_dir, tmp_path):
    pytest.importorskip("tf2onnx")
    assert onnx.export_onnx(run_dir, str(tmp_path / "model.onnx")).label_agreement > 0.999


def test_the_client_for_rgb_images_refuses_an_export_of_bands(tmp_path):
    palette = {"colors": [[0, 0, 0]], "ignore_label": 255}
    path = tmp_path / "palette.json"
    path.write_text(json.dumps(palette | bands.to_fields(BANDS, (3, 2, 1))))
    with pytest.raises(UserError, match="for images of 4 bands, and this client sends RGB"):
        client.read_palette(str(path))
