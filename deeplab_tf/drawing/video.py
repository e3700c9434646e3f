"""Videos and cameras as RGB frames, and RGB frames as a video, through OpenCV."""

import itertools
import os
import time
from collections.abc import Iterator
from collections.abc import Sequence

import cv2
import numpy as np

from deeplab_tf.data import image_files
from deeplab_tf.errors import UserError

# OpenCV reads videos by FFmpeg, which would print what it does not understand in a damaged one.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
# Ending and codec of written videos; the first that works is taken.
FORMATS = (("mp4", "mp4v"), ("avi", "MJPG"))
_MAX_DIGITS = 4  # of the index of a camera
FRAMES_PER_SECOND = 30.0  # if a file or a camera does not state it


def camera_index(source: str) -> int | None:
    """Returns 0 for "0" and so on, or None if a file has that name or it is not a number."""
    is_index = source.isdecimal() and len(source) <= _MAX_DIGITS and not os.path.exists(source)
    return int(source) if is_index else None


def is_video(source: str) -> bool:
    """Returns whether a source is a video file or a camera."""
    return camera_index(source) is not None or source.lower().endswith(VIDEO_ENDINGS)


def find_sources(images: str | Sequence[str], more_endings: Sequence[str] = ()) -> list[str]:
    """Returns what `--images` names: the indices of cameras, then images and videos, sorted.

    Args:
        images: A file, a folder, a glob or the index of a camera, or several of them.
        more_endings: Endings of further files that are taken from a folder.

    Raises:
        UserError: There are none, or one of several names matches none.
    """
    found = image_files.find_images(
        images,
        (*image_files.ENDINGS, *VIDEO_ENDINGS, *more_endings),
        is_other_source=lambda name: camera_index(name) is not None,
    )
    return sorted(found, key=lambda source: camera_index(source) is None)


class Reader:
    """Reads the frames of a video file or a camera, once.

    Attributes:
        is_camera: Whether the frames come in real time and never end.
        frames_per_second: Stated by the file or the camera, float.
        num_frames: Stated by the file, possibly an estimate; 0 if it is not known.
        height: Height of every frame in pixels.
        width: Width of every frame in pixels.
    """

    def __init__(self, source: str):
        """Opens a source and reads its first frame.

        Args:
            source: Path of a file, or index of a camera such as "0".

        Raises:
            ImageFileError: The file is not a video, or its first frame cannot be decoded.
            UserError: There is no such camera.
        """
        index = camera_index(source)
        self.is_camera = index is not None
        _check_name(source)
        with image_files.quiet_opencv():  # which prints every way in which it finds no camera
            if index is None:
                self._capture = cv2.VideoCapture(source)
            else:
                self._capture = cv2.VideoCapture(index)
            is_read, self._first = self._capture.read()
        if not is_read and self.is_camera:
            raise UserError(
                f"--images={source}: no frame can be read from camera {source}. It does not exist, "
                "another program uses it, or you may not open it: give another index, or a file."
            )
        if not is_read:
            raise image_files.ImageFileError(f"{source} is not a video, or a damaged one.")
        self.frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or FRAMES_PER_SECOND
        self.num_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.height, self.width = self._first.shape[:2]

    def frames(self, every_nth: int = 1) -> Iterator[tuple[float, np.ndarray]]:
        """Yields the first frame and every n-th after it.

        Yields:
            The time since the first frame, in seconds, and the frame, RGB, uint8 [H, W, 3].
        """
        started = time.monotonic()
        try:
            yield 0.0, cv2.cvtColor(self._first, cv2.COLOR_BGR2RGB)
            for number in itertools.count(1):
                if not self._capture.grab():
                    return
                if number % every_nth:
                    continue
                is_read, frame = self._capture.retrieve()
                if not is_read:
                    return
                passed = time.monotonic() - started
                seconds = passed if self.is_camera else number / self.frames_per_second
                yield seconds, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()


class Writer:
    """Writes frames to a video file; a context manager.

    Attributes:
        path: Path of the file, with the ending of its format.
        num_frames: Number of frames written so far.
    """

    def __init__(self, stem: str, frames_per_second: float, height: int, width: int):
        """Opens the file, in the first of `FORMATS` that this OpenCV can write.

        Args:
            stem: Path of the file without its ending.
            frames_per_second: Frame rate of the video.
            height: Height of the frames in pixels.
            width: Width of the frames in pixels.

        Raises:
            UserError: None of the formats can be written.
            ImageFileError: The path is not UTF-8.
        """
        _check_name(stem)
        self.num_frames = 0
        self._frames_per_second = frames_per_second
        self._last = np.zeros(0, np.uint8)  # no frame yet
        # Codecs store colour in blocks of 2x2 pixels: an odd last row or column is repeated.
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        size = (width + width % 2, height + height % 2)
        for ending, codec in FORMATS:
            self.path = f"{stem}.{ending}"
            fourcc = cv2.VideoWriter.fourcc(*codec)
            self._writer = cv2.VideoWriter(self.path, fourcc, frames_per_second, size)
            if self._writer.isOpened():
                return
        raise UserError(
            f"{stem} cannot be written: its folder is read-only, or this OpenCV writes none of "
            f"{', '.join(ending for ending, _ in FORMATS)} (pip install opencv-python brings one)."
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._writer.release()

    def write(self, frame: np.ndarray, seconds: float) -> None:
        """Adds a frame; the previous one is shown until then.

        If frames come faster than the frame rate, the video becomes longer; no frame is dropped.

        Args:
            frame: RGB, uint8 [H, W, 3].
            seconds: Time from the start of the video at which the frame appears.
        """
        padded = np.pad(frame, self._padding, mode="edge")
        frame = np.asarray(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
        while self.num_frames and self.num_frames < round(seconds * self._frames_per_second):
            self._write(self._last)
        self._write(frame)
        self._last = frame

    def _write(self, frame: np.ndarray) -> None:
        self._writer.write(frame)
        self.num_frames += 1


def _check_name(path: str) -> None:
    """Refuses a path at which OpenCV would crash."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise image_files.ImageFileError(
            f"{path}: the name of a video must be UTF-8: rename the file or its folder."
        ) from error
