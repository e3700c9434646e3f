"""Images fitted to a network, and results brought back to the images' own size."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import transforms
from deeplab_tf.evaluation import fitting

PAD_PIXEL = (123.15, 115.9, 103.06)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 37, 50, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 5, (2, 37, 50), dtype=np.int32)
FITTERS = {
    "any size": fitting.ImageFitter(PAD_PIXEL),
    "output stride": fitting.ImageFitter(PAD_PIXEL, output_stride=16),
    "resize range": fitting.ImageFitter(PAD_PIXEL, 16, fitting.ResizeRange(70, 90, 4)),
    "larger size": fitting.ImageFitter(PAD_PIXEL, size=(65, 65)),
    "smaller size": fitting.ImageFitter(PAD_PIXEL, size=(33, 65)),
    "range and size": fitting.ImageFitter(
        PAD_PIXEL, resize_range=fitting.ResizeRange(70, 90, 4), size=(65, 65)
    ),
    "antialias": fitting.ImageFitter(PAD_PIXEL, size=(33, 33), antialias=True),
}
# Height and width as the network sees them, and with the padding.
SIZES = {
    "any size": ((37, 50), (37, 50)),
    "output stride": ((37, 50), (49, 65)),
    "resize range": ((65, 89), (65, 97)),
    "larger size": ((37, 50), (65, 65)),
    "smaller size": ((33, 44), (33, 65)),
    "range and size": ((47, 65), (65, 65)),
    "antialias": ((24, 33), (33, 33)),
}


@pytest.mark.parametrize("name", FITTERS)
def test_images_are_resized_then_padded_with_the_mean_pixel(name):
    padded, placement = FITTERS[name].fit(IMAGES)
    seen, whole = SIZES[name]
    assert tuple(placement.own_size.numpy()) == (37, 50)
    assert tuple(placement.seen_size.numpy()) == seen
    assert padded.dtype == tf.float32 and tuple(padded.shape) == (2, *whole, 3)
    for part in (padded[:, seen[0] :], padded[:, :, seen[1] :]):
        np.testing.assert_allclose(part, np.broadcast_to(PAD_PIXEL, part.shape), rtol=1e-6)
    inner = padded[:, : seen[0], : seen[1]]
    if seen == (37, 50):
        np.testing.assert_allclose(inner, IMAGES, atol=1e-4)
    elif name in ("resize range", "smaller size"):
        np.testing.assert_allclose(inner, transforms.resize_bilinear(IMAGES, seen), atol=1e-4)


@pytest.mark.parametrize("name", FITTERS)
def test_labels_lie_where_their_images_do(name):
    seen, whole = SIZES[name]
    labels = FITTERS[name].fit_labels(LABELS, ignore_label=255).numpy()
    assert labels.dtype == np.int32 and labels.shape == (2, *whole)
    assert (labels[:, : seen[0], : seen[1]] < 5).all()
    assert (labels[:, seen[0] :] == 255).all() and (labels[:, :, seen[1] :] == 255).all()


@pytest.mark.parametrize("name", FITTERS)
def test_undo_brings_results_back_to_the_own_size(name):
    fitter = FITTERS[name]
    padded, placement = fitter.fit(IMAGES)
    images = fitter.undo(padded, placement)
    labels = fitter.undo(fitter.fit_labels(LABELS, 255), placement)
    assert images.shape == IMAGES.shape and labels.shape == LABELS.shape
    assert labels.dtype == tf.int32 and set(np.unique(labels)) == set(range(5))
    if SIZES[name][0] == (37, 50):
        np.testing.assert_allclose(images, IMAGES, atol=1e-4)
        np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("name", FITTERS)
def test_a_graph_for_any_size_computes_the_same(name):
    fitter = FITTERS[name]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def round_trip(images):
        padded, placement = fitter.fit(images)
        return padded, fitter.undo(padded, placement)

    padded, placement = fitter.fit(IMAGES)
    in_graph, undone = round_trip(IMAGES)
    np.testing.assert_array_equal(in_graph, padded)
    np.testing.assert_array_equal(undone, fitter.undo(padded, placement))


def test_the_configs_of_a_run_say_how_its_images_are_fitted():
    model_config = ModelConfig(backbone="resnet_v1_50", output_stride=8)
    fitter = fitting.image_fitter(model_config, DataConfig())
    assert fitter == fitting.ImageFitter(PAD_PIXEL, output_stride=8)
    data_config = DataConfig(min_resize_value=60, max_resize_value=90)
    fitter = fitting.image_fitter(model_config, data_config, size=(65, 65))
    assert fitter.resize_range == (60, 90, None) and fitter.size == (65, 65)
