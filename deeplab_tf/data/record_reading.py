"""One record: a serialized `tf.train.Example`, parsed, decoded and checked.

Training, evaluation, checks and exports all read records by these functions. Whatever is wrong with
a record is a `DataProblem`.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from deeplab_tf.data import class_ids
from deeplab_tf.data import decoding
from deeplab_tf.data import transforms
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.records import DatasetInfo

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/segmentation/class/encoded"
NAME_KEY = "image/filename"

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_NAME = 255  # characters
_MAX_KEYS = 12  # that a message lists

_LOST = "is lost, because its shard is damaged"
_NOT_AN_EXAMPLE = "is not a tf.train.Example"
_SIDES = ("height", "width")


class Record(NamedTuple):
    """What a record holds, not yet decoded.

    Attributes:
        name: Of the image; empty where the record has none.
        image: JPEG or PNG; see `decoding` for images of other than three channels.
        label: PNG; empty where there is none.
        size: Height and width in pixels as `image/height` and `image/width` say; 0 where they are
          missing. Nothing relies on them: the image itself states its size.
    """

    name: str
    image: bytes
    label: bytes
    size: tuple[int, int]


class DecodedRecord(NamedTuple):
    """What a record holds, decoded and checked.

    Attributes:
        name: Of the image; empty where the record has none.
        image: uint8 [H, W, C].
        label: Class ids and the ignore label, uint8 [H, W].
    """

    name: str
    image: np.ndarray
    label: np.ndarray


def parse_record(serialized: bytes) -> Record:
    """Parses a record.

    Raises:
        DataProblem: It is not a `tf.train.Example`, has no image, or one of its features has
            another type or several values.
    """
    if not serialized:
        raise DataProblem("record_unreadable", _LOST, subject="record")
    features = _features(serialized)
    name = _printable(_single(features, NAME_KEY, "bytes_list", b""))
    try:
        image = _single(features, IMAGE_KEY, "bytes_list", b"")
        label = _single(features, LABEL_KEY, "bytes_list", b"")
        height, width = (_single(features, f"image/{side}", "int64_list", 0) for side in _SIDES)
        if not image:
            raise _missing("image", IMAGE_KEY, features)
    except DataProblem as problem:
        raise problem.named(name) from None
    return Record(name, image, label, (height, width))


def read_record(
    serialized: bytes,
    info: DatasetInfo,
    max_pixels: int,
    decode_image: Callable[[bytes, int, int], np.ndarray] = decoding.decode_image,
) -> DecodedRecord:
    """Parses, decodes and checks a record.

    Args:
        serialized: The record.
        info: The classes that labels may have, and the bands of the images.
        max_pixels: Larger images and labels are refused before they are decoded.
        decode_image: `decoding.decode_image`, or another decoder.

    Returns:
        Name, image and label.

    Raises:
        DataProblem: The record is not fit; the problem has the record's name where it has one.
    """
    record = parse_record(serialized)
    try:
        if not record.label:
            raise _missing("label", LABEL_KEY, _features(serialized))
        image = decode_image(record.image, max_pixels, info.num_channels)
        label = decoding.decode_label(record.label, max_pixels)
        check_fit(image.shape[:2], label, info)
    except DataProblem as problem:
        raise problem.named(record.name) from None
    return DecodedRecord(record.name, image, label.astype(np.uint8, copy=False))


def check_fit(
    image_size: tuple[int, int], label: np.ndarray, info: DatasetInfo, image_name: str = ""
) -> None:
    """Checks that a label fits its image and the classes.

    Args:
        image_size: Height and width in pixels.
        label: Integers [H, W].
        info: The classes and the ignore label.
        image_name: File of the image, for messages; empty for a record.

    Raises:
        DataProblem: The sizes differ, or an id is neither a class nor the ignore label.
    """
    if label.shape != tuple(image_size):
        (height, width), (label_height, label_width) = image_size, label.shape
        raise DataProblem(
            "size_mismatch",
            f"has {label_width}x{label_height} pixels (width x height), but its image "
            f"{image_name} has {width}x{height}".replace("  ", " "),
            subject="label",
        )
    class_ids.check_ids(label, info.num_classes, info.ignore_label)


def parse_record_in_graph(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses a record as a TensorFlow graph.

    Args:
        serialized: string scalar.

    Returns:
        String scalars `name`, `image_bytes` and `label_bytes`, empty where the record lacks them.

    Raises:
        tf.errors.InvalidArgumentError: When the graph runs, as `parse_record`.
    """
    features = _parse_texts_in_graph(serialized, IMAGE_KEY, LABEL_KEY)
    return {
        "name": parse_name_in_graph(serialized),
        "image_bytes": features[IMAGE_KEY],
        "label_bytes": features[LABEL_KEY],
    }


def parse_name_in_graph(serialized: tf.Tensor) -> tf.Tensor:
    """Returns the name of a record, also of one whose other features cannot be parsed."""
    return tf.strings.unicode_transcode(
        _parse_texts_in_graph(serialized, NAME_KEY)[NAME_KEY],
        "UTF-8",
        "UTF-8",
        "replace",
        replace_control_characters=True,
    )


def header_problem_in_graph(
    record: dict[str, tf.Tensor], max_pixels: int, num_channels: int = 3
) -> tf.Tensor:
    """Says what is wrong with a record of `parse_record_in_graph` before it is decoded.

    Returns:
        string scalar, empty if nothing is wrong. What else is wrong is seen while decoding.
    """
    image_problem = tf.cond(
        record["image_bytes"] == "",
        lambda: f"it has no image under the key {IMAGE_KEY}",
        lambda: _sentence(
            "image",
            decoding.image_problem_in_graph(record["image_bytes"], max_pixels, num_channels),
        ),
    )
    label_problem = tf.cond(
        record["label_bytes"] == "",
        lambda: f"it has no label under the key {LABEL_KEY}",
        lambda: _sentence(
            "label", decoding.label_problem_in_graph(record["label_bytes"], max_pixels)
        ),
    )
    return tf.where(image_problem == "", label_problem, image_problem)


def decode_record_in_graph(
    record: dict[str, tf.Tensor], info: DatasetInfo
) -> tuple[transforms.Example, tf.Tensor]:
    """Decodes a record in whose headers nothing is wrong, and checks it.

    Returns:
        The example, `image` uint8 [H, W, num_channels] and `label` uint8 [H, W], which are blank
        where something is wrong; and what it is, a string scalar, or an empty one.
    """
    image = transforms.decode(record["image_bytes"], info.num_channels)
    label = decoding.decode_label_in_graph(record["label_bytes"])
    size = tf.shape(label)
    is_wrong = (label >= info.num_classes) & (label != info.ignore_label)
    wrong = tf.reduce_max(tf.where(is_wrong, label, -1))
    texts = [
        (tf.reduce_any(tf.shape(image)[:2] != size), "its label differs in size from its image"),
        (
            wrong >= 0,
            tf.strings.join(
                [
                    "its label has the id ",
                    tf.strings.as_string(wrong),
                    f", but there are {info.num_classes} classes "
                    f"({class_ids.range_text(info.num_classes, info.ignore_label)})",
                ]
            ),
        ),
    ]
    problem = decoding.first_problem(*texts)
    return {"image": image, "label": tf.cast(label, tf.uint8)}, problem


def _parse_texts_in_graph(serialized: tf.Tensor, *keys: str) -> dict[str, tf.Tensor]:
    return tf.io.parse_single_example(
        serialized, {key: tf.io.FixedLenFeature((), tf.string, "") for key in keys}
    )


def _features(serialized: bytes):
    """Returns the features of a serialized example, a map from keys."""
    try:
        return tf.train.Example.FromString(serialized).features.feature
    except DecodeError:
        raise DataProblem("record_unreadable", _NOT_AN_EXAMPLE, subject="record") from None


def _single(features, key: str, kind: str, default):
    """Returns the one value of a feature, or the default where it is missing."""
    feature = features.get(key)
    found = feature and feature.WhichOneof("kind")
    if not found:
        return default
    values = getattr(feature, found).value
    if found != kind or len(values) > 1:
        problem = f"{len(values)} values" if found == kind else f"a value of type {found}"
        raise DataProblem(
            "record_unreadable", f"has {problem} under the key {key}, not one of type {kind}",
            subject="record",
        )  # fmt: skip
    return values[0] if values else default


def _missing(what: str, key: str, features) -> DataProblem:
    keys = sorted(_printable(name.encode()) for name in features)
    more = f" and {len(keys) - _MAX_KEYS} more" if len(keys) > _MAX_KEYS else ""
    listed = ", ".join(name[:_MAX_NAME] for name in keys[:_MAX_KEYS]) or "nothing"
    return DataProblem(
        f"{what}_missing",
        f"has no {what} under the key {key} (it has {listed}{more})",
        subject="record",
        remedy="Write records with the keys of DeepLab: build them again.",
    )


def _printable(name: bytes) -> str:
    """Returns a name that can be shown and written anywhere, whatever its bytes are."""
    return _CONTROL_CHARACTERS.sub("\ufffd", name.decode("utf-8", "replace"))[:_MAX_NAME]


def _sentence(subject: str, problem: tf.Tensor) -> tf.Tensor:
    return tf.where(problem == "", problem, tf.strings.join([f"its {subject} ", problem]))
