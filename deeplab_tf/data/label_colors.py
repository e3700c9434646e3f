"""Label maps in colours: looked up in the colours of the classes."""

import pathlib
from collections.abc import Mapping

import numpy as np

from deeplab_tf.data.problems import DataProblem
from deeplab_tf.errors import UserError

RGB = tuple[int, int, int]

_NEAR = 48  # of 0..255: how far compression moves the channels of a colour
_COARSE = 32  # step between colours that count as one in messages
_MAX_LISTED = 5
_MAX_CLASSES = 32  # colours that are proposed as a class list


def encode(rgb: np.ndarray) -> np.ndarray:
    """Returns one number per colour, int32 [...], of uint8 [..., 3]."""
    return rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def decode(code: int) -> RGB:
    """Returns the colour that a number stands for.

    >>> decode(256 * 256 * 7 + 9)
    (7, 0, 9)
    """
    return code >> 16, code >> 8 & 255, code & 255


def named(code: int) -> str:
    """Returns a colour for messages.

    >>> named(256 * 256 * 7 + 9)
    '7 0 9'
    """
    return " ".join(map(str, decode(code)))


def look_up(rgb: np.ndarray, ids: Mapping[RGB, int], path: pathlib.Path) -> np.ndarray:
    """Returns the ids of colours, int32 [H, W].

    Args:
        rgb: uint8 [H, W, 3].
        ids: The id of every colour.
        path: For messages.

    Raises:
        UserError: A colour is unknown.
    """
    if not ids:
        raise UserError(f"label {path} is read by its colours, but none is known")
    codes = encode(np.array(list(ids), np.uint8))
    order = np.argsort(codes)
    pixels = encode(rgb)
    nearest = np.minimum(np.searchsorted(codes[order], pixels), len(codes) - 1)
    unknown = codes[order][nearest] != pixels
    if unknown.any():
        raise _unknown_colors(rgb, unknown, ids, path)
    return np.array(list(ids.values()), np.int32)[order][nearest]


def look_up_nearest(rgb: np.ndarray, ids: Mapping[RGB, int]) -> np.ndarray:
    """Returns the ids of the nearest known colours, int32 [H, W], of uint8 [H, W, 3]."""
    known = np.array(list(ids), np.int32)
    codes, places = np.unique(encode(rgb), return_inverse=True)
    nearest = [_distances(decode(code), known).argmin() for code in codes.tolist()]
    return np.array(list(ids.values()), np.int32)[nearest][places].reshape(rgb.shape[:2])


def main_colors(rgb: np.ndarray) -> str:
    """Returns the most frequent colours, about, and their shares: "0 0 0 (93 %)"."""
    coarse = (rgb.astype(np.int32) + _COARSE // 2) // _COARSE * _COARSE
    codes, counts = np.unique(encode(coarse.clip(0, 255)), return_counts=True)
    order = np.argsort(-counts)[:_MAX_LISTED]
    return ", ".join(
        f"{' '.join(map(str, decode(int(codes[i]))))} ({counts[i] / counts.sum():.1%})"
        for i in order
    )


def proposed_class_list(rgb: np.ndarray) -> str:
    """Returns lines for a class list with the colours of a label, the most frequent first."""
    codes, counts = np.unique(encode(rgb), return_counts=True)
    if len(codes) > _MAX_CLASSES:
        return ""
    order = np.argsort(-counts)
    return "\n".join(
        f"name_{number} {' '.join(map(str, decode(int(codes[i]))))}"
        for number, i in enumerate(order)
    )


def _unknown_colors(
    rgb: np.ndarray, unknown: np.ndarray, ids: Mapping[RGB, int], path: pathlib.Path
) -> DataProblem:
    row, column = np.argwhere(unknown)[0]
    red, green, blue = rgb[row, column].tolist()
    known = np.array(list(ids), np.int32)
    codes, counts = np.unique(encode(rgb[unknown]), return_counts=True)
    is_near = [_distances(decode(code), known).min() <= _NEAR for code in codes.tolist()]
    is_compressed = len(codes) > 1 and counts[is_near].sum() > counts.sum() / 2
    remedy = (
        f"Correct it, or list the colour as a class (`void {red} {green} {blue}`), which "
        "--class_map=void:ignore drops."
    )
    if is_compressed:
        remedy = (
            f"{len(codes)} such colours lie near those of classes, as compression or smooth edges "
            "leave them. Export the label without them, or take the nearest class by "
            "--label_encoding=nearest_color."
        )
    return DataProblem(
        "label_colors",
        f"has the colour {red} {green} {blue}, which is not that of a class, in "
        f"{int(unknown.sum())} pixels, the first in row {row}, column {column}",
        subject="label",
        name=str(path),
        remedy=remedy,
    )


def _distances(color: RGB, known: np.ndarray) -> np.ndarray:
    return np.abs(known - np.array(color)).max(axis=1)
