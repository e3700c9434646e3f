"""One image and its label: their counts, and their problems."""

import dataclasses
import hashlib
from collections.abc import Callable

import cv2
import numpy as np

from deeplab_tf.data import near_duplicates
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.errors import UserError

THUMBNAIL_SIZE = (640, 480)  # at most, width and height in pixels


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong with one image; `kind` is a key of `findings.KINDS`."""

    kind: str
    detail: str = ""
    name: str = ""  # of the label's file, if it is the label's problem


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An image and its label, not yet read.

    Attributes:
        split: Empty for what is in none.
        name: Of the image, or of the record.
        label_name: Of the label.
        read: Reads both, and adds the problems that it finds to the measured image. Returns the
          pixels, uint8 [H, W, num_channels], and the class ids, int [H, W]; None for what cannot be
          read. None where a problem was found already.
        problem: That problem.
        is_tile: Whether it is a part of an image. Equal tiles, such as water, are allowed.
    """

    split: str
    name: str
    label_name: str = ""
    read: "Callable[[MeasuredImage], tuple[np.ndarray | None, np.ndarray | None]] | None" = None
    problem: Problem | None = None
    is_tile: bool = False


@dataclasses.dataclass
class MeasuredImage:
    """The figures of an image that was read."""

    split: str
    name: str
    label_name: str = ""
    problems: list[Problem] = dataclasses.field(default_factory=list)
    size: tuple[int, int] | None = None  # width and height in pixels
    digest: bytes = b""  # equal for equal pixels
    look: near_duplicates.Look | None = None  # to find images that show nearly the same
    # Sums of the values and of their squares, float64 [2, num_channels].
    color_sums: np.ndarray | None = None
    encoding: str = ""  # of the label, one of `label_files.ENCODINGS`
    pixels_by_id: dict[int, int] | None = None
    # By class in the thumbnail: the sum of the rows of its pixels, from 0 (top) to 1, and their
    # number.
    rows_by_class: dict[int, tuple[float, int]] = dataclasses.field(default_factory=dict)
    is_grey: bool = False
    # uint8 [h, w, 3] and int32 [h, w], in which `num_classes` is ignored and 1 more out of range.
    thumbnail: tuple[np.ndarray | None, np.ndarray | None] = (None, None)

    def add(self, kind: str, detail: str = "") -> None:
        self.problems.append(Problem(kind, detail))

    def add_of_label(self, kind: str, detail: str = "") -> None:
        self.problems.append(Problem(kind, detail, self.label_name))

    def add_error(self, error: UserError, name: str, of_label: bool = False) -> None:
        """Adds what an error says about a file, without the name, which stands before it."""
        add = self.add_of_label if of_label else self.add
        if isinstance(error, DataProblem):
            add(error.kind, error.detail)
        else:
            detail = str(error).removeprefix("label ").removeprefix(name).lstrip(" :,")
            add("label_damaged" if of_label else "image_damaged", detail)


def measure(candidate: Candidate, info: DatasetInfo) -> MeasuredImage:
    """Reads an image and its label to their last pixel.

    Args:
        candidate: What to read.
        info: The classes and the ignore label.

    Returns:
        What was counted, and all that is wrong; nothing is raised.
    """
    measured = MeasuredImage(candidate.split, candidate.name, candidate.label_name)
    if candidate.problem:
        measured.problems.append(candidate.problem)
    if not candidate.read:
        return measured
    image, label = candidate.read(measured)
    if image is not None:
        _measure_pixels(image, info, measured)
    if label is not None and not label.size:
        measured.add_of_label("label_damaged", "holds no pixel")
        label = None
    if label is not None:
        _count_label(label, info, measured)
    if image is not None and label is not None and image.shape[:2] != label.shape:
        size, label_size = (f"{width}x{height}" for height, width in (image.shape[:2], label.shape))
        measured.add_of_label("size_mismatch", f"image {size}, label {label_size}")
        label = None
    displayed = None if image is None else info.displayed(image)
    small_image, small_label = measured.thumbnail = _thumbnail(displayed, label, info)
    measured.is_grey = small_image is not None and bool(np.ptp(small_image, axis=-1).max() == 0)
    if small_label is not None:
        measured.rows_by_class = _rows_by_class(small_label, info.num_classes)
    if candidate.is_tile:
        measured.digest, measured.look = b"", None
    return measured


def _measure_pixels(image: np.ndarray, info: DatasetInfo, measured: MeasuredImage) -> None:
    height, width = image.shape[:2]
    measured.size = (width, height)
    measured.digest = hashlib.blake2b(image.data, digest_size=16, salt=b"%d" % width).digest()
    measured.look = near_duplicates.Look.of(info.displayed(image))
    channels = np.moveaxis(image, -1, 0)  # one by one: OpenCV takes four at most
    mean, deviation = np.array(
        [[value.item() for value in cv2.meanStdDev(channel)] for channel in channels]
    ).T
    measured.color_sums = height * width * np.stack([mean, deviation**2 + mean**2])


def count_ids(label: np.ndarray) -> dict[int, int]:
    """Returns the number of pixels of every id that occurs in a label, integers [H, W]."""
    if label.min() >= 0 and label.max() < 2**16:
        counts = np.bincount(label.ravel())
        ids = np.flatnonzero(counts)
        counts = counts[ids]
    else:
        ids, counts = np.unique(label, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _count_label(label: np.ndarray, info: DatasetInfo, measured: MeasuredImage) -> None:
    measured.pixels_by_id = count_ids(label)
    wrong = [
        f"{class_id} ({pixels:,} px)"
        for class_id, pixels in measured.pixels_by_id.items()
        if not 0 <= class_id < info.num_classes and class_id != info.ignore_label
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        measured.add_of_label("ids_out_of_range", "id " + ", ".join(wrong[:4]) + more)
    elif measured.pixels_by_id.keys() == {info.ignore_label}:
        measured.add_of_label("all_ignored")


def _rows_by_class(label: np.ndarray, num_classes: int) -> dict[int, tuple[float, int]]:
    rows = np.broadcast_to((np.arange(len(label)) + 0.5)[:, np.newaxis] / len(label), label.shape)
    sums = np.bincount(label.ravel(), rows.ravel(), num_classes)
    counts = np.bincount(label.ravel(), minlength=num_classes)
    return {i: (float(sums[i]), int(counts[i])) for i in range(num_classes) if counts[i]}


def _thumbnail(
    image: np.ndarray | None, label: np.ndarray | None, info: DatasetInfo
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A small image and a small label, whose ids have their place in `contact_sheet`."""
    if image is None:
        return None, None
    height, width = image.shape[:2]
    scale = min(1, THUMBNAIL_SIZE[0] / width, THUMBNAIL_SIZE[1] / height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
    if label is not None:
        rows = np.arange(new_height) * height // new_height
        columns = np.arange(new_width) * width // new_width
        label = label[rows[:, np.newaxis], columns].astype(np.int32)
        is_ignored = label == info.ignore_label
        is_wrong = ((label < 0) | (label >= info.num_classes)) & ~is_ignored
        label[is_ignored], label[is_wrong] = info.num_classes, info.num_classes + 1
    return image, label
