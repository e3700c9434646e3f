"""Videos and cameras: found, read, written frame by frame."""

import os
import pathlib

import cv2
import numpy as np
import pytest
from videos import draw_video
from videos import plain_frames
from videos import read_video

from deeplab_tf.data import image_files
from deeplab_tf.drawing import predictions
from deeplab_tf.drawing import video
from deeplab_tf.errors import UserError

NAMES, COLORS = ("dark", "bright"), ((0, 0, 0), (200, 200, 200))


def labels_of_ones(frame: np.ndarray) -> np.ndarray:
    return np.ones(frame.shape[:2], np.int32)


class Camera:
    """Four frames, then Ctrl-C; in place of `cv2.VideoCapture`."""

    def __init__(self, index):
        assert index == 3
        self.frames = iter(plain_frames(4))

    def grab(self):
        self.frame = next(self.frames, None)
        if self.frame is None:
            raise KeyboardInterrupt
        return True

    def retrieve(self):
        return True, self.frame

    def read(self):
        return self.grab(), self.frame

    def get(self, _):
        return 0.0

    def release(self):
        self.frames = None


def test_files_folders_globs_and_cameras_can_be_mixed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a, b").mkdir()
    for name in ("1.JPG", "2.mp4", "notes.txt"):
        (tmp_path / "a, b" / name).touch()
    (tmp_path / "3.png").touch()
    assert video.find_sources("a, b") == ["a, b/1.JPG", "a, b/2.mp4"]
    several = ("3.png", "*.png", "7", "a*/1.*")
    assert video.find_sources(several) == ["7", "3.png", "a, b/1.JPG"]
    (tmp_path / "7").touch()
    assert video.camera_index("7") is None  # it is a file now


def test_a_camera_is_labelled_until_ctrl_c_and_its_video_is_kept(tmp_path, monkeypatch):
    writer = predictions.PredictionWriter(str(tmp_path), NAMES, COLORS)
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", Camera)
        camera = video.Reader("3")
    path = writer.write_video("camera_3", camera, labels_of_ones)
    assert pathlib.Path(path).stem == "camera_3_overlay" and len(list(tmp_path.iterdir())) == 1
    frames_per_second, overlays = read_video(path)
    assert frames_per_second == video.FRAMES_PER_SECOND and len(overlays) >= 4


def test_ctrl_c_before_the_first_frame_ends_the_command(tmp_path, monkeypatch):
    def interrupted(frame):
        raise KeyboardInterrupt

    writer = predictions.PredictionWriter(str(tmp_path), NAMES, COLORS)
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", Camera)
        camera = video.Reader("3")
    with pytest.raises(KeyboardInterrupt):
        writer.write_video("camera_3", camera, interrupted)
    assert not list(tmp_path.iterdir())


def test_what_is_not_a_camera_or_a_video_is_named(tmp_path):
    with pytest.raises(UserError, match="^--images=97: no frame can be read from camera 97"):
        video.Reader("97")
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(image_files.ImageFileError, match=r"notes\.mp4 is not a video"):
        video.Reader(str(tmp_path / "notes.mp4"))


def test_a_video_that_could_not_be_written_to_its_end_is_an_error(tmp_path, monkeypatch):
    draw_video(tmp_path / "clip.mp4", plain_frames(2))
    writer = predictions.PredictionWriter(str(tmp_path / "out"), NAMES, COLORS)
    reader = video.Reader(str(tmp_path / "clip.mp4"))
    # As on a full disk: OpenCV says nothing, and the file is cut.
    leave = video.Writer.__exit__

    def leave_and_cut(self, *error):
        leave(self, *error)
        os.truncate(self.path, 20)

    monkeypatch.setattr(video.Writer, "__exit__", leave_and_cut)
    with pytest.raises(OSError, match="the disk may be full"):
        writer.write_video("clip", reader, labels_of_ones)
    assert not list((tmp_path / "out").iterdir())


def test_a_name_at_which_opencv_would_crash_is_refused(tmp_path):
    name = os.fsdecode(b"\xff.mp4")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(image_files.ImageFileError, match="must be UTF-8: rename"):
        video.Reader(str(tmp_path / name))


def test_a_frame_stays_until_the_time_of_the_next(tmp_path):
    dark, bright = plain_frames(2, 32, 32)
    try:
        with video.Writer(str(tmp_path / "clip"), 10, 32, 32) as writer:
            for frame, seconds in ((dark, 0.0), (bright, 0.31), (dark, 0.32)):
                writer.write(frame, seconds)
    except UserError:
        pytest.skip("this OpenCV has no codec to draw a video with")
    _, frames = read_video(writer.path)
    assert [bool(frame.mean() > 20) for frame in frames] == [False, False, False, True, False]


def test_at_most_max_frames_of_a_video_are_labelled(tmp_path):
    draw_video(tmp_path / "clip.mp4", plain_frames(6))
    writer = predictions.PredictionWriter(str(tmp_path), NAMES, COLORS)
    reader = video.Reader(str(tmp_path / "clip.mp4"))
    path = writer.write_video("labelled", reader, labels_of_ones, max_frames=4)
    assert len(read_video(path)[1]) == 4
