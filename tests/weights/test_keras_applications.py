"""Weights of Keras Applications: random ones, saved as Keras does it, in our backbones."""

import pathlib

import h5py
import keras
import numpy as np
import pytest

from deeplab_tf import backbones
from deeplab_tf import layers
from deeplab_tf import load_tf1_checkpoint
from deeplab_tf import zoo
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones import vgg
from deeplab_tf.errors import UserError

SIZE = 65  # odd and small; 64 tests the other way of padding


def draw_weights(model: keras.Model) -> None:
    """Gives batch norms statistics as after training."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("moving_variance", "gamma"):
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("moving_mean", "beta", "bias"):
            weight.assign(generator.normal(0, 0.3, weight.shape))


def save_as_keras_2(model: keras.Model, path: pathlib.Path) -> None:
    """Writes weights in the layout of the files that Keras publishes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.1.6"
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group.create_dataset(name, data=weight.numpy())


@pytest.fixture(scope="module")
def vgg_16() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.applications.VGG16(weights=None, include_top=False)
    draw_weights(model)
    return model


@pytest.fixture(scope="module")
def mobilenet_v2() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(SIZE, SIZE, 3)
    )
    draw_weights(model)
    return model


def draw_image(size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, size, size, 3)).astype(np.float32)


def test_mobilenet_v2_computes_the_features_of_keras(mobilenet_v2, tmp_path):
    path = tmp_path / "mobilenet_v2.weights.h5"
    mobilenet_v2.save_weights(path)
    model = backbones.MobileNetV2(output_stride=32)
    report = load_tf1_checkpoint(model, path)
    assert len(report.loaded) == len(model.weights)
    assert {name.split("/")[1] for name in report.unused} == {"Conv_1"}
    for size in (64, SIZE):
        application = keras.applications.MobileNetV2(
            weights=None, include_top=False, input_shape=(size, size, 3)
        )
        application.set_weights(mobilenet_v2.get_weights())
        features = keras.Model(
            application.input,
            {
                "features": application.get_layer("block_16_project_BN").output,
                "stride_16": application.get_layer("block_12_depthwise_relu").output,
            },
        )
        image = draw_image(size)
        expected = features(
            keras.applications.mobilenet_v2.preprocess_input(image.copy()), training=False
        )
        ours = model(image, training=False)
        for name in ("features", "stride_16"):
            np.testing.assert_allclose(ours[name], expected[name], atol=1e-5)


def test_vgg_16_computes_the_features_of_keras_but_for_the_poolings_of_deeplab(
    vgg_16, tmp_path, monkeypatch
):
    path = tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    save_as_keras_2(vgg_16, path)

    def pooling_of_vgg(x, name, stride, rate):
        return keras.layers.MaxPooling2D(2, stride, name=layers.layer_name(name))(x)

    monkeypatch.setattr(vgg, "_pool", pooling_of_vgg)
    model = backbones.VGG16(output_stride=32, weights=path)
    image = draw_image(64)
    expected = vgg_16(keras.applications.vgg16.preprocess_input(image.copy()))
    difference = np.abs(model(image)["features"] - expected).max()
    assert difference < 1e-4 * np.abs(expected).max()  # of means that are rounded to 0.01


def test_vgg_16_subtracts_the_means_that_keras_subtracts():
    bgr = -keras.applications.vgg16.preprocess_input(np.zeros((1, 1, 1, 3), np.float32))
    np.testing.assert_allclose(bgr[0, 0, 0, ::-1], pixels.VGG_MEAN, atol=1.1e-3)


def test_both_ways_in_which_keras_writes_a_file_give_the_same_weights(vgg_16, tmp_path):
    save_as_keras_2(vgg_16, tmp_path / "published.h5")
    vgg_16.save_weights(tmp_path / "own.weights.h5")
    one, other = (
        backbones.VGG16(weights=tmp_path / name) for name in ("published.h5", "own.weights.h5")
    )
    for weight, same, theirs in zip(one.weights, other.weights, vgg_16.weights, strict=True):
        np.testing.assert_array_equal(weight, same)
        np.testing.assert_array_equal(np.sort(weight, axis=None), np.sort(theirs, axis=None))


@pytest.mark.parametrize("is_published", [True, False])
def test_a_file_with_the_classifier_is_taken_too(tmp_path, is_published):
    classifier = keras.applications.MobileNetV2(weights=None, classes=5)
    path = tmp_path / ("published.h5" if is_published else "own.weights.h5")
    if is_published:
        save_as_keras_2(classifier, path)
    else:
        classifier.save_weights(path)
    model = backbones.MobileNetV2(weights=path)
    np.testing.assert_array_equal(
        model.get_layer("MobilenetV2.expanded_conv_16.project").kernel,
        classifier.get_layer("block_16_project").kernel,
    )


def test_the_zoo_has_the_files_of_keras(vgg_16, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "cache"))
    save_as_keras_2(vgg_16, tmp_path / "fetched.h5")
    zoo.add("vgg_16_imagenet_keras", tmp_path / "fetched.h5")
    model = backbones.VGG16(weights="imagenet")  # those that are in the cache
    kernel = model.get_layer("vgg_16.conv5.conv5_3").kernel
    np.testing.assert_array_equal(kernel, vgg_16.get_layer("block5_conv3").kernel)


@pytest.mark.parametrize("is_published", [True, False])
def test_another_network_of_keras_is_refused(tmp_path, is_published):
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="block1_conv1")(image)
    model = keras.Model(image, keras.layers.Conv2D(4, 3, name="block1_conv2")(x))
    path = tmp_path / ("other.h5" if is_published else "other.weights.h5")
    if is_published:
        save_as_keras_2(model, path)
    else:
        model.save_weights(path)
    with pytest.raises(UserError, match="does not have the weights of VGG16, or of MobileNetV2"):
        backbones.VGG16(weights=path)


def test_a_damaged_file_of_keras_is_named(vgg_16, tmp_path):
    path = tmp_path / "cut.weights.h5"
    vgg_16.save_weights(path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut.weights.h5 is an HDF5 file"):
        backbones.VGG16(weights=path)
