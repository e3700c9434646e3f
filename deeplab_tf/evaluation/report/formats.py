"""The formats of figures on the page: filters of its templates."""

NOTHING = "\N{EN DASH}"  # where there is no figure
_MINUS = "\N{MINUS SIGN}"
_SMALLEST_CHANGE = 0.0005  # of a share: what is smaller is written as 0


def percent(share: float | None, digits: int = 1) -> str:
    """Writes a share 0..1 as a percentage.

    >>> percent(0.5)
    '50.0%'
    """
    return NOTHING if share is None else f"{share:.{digits}%}"


def count(number: int) -> str:
    """Writes a whole number with commas: 1,234."""
    return f"{number:,}"


def points(difference: float | None) -> str:
    """Writes a difference of shares in percentage points, with its sign."""
    if difference is None:
        return NOTHING
    if abs(difference) < _SMALLEST_CHANGE:
        return "0"
    return f"{'+' if difference > 0 else _MINUS}{abs(100 * difference):.1f}"


def trend(difference: float | None) -> str:
    """Returns better, worse or same for the change of a figure that should be high."""
    if difference is None or abs(difference) < _SMALLEST_CHANGE:
        return "same"
    return "better" if difference > 0 else "worse"


def plain(value: object) -> str:
    """Writes any JSON value for people: a third is 0.3333, false is no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(plain, value))
    return str(value)
