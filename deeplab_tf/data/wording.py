"""Counts and lists in messages."""

from collections.abc import Iterable

_MAX_NAMES = 5  # examples in a message


def listed(names: Iterable[object]) -> str:
    """Returns some names and how many more there are.

    >>> listed(["a", "b"])
    'a, b'
    """
    words = [str(name) for name in names]
    more = f" and {len(words) - _MAX_NAMES} more" if len(words) > _MAX_NAMES else ""
    return ", ".join(words[:_MAX_NAMES]) + more


def counted(count: int, noun: str) -> str:
    """Returns a number and a noun.

    >>> counted(1, "image"), counted(2, "box")
    ('1 image', '2 boxes')
    """
    plural = noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{count} {noun if count == 1 else plural}"
