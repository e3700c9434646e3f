"""Class maps: classes are merged and dropped, ids have no gaps."""

import numpy as np
import pytest

from deeplab_tf.data.class_map import parse_class_map
from deeplab_tf.errors import UserError

NAMES = ("sky", "car", "truck", "road")
MAP_COLORS = tuple((i, i, i) for i in range(4))


def test_a_class_map_merges_and_drops_classes_without_gaps(tmp_path):
    (tmp_path / "map.txt").write_text("car: vehicle\n\ntruck: vehicle\nsky: ignore\n")
    for text in ("car:vehicle,truck:vehicle,sky:ignore", str(tmp_path / "map.txt")):
        class_map = parse_class_map(text, NAMES, MAP_COLORS, 255)
        assert class_map.class_names == ("vehicle", "road")
        assert class_map.colors == ((1, 1, 1), (3, 3, 3))
        assert class_map.ignore_label == 255
        label = np.array([[0, 1, 2, 3, 255]], np.int32)
        np.testing.assert_array_equal(class_map.apply(label), [[255, 0, 0, 1, 255]])


def test_a_class_merged_into_another_takes_its_colour_and_an_ignored_class_stays_one():
    class_map = parse_class_map("car:truck,road:ignore", NAMES, MAP_COLORS, 0)
    assert class_map.class_names == ("sky", "truck")
    assert class_map.colors == ((0, 0, 0), (2, 2, 2))
    assert class_map.ignore_label == 0  # sky
    np.testing.assert_array_equal(class_map.apply(np.arange(4)), [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("map.txt", "neither a file nor pairs"),
        ("cat:vehicle", "no class 'cat'. Did you mean 'car'"),
        ("car:a,car:b", "'car' twice"),
        ("car:", "not a pair"),
        ("sky:ignore,car:ignore,truck:ignore,road:ignore", "leaves no class"),
    ],
)
def test_a_class_map_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_class_map(text, NAMES, MAP_COLORS, 255)
