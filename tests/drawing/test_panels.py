"""Images with text beside them, tested on the pixels."""

import numpy as np
import pytest

from deeplab_tf.drawing import palettes
from deeplab_tf.drawing import panels

COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200))
NAMES = ("background", "disc", "box", "bar")


@pytest.mark.parametrize("size", [(24, 16), (64, 64), (300, 900), (1500, 1000)])
def test_legend_lies_below_an_untouched_image(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    label = np.zeros(size, np.int32)
    label[:4] = 1
    result = panels.add_legend(image, label, NAMES, COLORS)
    left = (result.shape[1] - size[1]) // 2
    np.testing.assert_array_equal(result[: size[0], left : left + size[1]], image)
    legend = result[size[0] :]
    assert (legend == COLORS[1]).all(axis=-1).any()
    assert not (legend == COLORS[2]).all(axis=-1).any()  # does not occur


def test_legend_names_classes_by_falling_share():
    label = np.array([[1] * 6 + [3] * 3 + [9]])
    entries = panels.share_legend(label, NAMES, COLORS)
    assert [text for text, _ in entries] == ["disc  60.0%", "bar  30.0%", "no class  10.0%"]


def test_error_panel_paints_errors_in_the_class_they_were_taken_for():
    image = np.full((40, 240, 3), 100, np.uint8)
    label = np.ones((40, 240), np.int32)
    label[:, :10] = 3  # to be ignored, though it is the id of a class
    prediction = label.copy()
    prediction[20:] = 2
    drawn = panels.error_panel(
        image, label, prediction, class_names=NAMES, colors=COLORS, ignore_label=3
    )
    gap, top = 4, 18
    corner = np.array([top + 40 + top, gap + 240 + gap])  # of the errors

    def color(row, column):
        return tuple(drawn[tuple(corner + (row, column))].tolist())

    assert color(10, 30) == (114, 114, 114)  # right: grey
    assert color(30, 30) == COLORS[2]
    assert color(10, 5) == color(30, 5) == palettes.NO_CLASS_COLOR
    assert color(30, 10) == palettes.PAPER  # between two classes of the label
    assert color(20, 30) == COLORS[2]  # but not of the prediction


def test_error_panel_names_the_class_with_the_lowest_iou_first():
    label, prediction = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1])
    entries = panels.iou_legend(label, prediction, NAMES, COLORS)
    assert [text for text, _ in entries] == [
        "box  IoU 0.0%",
        "disc  IoU 50.0%",
        "background  IoU 66.7%",
    ]


def test_error_panel_shows_large_images_smaller():
    label = np.zeros((1024, 2048), np.int32)
    image = np.zeros((1024, 2048, 3), np.float32)
    drawn = panels.error_panel(
        image, label, label, class_names=NAMES, colors=COLORS, caption="x" * 400
    )
    assert drawn.shape[1] == 2 * 800 + 3 * 12


def test_error_panel_draws_an_image_in_which_nothing_counts():
    label = np.full((30, 40), 255, np.int32)
    image = np.zeros((30, 40, 3), np.uint8)
    drawn = panels.error_panel(image, label, np.zeros_like(label), class_names=NAMES, colors=COLORS)
    assert (drawn == palettes.NO_CLASS_COLOR).all(axis=-1).any()


def test_error_panel_draws_an_image_that_is_as_good_as_a_line():
    label = np.zeros((1, 4000), np.int32)
    image = np.zeros((1, 4000, 3), np.uint8)
    drawn = panels.error_panel(image, label, label, class_names=NAMES, colors=COLORS)
    assert drawn.shape[1] > 2 * 800


def test_contact_sheet_keeps_every_image_whole():
    images = [np.full((10 + i, 20, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = panels.contact_sheet(images, columns=2)
    for index, image in enumerate(images):
        assert (sheet == 10 * index).all(axis=-1).sum() == image.shape[0] * image.shape[1]
