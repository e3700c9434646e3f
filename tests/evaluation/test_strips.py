"""Strips of an image get the labels that the image gets as a whole."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import transforms
from deeplab_tf.evaluation import strips
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.evaluation.fitting import ResizeRange
from deeplab_tf.evaluation.network import finish_function

RANGES = {"of its own size": None, "resized": ResizeRange(40, 90, 16), "one row": None}


@pytest.mark.parametrize("rows_of_strip", [1, 7, 1000])
@pytest.mark.parametrize("name", RANGES)
def test_labels_of_strips_are_those_of_the_whole(name, rows_of_strip, monkeypatch):
    height, width, num_classes = 1 if name == "one row" else 61, 47, 5
    monkeypatch.setattr(strips, "STRIP_BYTES", rows_of_strip * 4 * width * num_classes)
    fitter = ImageFitter((127.5,) * 3, 16, RANGES[name])
    padded, placement = fitter.fit(tf.zeros([1, height, width, 3]))
    size = padded.shape[1:3]
    coarse = [(side - 1) // 4 + 1 for side in size]
    logits = np.random.default_rng(0).normal(size=(1, *coarse, num_classes)).astype(np.float32)

    finish = finish_function(lambda *given: strips.labels_of_logits(*given, fitter=fitter))
    labels = finish(logits, tf.constant(size), placement).numpy()
    whole = fitter.undo(transforms.resize_bilinear(logits, size), placement).numpy()
    assert labels.shape == (1, height, width) and labels.dtype == np.int32
    # Rounding may decide between classes whose logits are equal to six digits.
    chosen = np.take_along_axis(whole, labels[..., np.newaxis], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, whole.max(axis=-1), atol=1e-5)
    assert np.mean(labels == whole.argmax(axis=-1)) > 0.999


def test_several_images_get_the_labels_of_each(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_BYTES", 3 * 4 * 40 * 5)
    fitter = ImageFitter((127.5,) * 3, 16)
    padded, placement = fitter.fit(tf.zeros([3, 30, 40, 3]))
    logits = np.random.default_rng(0).normal(size=(3, 9, 13, 5)).astype(np.float32)
    finish = finish_function(lambda *given: strips.labels_of_logits(*given, fitter=fitter))
    size = tf.constant(padded.shape[1:3])
    together = finish(logits, size, placement)
    for one, labels in zip(logits, together, strict=True):
        np.testing.assert_array_equal(finish(one[np.newaxis], size, placement)[0], labels)
