"""Colours over an image, tested on the pixels."""

import numpy as np

from deeplab_tf.drawing import overlays

COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200))


def square_label(size: int = 64) -> np.ndarray:
    label = np.zeros((size, size), np.int32)
    label[size // 4 : size // 2, size // 4 : size // 2] = 2
    return label


def test_overlay_blends_inside_classes_and_draws_white_borders_between_them():
    image = np.full((64, 64, 3), 100, np.uint8)
    blended = overlays.overlay(image, square_label(), COLORS, opacity=0.5)
    assert tuple(blended[24, 24]) == (50, 150, 50)
    assert tuple(blended[4, 4]) == (75, 75, 75)  # black classes only darken
    np.testing.assert_array_equal(blended[20, 16], (255, 255, 255))
    assert (blended == 255).all(axis=-1).sum() == 4 * 16 - 1  # one pixel thin, all around


def test_large_images_are_painted_as_small_ones_are(monkeypatch):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    label = generator.integers(0, 6, (70, 90))  # 4 and 5 are not classes
    at_once = overlays.overlay(image, label, COLORS)
    monkeypatch.setattr(overlays, "BAND_PIXELS", 1000)
    np.testing.assert_array_equal(overlays.overlay(image, label, COLORS), at_once)
