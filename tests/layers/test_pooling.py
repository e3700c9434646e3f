"""Image pooling, against NumPy's means."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import layers


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    "settings, size, windows",
    [
        ({"pool_size": (3, 4)}, (7, 9), (5, 6)),
        ({"pool_size": (3, 4), "strides": (2, 3)}, (7, 9), (3, 2)),
        ({"pool_size": (3, 20)}, (7, 9), (5, 1)),  # no larger than the map
        ({"grid_size": (2, 3)}, (7, 9), (4, 7)),
        ({}, (7, 9), (1, 1)),
    ],
)
def test_image_pooling_averages_windows_whether_the_size_is_known_or_not(settings, size, windows):
    features = _random(2, *size, 3)
    layer = layers.ImagePooling(**settings)
    pooled = layer(features)
    assert pooled.shape == (2, *windows, 3) == layer.compute_output_shape(features.shape)
    height, width = (min(pair) for pair in zip(size, settings.get("pool_size", size)))
    if "grid_size" in settings:
        height, width = 4, 3
    last = [(count - 1) * step for count, step in zip(windows, settings.get("strides", (1, 1)))]
    expected = features[:, last[0] : last[0] + height, last[1] : last[1] + width].mean((1, 2))
    np.testing.assert_allclose(pooled[:, -1, -1], expected, atol=1e-6)
    dynamic = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_allclose(dynamic(features), pooled, atol=1e-6)


@pytest.mark.parametrize("pool_size", [None, 65])
def test_means_over_large_windows_are_exact_in_float16(pool_size):
    features = np.full((1, 65, 65, 2), 10, "float32")  # a kernel for CPUs gives 16
    pooled = layers.ImagePooling(pool_size, dtype="mixed_float16")(features)
    assert pooled.dtype == tf.float16
    np.testing.assert_array_equal(pooled, np.full((1, 1, 1, 2), 10))
