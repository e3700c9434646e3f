"""Videos that tests draw and read back."""

import pathlib

import numpy as np
import pytest

from deeplab_tf.drawing import video
from deeplab_tf.errors import UserError


def draw_video(path: pathlib.Path, frames: list[np.ndarray], frames_per_second: float = 10) -> None:
    height, width = frames[0].shape[:2]
    try:
        with video.Writer(str(path.with_suffix("")), frames_per_second, height, width) as writer:
            for number, frame in enumerate(frames):
                writer.write(frame, number / frames_per_second)
    except UserError:
        pytest.skip("this OpenCV has no codec to draw a video with")
    pathlib.Path(writer.path).rename(path)


def plain_frames(count: int, height: int = 49, width: int = 64) -> list[np.ndarray]:
    """Frames of one colour each, which no codec spoils."""
    return [np.full((height, width, 3), 40 * number, np.uint8) for number in range(count)]


def read_video(path: str) -> tuple[float, list[np.ndarray]]:
    reader = video.Reader(path)
    return reader.frames_per_second, [frame for _, frame in reader.frames()]
