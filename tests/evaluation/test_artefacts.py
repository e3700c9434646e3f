"""SavedModels, `.keras` and `.tflite` files as functions from an image to its labels."""

import dataclasses

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
from deeplab_tf.export import parity

CONFIG = dataclasses.replace(TINY_MODEL, num_classes=5, output_stride=16)
TWO_CLASSES = ModelConfig(backbone="mobilenet_v2", num_classes=2, output_stride=1)
IMAGE = parity.draw_images((1, 70, 85, 3), seed=5)[0]


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
    """A file of 33x49 pixels: class 1 where a pixel is brighter than half."""

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
    label_of = artefacts.load_artefact(
        write_tflite(tmp_path / "model.tflite", output), TWO_CLASSES, DataConfig()
    )
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
    label_of = artefacts.load_artefact(path, TWO_CLASSES, DataConfig())
    for image in (IMAGE, IMAGE[:20, :31]):
        np.testing.assert_array_equal(label_of(image), image.mean(axis=-1) > 127.5)


def test_pixels_become_the_values_that_a_quantised_input_stands_for():
    pixels = np.float32([0, 1, 128, 255])
    details = {"dtype": np.int8, "quantization": (1.0, -128)}
    np.testing.assert_array_equal(artefacts._quantised(pixels, details), [-128, -127, 0, 127])
    details = {"dtype": np.uint8, "quantization": (0.0, 0)}
    np.testing.assert_array_equal(artefacts._quantised(pixels, details), [0, 1, 128, 255])


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("none.tflite", None, "no file .*none.tflite"),
        ("none.keras", None, "no file .*none.keras"),
        ("damaged.tflite", b"damaged", "damaged.tflite cannot be used"),
        ("damaged.keras", b"damaged", "damaged.keras cannot be used"),
    ],
)
def test_a_file_that_is_not_an_artefact_is_named(tmp_path, name, content, complaint):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        artefacts.load_artefact(str(tmp_path / name), CONFIG, DataConfig())


def test_an_artefact_refuses_what_it_cannot_do(tmp_path):
    path = write_tflite(tmp_path / "labels.tflite", "labels")
    with pytest.raises(UserError, match="--crf refines scores"):
        artefacts.load_artefact(path, CONFIG, DataConfig(), crf_parameters=crf.PRESETS["v1"])
    with pytest.raises(UserError, match="one view.*--eval_scales"):
        artefacts.load_artefact(
            path, CONFIG, DataConfig(), eval_config=EvalConfig(add_flipped_images=True)
        )
    path = write_tflite(tmp_path / "none.tflite", "no_images")
    with pytest.raises(UserError, match="class ids .* or scores"):
        artefacts.load_artefact(path, CONFIG, DataConfig())
    classifier(4).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="returns 5 classes"):
        artefacts.load_artefact(str(tmp_path / "other.keras"), CONFIG, DataConfig())
