"""Class lists: files that name the classes of a data set, in the forms that tools write.

sky 70 130 180                  NAME, or NAME RED GREEN BLUE, one class a line
70 130 180 sky                  the other way round (CamVid)
0 sky                           numbered
sky:70,130,180::                labelmap.txt of CVAT and datumaro
__ignore__, _background_        labels.txt of labelme, whose first line is not a class
name,r,g,b                      class_dict.csv, with this header
Pixel Value, Class              _classes.csv of Roboflow, with this header
"""

import os
import pathlib
import re
from collections.abc import Sequence

from deeplab_tf import files
from deeplab_tf.data.records import IGNORE_LABEL
from deeplab_tf.data.records import default_colors
from deeplab_tf.errors import UserError

RGB = tuple[int, int, int]
Entry = tuple[str, RGB | None]

_MAX_NAME = 80  # characters
_LABEL_MAP_LINE = re.compile(r"(?P<name>[^:]+):(?P<color>[\d, ]*):[^:]*:[^:]*")
_NAME_COLOR = re.compile(r"(?P<name>.+?)[\s,]+(?P<color>\d+[\s,]+\d+[\s,]+\d+)")
_COLOR_NAME = re.compile(r"(?P<color>\d+[\s,]+\d+[\s,]+\d+)[\s,]+(?P<name>.+)")
_NUMBERED = re.compile(r"(?P<id>\d+)\s*[\s:,.]\s*(?P<name>\D.*)")
# What stands in other text files, but not in the name of a class.
_NOT_A_NAME = re.compile(r"[{}<>\[\]\"=;\t]|://")
_IGNORED = "__ignore__"


def read_class_list(path: str | os.PathLike) -> tuple[tuple[str, ...], tuple[RGB, ...]]:
    """Reads a class list in any of the forms above; the first class has id 0.

    Lines that begin with # are skipped.

    Args:
        path: The file.

    Returns:
        The class names, and an RGB colour for each; VOC's where the list has none.

    Raises:
        UserError: There is no such file, it is not a class list, or a line of it makes no sense.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"there is no class list {path}: write one, with a class name per line")
    lines = [line.strip() for line in files.read_text(path, "class list").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    entries = _entries(lines, path)
    if not 1 <= len(entries) <= IGNORE_LABEL:
        raise UserError(f"{path} lists {len(entries)} classes; 1 to {IGNORE_LABEL} are possible")
    names = [name for name, _ in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} lists the class {name!r} twice; every id has its own name")
        if len(name) > _MAX_NAME or _NOT_A_NAME.search(name) or not name.isprintable():
            raise UserError(
                f"{path} is not a class list: {name[:_MAX_NAME]!r} is not the name of a class. "
                "Write a file with a class name per line, the first with id 0."
            )
    default = default_colors(len(entries))
    colors = [color or other for (_, color), other in zip(entries, default)]
    return tuple(names), tuple(colors)


def _entries(lines: Sequence[str], path: pathlib.Path) -> list[Entry]:
    """The names and colours of the classes, by whatever form all lines have."""
    header = [word.strip().lower() for word in lines[0].split(",")] if lines else []
    if {"pixel value", "class"} <= set(header):
        return _numbered([line.split(",", 1) for line in lines[1:]], path)
    if "name" in header and len(header) > 1:
        return _table(header, lines[1:], path)
    if lines and all(map(_LABEL_MAP_LINE.fullmatch, lines)):
        return [_entry(_LABEL_MAP_LINE, line, path) for line in lines]
    for form in (_COLOR_NAME, _NAME_COLOR):
        if lines and all(map(form.fullmatch, lines)):
            return [_entry(form, line, path) for line in lines]
    numbered = [match for match in map(_NUMBERED.fullmatch, lines) if match]
    if numbered and len(numbered) == len(lines):
        return _numbered([[match["id"], match["name"]] for match in numbered], path)
    if lines and lines[0] == _IGNORED:
        lines = lines[1:]
    return [
        _entry(_NAME_COLOR, line, path) if _NAME_COLOR.fullmatch(line) else (line, None)
        for line in lines
    ]


def _entry(form: re.Pattern, line: str, path: pathlib.Path) -> Entry:
    match = form.fullmatch(line)
    assert match
    return match["name"].strip(), _color(re.findall(r"\d+", match["color"]), line, path)


def _color(words: Sequence[str], line: str, path: pathlib.Path) -> RGB | None:
    if not words:
        return None
    values = [int(word) for word in words]
    if len(values) != 3 or max(values) > 255:
        raise UserError(f"{path}: the colour in {line!r} is not RGB in 0..255")
    return values[0], values[1], values[2]


def _table(header: list[str], lines: Sequence[str], path: pathlib.Path) -> list[Entry]:
    """A table with a header; colours are in the columns r, g, b or red, green, blue."""
    columns = [
        next((header.index(name) for name in names if name in header), None)
        for names in (("r", "red"), ("g", "green"), ("b", "blue"))
    ]
    entries = []
    for line in lines:
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(header):
            raise UserError(
                f"{path}: {line!r} does not have the {len(header)} columns of the table"
            )
        words = [cells[column] for column in columns if column is not None]
        if not all(word.isdecimal() for word in words):
            raise UserError(f"{path}: the colour in {line!r} is not RGB in 0..255")
        entries.append((cells[header.index("name")], _color(words, line, path)))
    return entries


def _numbered(rows: Sequence[Sequence[str]], path: pathlib.Path) -> list[Entry]:
    """Names with their ids, which have to be 0, 1, 2, ..., in whatever order."""
    names = {}
    for row in rows:
        if len(row) != 2 or not row[0].strip().isdecimal() or int(row[0]) in names:
            raise UserError(f"{path}: {','.join(row)!r} is not an id of its own and a class name")
        names[int(row[0])] = row[1].strip()
    if sorted(names) != list(range(len(names))):
        raise UserError(
            f"{path} numbers its classes {', '.join(map(str, sorted(names)[:5]))}, ...; ids are "
            "0, 1, 2, ... without a gap: name those between as well"
        )
    return [(names[class_id], None) for class_id in range(len(names))]
