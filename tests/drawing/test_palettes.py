"""Class ids as colours."""

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.drawing import palettes

COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200))


def square_label(size: int = 64) -> np.ndarray:
    label = np.zeros((size, size), np.int32)
    label[size // 4 : size // 2, size // 4 : size // 2] = 2
    return label


def test_label_png_holds_ids_as_pixels_and_colours_as_palette(tmp_path):
    label = square_label()
    label[0, :3] = 255
    palettes.write_label_png(str(tmp_path / "label.png"), label, COLORS)
    with Image.open(tmp_path / "label.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), label)
        shown = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(shown, palettes.colorize(label, COLORS))
    assert tuple(shown[0, 0]) == (224, 224, 192)


def test_label_png_of_more_than_256_classes_has_16_bits(tmp_path):
    label = np.array([[0, 299], [256, 1]], np.int32)
    palettes.write_label_png(str(tmp_path / "label.png"), label, [(0, 0, 0)] * 300)
    with Image.open(tmp_path / "label.png") as image:
        np.testing.assert_array_equal(np.asarray(image), label)


@pytest.mark.parametrize("label", [-1, 256])
def test_label_png_refuses_labels_that_do_not_fit(tmp_path, label):
    with pytest.raises(ValueError, match="must be between 0 and 255"):
        palettes.write_label_png(str(tmp_path / "label.png"), np.array([[label]]), COLORS)
    assert not list(tmp_path.iterdir())


def test_ignore_label_is_painted_apart_even_among_the_classes():
    painted = palettes.colorize(np.array([[0, 1, 255]]), COLORS, ignore_label=1)
    np.testing.assert_array_equal(painted, [[(0, 0, 0), (224, 224, 192), (224, 224, 192)]])
