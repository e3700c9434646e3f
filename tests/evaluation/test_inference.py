"""How a network looks at images: scales, mirrored images, windows, strides, artefacts."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
import original
from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from deeplab_tf import crf
from deeplab_tf import layers
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import inference
from deeplab_tf.export import parity
from original import rule

CONFIG = dataclasses.replace(TINY_MODEL, num_classes=5, output_stride=16)
OWN_SIZE = DataConfig()
STRIDE_1 = ModelConfig(backbone="mobilenet_v2", num_classes=4, output_stride=1)
IMAGE = parity.draw_images((1, 70, 85, 3), seed=5)[0]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network of one layer that has an output stride, and logits resized to the input."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input([None, None, 3])
    scaled = keras.layers.Rescaling(2 / 255, -1)(pixels)
    logits = keras.layers.Conv2D(5, 25, strides=16, padding="same", name="logits")(scaled)
    return keras.Model(pixels, layers.ResizeLike()(logits, pixels))


@pytest.fixture(scope="module")
def convolution() -> keras.Model:
    """A toy whose logits depend on a neighbourhood of 9x9 pixels, at stride 1."""
    pixels = keras.Input([None, None, 3])
    kernel = np.random.default_rng(0).normal(0, 0.02, (9, 9, 3, 4))
    layer = keras.layers.Conv2D(4, 9, padding="same", use_bias=False)
    toy = keras.Model(pixels, layer(pixels))
    layer.set_weights([kernel])
    return toy


def softmax(logits) -> np.ndarray:
    powers = np.exp(np.float64(logits) - np.max(logits, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def probabilities(model, config=CONFIG, data_config=OWN_SIZE, image=IMAGE, **settings):
    eval_config = EvalConfig(**settings)
    return inference.probability_function(model, config, data_config, eval_config)(image)


def test_scales_and_mirrored_images_give_the_probabilities_of_the_original():
    config = ModelConfig("v3", "mobilenet_v2", 21, 16, atrous_rates=())
    model = deeplab_tf.build_model(**dataclasses.asdict(config))
    for variable in model.weights:
        name = layers.official_name(variable)
        variable.assign(rule.variable(name, tuple(variable.shape)))
    record = original.load("logits")["multi_scale"]["scales_and_flips"]
    image = rule.images(record["height"], record["width"], record["seed"])[0]
    got = probabilities(
        model, config, image=image, eval_scales=record["scales"], add_flipped_images=True
    )
    # The first, middle and last row and column, every fifth class.
    some = got[[0, 48, 96]][:, [0, 64, 128]][..., ::5]
    np.testing.assert_allclose(some, record["probabilities"], atol=2e-5)


def test_probabilities_of_scales_and_mirrored_images_are_averaged(model):
    padded = np.full((1, 81, 97, 3), 127.5, np.float32)
    padded[0, :70, :85] = IMAGE
    head = keras.Model(model.input, model.get_layer("logits").output)
    expected = []
    # The size of the scaled image, and that of the logits: of scale 1 at least, at stride 16.
    for size, grid in (((41, 49), (6, 7)), ((121, 145), (8, 10))):
        scaled = transforms.resize_bilinear(padded, size).numpy()
        for step in (1, -1):
            logits = transforms.resize_bilinear(head(scaled[:, :, ::step], training=False), grid)
            logits = transforms.resize_bilinear(logits[:, :, ::step], (81, 97))
            expected.append(softmax(logits)[0, :70, :85])
    got = probabilities(model, eval_scales=(0.5, 1.5), add_flipped_images=True)
    np.testing.assert_allclose(got, np.mean(expected, axis=0), atol=1e-5)


def test_labels_are_those_of_the_highest_mean_probability(model):
    config = EvalConfig(eval_scales=(0.5, 1.0), window_size=(50, 60))
    label = inference.label_function(model, CONFIG, DataConfig(), eval_config=config)(IMAGE)
    expected = probabilities(model, eval_scales=(0.5, 1.0), window_size=(50, 60))
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label, expected.argmax(axis=-1))


def test_scales_and_windows_see_images_resized_to_a_range(model):
    data_config = DataConfig(min_resize_value=33, max_resize_value=65)
    resized = transforms.resize_bilinear(IMAGE[np.newaxis], (33, 40))[0]
    settings = {"eval_scales": (1.0, 1.5), "window_size": (25, 33)}
    expected = transforms.resize_bilinear(
        probabilities(model, image=resized.numpy(), **settings)[np.newaxis], (70, 85)
    )
    got = probabilities(model, data_config=data_config, **settings)
    np.testing.assert_allclose(got, expected[0], atol=1e-5)
    scaled = probabilities(model, data_config=data_config, eval_scales=(1.0, 1.0))
    once = inference.probability_function(model, CONFIG, data_config)(IMAGE)
    np.testing.assert_allclose(scaled, once, atol=1e-5)


@pytest.mark.parametrize("window_size", [(70, 85), (200, 300)])
def test_a_window_as_large_as_the_image_is_the_whole_image(model, window_size):
    whole = probabilities(model)
    np.testing.assert_array_equal(probabilities(model, window_size=window_size), whole)


def test_where_windows_overlap_their_probabilities_are_averaged(convolution):
    image = IMAGE[:30, :25]
    kernel = convolution.layers[-1].get_weights()[0]
    total, count = np.zeros((30, 25, 4)), np.zeros((30, 25, 1))
    for top in (0, 7, 13, 20):
        for left in (0, 6, 13):
            seen = np.zeros((18, 20, 3))  # 4 pixels around, as the convolution is padded
            seen[4:-4, 4:-4] = image[top : top + 10, left : left + 12]
            for y in range(10):
                for x in range(12):
                    part = seen[y : y + 9, x : x + 9]
                    logits = np.einsum("yxc,yxck->k", part, kernel)
                    total[top + y, left + x] += softmax(logits)
                    count[top + y, left + x] += 1
    got = probabilities(
        convolution, STRIDE_1, image=image, window_size=(10, 12), window_overlap=0.25
    )
    assert count.max() == 4
    np.testing.assert_allclose(got, total / count, atol=1e-4)


@pytest.mark.parametrize(
    "size, window, overlap, starts",
    [
        (10, 10, 0.5, [0]),
        (5, 10, 0.5, [0]),
        (11, 10, 0.5, [0, 1]),
        (20, 10, 0.0, [0, 10]),
        (20, 10, 0.5, [0, 5, 10]),
        (3, 1, 0.9, [0, 1, 2]),
    ],
)
def test_windows_cover_a_side_from_end_to_end(size, window, overlap, starts):
    assert inference.window_starts(size, window, overlap) == starts


def test_windows_overlap_by_the_share_that_is_asked_for_at_least():
    for size in range(60, 200):
        starts = inference.window_starts(size, 60, 1 / 3)
        assert starts[0] == 0 and starts[-1] == size - 60
        assert max(np.diff(starts), default=0) <= 40


def test_another_output_stride_is_the_network_built_at_it_with_the_same_weights():
    with short_mobilenet_v2():
        config = dataclasses.replace(CONFIG, atrous_rates=(2, 4))
        at_16 = deeplab_tf.build_model(**dataclasses.asdict(config))
        config_at_8 = dataclasses.replace(CONFIG, output_stride=8, atrous_rates=(4, 8))
        at_8 = deeplab_tf.build_model(**dataclasses.asdict(config_at_8))
        at_8.set_weights(at_16.get_weights())
        got = probabilities(at_16, config, eval_output_stride=8)
    expected, expected_at_16 = (
        softmax(inference.predict_logits(*network, DataConfig()))[0]
        for network in (
            (at_8, IMAGE[np.newaxis], config_at_8), (at_16, IMAGE[np.newaxis], config)
        )
    )  # fmt: skip
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got - expected_at_16).max() > 1e-4


@pytest.mark.parametrize("stride, complaint", [(32, "1.5,3.*not whole"), (5, "output_stride")])
def test_an_output_stride_that_cannot_be_is_refused(model, stride, complaint):
    config = dataclasses.replace(CONFIG, atrous_rates=(3, 6) if stride == 32 else ())
    with pytest.raises(UserError, match=complaint):
        inference.at_output_stride(model, config, stride)


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"eval_scales": ()}, "eval_scales"),
        ({"eval_scales": (1.0, 0.0)}, "eval_scales=1.0,0.0"),
        ({"window_size": (513,)}, "window_size=513"),
        ({"window_overlap": 1.0}, "window_overlap=1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        EvalConfig(**settings)


def test_the_crf_refines_the_mean_probabilities(model):
    config, parameters = EvalConfig(add_flipped_images=True), crf.PRESETS["v2"]
    label = inference.label_function(model, CONFIG, DataConfig(), parameters, config)(IMAGE)
    refined = crf.dense_crf(IMAGE, probabilities(model, add_flipped_images=True), **parameters)
    np.testing.assert_array_equal(label, refined.argmax(axis=-1))


def test_a_keras_file_gives_the_labels_of_its_model(model, tmp_path):
    path = str(tmp_path / "model.keras")
    model.save(path)
    for eval_config in (EvalConfig(), EvalConfig(add_flipped_images=True)):
        settings = (CONFIG, DataConfig(), None, eval_config)
        label = inference.load_artefact(path, *settings)(IMAGE)
        expected = inference.label_function(model, *settings)(IMAGE)
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
    label_of = inference.load_artefact(
        write_tflite(tmp_path / "model.tflite", output), STRIDE_1, DataConfig()
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
    label_of = inference.load_artefact(path, STRIDE_1, DataConfig())
    for image in (IMAGE, IMAGE[:20, :31]):
        np.testing.assert_array_equal(label_of(image), image.mean(axis=-1) > 127.5)


def test_pixels_become_the_values_that_a_quantised_input_stands_for():
    pixels = np.float32([0, 1, 128, 255])
    details = {"dtype": np.int8, "quantization": (1.0, -128)}
    np.testing.assert_array_equal(inference._quantised(pixels, details), [-128, -127, 0, 127])
    details = {"dtype": np.uint8, "quantization": (0.0, 0)}
    np.testing.assert_array_equal(inference._quantised(pixels, details), [0, 1, 128, 255])


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("none.tflite", None, "no file .*none.tflite"),
        ("none.keras", None, "no file .*none.keras"),
        ("damaged.tflite", b"damaged", "damaged.tflite cannot be used"),
        ("damaged.keras", b"damaged", "damaged.keras cannot be used"),
    ],
)
def test_a_file_that_is_no_artefact_is_named(tmp_path, name, content, complaint):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        inference.load_artefact(str(tmp_path / name), CONFIG, DataConfig())


def test_an_artefact_refuses_what_it_cannot_do(tmp_path, convolution):
    path = write_tflite(tmp_path / "labels.tflite", "labels")
    with pytest.raises(UserError, match="--crf refines scores"):
        inference.load_artefact(path, CONFIG, DataConfig(), crf.PRESETS["v1"])
    with pytest.raises(UserError, match="as it was exported to.*--eval_scales"):
        inference.load_artefact(
            path, CONFIG, DataConfig(), eval_config=EvalConfig(add_flipped_images=True)
        )
    path = write_tflite(tmp_path / "none.tflite", "no_images")
    with pytest.raises(UserError, match="class ids .* or scores"):
        inference.load_artefact(path, CONFIG, DataConfig())
    convolution.save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="returns 5 classes"):
        inference.load_artefact(str(tmp_path / "other.keras"), CONFIG, DataConfig())
