"""The SavedModel, loaded as a stranger loads it."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from deeplab_tf import build_model
from deeplab_tf import checkpoints
from deeplab_tf import inference
from deeplab_tf import run_dir as run_dirs
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.export import parity
from deeplab_tf.export import savedmodel
from deeplab_tf.export import serving
from deeplab_tf.records import DatasetInfo
from deeplab_tf.records import default_colors

STRANGER = """
import sys
sys.modules["keras"] = sys.modules["deeplab_tf"] = None  # importing them fails from here on
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
pictures = np.load(sys.argv[2])
labels = loaded.signatures["serving_default"](images=tf.constant(pictures))["labels"]
np.savez(sys.argv[3], labels=labels, logits=loaded.logits(pictures))
"""


@pytest.fixture(scope="module", autouse=True)
def short_models():
    with short_mobilenet_v2():
        yield


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> str:
    """A run dir with weights as if from training: no statistic is what it began as."""
    folder = str(tmp_path_factory.mktemp("run"))
    names = ("background", "disc", "box", "star")
    dataset = DatasetInfo("invented", names, default_colors(4), ignore_label=255)
    model_config = dataclasses.replace(TINY_MODEL, num_classes=4, output_stride=16)
    data_config = DataConfig(train_crop_size=(65, 65))
    run_dirs.create(folder, model_config, data_config, TrainConfig(), dataset)
    keras.utils.set_random_seed(0)
    model = build_model(**dataclasses.asdict(model_config))
    generator = np.random.default_rng(0)
    for variable in model.non_trainable_variables:
        if variable.name.startswith("moving"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    checkpoints.save_weights(model, folder)
    return folder


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    """An export that has replaced an earlier one."""
    output_dir = tmp_path_factory.mktemp("export") / "model"
    write_earlier_export(output_dir)
    savedmodel.export_savedmodel(run_dir, str(output_dir))
    return output_dir


def write_earlier_export(output_dir):
    (output_dir / "variables").mkdir(parents=True)
    (output_dir / "saved_model.pb").write_bytes(b"earlier")


def test_plain_tensorflow_loads_it_without_keras_and_this_package(run_dir, exported, tmp_path):
    pictures = parity.draw_pictures((2, 75, 102, 3), seed=7)
    np.save(tmp_path / "pictures.npy", pictures)
    arguments = [exported, tmp_path / "pictures.npy", tmp_path / "results.npz"]
    subprocess.run([sys.executable, "-c", STRANGER, *map(str, arguments)], check=True)
    results = np.load(tmp_path / "results.npz")
    run = run_dirs.read(run_dir)
    expected = inference.predict_logits(
        run_dirs.load_model(run), pictures, run.model_config, run.data_config
    )
    np.testing.assert_allclose(results["logits"], expected, atol=1e-4)
    assert results["labels"].dtype == np.uint8
    np.testing.assert_array_equal(results["labels"], results["logits"].argmax(axis=-1))


def test_assets_tell_classes_colours_and_parity(run_dir, exported):
    dataset = run_dirs.read(run_dir).dataset
    labels = (exported / "assets/labels.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(labels) == dataset.class_names
    palette = json.loads((exported / "assets/palette.json").read_text())
    assert palette["colors"] == [list(color) for color in dataset.colors]
    assert palette["ignore_label"] == dataset.ignore_label
    report = json.loads((exported / "assets/parity.json").read_text())
    assert report["label_agreement"] > 0.999
    assert [batch["shape"][0] for batch in report["batches"]] == [1, 2, 1]
    assert all(batch["milliseconds"] > 0 for batch in report["batches"])


def test_a_folder_with_other_files_is_refused_and_left_alone(run_dir, tmp_path):
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(UserError, match="thesis.txt"):
        savedmodel.export_savedmodel(run_dir, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_finished_export_replaces_an_earlier_one_and_nothing_else_is_left(exported):
    assert (exported / "saved_model.pb").read_bytes() != b"earlier"
    assert {path.name for path in exported.iterdir()} == savedmodel.EXPORT_ENTRIES
    assert [path.name for path in exported.parent.iterdir()] == ["model"]


def test_eval_reads_it_as_a_function_from_picture_to_labels(run_dir, exported):
    run = run_dirs.read(run_dir)
    model = run_dirs.load_model(run)
    label_of = inference.label_function(model, run.model_config, run.data_config)
    exported_label_of = inference.saved_model_label_function(str(exported))
    picture = parity.draw_pictures((1, 80, 61, 3), seed=3)[0]
    label = exported_label_of(picture)
    assert label.dtype == np.int32 and label.shape == (80, 61)
    assert np.mean(label == label_of(picture)) > 0.999


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_folder_that_is_no_export_is_no_model_to_evaluate(tmp_path, content):
    if content:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        inference.saved_model_label_function(str(tmp_path))


def test_a_saved_model_of_something_else_is_no_model_to_evaluate(tmp_path):
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(UserError, match="no export of deeplab_tf"):
        inference.saved_model_label_function(str(tmp_path))


def test_an_export_that_disagrees_fails_and_the_earlier_one_stays(
    run_dir, tmp_path, monkeypatch
):
    class WrongModule(serving.ServingModule):
        def __init__(self, model, *arguments, **named):
            super().__init__(model, *arguments, **named)
            self._predict_logits = lambda images: model(images, training=True)  # batch statistics

    output_dir = tmp_path / "model"
    write_earlier_export(output_dir)
    monkeypatch.setattr(serving, "ServingModule", WrongModule)
    with pytest.raises(UserError, match="does not compute what the Keras model does"):
        savedmodel.export_savedmodel(run_dir, str(output_dir))
    assert (output_dir / "saved_model.pb").read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_logits_that_are_no_numbers_are_no_parity():
    nothing = parity.Parity((1, 8, 8, 3), 1.0, 1, float("nan"), float("nan"), 1.0)
    assert not nothing.holds


def pixel_classifier(num_classes: int, **settings) -> keras.Model:
    pixels = keras.Input([None, None, 3])
    return keras.Model(pixels, keras.layers.Conv2D(num_classes, 1, **settings)(pixels))


def run_of(num_classes: int, data_config: DataConfig) -> run_dirs.Run:
    names = tuple(f"class {index}" for index in range(num_classes))
    dataset = DatasetInfo("invented", names, ((0, 0, 0),) * num_classes, ignore_label=65535)
    return run_dirs.Run("", ModelConfig(output_stride=16), data_config, TrainConfig(), dataset)


def test_more_than_256_classes_are_served_as_uint16(tmp_path):
    model = pixel_classifier(
        300, kernel_initializer="zeros", bias_initializer=lambda shape, dtype: range(300)
    )
    module = serving.ServingModule(model, run_of(300, DataConfig()), assets_folder=str(tmp_path))
    labels = module.serving_default(parity.draw_pictures((1, 20, 30, 3), seed=0))["labels"].numpy()
    assert labels.dtype == np.uint16 and labels.shape == (1, 20, 30)
    assert (labels == 299).all()


def test_an_export_of_resized_pictures_answers_at_their_own_size(tmp_path):
    data_config = DataConfig(
        train_crop_size=(41, 41), min_resize_value=33, max_resize_value=65, resize_factor=8
    )
    model, run = pixel_classifier(4), run_of(4, data_config)
    module = serving.ServingModule(model, run, assets_folder=str(tmp_path))
    signatures = {"serving_default": module.serving_default}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=signatures)
    results = parity.compare_with_keras(str(tmp_path / "model"), model, run)
    assert [result.shape for result in results] == [(1, 41, 41, 3), (2, 41, 74, 3), (1, 91, 41, 3)]
    assert all(result.label_agreement > 0.999 for result in results)


def test_an_export_can_carry_the_crf(run_dir, tmp_path):
    config = CrfConfig(crf="v1", crf_iterations=3)
    results = savedmodel.export_savedmodel(run_dir, str(tmp_path / "model"), crf_config=config)
    # It was compared with `dense_crf`; what it says is not what the network alone does.
    assert min(result.label_agreement for result in results) > 0.999
    pictures = parity.draw_pictures((1, 65, 65, 3), seed=1)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    labels = loaded.signatures["serving_default"](images=tf.constant(pictures))["labels"]
    assert np.mean(labels != np.argmax(loaded.logits(pictures), axis=-1)) > 0.01
