"""Class maps: how the classes of a data set are merged or dropped while its records are built."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from deeplab_tf import files
from deeplab_tf.errors import UserError

RGB = tuple[int, int, int]

IGNORE = "ignore"  # in place of a class name


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """Classes after some were merged or dropped, and the new id of every old one."""

    class_names: tuple[str, ...]
    colors: tuple[RGB, ...]
    ignore_label: int
    table: Mapping[int, int]  # old id -> new id, or the ignore label

    def apply(self, label: np.ndarray) -> np.ndarray:
        """Returns the new ids of a label whose old ids are in range, integers [H, W]."""
        lookup = np.full(256, self.ignore_label, label.dtype)
        lookup[list(self.table)] = list(self.table.values())
        return lookup[label]


def parse_class_map(
    text: str, class_names: Sequence[str], colors: Sequence[RGB], ignore_label: int
) -> ClassMap:
    """Reads how classes are merged or dropped; classes that are not named stay.

    New ids follow the old ones without gaps. A merged class has the colour of the old class of its
    name, or else that of its first part.

    Args:
        text: `car:vehicle,truck:vehicle,sky:ignore`, or a file of such pairs, one a line.
        class_names: Of the old classes.
        colors: Of the old classes.
        ignore_label: Of the old labels; stays as it is, unless it is one of the classes' ids.

    Raises:
        UserError: The text makes no sense, or names a class that does not exist.
    """
    new_names = _read_pairs(text, class_names)
    renamed = [new_names.get(name, name) for name in class_names]
    kept = list(dict.fromkeys(name for name in renamed if name != IGNORE))
    if not kept:
        raise UserError(f"--class_map={text} leaves no class.")
    if ignore_label < len(class_names):
        if class_names[ignore_label] in new_names:
            raise UserError(
                f"--class_map={text}: {class_names[ignore_label]!r} has the ignore label "
                f"{ignore_label} and is ignored as it is: leave it out."
            )
        ignore_label = kept.index(renamed[ignore_label])
    return ClassMap(
        class_names=tuple(kept),
        colors=tuple(_color_of(name, class_names, renamed, colors) for name in kept),
        ignore_label=ignore_label,
        table={
            class_id: ignore_label if name == IGNORE else kept.index(name)
            for class_id, name in enumerate(renamed)
        },
    )


def _color_of(
    name: str, class_names: Sequence[str], renamed: Sequence[str], colors: Sequence[RGB]
) -> RGB:
    old_id = class_names.index(name) if name in class_names else renamed.index(name)
    red, green, blue = colors[old_id]
    return red, green, blue


def _read_pairs(text: str, class_names: Sequence[str]) -> dict[str, str]:
    """Returns the new name by the old one."""
    path = os.path.expanduser(text)
    if files.as_path(path).is_file():
        lines = files.read_text(path, "class map").split("\n")
    elif ":" in text:
        lines = text.split(",")
    else:
        raise UserError(
            f"--class_map={text} is neither a file nor pairs like car:vehicle,sky:ignore."
        )
    new_names = {}
    for line in filter(None, map(str.strip, lines)):
        old, colon, new = (part.strip() for part in line.partition(":"))
        if not colon or not new:
            raise UserError(f"{line!r} in --class_map={text} is not a pair like car:vehicle.")
        if old not in class_names:
            close = difflib.get_close_matches(old, class_names, n=1)
            instead = f"Did you mean {close[0]!r}?" if close else f"There is {list(class_names)}."
            raise UserError(f"--class_map={text}: there is no class {old!r}. {instead}")
        if old in new_names:
            raise UserError(f"--class_map={text} maps the class {old!r} twice.")
        new_names[old] = new
    return new_names
