"""Fields of JSON files of any origin: each is checked when it is read."""

import math
from typing import Any

from deeplab_tf.errors import UserError

_REQUIRED = object()
_MAX_SHOWN = 60  # characters of a wrong value


class JsonObject:
    """A JSON object whose fields are checked as they are read.

    Args:
        value: What the JSON holds.
        where: File and place in it, for messages: "dataset_info.json" or "... splits[0]".
        remedy: What to do if something is wrong, a sentence.

    Raises:
        UserError: The value is not an object.

    >>> JsonObject({"width": "3"}, "a.json", "Write it again.").integer("width", 1, 9)
    3
    """

    def __init__(self, value: Any, where: str, remedy: str):
        self._where = where
        self._remedy = remedy
        if not isinstance(value, dict):
            raise self.error("it", value, "an object {...}")
        self._fields = value

    def text(self, name: str, default: Any = _REQUIRED, max_length: int = 255) -> str:
        """Returns a text that is not empty."""
        value = self._take(name, default)
        if value is not default and not (isinstance(value, str) and 0 < len(value) <= max_length):
            raise self.error(name, value, f"a text of 1 to {max_length} characters")
        return value

    def integer(self, name: str, at_least: int, at_most: int, default: Any = _REQUIRED) -> int:
        """Returns a whole number, which may be written as a text, as protocol buffers do."""
        value = self._take(name, default)
        if value is default:
            return value
        number = as_integer(value)
        if number is None or not at_least <= number <= at_most:
            raise self.error(name, value, f"a whole number between {at_least} and {at_most}")
        return number

    def number(self, name: str) -> float:
        """Returns a finite number."""
        value = self._take(name, _REQUIRED)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value)):
            raise self.error(name, value, "a finite number")
        return float(value)

    def items(self, name: str, at_most: int, default: Any = _REQUIRED) -> list:
        """Returns a list of bounded length; the caller checks what is in it."""
        value = self._take(name, default)
        if value is not default and not (isinstance(value, list) and len(value) <= at_most):
            raise self.error(name, value, f"a list of at most {at_most} entries")
        return value

    def color(self, name: str) -> list[int]:
        """Returns a colour, [R, G, B] in 0..255."""
        value = self._take(name, _REQUIRED)
        color = as_color(value)
        if color is None:
            raise self.error(name, value, "a colour [R, G, B] in 0..255")
        return list(color)

    def objects(self, name: str, at_most: int, default: Any = _REQUIRED) -> list["JsonObject"]:
        """Returns a list of objects of bounded length."""
        return [
            JsonObject(value, f"{self._where}, {name}[{index}]", self._remedy)
            for index, value in enumerate(self.items(name, at_most, default))
        ]

    def error(self, name: str, value: Any, wanted: str) -> UserError:
        """Returns the error for a wrong field."""
        shown = repr(value)
        if len(shown) > _MAX_SHOWN:
            shown = shown[:_MAX_SHOWN] + "..."
        return UserError(f"{self._where}: {name} is {shown}, not {wanted}. {self._remedy}")

    def _take(self, name: str, default: Any) -> Any:
        if name in self._fields:
            return self._fields[name]
        if default is _REQUIRED:
            raise UserError(f"{self._where}: the field {name!r} is missing. {self._remedy}")
        return default


def as_color(value: Any) -> tuple[int, int, int] | None:
    """Returns a JSON value as a colour, RGB in 0..255, or None if it is not one."""
    numbers = list(map(as_integer, value)) if isinstance(value, list) else []
    levels = [number for number in numbers if number is not None and 0 <= number <= 255]
    if len(numbers) != 3 or len(levels) != 3:
        return None
    red, green, blue = levels
    return red, green, blue


def as_integer(value: Any) -> int | None:
    """Returns a JSON value as a whole number, or None if it is not one.

    >>> as_integer("12"), as_integer(3), as_integer(True), as_integer("1.5")
    (12, 3, None, None)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) < 20 and value.removeprefix("-").isdecimal():
        return int(value)
    return None
