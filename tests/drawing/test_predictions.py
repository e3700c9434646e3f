"""The files of predictions: their names, and that they appear whole or not at all."""

import numpy as np
import pytest

from deeplab_tf import files
from deeplab_tf.drawing import predictions
from deeplab_tf.errors import UserError

NAMES, COLORS = ("dark", "bright"), ((0, 0, 0), (200, 200, 200))
IMAGE = np.zeros((8, 9, 3), np.uint8)
PREDICTION = predictions.Prediction(np.ones((8, 9), np.int32))


@pytest.mark.parametrize(
    "paths, names",
    [
        (["in/a.jpg", "in/b.jpg"], ["a", "b"]),
        (["in/a.jpg", "in/a.png"], ["a_jpg", "a_png"]),
        (["in/a.jpg", "in/A.jpg"], ["a_jpg", "A_jpg_"]),
        (["in/x/a.jpg", "in/y/a.jpg"], ["x_a_jpg", "y_a_jpg"]),
        (["in/a.jpg", "in/a_overlay.jpg"], ["a", "a_overlay_"]),
        (["in/a.jpg", "in/a_confidence.mp4"], ["a", "a_confidence_"]),
        (["0", "in/a.jpg", "in/a.mp4"], ["camera_0", "in_a_jpg", "in_a_mp4"]),
    ],
)
def test_output_names_never_collide(paths, names):
    assert predictions.output_names(paths) == names


def test_what_a_killed_prediction_left_is_removed_by_the_next(tmp_path):
    with files.draft_folder(tmp_path) as left_over:  # of this process, which has no other open
        writer = predictions.PredictionWriter(str(tmp_path), NAMES, COLORS)
        assert not left_over.exists()
    writer.write("a", IMAGE, PREDICTION)


def test_a_disk_that_fails_leaves_no_file_of_the_image(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    writer = predictions.PredictionWriter(str(tmp_path), NAMES, COLORS)
    with monkeypatch.context() as patch:
        patch.setattr(predictions.palettes, "write_label_png", full)
        with pytest.raises(OSError, match="No space left"):
            writer.write("a", IMAGE, PREDICTION)
    assert not list(tmp_path.iterdir())
    writer.write_overview()  # of nothing
    assert not list(tmp_path.iterdir())
    writer.write("a", IMAGE, PREDICTION)
    writer.write_overview()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png",
        "a_overlay.png",
        "overview.png",
    ]


def test_a_folder_that_cannot_be_made_names_the_flag(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output_dir=.*cannot be made"):
        predictions.PredictionWriter(str(tmp_path / "file" / "out"), NAMES, COLORS)
