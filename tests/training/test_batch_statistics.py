"""Batch statistics measured on images, in place of moving ones."""

import dataclasses

import keras
import numpy as np
import pytest

from deeplab_tf import backbones
from deeplab_tf import layers
from deeplab_tf.runs import run_dir
from deeplab_tf.training import batch_statistics
from deeplab_tf.training.batch_statistics import BatchStatistics
from deeplab_tf.training.batch_statistics import is_trained


def small_model(rate: float = 0.5) -> keras.Model:
    """Two batch norms, the second behind dropout, as in the heads of v3 and v3+."""
    image = keras.Input((None, None, 3))
    x = layers.BatchNorm(name="first")(image)
    x = keras.layers.Dropout(rate)(x)
    x = keras.layers.Conv2D(2, 1, use_bias=False, name="mix")(x)
    return keras.Model(image, layers.BatchNorm(name="second")(x))


def batches(count: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        generator.normal(index, 1 + index, (2, 8, 8, 3)).astype("float32") for index in range(count)
    ]


def measure(model: keras.Model, seen: list[np.ndarray]) -> int:
    norms = [norm for norm in layers.batch_norms(model) if is_trained(norm)]
    return BatchStatistics(model, norms).measure(seen)


def test_the_statistics_are_those_of_all_batches_together():
    model, seen = small_model(), batches()
    assert measure(model, seen) == 3
    pixels = np.concatenate(seen).reshape(-1, 3)
    first = model.get_layer("first")
    np.testing.assert_allclose(first.moving_mean.numpy(), pixels.mean(0), rtol=1e-4)
    # Variances of batches are unbiased: those of 128 pixels are divided by 127.
    np.testing.assert_allclose(first.moving_variance.numpy(), pixels.var(0), rtol=0.01)


def test_dropout_is_left_out_and_everything_else_stays_as_it_was():
    with_dropout, without = small_model(0.5), small_model(0.0)
    without.set_weights(with_dropout.get_weights()[: len(without.get_weights())])
    for model in (with_dropout, without):
        measure(model, batches())
    second = [model.get_layer("second") for model in (with_dropout, without)]
    np.testing.assert_allclose(*[norm.moving_mean.numpy() for norm in second], atol=1e-6)
    np.testing.assert_allclose(*[norm.moving_variance.numpy() for norm in second], rtol=1e-5)
    assert second[0].momentum == 0.99
    assert [layer.rate for layer in with_dropout.layers if hasattr(layer, "rate")] == [0.5]


@pytest.mark.parametrize("kind", ["frozen", "not trainable"])
def test_a_batch_norm_that_does_not_train_keeps_its_statistics(kind):
    model = small_model()
    for norm in layers.batch_norms(model):
        norm.frozen = kind == "frozen"
        norm.trainable = kind != "not trainable"
    before = [values.copy() for values in model.get_weights()]
    measure(model, batches())
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_frozen_batch_norm_keeps_its_statistics_while_others_are_measured():
    model, seen = small_model(0.0), batches()
    first, second = layers.batch_norms(model)
    first.moving_mean.assign([1.0, 2.0, 3.0])
    before = first.moving_mean.numpy()
    assert BatchStatistics(model, [second]).measure(seen) == 3
    np.testing.assert_array_equal(first.moving_mean.numpy(), before)
    mixed = keras.Model(model.input, model.get_layer("mix").output)(np.concatenate(seen))
    expected = np.mean(mixed, axis=(0, 1, 2))
    np.testing.assert_allclose(second.moving_mean.numpy(), expected, rtol=1e-4)
    assert not first.frozen


def test_without_images_the_statistics_stay():
    model = small_model()
    before = [values.copy() for values in model.get_weights()]
    assert measure(model, []) == 0
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_statistics_far_from_those_of_the_data_no_longer_spoil_a_prediction():
    model, (images, *_) = small_model(0.0), batches(1)
    for norm in layers.batch_norms(model):
        norm.moving_variance.assign(np.full(norm.moving_variance.shape, 100.0))
    expected = model(images, training=True).numpy()
    for norm in layers.batch_norms(model):
        norm.moving_variance.assign(np.full(norm.moving_variance.shape, 100.0))
    assert np.abs(model(images, training=False).numpy() - expected).max() > 1
    measure(model, [images])
    np.testing.assert_allclose(model(images, training=False).numpy(), expected, atol=0.05)


def with_8_images(folder: str) -> run_dir.Run:
    """A run whose statistics come from 8 images, which are all of its training split."""
    run = run_dir.read(folder)
    train_config = dataclasses.replace(run.train_config, batch_statistics_images=8)
    return dataclasses.replace(run, train_config=train_config)


def test_where_fewer_images_are_enough_they_come_from_anywhere_in_the_split(
    tiny_records, tiny_run_dir, monkeypatch
):
    monkeypatch.setattr(batch_statistics, "_BATCH_SIZE", 2)
    monkeypatch.setattr(batch_statistics, "_ENOUGH_PIXELS", 1)
    run, seen = with_8_images(tiny_run_dir), set()
    for step in range(4):
        (images,) = batch_statistics.images_as_evaluated(run, tiny_records, step)
        assert len(images) == 2
        seen.add(images.numpy().tobytes())
    assert len(seen) > 1  # not the first two of the split each time


def test_images_of_several_sizes_are_cut_not_padded_and_evenly_shared_out(
    tiny_records, tiny_run_dir, monkeypatch
):
    monkeypatch.setattr(batch_statistics, "_BATCH_SIZE", 3)
    run = with_8_images(tiny_run_dir)
    seen = list(batch_statistics.images_as_evaluated(run, tiny_records, 1))
    assert sorted(len(images) for images in seen) == [2, 3, 3]  # not 3, 3, 2 and never 1
    assert len({tuple(images.shape[1:3]) for images in seen}) > 1
    pad_pixel = backbones.pad_pixel(run.model_config.backbone, 3)
    for images in seen:
        # One row and column of padding make the sides a multiple of the stride plus 1.
        assert np.mean(images == pad_pixel) < 0.03
