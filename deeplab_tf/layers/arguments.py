"""Checks of whole numbers among the arguments of layers and models.

Without them, a wrong number fails later and elsewhere, or is taken as another one.
"""

import numbers
from collections.abc import Iterable

from deeplab_tf.errors import UserError

_HOW_MANY = {1: "one whole number", 2: "two whole numbers", 3: "three whole numbers"}


def whole_number(name: str, value) -> int:
    """Returns a value that must be a whole number above 0.

    >>> whole_number("in_channels", 4)
    4

    Raises:
        UserError: It is not one; the message has its name.
    """
    if not _is_positive(value):
        raise UserError(f"{name} is {value!r}; it must be a whole number, 1 or more.")
    return int(value)


def whole_numbers(
    name: str, values, count: int | None = None, example: tuple[int, ...] = (6, 12, 18)
) -> tuple[int, ...]:
    """Returns a sequence that must hold whole numbers above 0.

    >>> whole_numbers("rates", [6, 12])
    (6, 12)

    Args:
        name: What the message calls it.
        values: Any sequence of numbers, also a NumPy array.
        count: How many it must have; None for any number of them, also none.
        example: Right ones, for the message.

    Raises:
        UserError: It is not a sequence, or one of its numbers is wrong.
    """
    items = tuple(values) if isinstance(values, Iterable) else (None,)
    if not all(map(_is_positive, items)) or count not in (None, len(items)):
        raise UserError(
            f"{name} is {values!r}; it must be {_HOW_MANY.get(count or 0, 'whole numbers')}, each "
            f"1 or more, such as {example}."
        )
    return tuple(map(int, items))


def pair(name: str, value) -> tuple[int, int]:
    """Returns a number down and one across, from one for both or from two.

    >>> pair("strides", 2)
    (2, 2)

    Raises:
        UserError: The value is neither, or a number is below 1.
    """
    if _is_positive(value):
        return int(value), int(value)
    height, width = whole_numbers(name, value, count=2, example=(3, 3))
    return height, width


def _is_positive(value) -> bool:
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_whole and value > 0
