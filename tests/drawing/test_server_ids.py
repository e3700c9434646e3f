"""The ids of test servers."""

import pytest

from deeplab_tf.data import published_classes
from deeplab_tf.datasets.cityscapes import cityscapes_dataset_builder
from deeplab_tf.drawing import server_ids
from deeplab_tf.errors import UserError


def test_label_ids_of_cityscapes_are_those_its_labels_are_read_by():
    ids = server_ids.read_label_ids("cityscapes", published_classes.CITYSCAPES.class_names)
    assert tuple(ids) == cityscapes_dataset_builder.LABEL_IDS


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "neither a file nor one of these names: cityscapes"),
        ("road: 7\nsky 8", "line 2: 'sky 8'"),
        ("road: 7\nsky: 256", "line 2"),
        ("road: 7\nroad: 8", "line 2: 'road' has an id already"),
        ("road: 7", "has no id for sky: give"),
    ],
)
def test_wrong_label_ids_are_refused(tmp_path, text, message):
    path = tmp_path / "ids.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        server_ids.read_label_ids(str(path), ("road", "sky"))
