"""One image and its label: what is counted of them, and what is wrong with them."""

import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Callable
from collections.abc import Mapping

import cv2
import numpy as np
import PIL.Image
import tensorflow as tf

from deeplab_tf.data import decoding
from deeplab_tf.data import label_files
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.errors import UserError

THUMBNAIL_SIZE = (640, 480)  # at most, width and height in pixels
_COLOR_MODES = ("RGB", "RGBA", "LA", "CMYK", "YCbCr")


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
    color_sums: np.ndarray | None = None  # of the values and of their squares, float64 [2, 3]
    encoding: str = ""  # of the label, one of `label_files.ENCODINGS`
    pixels_by_id: dict[int, int] | None = None
    # uint8 [h, w, 3] and int32 [h, w], in which `num_classes` is ignored and 1 more out of range.
    thumbnail: tuple[np.ndarray | None, np.ndarray | None] = (None, None)

    def add(self, kind: str, detail: str = "") -> None:
        self.problems.append(Problem(kind, detail))

    def add_of_label(self, kind: str, detail: str = "") -> None:
        self.problems.append(Problem(kind, detail, self.label_name))


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
        image = _read_image(example, measured)
        label = _read_label(example, measured, label_encoding, ids_by_color)
    if image is not None:
        height, width = image.shape[:2]
        measured.size = (width, height)
        stated_height, stated_width = example.stated_size
        if stated_height not in (0, height) or stated_width not in (0, width):
            measured.add(
                "size_field",
                f"states {stated_width}x{stated_height}, its image has {width}x{height} pixels",
            )
        measured.digest = hashlib.blake2b(image, digest_size=16, salt=b"%d" % width).digest()
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


def _read_image(example: Example, measured: MeasuredImage) -> np.ndarray | None:
    """The pixels that training would see, uint8 [H, W, 3]."""
    if example.image is None:
        measured.add("image_missing")
        return None
    try:
        content = _content(example.image)
        header = PIL.Image.open(io.BytesIO(content))
        orientation = header.getexif().get(label_files.EXIF_ORIENTATION, 1)
    except Exception as error:  # Pillow raises errors of every kind on damaged files
        measured.add("image_damaged", _reason(error))
        return None
    if header.format not in ("JPEG", "PNG") or header.mode not in label_files.IMAGE_MODES:
        measured.add("image_format", f"{header.format}, mode {header.mode}")
        return None
    if orientation != 1:
        measured.add("exif_rotation", f"orientation {orientation}")
    try:
        # TensorFlow, not Pillow, which takes a PNG without its last rows for whole.
        return tf.io.decode_image(content, channels=3, expand_animations=False).numpy()
    except tf.errors.OpError:
        measured.add("image_damaged", "cannot be decoded to its end")
        return None


def _read_label(
    example: Example,
    measured: MeasuredImage,
    encoding: str | None,
    ids_by_color: Mapping[label_files.RGB, int] | None,
) -> np.ndarray | None:
    """The ids, int [H, W]."""
    if example.label is None:
        measured.add("label_missing")
        return None
    path = None if isinstance(example.label, bytes) else example.label
    if path and (encoding == "array" or path.suffix.lower() in label_files.ARRAY_EXTENSIONS):
        measured.encoding = "array"
        try:
            return label_files.read_label(path, "array")
        except UserError as error:
            measured.add_of_label("label_damaged", _without_path(error, path))
            return None
    try:
        content = _content(example.label)
        header = PIL.Image.open(io.BytesIO(content))
        if header.format == "JPEG":
            measured.add_of_label("label_jpeg")
            return None
        header.verify()  # the checksums, to the last byte
        if path:
            return _read_label_file(path, header.mode, measured, encoding, ids_by_color)
        label = decoding.decode_label(content)
        measured.encoding = "palette" if header.mode == "P" else "grey"
        return label
    except DataProblem as problem:
        measured.add_of_label(problem.kind, problem.detail)
        return None
    except Exception as error:  # as for images
        measured.add_of_label("label_damaged", _reason(error))
        return None


def _read_label_file(
    path: pathlib.Path,
    mode: str,
    measured: MeasuredImage,
    encoding: str | None,
    ids_by_color: Mapping[label_files.RGB, int] | None,
) -> np.ndarray | None:
    is_colored = mode in _COLOR_MODES
    if is_colored and not ids_by_color:
        measured.add_of_label("label_colors", f"mode {mode}")
        return None
    try:
        label = label_files.read_label(path, encoding, ids_by_color)
        measured.encoding = "color_map" if is_colored else "palette" if mode == "P" else "grey"
        return label
    except UserError as error:
        kind = "label_colors" if is_colored else "label_damaged"
        measured.add_of_label(kind, _without_path(error, path))
        return None


def _without_path(error: UserError, path: pathlib.Path) -> str:
    """What an error says, without the name of the file, which stands before it."""
    return str(error).replace(f"label {path} ", "").replace(f"{path} ", "")


def _content(source: pathlib.Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image, or one without its beginning"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).split("\n")[0]


def _count_ids(label: np.ndarray, info: DatasetInfo, measured: MeasuredImage) -> None:
    if label.min() >= 0 and label.max() < 2**16:
        counts = np.bincount(label.ravel())
        ids = np.flatnonzero(counts)
        counts = counts[ids]
    else:
        ids, counts = np.unique(label, return_counts=True)
    measured.pixels_by_id = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    wrong = [
        f"{class_id} ({pixels:,} px)"
        for class_id, pixels in measured.pixels_by_id.items()
        if not 0 <= class_id < info.num_classes and class_id != info.ignore_label
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        measured.add_of_label("ids_out_of_range", "id " + ", ".join(wrong[:4]) + more)
    elif ids.tolist() == [info.ignore_label]:
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
