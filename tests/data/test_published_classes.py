"""The classes of published data sets, as their test servers and their palettes have them."""

import pytest

from deeplab_tf.data import published_classes
from deeplab_tf.drawing import server_ids


@pytest.mark.parametrize("name, number", [("voc2012", 21), ("cityscapes", 19), ("ade20k", 151)])
def test_every_class_has_a_name_of_its_own_and_a_colour(name, number):
    info = published_classes.BY_DATASET[name]
    assert info.name == name and len(set(info.class_names)) == info.num_classes == number
    assert len(info.colors) == number
    assert all(0 <= value <= 255 for color in info.colors for value in color)


def test_known_classes_have_their_known_colours():
    expected = {
        # PASCAL VOC's colour map, VOClabelcolormap.m
        "voc2012": {0: ("background", (0, 0, 0)), 15: ("person", (192, 128, 128))},
        # cityscapesScripts, helpers/labels.py
        "cityscapes": {0: ("road", (128, 64, 128)), 18: ("bicycle", (119, 11, 32))},
        # color150 and objectInfo150 of the scene parsing challenge, behind "other"
        "ade20k": {1: ("wall", (120, 120, 120)), 150: ("flag", (92, 0, 255))},
    }
    for name, classes in expected.items():
        info = published_classes.BY_DATASET[name]
        for class_id, (class_name, color) in classes.items():
            assert (info.class_names[class_id], info.colors[class_id]) == (class_name, color)


def test_train_ids_of_cityscapes_are_in_the_order_of_its_label_ids():
    ids = server_ids.read_label_ids("cityscapes", published_classes.CITYSCAPES.class_names)
    assert ids is not None and sorted(ids) == list(ids)


def test_the_ignored_labels_are_those_of_the_original():
    ignored = {info.name: info.ignore_label for info in published_classes.BY_DATASET.values()}
    assert ignored == {"voc2012": 255, "cityscapes": 255, "ade20k": 0}
