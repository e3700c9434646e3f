"""Tests the builder of `shapes` in the way of TFDS, and what it draws."""

import os
from unittest import mock

import cv2
import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf.datasets.shapes import draw
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.datasets.shapes import shapes_dataset_builder


@mock.patch.dict(shapes_dataset_builder.NUM_EXAMPLES, {"train": 4, "val": 2})
class ShapesTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = shapes_dataset_builder.Builder
    SPLITS = {"train": 4, "val": 2}
    EXAMPLE_DIR = os.path.dirname(__file__)  # TFDS wants one; nothing is read from it


def test_a_image_depends_on_seed_split_and_index_alone():
    image, label = drawing.draw("train", 7)
    again, label_again = drawing.draw("train", 7)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    for other in (("val", 7, drawing.SEED), ("train", 8, drawing.SEED), ("train", 7, 1)):
        assert not np.array_equal(image, drawing.draw(*other)[0])


def test_the_command_draws_images_that_are_in_no_split(tmp_path):
    paths = draw.draw_images(tmp_path / "images", 2)
    for index, path in enumerate(paths):
        read = cv2.imread(str(path)).astype(int)[..., ::-1]
        assert np.abs(read - drawing.draw("unseen", index)[0]).mean() < 5.0  # JPEG is not exact
    assert "unseen" not in shapes_dataset_builder.NUM_EXAMPLES
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_images_have_few_sizes_and_every_class():
    images = [drawing.draw("train", index) for index in range(40)]
    assert {image.shape[:2] for image, _ in images} == set(drawing.IMAGE_SIZES)
    assert all(image.shape == (*label.shape, 3) for image, label in images)
    ids = np.unique(np.concatenate([label.ravel() for _, label in images]))
    assert ids.tolist() == [*range(len(drawing.CLASS_NAMES)), drawing.IGNORE_LABEL]
    assert len(drawing.COLORS) == len(drawing.CLASS_NAMES)


def test_classes_meet_nowhere_but_in_the_ignore_band():
    for index in range(20):
        _, label = drawing.draw("val", index)
        for one, other in ((label[:, 1:], label[:, :-1]), (label[1:], label[:-1])):
            differ = one != other
            ignored = [side[differ] == drawing.IGNORE_LABEL for side in (one, other)]
            assert np.all(ignored[0] ^ ignored[1])


def test_a_form_covers_as_many_pixels_as_its_geometry_says():
    rng = np.random.default_rng(0)
    for form in drawing.FORMS:
        inside = 0
        for _ in range(40):
            coverage, area = drawing.cover(rng, form, 200, 200)
            on_border = max(coverage[[0, -1]].max(), coverage[:, [0, -1]].max())
            if on_border == 0.0:  # all of it is in the image
                inside += 1
                assert abs(coverage.sum() - area) < 0.06 * area, form
        assert inside > 5
