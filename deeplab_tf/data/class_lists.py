"""Class lists: files that name the classes of a data set, in the forms that tools write.

sky 70 130 180                  NAME, or NAME RED GREEN BLUE, or NAME #RRGGBB, one class a line
70 130 180 sky                  the other way round (CamVid)
0 sky                           numbered, in whatever order; `0: sky` and `sky,0` as well
0 70 130 180 sky                both
sky:70,130,180::                labelmap.txt of CVAT and datumaro
__ignore__, _background_        labels.txt of labelme, whose first line is not a class
name,r,g,b                      tables with a header, such as class_dict.csv; also `Name R G B`
Pixel Value, Class              _classes.csv of Roboflow, a table as well
["sky", "road"]                 JSON: names, or objects with a name, a color and an id
"""

import csv
import json
import os
import pathlib
import re
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from deeplab_tf import files
from deeplab_tf.data.json_fields import as_color
from deeplab_tf.data.json_fields import as_integer
from deeplab_tf.data.records import IGNORE_LABEL
from deeplab_tf.data.records import default_colors
from deeplab_tf.errors import UserError

RGB = tuple[int, int, int]


class _Entry(NamedTuple):
    """A class as a line states it; None for what it does not state."""

    name: str
    color: RGB | None = None
    class_id: int | None = None


_MAX_NAME = 80  # characters
_MAX_WORDS = 8
_MAX_LINE = 400
_MAX_LINES = 1000
_SPACE = r"[\s,;:]+"
_RGB = rf"(?P<color>\d+{_SPACE}\d+{_SPACE}\d+)"
_HEX = r"(?P<hex>#[0-9a-fA-F]{6})"
_NAME = r"(?P<name>.*[^\d\s,;:].*?)"
_ID = r"(?P<id>\d+)"
# Forms that all lines have, or none.
_FORMS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<name>[^:]+):(?P<color>[\d, ]*):[^:]*:[^:]*",
        rf"{_ID}{_SPACE}{_NAME}{_SPACE}(?:{_RGB}|{_HEX})",
        rf"{_ID}{_SPACE}(?:{_RGB}|{_HEX}){_SPACE}{_NAME}",
        rf"(?:{_RGB}|{_HEX}){_SPACE}{_NAME}",
        rf"{_ID}[\s,;:.]+{_NAME}",
    )
)
_NAME_ID = re.compile(rf"{_NAME}{_SPACE}{_ID}")
_NAME_COLOR = re.compile(rf"{_NAME}{_SPACE}(?:{_RGB}|{_HEX})")
_OTHER_NUMBERS = re.compile(rf".+?{_SPACE}" + _SPACE.join([r"-?\d*\.?\d+"] * 3))
# Characters that other text files have, but not the name of a class.
_NOT_A_NAME = re.compile(
    r"[{}<>\[\]\"=;:\t#*\\|]|://|\.(jpe?g|png|tiff?|bmp|txt|npy)$|[.!?]$|[.!?] |\(\)$", re.I
)
_IGNORED = "__ignore__"  # of labelme

_NAME_COLUMNS = ("name", "class", "class_name", "class name", "label", "label_name", "category")
_ID_COLUMNS = (
    "id", "class_id", "class id", "label_id", "index", "idx", "value", "pixel value",
)  # fmt: skip
_COLOR_COLUMNS = (("r", "red"), ("g", "green"), ("b", "blue"))
_HEADER_WORDS = {
    *" ".join((*_NAME_COLUMNS, *_ID_COLUMNS, *sum(_COLOR_COLUMNS, ()))).split(),
    "color", "colour", "hex", "rgb",
}  # fmt: skip
_JSON_LISTS = ("names", "classes", "labels", "categories")
_REMEDY = (
    "Write a class name on each line, the first for id 0; or NAME RED GREEN BLUE, with colours in "
    "0..255."
)


def read_class_list(path: str | os.PathLike) -> tuple[tuple[str, ...], tuple[RGB, ...]]:
    """Reads a class list in any of the forms above; the first class has id 0.

    Lines that begin with # are skipped, but for colours such as #FF0000.

    Args:
        path: The file.

    Returns:
        The class names, and an RGB colour for each; VOC's where the list has none.

    Raises:
        UserError: The file does not exist, is not a class list, or has a line that makes no sense.
    """
    path = files.as_path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no class list {path}: write one, with a class name per line")
    text = files.read_text(path, "class list").strip()
    entries = _in_order(_read_json(text, path) or _read_lines(text, path), path)
    if not 1 <= len(entries) <= IGNORE_LABEL:
        raise _wrong_number(path, len(entries))
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path} lists the class {name!r} twice; every id has its own name")
        if not _is_name(name):
            raise _not_a_class_list(path, name)
    default = default_colors(len(entries))
    colors = [entry.color or other for entry, other in zip(entries, default, strict=True)]
    return tuple(names), tuple(colors)


def _is_name(name: str) -> bool:
    is_short = 0 < len(name) <= _MAX_NAME and len(name.split()) <= _MAX_WORDS
    return is_short and name.isprintable() and not _NOT_A_NAME.search(name)


def _not_a_class_list(path: pathlib.Path, line: str) -> UserError:
    return UserError(
        f"{path} is not a class list: {line[:_MAX_NAME]!r} is not the name of a class. {_REMEDY}"
    )


def _wrong_number(path: pathlib.Path, number: int) -> UserError:
    return UserError(f"{path} lists {number} classes; 1 to {IGNORE_LABEL} are possible. {_REMEDY}")


def _in_order(entries: Sequence[_Entry], path: pathlib.Path) -> Sequence[_Entry]:
    """Sorts entries by their ids, if they have any, which must be 0, 1, 2, ..."""
    ids = [entry.class_id for entry in entries if entry.class_id is not None]
    if not ids:
        return entries
    if sorted(ids) != list(range(len(entries))):
        raise UserError(
            f"{path} numbers its classes {', '.join(map(str, sorted(ids)[:5]))}, ...; ids are "
            "0, 1, 2, ... without a gap, each once: name those between as well"
        )
    return sorted(entries, key=lambda entry: entry.class_id or 0)


def _read_lines(text: str, path: pathlib.Path) -> list[_Entry]:
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line and not re.match(r"#(?![0-9a-fA-F]{6}\b)", line)]
    if not 1 <= len(lines) <= _MAX_LINES:
        raise _wrong_number(path, len(lines))
    for line in lines:
        if len(line) > _MAX_LINE:
            raise _not_a_class_list(path, line)
    if table := _read_table(lines, path):
        return table
    if lines[0] == _IGNORED or _is_header(lines[0]):
        lines = lines[1:]
    for form in _FORMS:
        if all(map(form.fullmatch, lines)):
            return [_entry(form, line, path) for line in lines]
    with_ids = [_entry(_NAME_ID, line, path) for line in lines if _NAME_ID.fullmatch(line)]
    has_names = len({entry.name for entry in with_ids}) == len(lines) > 1
    if has_names and {entry.class_id for entry in with_ids} == set(range(len(lines))):
        return with_ids
    if all("," in line and not _NAME_COLOR.fullmatch(line) for line in lines):
        raise _not_a_class_list(path, lines[0])  # a table, or all names in one line
    return [_plain(line, path) for line in lines]


def _is_header(line: str) -> bool:
    """Whether a line names columns, such as `Name R G B`, and not a class."""
    words = set(re.split(_SPACE, line.lower()))
    return words <= _HEADER_WORDS and not words.isdisjoint(_NAME_COLUMNS)


def _plain(line: str, path: pathlib.Path) -> _Entry:
    if _NAME_COLOR.fullmatch(line):
        return _entry(_NAME_COLOR, line, path)
    if _OTHER_NUMBERS.fullmatch(line):
        raise _wrong_color(path, line)
    return _Entry(line)


def _entry(form: re.Pattern, line: str, path: pathlib.Path) -> _Entry:
    found = form.fullmatch(line)
    assert found
    parts = found.groupdict()
    color = parts.get("hex") or parts.get("color") or ""
    class_id = parts.get("id")
    return _Entry(
        parts["name"].strip(),
        _color(color, line, path) if color.strip() else None,
        int(class_id[:9]) if class_id else None,
    )


def _color(text: str, line: str, path: pathlib.Path) -> RGB:
    """Returns the colour in "70 130 180" or "#4682B4"."""
    values: list[Any] = re.findall(r"-?[\d.]+", text)
    if text.startswith("#"):
        values = list(bytes.fromhex(text[1:]))
    color = as_color(values)
    if color is None:
        raise _wrong_color(path, line)
    return color


def _wrong_color(path: pathlib.Path, line: str) -> UserError:
    return UserError(f"{path}: the colour in {line[:_MAX_NAME]!r} is not RGB in 0..255")


def _read_table(lines: Sequence[str], path: pathlib.Path) -> list[_Entry]:
    """Reads a table with a header; empty if it is not one."""
    for delimiter in ",;\t":
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
        header = [cell.strip().lower() for cell in rows[0]]
        names = [column for column in _NAME_COLUMNS if column in header]
        ids = [column for column in _ID_COLUMNS if column in header]
        colors = [
            next((column for column in choices if column in header), "")
            for choices in _COLOR_COLUMNS
        ]
        if names and (ids or all(colors) or (len(header) > 1 and names[0] == "name")):
            break
    else:
        return []
    if not ids and _is_numbering(row[0] for row in rows[1:]):
        ids = header[:1]
    entries = []
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise UserError(
                f"{path}: {line!r} does not have the {len(header)} columns of the table"
            )
        cells = dict(zip(header, map(str.strip, row)))
        class_id = as_integer(cells[ids[0]]) if ids else None
        if ids and class_id is None:
            raise UserError(f"{path}: {line!r} has no id in the column {ids[0]!r}")
        color = " ".join(cells[column] for column in colors) if all(colors) else ""
        entries.append(
            _Entry(cells[names[0]], _color(color, line, path) if color else None, class_id)
        )
    return entries


def _is_numbering(cells: Iterable[str]) -> bool:
    """Whether cells are the whole numbers from one to another, in any order."""
    numbers = [as_integer(cell.strip()) for cell in cells]
    known = sorted(number for number in numbers if number is not None)
    return bool(known) and known == list(range(known[0], known[0] + len(numbers)))


def _read_json(text: str, path: pathlib.Path) -> list[_Entry]:
    """Reads JSON; empty if it is not JSON."""
    if text[:1] not in ("[", "{"):
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(value, dict):
        key = next((key for key in _JSON_LISTS if isinstance(value.get(key), list | dict)), None)
        value = value[key] if key else value
    if isinstance(value, dict):  # ids and names
        value = [{"id": key, "name": name} for key, name in value.items()]
    return [_json_entry(item, path) for item in value]


def _json_entry(item: Any, path: pathlib.Path) -> _Entry:
    if isinstance(item, str):
        return _Entry(item)
    fields = item if isinstance(item, dict) else {}
    name, color, class_id = (fields.get(key) for key in ("name", "color", "id"))
    if not isinstance(name, str) or ("id" in fields and as_integer(class_id) is None):
        raise _not_a_class_list(path, json.dumps(item))
    if isinstance(color, str) and re.fullmatch(_HEX, color):
        color = list(bytes.fromhex(color[1:]))
    if color is not None and as_color(color) is None:
        raise _wrong_color(path, json.dumps(item))
    return _Entry(name, as_color(color), as_integer(class_id))
