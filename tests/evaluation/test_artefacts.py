"""SavedModels, `.keras` and `.tflite` files as functions from an image to its labels."""

import dataclasses
import random
import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from conftest import TINY_MODEL
from deeplab_tf import crf
from deeplab_tf import layers
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import artefacts
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation.artefacts import tflite
from deeplab_tf.export import parity

CONFIG = dataclasses.replace(TINY_MODEL, num_classes=5, output_stride=16)
TWO_CLASSES = ModelConfig(backbone="mobilenet_v2", num_classes=2, output_stride=4)
IMAGE = parity.draw_images((1, 70, 85, 3), seed=5)[0]


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """Leaves out the process that probes a `.tflite` file, which takes a second."""
    monkeypatch.setattr(tflite, "probe", lambda path: None)


def load(path, num_classes: int = 2, **settings):
    """Loads an artefact for a run with this number of classes, at output stride 4."""
    config = dataclasses.replace(TWO_CLASSES, num_classes=num_classes)
    return artefacts.load_artefact(str(path), config, DataConfig(), **settings)


def classifier(num_classes: int) -> keras.Model:
    """A network of one layer with an output stride, and logits resized to the input."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input([None, None, 3])
    scaled = keras.layers.Rescaling(2 / 255, -1)(pixels)
    logits = keras.layers.Conv2D(num_classes, 25, strides=16, padding="same")(scaled)
    return keras.Model(pixels, layers.ResizeLike()(logits, pixels))


def test_a_keras_file_gives_the_labels_of_its_model(tmp_path):
    path, model = str(tmp_path / "model.keras"), classifier(5)
    model.save(path)
    for eval_config in (EvalConfig(), EvalConfig(add_flipped_images=True)):
        settings = (CONFIG, DataConfig())
        label = artefacts.load_artefact(path, *settings, eval_config=eval_config)(IMAGE)
        expected = prediction.label_function(model, *settings, eval_config=eval_config)(IMAGE)
        assert np.mean(label == expected) > 0.999


class Brightness(tf.Module):
    """Takes images of 33x49 pixels: class 1 where a pixel is brighter than half."""

    def __init__(self, output: str, height: int | None = 33, width: int | None = 49):
        super().__init__()
        spec = tf.TensorSpec([1, height, width, 3], tf.float32)
        self.serve = tf.function(getattr(self, output), input_signature=[spec], autograph=False)

    def scores(self, images):
        brightness = tf.reduce_mean(images, axis=-1, keepdims=True)
        return tf.concat([255.0 - brightness, brightness], axis=-1)

    def labels(self, images):
        return tf.argmax(self.scores(images), axis=-1, output_type=tf.int32)

    def half_size_scores(self, images):
        return self.scores(images)[:, ::2, ::2]

    def no_images(self, images):
        return tf.reduce_sum(images)

    def scores_and_labels(self, images):
        return self.scores(images), self.labels(images)

    def float_labels(self, images):
        return tf.cast(self.labels(images), tf.float32)

    def class_nine(self, images):
        return 9 + self.labels(images)

    def not_numbers(self, images):
        return tf.math.log(-1 - self.scores(images))

    def broken_weights(self, images):
        return self.scores(images) + tf.constant([np.nan, 0.0])


def write_tflite(path, output: str, **size) -> str:
    module = Brightness(output, **size)
    function = module.serve.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    path.write_bytes(converter.convert())
    return str(path)


def two_halves(height: int, width: int) -> np.ndarray:
    image = np.full((height, width, 3), 30, np.uint8)
    image[:, width // 2 :] = 220
    return image


@pytest.mark.parametrize("output", ["scores", "labels", "half_size_scores"])
def test_a_tflite_file_labels_images_of_its_size_smaller_and_larger_ones(output, tmp_path):
    label_of = load(write_tflite(tmp_path / "model.tflite", output))
    for size in ((33, 49), (20, 48), (99, 98), (40, 20)):
        image = two_halves(*size)
        label = label_of(image)
        assert label.dtype == np.int32 and label.shape == size
        columns = np.arange(size[1])
        is_sure = np.abs(columns - (size[1] - 1) / 2) > 2  # what shrinking may blur is left out
        expected = np.broadcast_to(columns >= size[1] // 2, size)
        np.testing.assert_array_equal(label[:, is_sure], expected[:, is_sure])


def test_a_tflite_file_of_any_size_gets_images_as_they_are(tmp_path):
    path = write_tflite(tmp_path / "model.tflite", "scores", height=None, width=None)
    label_of = load(path)
    for image in (IMAGE, IMAGE[:20, :31]):
        np.testing.assert_array_equal(label_of(image), image.mean(axis=-1) > 127.5)


def test_pixels_become_the_values_that_a_quantised_input_stands_for():
    pixels = np.float32([0, 1, 128, 255])
    details = {"dtype": np.int8, "quantization": (1.0, -128)}
    np.testing.assert_array_equal(tflite.to_input_values(pixels, details), [-128, -127, 0, 127])
    details = {"dtype": np.uint8, "quantization": (0.0, 0)}
    np.testing.assert_array_equal(tflite.to_input_values(pixels, details), [0, 1, 128, 255])


@pytest.mark.parametrize(
    "output, complaint",
    [
        ("no_images", "must take one image"),
        ("scores_and_labels", "must take one image"),
        ("float_labels", "must take one image"),
        ("class_nine", "finds the class 10, but the run has 2 classes"),
        ("not_numbers", "scores that are NaN or infinite"),
        ("broken_weights", "weights that are NaN or infinite"),
    ],
)
def test_a_tflite_file_that_returns_something_else_is_refused(tmp_path, output, complaint):
    path = write_tflite(tmp_path / "model.tflite", output)
    with pytest.raises(UserError, match=f"model.tflite.*{complaint}"):
        load(path)(two_halves(33, 49))


def test_scores_of_other_classes_are_refused(tmp_path):
    label_of = load(write_tflite(tmp_path / "model.tflite", "scores"), num_classes=5)
    with pytest.raises(UserError, match=r"\[33, 49, 2\] .*not scores \[height, width, 5\]"):
        label_of(two_halves(33, 49))


def test_a_tflite_file_that_crashes_the_interpreter_is_named(tmp_path, monkeypatch):
    monkeypatch.undo()
    path = write_tflite(tmp_path / "model.tflite", "scores")
    load(path)
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(tflite, "_PROBE", crash)
    with pytest.raises(UserError, match="model.tflite cannot be used.*crashes on it.*-11"):
        load(path)


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("none.tflite", None, "no file .*none.tflite"),
        ("none.keras", None, "no file .*none.keras"),
        ("none", None, "none is not a SavedModel"),
        ("model.onnx", b"onnx", "model.onnx cannot be used: give a .tflite or .keras file, or the"),
        ("damaged.tflite", b"damaged", "damaged.tflite cannot be used"),
        ("damaged.keras", b"damaged", "damaged.keras cannot be used"),
    ],
)
def test_a_file_that_is_not_an_artefact_is_named(tmp_path, name, content, complaint):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        load(tmp_path / name)


def test_an_artefact_refuses_what_it_cannot_do(tmp_path):
    path = write_tflite(tmp_path / "labels.tflite", "labels")
    with pytest.raises(UserError, match="--crf refines scores"):
        load(path, crf_parameters=crf.PRESETS["v1"])
    with pytest.raises(UserError, match="one inference mode.*--eval_scales"):
        load(path, eval_config=EvalConfig(add_flipped_images=True))


def test_a_keras_file_of_other_classes_is_refused(tmp_path):
    classifier(4).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="returns 5 classes"):
        load(tmp_path / "other.keras", num_classes=5)


def test_a_keras_file_with_code_is_refused(tmp_path):
    pixels = keras.Input([None, None, 3])
    code = keras.layers.Lambda(lambda image: image[..., :2])
    keras.Model(pixels, code(pixels)).save(tmp_path / "code.keras")
    with pytest.raises(UserError, match="code.keras cannot be used.*Lambda"):
        load(tmp_path / "code.keras")


def test_a_keras_file_with_broken_weights_is_refused(tmp_path):
    model = classifier(2)
    model.layers[2].bias.assign([np.nan, 0])
    model.save(tmp_path / "broken.keras")
    with pytest.raises(UserError, match="broken.keras has weights that are NaN or infinite"):
        load(tmp_path / "broken.keras")


def test_a_keras_file_that_unpacks_to_far_more_is_refused(tmp_path):
    classifier(2).save(tmp_path / "bomb.keras")
    with zipfile.ZipFile(tmp_path / "bomb.keras", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(80 * 2**20))
    with pytest.raises(UserError, match="bomb.keras cannot be used: it would unpack to 80 MiB"):
        load(tmp_path / "bomb.keras")


class Served(tf.Module):
    """A SavedModel that returns what `answer` makes of images."""

    def __init__(self, answer, takes=((None, None, None, 3), tf.uint8), weight=1.0, name="images"):
        super().__init__()
        self.weight = tf.Variable(weight)
        spec = tf.TensorSpec(*takes, name=name)
        self.serve = tf.function(
            lambda images: {"labels": answer(tf.cast(images, tf.float32) * self.weight)},
            input_signature=[spec],
            autograph=False,
        )


def write_saved_model(path, answer, **settings) -> str:
    module = Served(answer, **settings)
    tf.saved_model.save(module, str(path), {"serving_default": module.serve})
    return str(path)


def bright(images):
    return tf.cast(tf.reduce_mean(images, axis=-1) > 127.5, tf.int32)


def test_a_saved_model_is_described_and_labels_images(tmp_path, capsys):
    label_of = load(write_saved_model(tmp_path / "model", bright))
    told = capsys.readouterr().out
    assert f"model: a SavedModel of TensorFlow {tf.__version__}" in told
    assert "serving_default(images)" in told and "only those that you trust" in told
    assert "warning" not in told
    image = two_halves(20, 30)
    np.testing.assert_array_equal(label_of(image), image[..., 0] > 127)


def test_operations_of_a_saved_model_that_reach_files_are_named(tmp_path, capsys):
    def spying(images):
        with tf.control_dependencies([tf.io.write_file("spied", tf.io.read_file("spied"))]):
            return bright(images)

    load(write_saved_model(tmp_path / "model", spying))
    assert "Python code: ReadFile, WriteFile" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"answer": lambda x: tf.reduce_mean(x, -1)}, "is not an export"),
        ({"answer": lambda x: tf.cast(x, tf.int32)}, "is not an export"),
        ({"answer": bright, "takes": ((None, None, None, 3), tf.float32)}, "is not an export"),
        ({"answer": bright, "takes": ((None, None, 3), tf.uint8)}, "is not an export"),
        ({"answer": bright, "name": "pixels"}, "is not an export"),
        ({"answer": lambda x: bright(x)[:, ::2, ::2]}, r"int32 \[17, 25\] for an image"),
        ({"answer": lambda x: bright(x)[:0]}, "cannot label an image of 33x49"),
        ({"answer": lambda x: 9 * bright(x)}, "finds the class 9, but the run has 2"),
        ({"answer": lambda x: -bright(x)}, "finds the class -1"),
        ({"answer": lambda x: tf.ensure_shape(bright(x), [1, 5, 5])}, "cannot label an image"),
        ({"answer": bright, "weight": np.nan}, "weights that are NaN or infinite in 1 of 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_saved_model_that_returns_something_else_is_refused(tmp_path, settings, complaint):
    path = write_saved_model(tmp_path / "model", **settings)
    with pytest.raises(UserError, match=f"model.*{complaint}"):
        load(path)(two_halves(33, 49))


def test_an_artefact_that_names_other_classes_is_warned_of(tmp_path, capsys):
    tflite_file = write_tflite(tmp_path / "model.tflite", "labels")
    with zipfile.ZipFile(tflite_file, "a") as archive:
        archive.writestr("labels.txt", "dark\nbright\n")
    folder = write_saved_model(tmp_path / "model", bright)
    (tmp_path / "model/assets").mkdir(exist_ok=True)
    (tmp_path / "model/assets/labels.txt").write_text("dark\nbright\n")
    for path in (tflite_file, folder):
        load(path, class_names=("dark", "bright"))
        assert "warning" not in capsys.readouterr().out
        load(path, class_names=("dark", "light", "dim"))
        assert f"the class 1 of {path} is bright, and that of the run is light" in (
            capsys.readouterr().out
        )


def test_a_saved_model_without_logits_cannot_have_a_crf(tmp_path):
    path = write_saved_model(tmp_path / "model", bright)
    with pytest.raises(UserError, match="not an export of deeplab_tf.*logits"):
        load(path, crf_parameters=crf.PRESETS["v1"])


def damaged(content: bytes, seed: int) -> bytes:
    """Cuts a file off, or overwrites some of its bytes."""
    choice = random.Random(seed)
    if seed % 4 == 0:
        return content[: choice.randrange(len(content))]
    content = bytearray(content)
    for _ in range(choice.choice([1, 4, 30])):
        content[choice.randrange(len(content))] = choice.randrange(256)
    return bytes(content)


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index", "model.keras"])
def test_a_damaged_artefact_ends_in_one_message_or_labels(tmp_path, file):
    whole, path = tmp_path / "whole", tmp_path / "damaged"
    if file.endswith(".keras"):
        whole.mkdir()
        classifier(2).save(whole / file)
    else:
        write_saved_model(whole, bright)
    outcomes = set()
    for seed in range(24):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        (path / file).write_bytes(damaged((whole / file).read_bytes(), seed))
        try:
            label = load(path / file if file.endswith(".keras") else path)(two_halves(9, 12))
            outcomes.add(label.shape)
        except UserError as error:
            assert str(path) in str(error)
            outcomes.add("refused")
    assert "refused" in outcomes and outcomes <= {"refused", (9, 12)}
