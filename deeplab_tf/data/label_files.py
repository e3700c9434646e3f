"""Label files: how they hold class ids, and checks of them.

Label images are lossless: PNG, BMP, TIFF, GIF or PPM. A JPEG is read only on request, since its
compression changes values.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import PIL.Image

from deeplab_tf.data import band_files
from deeplab_tf.data import decoding
from deeplab_tf.data import image_files
from deeplab_tf.data import label_arrays
from deeplab_tf.data import label_colors
from deeplab_tf.data.annotations.common import EmbeddedImage
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
# All decoded to three channels: grey is repeated, palettes are looked up, alpha is dropped.
IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA")

_UNLABELLED, _IGNORE_LABEL = -1, 255  # the first is read as the second
_PILLOW_BITS = 32  # per value of a TIFF; it reads no more
_NODATA = 42113  # tag of a GeoTIFF
_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
_LOSSY_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp")  # of TIFFs
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
        is_bilevel: Whether it has one bit per pixel, so that 1 is white.
    """

    values: np.ndarray | None
    rgb: np.ndarray | None
    kind: str
    is_lossy: bool = False
    is_bilevel: bool = False

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
        if not os.path.isfile(path):
            raise UserError(f"there is no {kind} {path}")
    try:
        return (
            path.read_bytes() if isinstance(path, EmbeddedImage) else image_files.read_bytes(path)
        )
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror}") from error


def load_label(path: str | os.PathLike, max_pixels: int = image_files.MAX_PIXELS) -> LabelPixels:
    """Reads what a label file stores, to its last pixel.

    Args:
        path: The file.
        max_pixels: Larger labels are refused before they are decoded.

    Raises:
        UserError: It is missing, damaged, too large, or holds numbers that are not ids.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() in label_arrays.ENDINGS:
        numbers = label_arrays.read_array(path, max_pixels)
        return LabelPixels(_integers(numbers, path), None, "array")
    content = read_bytes(path, "label")
    header = band_files.tiff_header(path)
    if header and header.is_stack:
        raise UserError(
            f"label {path} has several pages: split it into a file per page, and its image, too, "
            "if that has as many"
        )
    if header and header.num_bits > _PILLOW_BITS:
        return LabelPixels(_of_many_bits(path, max_pixels), None, "grey")
    with image_files.open_image(content, name=f"label {path}", max_pixels=max_pixels) as image:
        try:
            if image.format == "PNG":
                decoding.check_png_is_whole(content)
            image.load()
            return _pixels(image, content, path, max_pixels)
        except DataProblem as problem:
            raise problem.named(str(path)) from None
        except UserError:
            raise
        except Exception as error:  # Pillow raises errors of every kind on damaged files
            raise DataProblem(
                "label_damaged",
                f"cannot be decoded to its end ({error})",
                subject="label",
                name=str(path),
            ) from error


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
        One of `ENCODINGS` that can be detected.

    Raises:
        UserError: They are encoded in different ways, in colours of which none is known, or in a
          way that does not keep ids.
    """
    step = max(len(paths) // _NUM_PROBED, 1)
    possible: dict[pathlib.Path, tuple[str, ...]] = {}
    palette = _Palette()
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
        palette.add(pixels, path)
        if possible[path] == ("color_map",) and not colors:
            raise _colors_unknown(pixels, path)
    if not possible:
        load_label(paths[0], max_pixels)
    if palette.differs:
        return palette.encoding(colors)
    common = set.intersection(*map(set, possible.values()))
    for encoding in ("color_map", "grey", "palette", "array"):
        if encoding in common:
            return encoding
    first_of = {encodings[0]: path for path, encodings in reversed(possible.items())}
    listed = ", ".join(f"{encoding} in {path}" for encoding, path in sorted(first_of.items()))
    raise UserError(
        f"labels are encoded in different ways: {listed}; use one encoding, or name it "
        "with --label_encoding"
    )


class _Palette:
    """The colours that the palettes of several files give to the indices that occur."""

    def __init__(self) -> None:
        self._colors: dict[int, tuple[int, pathlib.Path]] = {}
        self._found: set[int] = set()
        self.differs = ""

    def add(self, pixels: LabelPixels, path: pathlib.Path) -> None:
        """Adds a file; one without a palette adds nothing."""
        if pixels.kind != "palette" or pixels.values is None:
            return
        indices, places = np.unique(pixels.values, return_index=True)
        codes = label_colors.encode(pixels.colors()).ravel()[places]
        for index, code in zip(indices.tolist(), codes.tolist()):
            self._found.add(code)
            other, first = self._colors.setdefault(index, (code, path))
            if other != code and not self.differs:
                self.differs = (
                    f"index {index} is {label_colors.named(other)} in {first}, and "
                    f"{label_colors.named(code)} in {path}"
                )

    def encoding(self, colors: Sequence[RGB]) -> str:
        """Returns how files whose palettes differ hold ids: by their colours.

        Raises:
            UserError: The colours are not those of the classes.
        """
        if self._found <= set(label_colors.encode(np.array(list(colors) or [(-1, 0, 0)])).tolist()):
            return "color_map"
        if len(self._found) == 2 and len(colors) in (0, 2):
            return "mask"
        raise UserError(
            "The palettes of the labels differ, so their indices are not class ids: "
            f"{self.differs}. Write the colours of the classes into classes.txt beside the "
            "images, NAME RED GREEN BLUE, one class a line; or give --label_encoding=palette if "
            "the indices are right."
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
    if encoding == "array" and path.suffix.lower() not in label_arrays.ENDINGS:
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
            remedy="Use one encoding for all, or name it with --label_encoding.",
        )
    return np.where(pixels.values == _UNLABELLED, _IGNORE_LABEL, pixels.values)


def _pixels(
    image: PIL.Image.Image, content: bytes, path: pathlib.Path, max_pixels: int
) -> LabelPixels:
    """What a decoded label image stores."""
    compression = image.info.get("compression")
    is_lossy = image.format not in _LOSSLESS or compression in _LOSSY_COMPRESSIONS

    tags = getattr(image, "tag_v2", {})  # of a TIFF
    nodata = _number(tags.get(_NODATA))

    def values() -> np.ndarray:
        if image.format == "PNG":
            return decoding.decode_label(content, max_pixels).astype(np.int32)
        return _without_nodata(_integers(np.asarray(image), path), nodata)

    if image.mode == "P":
        return LabelPixels(values(), np.asarray(image.convert("RGB")), "palette", is_lossy)
    if "A" in image.mode or image.mode in ("RGB", "CMYK", "YCbCr"):
        rgb = np.asarray(image.convert("RGB"))
        alpha = image_files.alpha_of_one_color(image)
        if alpha is not None:
            rgb = np.repeat(alpha[..., np.newaxis], 3, axis=-1)
        is_grey = (rgb == rgb[..., :1]).all()
        equal = rgb[..., 0].astype(np.int32) if is_grey else None
        return LabelPixels(equal, rgb, "color", is_lossy)
    return LabelPixels(values(), None, "grey", is_lossy, image.mode == "1")


def _of_many_bits(path: pathlib.Path, max_pixels: int) -> np.ndarray:
    """Reads a TIFF of 64 bits per pixel, which Pillow does not."""
    with band_files.open_raster(path) as file:
        name = f"label {path}"
        image_files.check_size(file.width, file.height, name=name, max_pixels=max_pixels)
        return _without_nodata(_integers(file.read(1), path), file.nodata)


def _without_nodata(ids: np.ndarray, nodata: float | None) -> np.ndarray:
    """Marks the "no data" of GDAL; 0 is rather the background that nobody drew on."""
    return np.where(ids == nodata, _UNLABELLED, ids) if nodata else ids


def _number(text) -> float:
    try:
        return float(text or 0)
    except (TypeError, ValueError):
        return 0


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
        raise UserError(f"label {path} has no colours: name its encoding with --label_encoding")
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
    is_color = pixels.values is None or pixels.kind == "palette"
    values = mask_values(pixels)
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


def mask_values(pixels: LabelPixels) -> np.ndarray:
    """Returns the values of a mask, int [H, W]: colours, where there are some, as numbers."""
    # The indices of a palette do not say what is dark.
    if pixels.values is None or pixels.kind == "palette":
        return label_colors.encode(pixels.colors())
    return pixels.values


def _lossy(pixels: LabelPixels, path: pathlib.Path) -> DataProblem:
    colors = label_colors.main_colors(_rgb(pixels, path))
    return DataProblem(
        "label_jpeg",
        "is a JPEG or the like, whose compression changes values, while labels are PNGs or other "
        f"files that keep them; its main colours are about {colors}",
        subject="label",
        name=str(path),
        remedy="Export the labels as PNG. If there are no others: --label_encoding=mask takes "
        "black and white ones as two classes, --label_encoding=nearest_color the class of the "
        "nearest colour.",
    )


def _colors_unknown(pixels: LabelPixels, path: pathlib.Path) -> DataProblem:
    lines = label_colors.proposed_class_list(_rgb(pixels, path))
    written = f" For this one, with names of yours:\n{lines}" if lines else ""
    if lines.count("\n") == 1:
        written += "\nOr give --label_encoding=mask: the darker colour is background."
    return DataProblem(
        "label_colors",
        "is a colour image, and the colours of the classes are not known",
        subject="label",
        name=str(path),
        remedy="Write them into classes.txt beside the images, NAME RED GREEN BLUE, one class a "
        f"line.{written}",
    )
