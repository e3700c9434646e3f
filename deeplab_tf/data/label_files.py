"""Label files: how they hold class ids, and what is wrong with them.

Label images are lossless: PNG, BMP, TIFF or GIF. A JPEG is read only when a person says so, since
its compression changes values.
"""

import dataclasses
import difflib
import io
import os
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import PIL.Image

from deeplab_tf.data import image_files
from deeplab_tf.data import label_arrays
from deeplab_tf.data import label_colors
from deeplab_tf.data.annotations.common import EmbeddedImage
from deeplab_tf.data.label_arrays import load_mat as load_mat
from deeplab_tf.data.label_colors import RGB
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.errors import UserError

# How label files hold class ids.
ENCODINGS = (
    "palette",  # the indices of a palette; may be mixed with grey
    "grey",  # the values of one channel, or of three equal ones
    "color_map",  # colours, looked up in those of the classes
    "nearest_color",  # the same, but the nearest one; never detected
    "mask",  # two values or colours, of which the darker one is class 0; JPEGs are taken
    "array",  # the numbers of an array of numpy or MATLAB
)
ARRAY_EXTENSIONS = label_arrays.ENDINGS
EXIF_ORIENTATION = 0x0112
# Decoded to three channels all the same: grey is repeated, palettes looked up, alpha dropped.
IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA")
IGNORE = "ignore"  # in a class map, in place of a class name

_UNLABELLED, _IGNORE_LABEL = -1, 255  # the first is read as the second
_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF")
_NUM_PROBED = 32  # label files that are looked at to tell the encoding
_MAX_SHARE_BETWEEN = 0.05  # of the pixels of a mask that is a JPEG: edges


@dataclasses.dataclass(frozen=True)
class LabelPixels:
    """What a label file stores.

    Args:
        values: int32 [H, W], of palettes, grey images and arrays.
        rgb: uint8 [H, W, 3], of colour images and palettes.
        kind: "palette", "grey", "color" or "array".
        is_lossy: Whether it was compressed with loss.
    """

    values: np.ndarray | None
    rgb: np.ndarray | None
    kind: str
    is_lossy: bool = False

    def colors(self) -> np.ndarray:
        """Returns the colours, uint8 [H, W, 3]; grey ones of an image of one channel."""
        if self.rgb is not None:
            return self.rgb
        assert self.values is not None
        return np.repeat(self.values.clip(0, 255).astype(np.uint8)[..., np.newaxis], 3, axis=-1)

    def encodings(self, colors: Mapping[RGB, int] | Sequence[RGB]) -> tuple[str, ...]:
        """Returns the encodings that the file may have, the likeliest first."""
        if self.kind == "array":
            return ("array",)
        if self.kind == "palette":
            return ("palette",)
        if self.kind == "grey":
            return ("grey", "palette")
        is_grey = self.values is not None  # three equal channels
        known = set(label_colors.encode(np.array(list(colors) or [(-1, 0, 0)])).tolist())
        found = set(np.unique(label_colors.encode(self.colors())).tolist())
        if not is_grey:
            return ("color_map",)
        return ("color_map", "grey", "palette") if found <= known else ("grey", "palette")


def read_bytes(path: str | os.PathLike | EmbeddedImage, kind: str) -> bytes:
    """Returns a file's bytes; `kind` is "image" or "label", for messages.

    Raises:
        UserError: It is missing, or cannot be read.
    """
    if not isinstance(path, EmbeddedImage):
        path = pathlib.Path(path)
        if not path.is_file():
            raise UserError(f"there is no {kind} {path}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror}") from error


def load_label(path: str | os.PathLike, max_pixels: int = image_files.MAX_PIXELS) -> LabelPixels:
    """Reads what a label file stores, to its last pixel.

    Args:
        path: The file.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        UserError: It is missing, damaged, too large, or holds numbers that are not ids.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() in ARRAY_EXTENSIONS:
        return LabelPixels(_integers(label_arrays.read_array(path), path), None, "array")
    content = read_bytes(path, "label")
    with image_files.open_image(content, name=f"label {path}", max_pixels=max_pixels) as image:
        try:
            image.load()
            with PIL.Image.open(io.BytesIO(content)) as again:
                again.verify()  # the checksums, to the last byte
        except Exception as error:  # Pillow raises errors of every kind on damaged files
            raise DataProblem(
                "label_damaged",
                f"cannot be decoded to its end ({error})",
                subject="label",
                name=str(path),
            ) from error
        return _pixels(image, content, path)


def detect_encoding(
    paths: Sequence[str | os.PathLike],
    colors: Sequence[RGB] = (),
    max_pixels: int = image_files.MAX_PIXELS,
) -> str:
    """Tells from some label files how all of them are encoded.

    Args:
        paths: The label files; a few dozen, spread evenly, are looked at.
        colors: Of the classes, for labels in colours.
        max_pixels: Larger labels are refused before they are decoded.

    Returns:
        One of `ENCODINGS`, but for those that a person has to say.

    Raises:
        UserError: They are encoded in different ways, in colours of which none is known, or in a
          way that does not keep ids.
    """
    step = max(len(paths) // _NUM_PROBED, 1)
    possible: dict[pathlib.Path, tuple[str, ...]] = {}
    for path in map(pathlib.Path, paths[::step]):
        try:
            pixels = load_label(path, max_pixels)
        except DataProblem:  # of a damaged file, which is told when it is read
            if len(paths) == 1:
                raise
            continue
        if pixels.is_lossy:
            raise _lossy(pixels, path)
        possible[path] = pixels.encodings(colors)
        if possible[path] == ("color_map",) and not colors:
            raise _colors_unknown(pixels, path)
    if not possible:
        load_label(paths[0], max_pixels)
    common = set.intersection(*map(set, possible.values()))
    for encoding in ("color_map", "grey", "palette", "array"):
        if encoding in common:
            return encoding
    first_of = {encodings[0]: path for path, encodings in reversed(possible.items())}
    listed = ", ".join(f"{encoding} in {path}" for encoding, path in sorted(first_of.items()))
    raise UserError(
        f"labels are encoded in different ways: {listed}; bring them into one, or say by "
        "--label_encoding which it is"
    )


def read_label(
    path: str | os.PathLike,
    encoding: str | None = None,
    colors: Mapping[RGB, int] | None = None,
    *,
    max_pixels: int = image_files.MAX_PIXELS,
) -> np.ndarray:
    """Returns the class ids of a label file, int32 `[H, W]`, whatever ids these are.

    Args:
        path: An image, or an array: `.npy`, `.npz`, `.mat`.
        encoding: One of `ENCODINGS`; by default what the file looks like.
        colors: The id of every colour, for labels in colours.
        max_pixels: Larger labels are refused before they are decoded.

    Raises:
        UserError: It is missing, damaged, encoded in another way, or has unknown colours.
    """
    path = pathlib.Path(path)
    if encoding == "array" and path.suffix.lower() not in ARRAY_EXTENSIONS:
        label_arrays.read_array(path)  # says that it is none
    return label_ids(load_label(path, max_pixels), path, encoding, colors)


def label_ids(
    pixels: LabelPixels,
    path: pathlib.Path,
    encoding: str | None = None,
    colors: Mapping[RGB, int] | None = None,
) -> np.ndarray:
    """Returns the class ids of a label file that was loaded; see `read_label`."""
    if encoding == "mask":
        return _mask(pixels, path)
    if encoding == "nearest_color":
        if not colors:
            raise UserError(f"label {path} is read by its colours, but none is known")
        return label_colors.look_up_nearest(_rgb(pixels, path), colors)
    if pixels.is_lossy:
        raise _lossy(pixels, path)
    if encoding == "color_map":
        return label_colors.look_up(_rgb(pixels, path), colors or {}, path)
    if encoding is None and pixels.encodings(colors or {})[0] == "color_map":
        if not colors:
            raise _colors_unknown(pixels, path)
        return label_colors.look_up(_rgb(pixels, path), colors, path)
    if pixels.values is None:
        raise DataProblem(
            "label_colors",
            f"is a colour image, though labels are said to be {encoding}, or look like that",
            subject="label",
            name=str(path),
            remedy="Bring all into one encoding, or say by --label_encoding which it is.",
        )
    return np.where(pixels.values == _UNLABELLED, _IGNORE_LABEL, pixels.values)


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


def _pixels(image: PIL.Image.Image, content: bytes, path: pathlib.Path) -> LabelPixels:
    """What a decoded label image stores."""
    is_lossy = image.format not in _LOSSLESS
    if image.mode == "P":
        indices = np.asarray(image).astype(np.int32)
        return LabelPixels(indices, np.asarray(image.convert("RGB")), "palette", is_lossy)
    if "A" in image.mode or image.mode in ("RGB", "CMYK", "YCbCr"):
        rgb = np.asarray(image.convert("RGB"))
        if "A" in image.mode and (rgb == rgb[0, 0]).all():
            # One colour of changing opacity: the mask is the alpha channel.
            rgb = np.repeat(np.asarray(image.getchannel("A"))[..., np.newaxis], 3, axis=-1)
        is_grey = (rgb == rgb[..., :1]).all()
        values = rgb[..., 0].astype(np.int32) if is_grey else None
        return LabelPixels(values, rgb, "color", is_lossy)
    return LabelPixels(
        _integers(np.asarray(image), path) // _grey_step(content), None, "grey", is_lossy
    )


def _grey_step(content: bytes) -> int:
    """Returns the pixel value that stands for id 1: Pillow spreads 2 and 4 bits over 0..255."""
    if not content.startswith(b"\x89PNG"):
        return 1
    bit_depth, color_type = content[24], content[25]  # of the header that opens every PNG
    return 255 // (2**bit_depth - 1) if color_type == 0 and bit_depth in (2, 4) else 1


def _integers(array: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Numbers as int32, if they are integers; NaN is unlabelled."""
    ids = np.nan_to_num(array, nan=_UNLABELLED).astype(np.int32)
    is_nan = np.isnan(array) if array.dtype.kind == "f" else False
    if not np.where(is_nan, True, ids == array).all():
        raise UserError(f"label {path} holds numbers that are not class ids, such as fractions")
    return ids


def _rgb(pixels: LabelPixels, path: pathlib.Path) -> np.ndarray:
    values = pixels.values
    if pixels.rgb is None and values is not None and (values.max() > 255 or values.min() < 0):
        raise UserError(f"label {path} has no colours: say by --label_encoding how it holds ids")
    return pixels.colors()


def _mask(pixels: LabelPixels, path: pathlib.Path) -> np.ndarray:
    """Two classes: what is dark is 0, and what is bright is 1."""
    if pixels.is_lossy:
        rgb = _rgb(pixels, path).max(axis=-1).astype(np.int32)
        between = np.count_nonzero((rgb > 64) & (rgb < 192)) / rgb.size
        if between > _MAX_SHARE_BETWEEN:
            raise UserError(
                f"label {path} is a JPEG that is not black and white: {between:.0%} of its pixels "
                "are between. Export it as PNG."
            )
        return (rgb > 127).astype(np.int32)
    is_color = pixels.values is None
    values = label_colors.encode(pixels.colors()) if pixels.values is None else pixels.values
    found = np.unique(values).tolist()
    if len(found) > 2:
        shown = [label_colors.decode(value) if is_color else value for value in found[:5]]
        raise UserError(
            f"label {path} is not a mask of two values: it has {len(found)}, such as "
            f"{', '.join(map(str, shown))}. Export it without smooth edges, or leave out "
            "--label_encoding=mask."
        )
    # Of two colours, the darker one is background; a single one is told from black.
    if is_color:
        found.sort(key=lambda value: (sum(label_colors.decode(value)), value))
    background = found[0] if len(found) == 2 else 0
    return np.where(values != background, 1, 0).astype(np.int32)


def _lossy(pixels: LabelPixels, path: pathlib.Path) -> DataProblem:
    return DataProblem(
        "label_jpeg",
        "is a JPEG, whose compression changes values, while labels are PNGs or other files that "
        f"keep them; its main colours are about {label_colors.main_colors(_rgb(pixels, path))}",
        subject="label",
        name=str(path),
        remedy="Export the labels as PNG. If there are only JPEGs: --label_encoding=mask takes "
        "black and white ones as two classes, --label_encoding=nearest_color the class of the "
        "nearest colour.",
    )


def _colors_unknown(pixels: LabelPixels, path: pathlib.Path) -> DataProblem:
    lines = label_colors.proposed_class_list(_rgb(pixels, path))
    written = f" For this one, with names of yours:\n{lines}" if lines else ""
    return DataProblem(
        "label_colors",
        "is a colour image, and the colours of the classes are not known",
        subject="label",
        name=str(path),
        remedy="Write them into classes.txt beside the images, NAME RED GREEN BLUE, one class a "
        f"line.{written}",
    )
