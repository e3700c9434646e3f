"""Settings: the fields of configs, with their help, their limits and how they read text.

A config is a frozen dataclass whose fields are settings. It checks every value when it is made,
whether the value comes from Python or from the command line (`command_line` makes a flag of every
setting).
"""

import csv
import dataclasses
import difflib
import functools
import io
import math
import numbers
import os
import types
import typing
from collections.abc import Hashable

from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

REQUIRED = dataclasses.MISSING
AUTO = "auto"  # on the command line: what None is in Python

_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_LISTS = {
    int: "whole numbers separated by commas",
    float: "numbers separated by commas",
    str: "names separated by commas",
}
_NUMBERS = {int: numbers.Integral, float: numbers.Real}


def setting(default, help: str, **details) -> typing.Any:
    """Returns a field of a config.

    Args:
        default: The default, or REQUIRED.
        help: What the setting does, in sentences that stand alone.
        **details: Limits and the like, see the attributes of `Setting`.
    """
    return dataclasses.field(default=default, metadata={"help": help, **details})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a config.

    Attributes:
        name: Name of the field, and of its flag.
        type: The field's annotation: bool, int, float, str, or a tuple of one of these such as
            `tuple[int, ...]`; perhaps or None, for "not given".
        default: The default, or REQUIRED.
        help: What the setting does.
        default_help: What None or an empty value stands for, such as "the records of the run".
        at_least: The smallest number allowed. Limits of a list hold for each of its numbers.
        at_most: The largest number allowed.
        above: A number that values must exceed.
        below: A number that values must not reach.
        choices: The values allowed.
        length: How many values a list has, unless it is empty.
        may_be_empty: Whether a text or a list may be empty; required ones may not.
        unit: Unit of the numbers, such as "pixels".
        example: A good value, shown where a wrong one was given.
        hint: A clause that ends messages about wrong values.
        is_automatic: Whether None is allowed besides the type, until a training chooses a value.
        is_path: Whether the text is a path, in which `~` is expanded.
        is_common: Whether `--help` lists the flag among the common ones.
    """

    name: str
    type: typing.Any
    default: typing.Any
    help: str
    default_help: str = ""
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple = ()
    length: int | None = None
    may_be_empty: bool = True
    unit: str = ""
    example: str = ""
    hint: str = ""
    is_automatic: bool = False
    is_path: bool = False
    is_common: bool = False

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is REQUIRED

    @property
    def is_optional(self) -> bool:
        """Whether None is allowed."""
        return self.is_automatic or type(None) in typing.get_args(self.type)

    @property
    def is_list(self) -> bool:
        """Whether the value is a tuple."""
        return typing.get_origin(self._type_without_none) is tuple

    @property
    def item_type(self) -> type:
        """The type of the value, or of each value of a list: bool, int, float or str."""
        kind = self._type_without_none
        return typing.get_args(kind)[0] if self.is_list else kind

    @property
    def _must_be_given(self) -> bool:
        return self.is_required or not self.may_be_empty

    @property
    def _type_without_none(self):
        if isinstance(self.type, types.UnionType):
            return next(kind for kind in typing.get_args(self.type) if kind is not type(None))
        return self.type

    def check(self, value):
        """Returns a value in the setting's type: a list as a tuple, 1 as 1.0, `~` expanded.

        Args:
            value: A value of the setting's type, or text as it is typed on the command line;
                "auto" stands for None where that is allowed.

        Raises:
            UserError: The value is of another type, or beyond the limits.
        """
        if self.is_optional and (
            value in (None, AUTO, [AUTO]) or (value == "" and not self.is_list)
        ):
            return None
        try:
            return self._check_list(value) if self.is_list else self._check_item(value)
        except _WrongValueError as error:
            clauses = [
                f"--{self.name}={shortened(self.to_text(value))} must {error}",
                self.example and f"e.g. {self.example}",
            ]
            ending = f"; {self.hint}" if self.hint else ""
            raise UserError(f"{', '.join(filter(None, clauses))}{ending}.") from None

    def split(self, text: str) -> list[str]:
        """Splits the text of a list at its commas, which double quotes protect.

        A path that exists is not split.
        """
        if not text.strip():
            return []
        if self.item_type is not str:
            return text.split(",")
        if self.is_path and os.path.exists(os.path.expanduser(text)):
            return [text]
        row = next(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True))
        return [part.strip() for part in row if part.strip()]

    def to_text(self, value) -> str:
        """Returns the text that `check` reads as this value."""
        if value is None:
            return AUTO
        if isinstance(value, tuple | list):
            return ",".join(map(_quoted, value))
        return str(value).lower() if isinstance(value, bool) else str(value)

    def describe_limits(self) -> str:
        """Returns the limits of the numbers as text, such as "above 0 and at most 1"."""
        if self.at_least is not None and self.at_most is not None:
            return f"between {self.at_least:g} and {self.at_most:.10g}"
        if self.at_least is not None and self.below is None:
            return f"{self.at_least:g} or more"
        limits = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(
            f"{words} {limit:g}" for words, limit in limits.items() if limit is not None
        )

    def describe_choices(self) -> str:
        """Returns the choices as text, such as "bfloat16, float16 or empty"."""
        names = [str(choice) for choice in self.choices if choice != ""]
        names += ["empty"] * ("" in self.choices)
        return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))

    def _check_list(self, value) -> tuple:
        items = self.split(value) if isinstance(value, str) else value
        if not isinstance(items, tuple | list):
            raise _WrongValueError(f"be {self._kind()}")
        values = tuple(map(self._check_item, items))
        if not values and self._must_be_given:
            raise _WrongValueError("not be empty")
        if values and self.length not in (None, len(values)):
            raise _WrongValueError(f"be {self.length} {self._kind()}")
        return values

    def _check_item(self, item):
        """Returns the value, or one of a list, in its type and within the limits."""
        value = self._convert(item)
        if value is None:
            raise _WrongValueError(f"be {self._kind()}")
        if value == "" and self._must_be_given:
            raise _WrongValueError("not be empty")
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(str(value), map(str, self.choices), 1)
            ask = f" (did you mean {near[0]}?)" if near else ""
            raise _WrongValueError(f"be {self.describe_choices()}{ask}")
        if self.item_type is float and not math.isfinite(value):
            raise _WrongValueError("be finite")
        if self.item_type in (int, float) and not self._is_within_limits(value):
            raise _WrongValueError(f"{'all ' * self.is_list}be {self.describe_limits()}")
        return value

    def _convert(self, item):
        """Returns an item in its type; None where it cannot be of that type."""
        kind = self.item_type
        if kind is str:
            if not isinstance(item, str | os.PathLike):
                return None
            text = os.fspath(item)
            return os.path.expanduser(text) if self.is_path else text
        if kind is bool:
            return _BOOLEANS.get(str(item).lower()) if isinstance(item, bool | str) else None
        if isinstance(item, bool) or not isinstance(item, str | _NUMBERS[kind]):
            return None
        try:
            return kind(item)
        except (ValueError, OverflowError):
            return None

    def _is_within_limits(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _kind(self) -> str:
        return _LISTS[self.item_type] if self.is_list else _KINDS[self.item_type]


class _WrongValueError(Exception):
    """What a value must be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The base of all configs.

    Attributes:
        title: What the settings are about, for headings in `--help`.
    """

    title: typing.ClassVar[str] = ""

    def __new__(cls, **given):
        config = super().__new__(cls)
        object.__setattr__(config, "_names_given", tuple(given))
        return config

    def __post_init__(self):
        for one in settings_of(type(self)):
            object.__setattr__(self, one.name, one.check(getattr(self, one.name)))

    def given(self) -> dict[str, typing.Any]:
        """Returns the settings that were given, even if as their defaults; None is not given."""
        values = {name: getattr(self, name) for name in self.__dict__["_names_given"]}
        return {name: value for name, value in values.items() if value is not None}


def settings_of(config_class: type[Config]) -> tuple[Setting, ...]:
    """Returns the settings of a config, in their order."""
    return _settings_of(typing.cast(Hashable, config_class))


@functools.cache
def _settings_of(config_class: type) -> tuple[Setting, ...]:
    types_by_name = typing.get_type_hints(config_class)
    return tuple(
        Setting(
            name=field.name,
            type=types_by_name[field.name],
            default=field.default,
            **field.metadata,
        )
        for field in dataclasses.fields(config_class)
    )


def _quoted(item) -> str:
    """Returns an item of a list as text, in double quotes where it has commas in it."""
    text = str(item)
    if any(character in text for character in ',"\n'):
        return '"' + text.replace('"', '""') + '"'
    return text
