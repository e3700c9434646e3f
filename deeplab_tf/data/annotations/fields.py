"""Reads the fields of annotation files: missing fields and wrong types end in one message."""

import pathlib

from deeplab_tf.errors import UserError

_TYPE_NAMES = {dict: "an object", list: "a list", str: "a text", int: "an integer"}
MAX_SIDE = 2**31  # of an image, in pixels
MAX_ANNOTATION_BYTES = 2**30  # of one annotation file; the largest of COCO has half of it


def field(value, key: str, kind: type, path: pathlib.Path, where: str = ""):
    """Returns `value[key]`.

    Args:
        value: A part of a JSON file.
        key: The name of the field.
        kind: The type that it must have: dict, list, str, int or float.
        path: The file, for messages.
        where: The place in it, for messages, such as "annotation 17".

    Raises:
        UserError: It is missing, or of another type.
    """
    place = f"{path}, {where}" if where else str(path)
    if not isinstance(value, dict):
        raise UserError(f"{place}: this is not an object. Export the annotations again.")
    if key not in value:
        raise UserError(f"{place}: the field {key!r} is missing. Export the annotations again.")
    found = value[key]
    if kind is float:
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise UserError(f"{place}: the field {key!r} is not a number, but {_short(found)}.")
        return float(found) if abs(found) < 1e300 else float("inf")
    if kind is int and isinstance(found, float) and found.is_integer():
        found = int(found)  # as tools in JavaScript write them
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise UserError(
            f"{place}: the field {key!r} is not {_TYPE_NAMES[kind]}, but {_short(found)}."
        )
    return found


def size_field(value, width_key: str, height_key: str) -> tuple[int, int] | None:
    """Returns width and height where both are stated as positive integers, or else None."""
    size = tuple(value.get(key) for key in (width_key, height_key))
    is_stated = all(isinstance(side, int | float) and 1 <= side <= MAX_SIDE for side in size)
    return (int(size[0]), int(size[1])) if is_stated else None


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
