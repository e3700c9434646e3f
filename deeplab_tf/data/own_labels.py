"""Label images of any origin: how they hold classes, and the names of these."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data import class_ids
from deeplab_tf.data import image_files
from deeplab_tf.data import label_files
from deeplab_tf.data import records
from deeplab_tf.data.class_lists import read_class_list
from deeplab_tf.data.threads import map_in_threads
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError

MASK_CLASSES = ("background", "foreground")  # of masks that come without a class list

_TOLD_MASKS = (
    "All labels hold 0 and 255 only, so they are read as masks of two classes, where 255 is the "
    "second (--label_encoding=mask). If 255 means pixels that do not count, give "
    "--label_encoding=grey."
)
_TOLD_PALETTES = (
    "The labels hold two colours, at different places of their palettes, so they are read as masks "
    "of two classes, of which the darker one is the first (--label_encoding=mask)."
)
_MANY_CLASSES = 64  # with fewer, a class list of a few lines would be much to ask for
_AT_ONCE = 32  # labels that are read before the next decision


@dataclasses.dataclass(frozen=True)
class LabelClasses:
    """What label images hold.

    Args:
        encoding: One of `label_files.ENCODINGS`.
        names: The class names; the index of a name is its id.
        colors: RGB per class.
        notes: What was decided, in sentences.
    """

    encoding: str
    names: tuple[str, ...]
    colors: tuple[label_files.RGB, ...]
    notes: tuple[str, ...]


def find_classes(
    paths: Sequence[pathlib.Path],
    encoding: str | None,
    class_list: str | pathlib.Path | None,
    max_pixels: int = image_files.MAX_PIXELS,
) -> LabelClasses:
    """Finds out how label images hold classes, and names these.

    A label that cannot be read is skipped here; it is reported when it is read for a record.

    Args:
        paths: The label images.
        encoding: One of `label_files.ENCODINGS`, if it is known.
        class_list: A file of class names, if there is one.
        max_pixels: Larger labels are not decoded.

    Raises:
        UserError: The labels do not fit each other or the class list.
    """
    names, colors = read_class_list(class_list) if class_list else ((), ())
    notes: tuple[str, ...] = ()
    if not encoding:
        encoding = label_files.detect_encoding(paths, colors, max_pixels=max_pixels)
        if encoding == "mask":
            notes = (_TOLD_PALETTES,)
        if encoding in ("grey", "palette") and _are_black_and_white(paths, max_pixels):
            encoding, notes = "mask", (_TOLD_MASKS,)
    if encoding == "mask":
        if len(names) not in (0, 2):
            raise UserError(
                f"{class_list} lists {counted(len(names), 'class')}, but all labels hold two "
                "values, as masks do. If they are masks of two classes, list two names; if one of "
                "the values means pixels that do not count, give --label_encoding=grey."
            )
        _check_masks(paths, max_pixels)
    if encoding == "color_map" and len(set(colors)) < len(colors):
        twice = next(color for color in colors if colors.count(color) > 1)
        raise UserError(
            f"{class_list} gives the colour {twice} to two classes, so labels in colours cannot "
            "tell them apart. A class without a colour gets that of its id in Pascal VOC."
        )
    if not names:
        names, note = _numbered_names(paths, encoding, max_pixels)
        colors, notes = records.default_colors(len(names)), (*notes, note)
    return LabelClasses(encoding, names, colors, notes)


def ids_in(
    path: pathlib.Path,
    encoding: str,
    max_pixels: int,
    colors: dict[label_files.RGB, int] | None = None,
) -> set[int]:
    """Returns the ids that occur in a label image; none if it cannot be read."""
    try:
        return _distinct(label_files.read_label(path, encoding, colors, max_pixels=max_pixels))
    except UserError:
        return set()


def _are_black_and_white(paths: Sequence[pathlib.Path], max_pixels: int) -> bool:
    """Whether labels hold 0 and 255 only, and 255 at all."""
    found: set[int] = set()
    for start in range(0, len(paths), _AT_ONCE):
        part = paths[start : start + _AT_ONCE]
        for values in map_in_threads(lambda path: _grey_values(path, max_pixels), part):
            found |= values
        if not found <= {0, 255}:
            return False
    return 255 in found


def _grey_values(path: pathlib.Path, max_pixels: int) -> set[int]:
    """The ids in a label, but for the white of an image of one bit per pixel."""
    try:
        pixels = label_files.load_label(path, max_pixels)
        values = _distinct(label_files.label_ids(pixels, path, "grey"))
    except UserError:
        return set()
    return values - {1} if pixels.is_bilevel else values


def _check_masks(paths: Sequence[pathlib.Path], max_pixels: int) -> None:
    """Refuses masks that do not tell which of their values is background."""
    values: dict[int, pathlib.Path] = {}
    alone: dict[int, pathlib.Path] = {}
    found_in_each = map_in_threads(lambda path: _mask_values(path, max_pixels), paths)
    for path, found in zip(paths, found_in_each):
        for value in found:
            values.setdefault(value, path)
        if len(found) == 1:
            alone.setdefault(min(found), path)
    if 0 not in values and len(values) > 1 and alone:
        (value, path), *_ = alone.items()
        raise UserError(
            f"It is not clear whether mask {path} is background or foreground: it holds {value} "
            "only, and no mask holds 0 or black for the background. Write the class names into "
            "classes.txt, and read values as ids (--label_encoding=grey) or as colours "
            "(--label_encoding=color_map)."
        )


def _mask_values(path: pathlib.Path, max_pixels: int) -> set[int]:
    try:
        pixels = label_files.load_label(path, max_pixels)
    except UserError:
        return set()
    if pixels.is_lossy:
        return {0}
    return _distinct(label_files.mask_values(pixels))


def _numbered_names(
    paths: Sequence[pathlib.Path], encoding: str, max_pixels: int
) -> tuple[tuple[str, ...], str]:
    """Names for classes without a class list, and a note."""
    if encoding == "mask":
        return MASK_CLASSES, f"No class list: the classes are called {' and '.join(MASK_CLASSES)}."
    if encoding in ("color_map", "nearest_color"):
        raise UserError(
            "Labels in colours need a class list: write classes.txt beside the images, NAME RED "
            "GREEN BLUE, one class a line, or give --classes=FILE."
        )
    found: set[int] = set()
    for ids in map_in_threads(lambda path: ids_in(path, encoding, max_pixels), paths):
        found |= ids
    _check_numbering(found - {records.IGNORE_LABEL})
    number = max(found - {records.IGNORE_LABEL}) + 1
    return tuple(f"class_{class_id}" for class_id in range(number)), (
        f"No class list: {counted(number, 'class')} called by their ids. To name them, write "
        "classes.txt beside the images, a name a line."
    )


def _check_numbering(values: set[int]) -> None:
    """Refuses values that do not look like ids, which nobody has named.

    Args:
        values: Those that occur, without the ignore label.
    """
    name_them = (
        "write the class names into classes.txt beside the images, one a line, the first with id 0"
    )
    told = f"There is no class list, and the labels hold the values {listed(sorted(values))}, which"
    are_two_greys = len(values) == 2 and max(values) >= _MANY_CLASSES / 2
    if class_ids.looks_like_mask(values) or are_two_greys:
        raise UserError(
            f"{told} look like masks of two classes: give --label_encoding=mask. If they are ids: "
            f"{name_them}."
        )
    if not values or min(values) < 0 or max(values) >= records.IGNORE_LABEL:
        raise UserError(f"{told} are not a numbering of classes: {name_them}.")
    if max(values) >= _MANY_CLASSES and len(values) < max(values) / 4:
        raise UserError(
            f"{told} leave out most of the ids between. If they are masks with smooth edges, "
            "export them without. If each value is a class, write its grey as a colour into "
            "classes.txt beside the images, NAME 51 51 51, one class a line, and give "
            f"--label_encoding=color_map. If they are ids: {name_them}."
        )


def _distinct(values: np.ndarray) -> set[int]:
    return set(np.unique(values).tolist())
