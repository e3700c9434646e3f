"""Wrong arguments and inputs of layers are refused with what is right; numbers come in any type."""

import keras
import numpy as np
import pytest

import deeplab_tf
from deeplab_tf import layers
from deeplab_tf.backbones import resnet


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.ASPP(rates=6), r"rates is 6; .* such as \(6, 12, 18\)"),
        (lambda: layers.ASPP(rates=(6, 0)), r"rates is \(6, 0\); it must be whole numbers"),
        (lambda: layers.ASPP(rates=(6.5,)), "rates"),
        (lambda: layers.ASPP(rates="6"), "rates is '6'"),
        (lambda: layers.ASPP(pool_size=(3, 3, 3)), "pool_size is .* two whole numbers"),
        (lambda: layers.ASPP(pool_size=0), "pool_size is 0"),
        (lambda: layers.ASPP(dropout=1.5), "between 0 and 1"),
        (lambda: layers.ASPP(gate="nothing"), "activation"),
        (lambda: layers.ASPP(filters=0), "filters"),
        (lambda: layers.LiteRASPP(strides=(0, 1)), r"strides is \(0, 1\)"),
        (lambda: layers.AtrousSeparableConv2D(0), "filters"),
        (lambda: layers.AtrousSeparableConv2D(8, 0), "kernel_size is 0"),
        (lambda: layers.AtrousSeparableConv2D(8, padding="valid"), "one of same, symmetric"),
        (lambda: layers.AtrousSeparableConv2D(8, strides=2, dilation_rate=2), "must be 1"),
        (lambda: layers.AtrousSeparableConv2D(8, activation="nothing"), "activation"),
        (lambda: layers.ImagePooling(pool_size=-1), "pool_size is -1"),
        (lambda: layers.ImagePooling(grid_size=(2, 0)), "grid_size"),
        (lambda: layers.AtrousMaxPool2D(rate=0), "rate is 0; it must be a whole number"),
        (lambda: layers.AtrousMaxPool2D(rate=True), "rate is True"),
        (lambda: layers.ScaleImage(0), "scale is 0; it must be above 0"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_right(make, message):
    with pytest.raises(ValueError, match=message):
        make()


LAYERS = {
    "ASPP": lambda: layers.ASPP(4, rates=(2,)),
    "LiteRASPP": lambda: layers.LiteRASPP(4, pool_size=3),
    "AtrousSeparableConv2D": lambda: layers.AtrousSeparableConv2D(
        4, strides=2, padding="symmetric"
    ),
    "ImagePooling": lambda: layers.ImagePooling(3),
    "AtrousMaxPool2D": lambda: layers.AtrousMaxPool2D(),
    "ScaleImage": lambda: layers.ScaleImage(0.5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_image_without_its_batch_is_refused(name):
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        LAYERS[name]()(np.zeros((9, 12, 5), "float32"))


def test_resize_like_checks_both_of_its_tensors():
    batch = np.zeros((1, 9, 12, 5), "float32")
    with pytest.raises(ValueError, match="expected ndim=4"):
        layers.ResizeLike()(batch[0], batch)
    with pytest.raises(ValueError, match=r"\[9, 12, 5\]; it must be \[B, H, W, D\]"):
        layers.ResizeLike()(batch, batch[0])


def test_numbers_may_be_those_of_numpy():
    aspp = layers.ASPP(4, rates=np.array([2, 3]), pool_size=np.int64(3))
    assert aspp.rates == (2, 3) and aspp.pool_size == (3, 3)
    assert all(type(rate) is int for rate in aspp.rates)  # as JSON needs them


@pytest.fixture
def channels_first_by_default():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_channels_last_whatever_the_default_of_keras(name, channels_first_by_default):
    features = np.random.default_rng(0).normal(size=(1, 9, 12, 5)).astype("float32")
    shape = LAYERS[name]().compute_output_shape(features.shape)
    keras.utils.set_random_seed(0)
    outputs = LAYERS[name]()(features)
    keras.config.set_image_data_format("channels_last")
    keras.utils.set_random_seed(0)
    np.testing.assert_array_equal(outputs, LAYERS[name]()(features))
    assert tuple(outputs.shape) == shape


@pytest.mark.parametrize(
    "version, backbone",
    [
        ("v1", "vgg_16"),
        ("v2", "resnet_v1_50"),
        ("v3", "mobilenet_v3_small_seg"),
        ("v3plus", "mobilenet_v2"),
    ],
)
def test_models_are_channels_last_whatever_the_default_of_keras(
    version, backbone, channels_first_by_default, short_network, monkeypatch
):
    monkeypatch.setitem(resnet.UNITS, backbone, (1, 1, 1, 1))
    model = deeplab_tf.build_model(version, backbone, 3)
    assert model.compute_output_shape((1, 65, 97, 3)) == (1, 65, 97, 3)
