"""Raw images and labels as files: how labels are encoded, and what is wrong with them."""

import dataclasses
import difflib
import io
import os
import pathlib
import zipfile
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import PIL.Image

from deeplab_tf.errors import UserError

RGB = tuple[int, int, int]

# palette: the indices of a palette PNG; grey: the values of a greyscale PNG (both are ids, and may
# be mixed); color_map: RGB, looked up in the colours of the classes; array: of numpy or MATLAB.
ENCODINGS = ("palette", "grey", "color_map", "array")
ARRAY_EXTENSIONS = (".npy", ".npz", ".mat")
EXIF_ORIENTATION = 0x0112
# Decoded to three channels all the same: grey is repeated, palettes looked up, alpha dropped.
IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA")
IGNORE = "ignore"  # in a class map, in place of a class name

_GREY_MODES = ("1", "L", "I;16", "I")
_COLOR_MODES = ("RGB", "RGBA", "LA")
_NUM_PROBED = 32  # label files that are looked at to tell the encoding


def read_bytes(path: str | os.PathLike, kind: str) -> bytes:
    """Returns a file's bytes; `kind` is "image" or "label", for messages.

    Raises:
        UserError: It is missing, or cannot be read.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"there is no {kind} {path}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror}") from error


def open_image(path: str | os.PathLike, kind: str) -> tuple[bytes, PIL.Image.Image]:
    """Returns a file's bytes and the image, decoded to its last row.

    Args:
        path: The file.
        kind: "image" or "label", for messages.

    Raises:
        UserError: It is missing or damaged.
    """
    content = read_bytes(path, kind)
    try:
        image = PIL.Image.open(io.BytesIO(content))
        image.load()
    except PIL.UnidentifiedImageError as error:
        raise UserError(f"{kind} {path} is no image, or a damaged one: replace it") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        raise UserError(
            f"{kind} {path} cannot be decoded to its end ({error}): replace it"
        ) from error
    return content, image


def detect_encoding(paths: Sequence[str | os.PathLike], colors: Sequence[RGB] = ()) -> str:
    """Tells from some label files how all of them are encoded.

    Args:
        paths: The label files; a few dozen, spread evenly, are looked at.
        colors: Of the classes, for labels in colours.

    Returns:
        One of `ENCODINGS`.

    Raises:
        UserError: They are encoded in different ways, in colours of which none is known, or in a
          way that does not keep ids.
    """
    step = max(len(paths) // _NUM_PROBED, 1)
    found = {}  # the first file of every encoding
    for path in map(pathlib.Path, paths[::step]):
        if path.suffix.lower() in ARRAY_EXTENSIONS:
            found.setdefault("array", path)
        else:
            _, label = open_image(path, "label")
            found.setdefault(_image_encoding(path, label, bool(colors)), path)
    if set(found) == {"palette", "grey"}:
        return "palette"  # the one is read like the other
    if len(found) > 1:
        listed = ", ".join(f"{encoding} in {path}" for encoding, path in found.items())
        raise UserError(
            f"labels are encoded in different ways: {listed}; bring them into one, or say by "
            "--label_encoding which it is"
        )
    return next(iter(found))


def read_label(
    path: str | os.PathLike,
    encoding: str | None = None,
    colors: Mapping[RGB, int] | None = None,
) -> np.ndarray:
    """Returns the class ids of a label file, int32 `[H, W]`, whatever ids these are.

    Args:
        path: A PNG, or an array: `.npy`, `.npz`, `.mat`.
        encoding: One of `ENCODINGS`; by default what the file looks like.
        colors: The id of every colour, for labels in colours.

    Raises:
        UserError: It is missing, damaged, encoded in another way, or has unknown colours.
    """
    path = pathlib.Path(path)
    if encoding == "array" or (encoding is None and path.suffix.lower() in ARRAY_EXTENSIONS):
        return _read_array(path)
    content, label = open_image(path, "label")
    found = _image_encoding(path, label, bool(colors))
    if encoding == "color_map" or (encoding is None and found == "color_map"):
        return _look_up_colors(path, np.array(label.convert("RGB")), colors or {})
    if found == "color_map":
        raise UserError(
            f"label {path} is a colour image, though labels are said to be {encoding}, or look "
            "like that: bring all into one encoding, or say by --label_encoding which it is"
        )
    return np.array(label).astype(np.int32) // _grey_step(content)


def wrong_ids(label: np.ndarray, num_classes: int, ignore_label: int) -> dict[int, int]:
    """Returns the number of pixels of every id that is neither a class nor the ignore label.

    Args:
        label: Integers `[H, W]`.
        num_classes: Ids are 0 .. num_classes - 1 ...
        ignore_label: ... or this.
    """
    wrong = label[((label < 0) | (label >= num_classes)) & (label != ignore_label)]
    ids, counts = np.unique(wrong, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def check_ids(
    label: np.ndarray, path: str | os.PathLike, num_classes: int, ignore_label: int
) -> None:
    """Raises a UserError if a label has ids out of range; see `wrong_ids` for the arguments."""
    wrong = list(wrong_ids(label, num_classes, ignore_label))
    if not wrong:
        return
    listed = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
    remedy = "map the ids into this range, or name more classes"
    if wrong == [255] and not np.setdiff1d(label, (0, 255)).size:
        remedy = "this looks like a mask of 0 and 255: divide it by 255 to get ids 0 and 1"
    elif wrong == [num_classes] and label.min() > 0:
        remedy = "the ids seem to begin at 1: subtract 1"
    raise UserError(
        f"id{'s' * (len(wrong) > 1)} {listed} in label {path}, but there are {num_classes} "
        f"classes (0..{num_classes - 1}) and ignore_label {ignore_label}: {remedy}"
    )


def load_mat(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the variables of a MATLAB file; structs are indexed as `variables[name].field`.

    Raises:
        UserError: It is missing or damaged, or scipy is not installed.
    """
    try:
        import scipy.io
    except ImportError as error:
        raise UserError(f"reading {path} takes scipy: pip install scipy") from error
    if not pathlib.Path(path).is_file():
        raise UserError(f"there is no label {path}")
    try:
        variables = scipy.io.loadmat(path, squeeze_me=False, struct_as_record=False)
    except NotImplementedError as error:  # MATLAB 7.3 files are HDF5
        raise UserError(f"{path}: {error}; save it in MATLAB by `save(..., '-v7')`") from error
    except Exception as error:  # scipy's readers raise errors of every kind on damaged files
        raise UserError(f"label {path} cannot be read ({error}): replace it") from error
    return {name: value for name, value in variables.items() if not name.startswith("__")}


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """Classes after some were merged or dropped, and the new id of every old one."""

    class_names: tuple[str, ...]
    colors: tuple[RGB, ...]
    ignore_label: int
    table: Mapping[int, int]  # old id -> new id, or the ignore label

    def apply(self, label: np.ndarray) -> np.ndarray:
        """Returns the new ids of a label whose old ids are in range, integers `[H, W]`."""
        lookup = np.full(256, self.ignore_label, label.dtype)
        lookup[list(self.table)] = list(self.table.values())
        return lookup[label]


def parse_class_map(
    text: str, class_names: Sequence[str], colors: Sequence[RGB], ignore_label: int
) -> ClassMap:
    """Reads how classes are merged or dropped; those that are not named stay.

    New ids follow the old ones without gaps. A merged class has the colour of the old class of its
    name, or else that of its first part.

    Args:
        text: `car:vehicle,truck:vehicle,sky:ignore`, or a file of such pairs, one a line.
        class_names: Of the old classes.
        colors: Of the old classes.
        ignore_label: Of the old labels; stays as it is, unless it is one of the classes' ids.

    Raises:
        UserError: It makes no sense, or names a class that is not there.
    """
    inline = not os.path.isfile(text)
    if inline and ":" not in text:
        raise UserError(
            f"--class_map={text} is neither a file nor pairs like car:vehicle,sky:ignore"
        )
    lines = text.split(",") if inline else pathlib.Path(text).read_text("utf-8").splitlines()
    new_names = {}
    for line in filter(None, map(str.strip, lines)):
        old, colon, new = (part.strip() for part in line.partition(":"))
        if not colon or not new:
            raise UserError(f"{line!r} in --class_map={text} is no pair like car:vehicle")
        if old not in class_names:
            close = difflib.get_close_matches(old, class_names, n=1)
            instead = f"did you mean {close[0]!r}?" if close else f"there is {list(class_names)}"
            raise UserError(f"--class_map={text}: there is no class {old!r}; {instead}")
        if old in new_names:
            raise UserError(f"--class_map={text} maps the class {old!r} twice")
        new_names[old] = new
    renamed = [new_names.get(name, name) for name in class_names]
    kept = list(dict.fromkeys(name for name in renamed if name != IGNORE))
    if not kept:
        raise UserError(f"--class_map={text} leaves no class")
    old_ids = {name: class_id for class_id, name in enumerate(class_names)}
    if ignore_label < len(class_names):
        if class_names[ignore_label] in new_names:
            raise UserError(
                f"--class_map={text}: {class_names[ignore_label]!r} has the ignore label "
                f"{ignore_label} and is ignored as it is: leave it out"
            )
        ignore_label = kept.index(renamed[ignore_label])
    return ClassMap(
        class_names=tuple(kept),
        colors=tuple(
            tuple(colors[old_ids[name] if name in old_ids else renamed.index(name)])
            for name in kept
        ),
        ignore_label=ignore_label,
        table={
            class_id: ignore_label if name == IGNORE else kept.index(name)
            for class_id, name in enumerate(renamed)
        },
    )


def _image_encoding(path: pathlib.Path, label: PIL.Image.Image, has_colors: bool) -> str:
    if label.format != "PNG":
        raise UserError(
            f"{path} is a {label.format} file; labels are PNGs, whose compression keeps every id"
        )
    if label.mode == "P":
        return "palette"
    if label.mode in _GREY_MODES:
        return "grey"
    if label.mode not in _COLOR_MODES or not has_colors:
        raise UserError(
            f"{path} is a colour image (mode {label.mode}); labels are one-channel PNGs whose "
            "pixel values are class ids: replace every colour by its id first, or build the "
            "dataset `folder` with the colours in classes.txt"
        )
    return "color_map"


def _grey_step(png: bytes) -> int:
    """Returns the pixel value that stands for id 1: Pillow spreads 2 and 4 bits over 0..255."""
    bit_depth, color_type = png[24], png[25]  # of the header that opens every PNG
    return 255 // (2**bit_depth - 1) if color_type == 0 and bit_depth in (2, 4) else 1


def _look_up_colors(path: pathlib.Path, rgb: np.ndarray, colors: Mapping[RGB, int]) -> np.ndarray:
    """Returns the ids of colours, int32 `[H, W]`, of uint8 `[H, W, 3]`."""
    if not colors:
        raise UserError(f"label {path} is read by its colours, but none is known")
    place_values = np.array([1 << 16, 1 << 8, 1], np.int32)
    codes = np.array(list(colors), np.int32) @ place_values
    order = np.argsort(codes)
    pixels = rgb.astype(np.int32) @ place_values
    nearest = np.minimum(np.searchsorted(codes[order], pixels), len(codes) - 1)
    unknown = codes[order][nearest] != pixels
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        red, green, blue = rgb[row, column].tolist()
        raise UserError(
            f"label {path} has the colour {red} {green} {blue}, which is no class's, in "
            f"{int(unknown.sum())} pixels, the first in row {row}, column {column}: correct it, "
            f"or list the colour as a class (`void {red} {green} {blue}`), which "
            "--class_map=void:ignore drops"
        )
    return np.array(list(colors.values()), np.int32)[order][nearest]


def _read_array(path: pathlib.Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix not in ARRAY_EXTENSIONS:
        raise UserError(f"label {path} is no array: these are {', '.join(ARRAY_EXTENSIONS)}")
    if suffix == ".mat":
        arrays = load_mat(path)
    elif not path.is_file():
        raise UserError(f"there is no label {path}")
    else:
        try:
            loaded = np.load(path, allow_pickle=False)
            arrays = dict(loaded) if suffix == ".npz" else {path.name: loaded}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"label {path} cannot be read ({error}): replace it") from error
    candidates = [
        array for array in arrays.values() if array.ndim == 2 and array.dtype.kind in "biuf"
    ]
    if len(candidates) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise UserError(
            f"label {path} has to hold one array of ids [height, width]; it holds {shapes}"
        )
    label = candidates[0]
    ids = np.nan_to_num(label).astype(np.int32)
    if not np.array_equal(ids, label):
        raise UserError(f"label {path} holds numbers that are no class ids, such as fractions")
    return ids
