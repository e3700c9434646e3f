"""Views of an image: scales, mirror images, windows, output strides, and the CRF behind them."""

import dataclasses

import keras
import numpy as np
import pytest

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
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation import views
from deeplab_tf.export import parity
from original import rule

CONFIG = dataclasses.replace(TINY_MODEL, num_classes=5, output_stride=16)
OWN_SIZE = DataConfig()
STRIDE_4 = ModelConfig(backbone="mobilenet_v2", num_classes=4, output_stride=4)
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
    predict = prediction.probability_function(model, config, data_config, eval_config=eval_config)
    return predict(image)


def test_scales_and_mirror_images_give_the_probabilities_of_the_original():
    config = ModelConfig(
        version="v3", backbone="mobilenet_v2", num_classes=21, output_stride=16, atrous_rates=()
    )
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


def test_probabilities_of_scales_and_mirror_images_are_averaged(model):
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
    label = prediction.label_function(model, CONFIG, DataConfig(), eval_config=config)(IMAGE)
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
    once = prediction.probability_function(model, CONFIG, data_config)(IMAGE)
    np.testing.assert_allclose(scaled, once, atol=1e-5)


@pytest.mark.parametrize("window_size", [(70, 85), (200, 300)])
def test_a_window_as_large_as_the_image_is_the_whole_image(model, window_size):
    whole = probabilities(model)
    np.testing.assert_array_equal(probabilities(model, window_size=window_size), whole)


def test_large_images_are_seen_in_windows_as_large_as_the_training_crops(
    model, monkeypatch, capsys
):
    monkeypatch.setattr(views, "MAX_WHOLE_PIXELS", 70 * 85 - 1)
    data_config = DataConfig(train_crop_size=(33, 49))
    expected = probabilities(model, window_size=(33, 49))
    got = probabilities(model, data_config=data_config)
    np.testing.assert_array_equal(got, expected)
    label_of = prediction.label_function(model, CONFIG, data_config)
    capsys.readouterr()
    for _ in range(2):
        np.testing.assert_array_equal(label_of(IMAGE), expected.argmax(-1))
    assert capsys.readouterr().out.count("windows of 49x33 pixels") == 1
    whole = probabilities(model, window_size=())
    assert not np.array_equal(whole, expected)
    # An image that is not larger, a run that resizes, and an empty size: whole images.
    np.testing.assert_array_equal(
        probabilities(model, data_config=data_config, image=IMAGE[:69]),
        probabilities(model, image=IMAGE[:69], window_size=()),
    )
    np.testing.assert_array_equal(
        probabilities(model, data_config=data_config, window_size=()), whole
    )
    resized = dataclasses.replace(data_config, min_resize_value=70, max_resize_value=85)
    np.testing.assert_array_equal(probabilities(model, data_config=resized), whole)


def test_where_windows_overlap_their_probabilities_are_averaged(convolution):
    image = IMAGE[:30, :25]
    kernel = convolution.layers[-1].get_weights()[0]
    total, count = np.zeros((30, 25, 4)), np.zeros((30, 25, 1))
    # Windows of a multiple of the output stride plus 1 are not padded.
    for top in (0, 5, 10, 16, 21):
        for left in (0, 6, 12):
            seen = np.zeros((17, 21, 3))  # 4 pixels around, as the convolution is padded
            seen[4:-4, 4:-4] = image[top : top + 9, left : left + 13]
            for y in range(9):
                for x in range(13):
                    part = seen[y : y + 9, x : x + 9]
                    logits = np.einsum("yxc,yxck->k", part, kernel)
                    total[top + y, left + x] += softmax(logits)
                    count[top + y, left + x] += 1
    got = probabilities(
        convolution, STRIDE_4, image=image, window_size=(9, 13), window_overlap=0.25
    )
    assert count.max() == 6
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
    assert transforms.window_starts(size, window, overlap) == starts


def test_windows_overlap_by_the_requested_share_at_least():
    for size in range(60, 200):
        starts = transforms.window_starts(size, 60, 1 / 3)
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
        softmax(prediction.predict_logits(*network, DataConfig()))[0]
        for network in (
            (at_8, IMAGE[np.newaxis], config_at_8), (at_16, IMAGE[np.newaxis], config)
        )
    )  # fmt: skip
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got - expected_at_16).max() > 1e-4


@pytest.mark.parametrize("stride, complaint", [(32, "1.5,3.*not whole"), (5, "output_stride")])
def test_an_impossible_output_stride_is_refused(model, stride, complaint):
    config = dataclasses.replace(CONFIG, atrous_rates=(3, 6) if stride == 32 else ())
    with pytest.raises(UserError, match=complaint):
        views.at_output_stride(model, config, stride)


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"eval_scales": ()}, "eval_scales"),
        ({"eval_scales": (1.0, 0.0)}, "eval_scales=1.0,0.0"),
        ({"window_size": (513,)}, "window_size=513"),
        ({"window_overlap": 1.0}, "window_overlap=1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        EvalConfig(**settings)


def test_the_crf_refines_the_mean_probabilities(model):
    config, parameters = EvalConfig(add_flipped_images=True), crf.PRESETS["v2"]
    label = prediction.label_function(
        model, CONFIG, DataConfig(), eval_config=config, crf_parameters=parameters
    )(IMAGE)
    refined = crf.dense_crf(IMAGE, probabilities(model, add_flipped_images=True), **parameters)
    np.testing.assert_array_equal(label, refined.argmax(axis=-1))
