"""Losses, against recorded values of the original and by hand."""

import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import images
from deeplab_tf import losses


def test_cross_entropy_and_its_gradient_equal_the_original(shared):
    folder = shared / "oracles" / "training"
    recorded = json.loads((folder / "loss.json").read_text())
    values = np.load(folder / "loss.npz")
    logits = tf.constant(values["logits"])
    label = tf.cast(values["labels"][..., 0], tf.int32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        upsampled = images.resize_bilinear(logits, label.shape[1:])
        loss_sum, count = losses.cross_entropy(upsampled, label, ignore_label=255)
        loss = loss_sum / count
    assert float(loss) == pytest.approx(recorded["upsampled"]["loss"], abs=1e-5)
    np.testing.assert_allclose(
        tape.gradient(loss, logits), values["grad__upsampled"], atol=1e-6
    )


def test_ignored_pixels_count_neither_in_the_sum_nor_in_the_number():
    logits = tf.constant([[[[2.0, 0.0], [5.0, -5.0], [0.0, 0.0]]]])
    loss_sum, count = losses.cross_entropy(logits, tf.constant([[[0, 255, 1]]]), 255)
    assert float(count) == 2
    assert float(loss_sum) == pytest.approx(np.log1p(np.exp(-2.0)) + np.log(2.0))


def test_a_batch_of_ignored_pixels_only_sums_to_zero():
    loss_sum, count = losses.cross_entropy(tf.ones([1, 2, 2, 3]), tf.fill([1, 2, 2], 255), 255)
    assert float(loss_sum) == 0 and float(count) == 0


def test_every_scale_adds_its_cross_entropy_over_the_same_pixels():
    label = tf.constant([[[0, 255], [1, 1]]])
    logits = {scale: tf.random.stateless_normal([1, 2, 2, 3], [scale, 0]) for scale in (1, 2, 3)}
    loss_sum, count = losses.cross_entropy_of_scales(logits, label, 255)
    expected = sum(losses.cross_entropy(scores, label, 255)[0] for scores in logits.values())
    assert float(loss_sum) == pytest.approx(float(expected))
    assert float(count) == 3
