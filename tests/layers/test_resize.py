"""Resizing, against recordings of the original and interpolation by hand."""

import numpy as np
import pytest
import tensorflow as tf

import original
from deeplab_tf import layers
from deeplab_tf.layers import resize


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _interpolate(values, position):
    low = min(int(position), len(values) - 2) if len(values) > 1 else 0
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)


# The layer uses TensorFlow's kernel; other backends use the matrices.
RESIZES = {
    "the layer": lambda images, size: layers.ResizeLike()(images, np.zeros((1, *size, 7))),
    "the matrices": resize.resize_by_matrices,
}


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize("old, new", [((3, 4), (9, 5)), ((1, 1), (4, 3)), ((5, 6), (1, 2))])
def test_resizing_aligns_the_corners(name, old, new):
    features = _random(1, *old, 2)
    expected = features[0]
    for axis in (0, 1):
        step = (old[axis] - 1) / max(new[axis] - 1, 1)
        rows = np.moveaxis(expected, axis, 0)
        rows = np.stack([_interpolate(rows, index * step) for index in range(new[axis])])
        expected = np.moveaxis(rows, 0, axis)
    got = RESIZES[name](features, new)
    np.testing.assert_allclose(got[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", RESIZES)
def test_resizing_equals_recordings_of_the_original(name):
    record = {
        name: np.float32(value)[np.newaxis, ..., np.newaxis]
        for name, value in original.load("resizing").items()
    }
    for size in ("5x7", "9x13", "3x4", "1x1", "2x2"):
        expected = record[f"bilinear_{size}"]
        got = RESIZES[name](record["input"], expected.shape[1:3])
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max(), err_msg=size)


def test_resizing_works_if_sizes_are_only_known_at_run_time():
    layer = layers.ResizeLike()

    @tf.function(input_signature=[tf.TensorSpec([1, 1, 1, 2]), tf.TensorSpec([1, None, None, 3])])
    def run(features, reference):
        return layer(features, reference)

    assert run(_random(1, 1, 1, 2), _random(1, 5, 6, 3)).shape == (1, 5, 6, 2)


@pytest.mark.parametrize("scale, size", [(0.5, (4, 5)), (0.75, (5, 7)), (1.5, (10, 13))])
def test_a_scaled_image_has_the_originals_size_and_its_corners(scale, size):
    image = _random(1, 7, 9, 3)
    layer = layers.ScaleImage(scale)
    scaled = layer(image)
    assert scaled.shape == (1, *size, 3) == layer.compute_output_shape(image.shape)
    corners = np.ix_([0], [0, -1], [0, -1], range(3))
    np.testing.assert_allclose(np.asarray(scaled)[corners], image[corners], atol=1e-5)
    dynamic = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_allclose(dynamic(image), scaled, atol=1e-6)
