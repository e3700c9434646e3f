"""What is drawn, tested on the pixels."""

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.drawing import visualize

COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200))
NAMES = ("background", "disc", "box", "bar")


def square_label(size: int = 64) -> np.ndarray:
    label = np.zeros((size, size), np.int32)
    label[size // 4 : size // 2, size // 4 : size // 2] = 2
    return label


def test_label_png_holds_ids_as_pixels_and_colours_as_palette(tmp_path):
    label = square_label()
    label[0, :3] = 255
    visualize.write_label_png(str(tmp_path / "label.png"), label, COLORS)
    with Image.open(tmp_path / "label.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), label)
        shown = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(shown, visualize.colorize(label, COLORS))
    assert tuple(shown[0, 0]) == (224, 224, 192)


def test_label_png_of_more_than_256_classes_has_16_bits(tmp_path):
    label = np.array([[0, 299], [256, 1]], np.int32)
    visualize.write_label_png(str(tmp_path / "label.png"), label, [(0, 0, 0)] * 300)
    with Image.open(tmp_path / "label.png") as image:
        np.testing.assert_array_equal(np.asarray(image), label)


@pytest.mark.parametrize("label", [-1, 256])
def test_label_png_refuses_labels_that_do_not_fit(tmp_path, label):
    with pytest.raises(ValueError, match="0..255"):
        visualize.write_label_png(str(tmp_path / "label.png"), np.array([[label]]), COLORS)
    assert not list(tmp_path.iterdir())


def test_ignore_label_is_painted_apart_even_among_the_classes():
    painted = visualize.colorize(np.array([[0, 1, 255]]), COLORS, ignore_label=1)
    np.testing.assert_array_equal(painted, [[(0, 0, 0), (224, 224, 192), (224, 224, 192)]])


def test_overlay_blends_inside_classes_and_draws_white_borders_between_them():
    image = np.full((64, 64, 3), 100, np.uint8)
    blended = visualize.overlay(image, square_label(), COLORS, opacity=0.5)
    assert tuple(blended[24, 24]) == (50, 150, 50)
    assert tuple(blended[4, 4]) == (75, 75, 75)  # black classes only darken
    np.testing.assert_array_equal(blended[20, 16], (255, 255, 255))
    assert (blended == 255).all(axis=-1).sum() == 4 * 16 - 1  # one pixel thin, all around


@pytest.mark.parametrize("size", [(24, 16), (64, 64), (300, 900), (1500, 1000)])
def test_legend_lies_below_an_untouched_image(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    label = np.zeros(size, np.int32)
    label[:4] = 1
    result = visualize.add_legend(image, label, NAMES, COLORS)
    left = (result.shape[1] - size[1]) // 2
    np.testing.assert_array_equal(result[: size[0], left : left + size[1]], image)
    legend = result[size[0] :]
    assert (legend == COLORS[1]).all(axis=-1).any()
    assert not (legend == COLORS[2]).all(axis=-1).any()  # does not occur


def test_legend_names_classes_by_falling_share():
    label = np.array([[1] * 6 + [3] * 3 + [9]])
    entries = visualize._legend_entries(label, NAMES, COLORS)
    assert [text for text, _ in entries] == ["disc  60.0%", "bar  30.0%", "no class  10.0%"]


def test_panel_shows_image_label_and_prediction_in_this_order():
    label = np.ones((40, 50), np.int32)
    label[0] = 255
    image = np.full((40, 50, 3), 99.6, np.float32)
    drawn = visualize.panel(image, label, np.full_like(label, 2), COLORS)
    assert drawn.dtype == np.uint8
    middle = drawn[-20]
    order = [tuple(middle[x].tolist()) for x in (25, 25 + 54, 25 + 108)]
    assert order == [(100, 100, 100), COLORS[1], COLORS[2]]


def test_error_panel_paints_errors_in_the_class_they_were_taken_for():
    image = np.full((40, 240, 3), 100, np.uint8)
    label = np.ones((40, 240), np.int32)
    label[:, :10] = 3  # to be ignored, though it is the id of a class
    prediction = label.copy()
    prediction[20:] = 2
    drawn = visualize.error_panel(image, label, prediction, NAMES, COLORS, ignore_label=3)
    gap, top = 4, 18
    corner = np.array([top + 40 + top, gap + 240 + gap])  # of the errors

    def color(row, column):
        return tuple(drawn[tuple(corner + (row, column))].tolist())

    assert color(10, 30) == (114, 114, 114)  # right: grey
    assert color(30, 30) == COLORS[2]
    assert color(10, 5) == color(30, 5) == visualize.NO_CLASS_COLOR
    assert color(30, 10) == visualize.PAPER  # between two classes of the label
    assert color(20, 30) == COLORS[2]  # but not of the prediction


def test_error_panel_names_the_class_with_the_lowest_iou_first():
    label, prediction = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1])
    entries = visualize._iou_entries(label, prediction, NAMES, COLORS)
    assert [text for text, _ in entries] == [
        "box  IoU 0.0%",
        "disc  IoU 50.0%",
        "background  IoU 66.7%",
    ]


def test_error_panel_shows_large_images_smaller():
    label = np.zeros((1024, 2048), np.int32)
    image = np.zeros((1024, 2048, 3), np.float32)
    drawn = visualize.error_panel(image, label, label, NAMES, COLORS, 255, "x" * 400)
    assert drawn.shape[1] == 2 * 800 + 3 * 12


def test_error_panel_stands_a_image_in_which_nothing_counts():
    label = np.full((30, 40), 255, np.int32)
    image = np.zeros((30, 40, 3), np.uint8)
    drawn = visualize.error_panel(image, label, np.zeros_like(label), NAMES, COLORS)
    assert (drawn == visualize.NO_CLASS_COLOR).all(axis=-1).any()


@pytest.mark.parametrize("num_classes", [2, 4, 21, 150, 400])
def test_confusion_matrix_image_shows_rows_as_shares_of_their_label(num_classes):
    matrix = np.diag(np.arange(num_classes))  # the first does not occur
    matrix[1, 0] = 3  # in four
    colors = [(index // 200, index % 200, 50) for index in range(num_classes)]
    names = [f"a name of a class that is rather long {index}" for index in range(num_classes)]
    drawn = visualize.confusion_matrix_image(matrix, names, colors).astype(int)
    assert max(drawn.shape) < 2700

    cell = {2: 80, 4: 80, 21: 47, 150: 12, 400: 6}[num_classes]
    left, top = drawn.shape[1] - 8 - num_classes * cell, drawn.shape[0] - 8 - num_classes * cell

    def color(row, column):
        return drawn[top + row * cell + 2, left + column * cell + 2]

    def is_close(color, share, of):
        return np.allclose(color, 255 - np.sqrt(share) * (255 - np.array(of)), atol=1)

    assert is_close(color(1, 1), 1 / 4, visualize.RIGHT)
    assert is_close(color(1, 0), 3 / 4, visualize.WRONG)
    assert (color(0, 0) == 225).all() and (color(0, 1) == 225).all()
    last = num_classes - 1
    if last > 1:
        assert is_close(color(last, last), 1, visualize.RIGHT)
        assert (color(last, 0) == 255).all() and (color(0, last) == 225).all()
    # The colours of the classes stand beside them, in the order of the rows and columns.
    for index in (0, 1, last):
        assert tuple(drawn[top + index * cell + 3, left - 6]) == colors[index]
        assert tuple(drawn[top - 6, left + index * cell + 3]) == colors[index]


def test_contact_sheet_keeps_every_image_whole():
    images = [np.full((10 + i, 20, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = visualize.contact_sheet(images, columns=2)
    for index, image in enumerate(images):
        assert (sheet == 10 * index).all(axis=-1).sum() == image.shape[0] * image.shape[1]
