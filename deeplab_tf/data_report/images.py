"""One image and its label: what is counted of them, and what is wrong with them."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from collections.abc import Mapping

import cv2
import numpy as np

from deeplab_tf.data import decoding
from deeplab_tf.data import label_files
from deeplab_tf.data import near_duplicates
from deeplab_tf.data import source_images
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
class Example:
    """An image and its label, not yet read: a file, the bytes of one, or None if there is none."""

    split: str  # empty for what is in none
    name: str
    image: pathlib.Path | bytes | None
    label: pathlib.Path | bytes | None
    problem: Problem | None = None  # found already; then there is nothing to read
    stated_size: tuple[int, int] = (0, 0)  # height and width that a record states; 0 for none
    # Reads both in place of `image` and `label`, and adds the problems that it finds.
    read: "Callable[[MeasuredImage], tuple[np.ndarray | None, np.ndarray | None]] | None" = None

    @property
    def label_name(self) -> str:
        return str(self.label) if isinstance(self.label, pathlib.Path) else self.name


@dataclasses.dataclass
class MeasuredImage:
    """What is known of an image that was read."""

    split: str
    name: str
    label_name: str = ""
    problems: list[Problem] = dataclasses.field(default_factory=list)
    size: tuple[int, int] | None = None  # width and height in pixels
    digest: bytes = b""  # equal for equal pixels
    look: near_duplicates.Look | None = None  # to find images that show nearly the same
    color_sums: np.ndarray | None = None  # of the values and of their squares, float64 [2, 3]
    encoding: str = ""  # of the label, one of `label_files.ENCODINGS`
    pixels_by_id: dict[int, int] | None = None
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


def measure(
    example: Example,
    info: DatasetInfo,
    label_encoding: str | None = None,
    ids_by_color: Mapping[label_files.RGB, int] | None = None,
) -> MeasuredImage:
    """Reads an image and its label to their last pixel.

    Args:
        example: What to read.
        info: The classes and the ignore label.
        label_encoding: One of `label_files.ENCODINGS`; by default what each file looks like.
        ids_by_color: For labels in colours.

    Returns:
        What was counted, and all that is wrong; nothing is raised.
    """
    measured = MeasuredImage(example.split, example.name, example.label_name)
    if example.problem:
        measured.problems.append(example.problem)
        return measured
    if example.read:
        image, label = example.read(measured)
    else:
        image, source = _read_image(example, measured)
        label = _read_label(example, measured, label_encoding, ids_by_color)
        label = source.upright(label) if source and label is not None else label
    if image is not None:
        height, width = image.shape[:2]
        measured.size = (width, height)
        stated_height, stated_width = example.stated_size
        if stated_height not in (0, height) or stated_width not in (0, width):
            measured.add(
                "size_field",
                f"states {stated_width}x{stated_height}, its image has {width}x{height} pixels",
            )
        measured.digest = hashlib.blake2b(
            image.tobytes(), digest_size=16, salt=b"%d" % width
        ).digest()
        measured.look = near_duplicates.Look.of(image)
        mean, deviation = (values[:, 0] for values in cv2.meanStdDev(image))
        measured.color_sums = height * width * np.stack([mean, deviation**2 + mean**2])
    if label is not None and not label.size:
        measured.add_of_label("label_damaged", "holds no pixel")
        label = None
    if label is not None:
        _count_ids(label, info, measured)
    if image is not None and label is not None and image.shape[:2] != label.shape:
        measured.add_of_label(
            "size_mismatch",
            f"image {width}x{height}, label {label.shape[1]}x{label.shape[0]}",
        )
        label = None
    measured.thumbnail = _thumbnail(image, label, info)
    return measured


def _read_image(
    example: Example, measured: MeasuredImage
) -> tuple[np.ndarray | None, source_images.SourceImage | None]:
    """The pixels that training would see, uint8 [H, W, 3], and where they come from, if a file."""
    if example.image is None:
        measured.add("image_missing")
        return None, None
    try:
        if isinstance(example.image, bytes):
            if source_images.is_turned(example.image):
                measured.add("exif_rotation")
            return decoding.decode_image(example.image), None
        content = label_files.read_bytes(example.image, "image")
        source = source_images.read_source_image(content, str(example.image))
        return source.pixels(), source
    except UserError as error:
        measured.add_error(error, measured.name)
        return None, None


def _read_label(
    example: Example,
    measured: MeasuredImage,
    encoding: str | None,
    ids_by_color: Mapping[label_files.RGB, int] | None,
) -> np.ndarray | None:
    """The ids, int [H, W], as they are stored."""
    if example.label is None:
        measured.add("label_missing")
        return None
    try:
        if isinstance(example.label, bytes):
            label = decoding.decode_label(example.label)
            measured.encoding = decoding.label_encoding(example.label)
            return label
        pixels = label_files.load_label(example.label)
        label = label_files.label_ids(pixels, example.label, encoding, ids_by_color)
        measured.encoding = encoding or pixels.encodings(ids_by_color or {})[0]
        return label
    except UserError as error:
        measured.add_error(error, measured.label_name, of_label=True)
        return None


def count_ids(label: np.ndarray) -> dict[int, int]:
    """Returns the number of pixels of every id that occurs in a label, integers [H, W]."""
    if label.min() >= 0 and label.max() < 2**16:
        counts = np.bincount(label.ravel())
        ids = np.flatnonzero(counts)
        counts = counts[ids]
    else:
        ids, counts = np.unique(label, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _count_ids(label: np.ndarray, info: DatasetInfo, measured: MeasuredImage) -> None:
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
