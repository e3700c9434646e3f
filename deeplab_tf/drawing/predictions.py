"""The files of a prediction: label maps, overlays and what goes with them, named after the images.

NAME.png            class ids as pixel values, with the colours of the classes as its palette
NAME.tif            the same in place of it for a GeoTIFF, with its transform and coordinate system
NAME_overlay.png    the colours over the image, with a legend below
NAME_confidence.png, NAME_probabilities.npy, label_ids/NAME.png   on demand
overview.png        the first images together
"""

import collections
import contextlib
import dataclasses
import errno
import functools
import itertools
import os
import pathlib
import re
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from deeplab_tf import files
from deeplab_tf.data import band_files
from deeplab_tf.data import image_files
from deeplab_tf.data import threads
from deeplab_tf.drawing import geotiffs
from deeplab_tf.drawing import overlays
from deeplab_tf.drawing import palettes
from deeplab_tf.drawing import panels
from deeplab_tf.drawing import video
from deeplab_tf.errors import UserError

OVERLAY, CONFIDENCE, PROBABILITIES = "_overlay", "_confidence", "_probabilities"
SUFFIXES = ("", OVERLAY, CONFIDENCE, PROBABILITIES)  # between the name and the ending of a file
LABEL_IDS_FOLDER = "label_ids"
OVERVIEW = "overview"
OVERVIEW_IMAGES = 12
OVERVIEW_WIDTH = 480  # of one image in it, pixels
PROGRESS_SECONDS = 2.0  # between two lines on a video

_QUICK_PNG = (
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of a network for an image."""

    label: np.ndarray  # class ids, int32 [H, W]
    probabilities: np.ndarray | None = None  # float32 [H, W, num_classes]; only where asked for


class PredictionWriter:
    """Writes the files of predictions to one folder, each whole or not at all."""

    def __init__(
        self,
        output_dir: str,
        class_names: Sequence[str],
        colors: palettes.Colors,
        *,
        save_confidence: bool = False,
        save_probabilities: bool = False,
        label_ids: np.ndarray | None = None,
        ignore_label: int = 255,
    ):
        """Makes the folder if it is missing, and removes what killed processes left in it.

        Args:
            output_dir: Folder to write to.
            class_names: Name per class.
            colors: RGB per class.
            save_confidence: Whether the probability of the class that was found is written.
            save_probabilities: Whether the probabilities of all classes are written.
            label_ids: A test server's id for every class, uint8 [num_classes]; None to write none.
            ignore_label: Label where a GeoTIFF holds no data.

        Raises:
            UserError: The folder cannot be made.
        """
        self.output_dir = output_dir
        self.class_names, self.colors = class_names, colors
        self._save_confidence = save_confidence
        self._save_probabilities = save_probabilities
        self._label_ids = label_ids
        self._ignore_label = ignore_label
        # Name, overlay and label, made small.
        self._overview: list[tuple[str, np.ndarray, np.ndarray]] = []
        folder = output_dir if label_ids is None else os.path.join(output_dir, LABEL_IDS_FOLDER)
        try:
            files.as_path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir={output_dir} cannot be made: {error}.") from error
        files.remove_drafts(output_dir)

    def write(
        self,
        name: str,
        image: np.ndarray,
        prediction: Prediction,
        source: band_files.RasterFile | None = None,
    ) -> str:
        """Writes the label map of an image, its overlay, and whatever else was asked for.

        Args:
            name: What the names of the files begin with.
            image: uint8 [H, W, 3].
            prediction: What was found in it.
            source: The image as an open GeoTIFF, which then gets one of labels.

        Returns:
            Path of the label map.

        Raises:
            OSError: A file cannot be written; none of the image's files has appeared then.
        """
        label, probabilities = prediction.label, prediction.probabilities
        overlay = overlays.overlay(image, label, self.colors)
        with_legend = panels.add_legend(overlay, label, self.class_names, self.colors)
        writers: dict[str, Callable[[str], None]] = {
            f"{name}{OVERLAY}.png": functools.partial(_write_png, with_legend)
        }
        if self._save_confidence and probabilities is not None:
            confidence = np.round(255 * probabilities.max(axis=-1)).astype(np.uint8)
            writers[f"{name}{CONFIDENCE}.png"] = functools.partial(_write_png, confidence)
        if self._save_probabilities and probabilities is not None:
            writers[f"{name}{PROBABILITIES}.npy"] = functools.partial(
                np.save, arr=probabilities.astype(np.float16)
            )
        if self._label_ids is not None:
            server_label = Image.fromarray(self._label_ids[label])
            writers[os.path.join(LABEL_IDS_FOLDER, f"{name}.png")] = server_label.save
        if source is None:
            output = f"{name}.png"
            writers[output] = lambda path: palettes.write_label_png(path, label, self.colors)
        else:
            output = f"{name}{geotiffs.ENDING}"
            rows = [(slice(0, label.shape[0]), label)]
            writers[output] = functools.partial(self._write_geotiff, source=source, rows=rows)
        self._publish(writers)
        self._add_to_overview(name, overlay, label)
        return os.path.join(self.output_dir, output)

    def write_in_rows(
        self,
        name: str,
        image: np.ndarray,
        rows: Iterable[geotiffs.Rows],
        source: band_files.RasterFile,
    ) -> str:
        """Writes the labels of a GeoTIFF that is too large to be labelled as a whole.

        Args:
            name: What the names of the files begin with.
            image: The image made small, uint8 [h, w, 3], for the overlay.
            rows: Class ids of the image, from top to bottom.
            source: The image.

        Returns:
            Path of the label map.

        Raises:
            OSError: A file cannot be written; none of the image's files has appeared then.
        """
        output = f"{name}{geotiffs.ENDING}"
        small: list[np.ndarray] = []

        def write_labels(path: str) -> None:
            self._write_geotiff(path, source=source, rows=rows)
            small.append(geotiffs.read_small(path, max(image.shape[:2])))

        def write_overlay(path: str) -> None:
            overlay = overlays.overlay(image, small[0], self.colors)
            with_legend = panels.add_legend(overlay, small[0], self.class_names, self.colors)
            _write_png(with_legend, path)
            self._add_to_overview(name, overlay, small[0])

        self._publish({output: write_labels, f"{name}{OVERLAY}.png": write_overlay})
        return os.path.join(self.output_dir, output)

    def _write_geotiff(
        self, path: str, source: band_files.RasterFile, rows: Iterable[geotiffs.Rows]
    ) -> None:
        geotiffs.write(
            path,
            source,
            rows,
            class_names=self.class_names,
            colors=self.colors,
            ignore_label=self._ignore_label,
        )

    def write_video(
        self,
        name: str,
        reader: video.Reader,
        label_of: Callable[[np.ndarray], np.ndarray],
        *,
        every_nth_frame: int = 1,
        max_frames: int = 0,
    ) -> str:
        """Writes the overlays of a video's frames as a video without sound.

        It is as long as the original. What a camera sees while a frame is being labelled is lost;
        the overlay before it stays for that long. Ctrl-C ends a camera's video, not the command.

        Args:
            name: What the name of the file begins with.
            reader: The video or the camera.
            label_of: Function of a frame, uint8 [H, W, 3], that returns class ids, int32 [H, W].
            every_nth_frame: Labels only every n-th frame.
            max_frames: Labels at most this many frames; 0 for all.

        Returns:
            Path of the video.

        Raises:
            OSError: It cannot be written.
        """
        rate = reader.frames_per_second / every_nth_frame
        progress = _FrameProgress(-(-reader.num_frames // every_nth_frame), max_frames)
        first: list[tuple[np.ndarray, np.ndarray]] = []  # overlay and label of the first frame
        with files.draft_folder(self.output_dir) as folder:
            draft = os.path.join(folder, "draft")  # the name of a file may not be UTF-8
            with (
                video.Writer(draft, rate, reader.height, reader.width) as writer,
                _ended_by_ctrl_c(reader.is_camera),
                threads.one_behind() as hand_over,  # draws while the next frame is labelled
            ):

                def draw(frame: np.ndarray, label: np.ndarray, seconds: float) -> None:
                    overlay = overlays.overlay(frame, label, self.colors)
                    writer.write(overlay, seconds)
                    first[:] = first or [(overlay, label)]
                    progress.add_frame()

                frames = reader.frames(every_nth_frame)
                for seconds, frame in itertools.islice(frames, max_frames or None):
                    hand_over(functools.partial(draw, frame, label_of(frame), seconds))
            if not first:  # Ctrl-C before the first frame was labelled
                raise KeyboardInterrupt
            _check_readable(writer.path)
            ending = os.path.splitext(writer.path)[1]
            path = os.path.join(self.output_dir, f"{name}{OVERLAY}{ending}")
            files.publish(writer.path, path)
        progress.finish()
        self._add_to_overview(name, *first[0])
        return path

    def write_overview(self) -> None:
        """Writes the first overlays as one image, with one legend for all; without any, nothing.

        Raises:
            OSError: It cannot be written.
        """
        if not self._overview:
            return
        tiles = [panels.below_name(overlay, name) for name, overlay, _ in self._overview]
        sheet = panels.contact_sheet(tiles, columns=4)
        labels = np.concatenate([label.ravel() for *_, label in self._overview])[np.newaxis]
        sheet = panels.add_legend(sheet, labels, self.class_names, self.colors)
        self._publish({f"{OVERVIEW}.png": functools.partial(_write_png, sheet)})

    def _add_to_overview(self, name: str, overlay: np.ndarray, label: np.ndarray) -> None:
        if len(self._overview) < OVERVIEW_IMAGES:
            self._overview.append((name, _narrow(overlay), _narrow(label)))

    def _publish(self, writers: Mapping[str, Callable[[str], None]]) -> None:
        """Calls a function for every file, and gives them their names when all are written."""
        with files.draft_folder(self.output_dir) as folder:
            drafts = []
            for number, (output, write) in enumerate(writers.items()):
                drafts.append(os.path.join(folder, f"{number}_{os.path.basename(output)}"))
                write(drafts[-1])
            for output, draft in zip(writers, drafts, strict=True):
                files.publish(draft, os.path.join(self.output_dir, output))


def _write_png(image: np.ndarray, path: str) -> None:
    """Writes an image to look at, grey or RGB, in a quarter of the time of the default settings.

    One filter for all rows takes half the time of the best one for each, and makes files that are
    5 % larger.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    pathlib.Path(path).write_bytes(cv2.imencode(".png", pixels, _QUICK_PNG)[1].tobytes())


class _FrameProgress:
    """Prints how many frames of a video are labelled, and how fast."""

    def __init__(self, num_frames: int, max_frames: int):
        known = [count for count in (num_frames, max_frames) if count]
        self._total = f" of {min(known)}" if known else ""
        self._done, self._started = 0, time.monotonic()
        self._printed = self._started

    def add_frame(self) -> None:
        self._done += 1
        now = time.monotonic()
        if self._done == 1 or now - self._printed > PROGRESS_SECONDS:
            self._printed = now
            print(f"  frame {self._done}{self._total}  {self._speed(now)}", flush=True)

    def finish(self) -> None:
        print(f"  {self._done} frames labelled, {self._speed(time.monotonic())}", flush=True)

    def _speed(self, now: float) -> str:
        return f"{self._done / max(now - self._started, 1e-9):.2f} frames/s"


def _check_readable(path: str) -> None:
    """Raises an OSError if a video that was written cannot be read: OpenCV reports no errors."""
    try:
        video.Reader(path)
    except image_files.ImageFileError as error:
        raise OSError(errno.EIO, "what was written is not a video; the disk may be full") from error


@contextlib.contextmanager
def _ended_by_ctrl_c(is_camera: bool) -> Iterator[None]:
    """Takes Ctrl-C for the end of a camera's video, which has no other end."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_camera:
            raise


def output_names(paths: Sequence[str]) -> list[str]:
    """Returns a name per image: its own without the ending, or longer where two would collide.

    `a.jpg` and `a.png` become `a_jpg` and `a_png`; `x/a.jpg` and `y/a.jpg` become `x_a_jpg` and
    `y_a_jpg`; camera 0 becomes `camera_0`. No file written for an image has the name of one that
    is written for another, on case-insensitive file systems too.

    >>> output_names(["in/a.jpg", "in/b.jpg"])
    ['a', 'b']
    """
    stems = [
        f"camera_{path}"
        if video.camera_index(path) is not None
        else os.path.splitext(os.path.basename(path))[0]
        for path in paths
    ]
    uses = collections.Counter(stem.lower() for stem in stems)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names, taken = [], {OVERVIEW}
    for path, stem in zip(paths, stems, strict=True):
        name = stem
        if uses[stem.lower()] > 1:
            name = re.sub(r"[/\\.]", "_", os.path.relpath(os.path.abspath(path), folder))
        while taken & _with_suffixes(name):
            name += "_"
        taken |= _with_suffixes(name)
        names.append(name)
    return names


def check_overwrites(paths: Sequence[str], names: Sequence[str], output_dir: str) -> None:
    """Refuses an output folder in which a prediction would overwrite one of the images.

    Args:
        paths: The images, videos and cameras.
        names: Their output names.
        output_dir: Folder to write to.

    Raises:
        UserError: One of them would be overwritten.
    """
    inputs = {files.real(path) for path in paths if video.camera_index(path) is None}
    outputs = [f"{OVERVIEW}.png"]
    for name in names:
        outputs += [f"{name}{suffix}.png" for suffix in SUFFIXES]
        outputs.append(f"{name}{geotiffs.ENDING}")
        outputs += [f"{name}{OVERLAY}.{ending}" for ending, _ in video.FORMATS]
        outputs.append(os.path.join(LABEL_IDS_FOLDER, f"{name}.png"))
    for output in outputs:
        path = os.path.join(output_dir, output)
        if files.real(path) in inputs:
            raise UserError(
                f"{path} is one of the images and would be overwritten: give another --output_dir."
            )


def _with_suffixes(name: str) -> set[str]:
    return {f"{name}{suffix}".lower() for suffix in SUFFIXES}


def _narrow(image: np.ndarray) -> np.ndarray:
    """Shrinks an overlay, or a label, to the width that it has in the overview."""
    height, width = image.shape[:2]
    if width <= OVERVIEW_WIDTH:
        return image
    size = (OVERVIEW_WIDTH, max(1, height * OVERVIEW_WIDTH // width))
    is_label = image.ndim == 2
    method = Image.Resampling.NEAREST if is_label else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize(size, method))
