"""Image files of any origin: found, checked before they are decoded, and read as 8-bit RGB.

Only the formats in `FORMATS` are opened, whatever a file is called. The header states the size of
an image before the pixels follow; images larger than a limit are refused there, so that a few bytes
cannot ask for gigabytes.

How pixels become 8 bits per channel, the same wherever an image file is read:

- 8-bit and 1-bit images, palettes and CMYK: as viewers show them.
- 16-bit images: scaled by the number of bits, of 8, 10, 12, 14 and 16, that their largest value
  needs, since cameras store 10 to 14 bits in 16. The number of bits is printed unless it is 16.
- 32-bit integers: taken as they are if they lie in 0..255.
- Floats: scaled by 255 if they lie in 0..1, taken as they are if they lie in 0..255.

Everything else is refused.
"""

import collections
import contextlib
import functools
import io
import os
import struct
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
from deeplab_tf.remote_paths import RemotePath

# Pillow's name of every format that is read, and the endings of its files.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif"),  # of phones; the extra `heif` reads it
    "JPEG": (".jfif", ".jpeg", ".jpg"),
    "JPEG2000": (".jp2",),
    "MPO": (".mpo",),  # the JPEG files of many phones and drones, under .jpg: a preview is behind
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
ENDINGS = tuple(sorted(ending for endings in FORMATS.values() for ending in endings))

MAX_PIXELS = 2**26  # of an image that is taken as a whole: 8192x8192
MAX_WINDOWED_PIXELS = 2**29  # of one that a network sees in windows: 23170x23170
MAX_PIXELS_FLAG = "--max_image_pixels"
_MAX_VALUES = 2**30  # of an image of many bands in memory
_MAX_FILE_BYTES = 2**32  # 8 for each pixel of the largest image that is read by default

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_LITTER = (".ds_store", "thumbs.db", "desktop.ini")
_BITS = (8, 10, 12, 14, 16)
_DARKEST_WHITE = 32  # floats up to less than this, but over 1, are neither 0..1 nor 0..255
_OVERSHOOT = 0.02  # of floats in 0..1 that were resized by cubic interpolation
_PILLOW_LIMIT = threading.Lock()  # Pillow's own limit is a global variable


class ImageFileError(UserError):
    """An image file cannot be read; the message names the file, the reason and the remedy."""


class ImageSizeError(ImageFileError):
    """An image has more pixels than the limit."""


def is_litter(path: str | os.PathLike) -> bool:
    """Whether file managers and archives left a file behind: `._a.jpg`, `.DS_Store`, `Thumbs.db`.

    >>> is_litter("photos/._a.jpg"), is_litter("photos/a.jpg")
    (True, False)
    """
    name = os.path.basename(path).lower()
    return name.startswith("._") or name in _LITTER


def find_images(
    images: str | Sequence[str],
    endings: Sequence[str] = ENDINGS,
    is_other_source: Callable[[str], bool] = lambda name: False,
) -> list[str]:
    """Returns the files that `--images` names, sorted.

    The files of a folder that have one of the endings are taken; a line is printed that counts the
    others. `~` is the home folder.

    Args:
        images: A file, a folder or a glob (`**` looks into folders), or several of them.
        endings: Endings of the files that are taken from a folder, in lower case.
        is_other_source: Whether a name that is not a file, such as the index of a camera, is to be
            returned as it is.

    Raises:
        UserError: There are none, or one of several names matches none.
    """

    def find(name: str) -> list[str]:
        path = os.path.expanduser(name)
        if files.as_path(path).is_dir():
            return _in_folder(path, endings)
        if files.as_path(path).is_file():
            return [path]
        if is_other_source(name):
            return [name]
        return [found for found in files.expand(path) if not is_litter(found)]

    found = set()
    for name in [images] if isinstance(images, str) else images:
        paths = find(name)
        if not paths:
            raise _nothing_found(name, endings)
        found.update(paths)
    return sorted(found)


def read_image(
    source: str | os.PathLike | bytes,
    *,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    tell: Callable[[str], None] = print,
) -> np.ndarray:
    """Reads an image as a viewer shows it: in RGB, and turned as its EXIF data say.

    Of several frames or pages the first is read.

    Args:
        source: The file, or its content.
        name: What messages call it; by default the path.
        max_pixels: Larger images are refused before they are decoded.
        tell: Called with a line if the file holds more frames than one, or pixels that are not
            8-bit ones.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ImageFileError: The file is missing, damaged, too large, in a format that is not one of
            `FORMATS`, or holds pixels whose range is not clear.
    """
    name = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    with _errors_naming(name):
        pixels = _to_8_bits(_read(source, name, max_pixels, tell), name, tell)
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., np.newaxis], 3, axis=-1)


def read_values(source: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image as `read_image` does, but in the bits that it has.

    Returns:
        uint8, uint16, int32 or float, [H, W, 3], or [H, W, 1] for grey images of more than 8 bits.
    """
    name = os.fspath(source)
    with _errors_naming(name):
        pixels = _read(source, name, max_pixels, tell=lambda line: None)
        return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def image_of_array(
    pixels: np.typing.ArrayLike | PIL.Image.Image,
    *,
    name: str = "the image",
    tell: Callable[[str], None] = print,
) -> np.ndarray:
    """Returns an array or a Pillow image in memory as an image, by the rules that hold for files.

    Args:
        pixels: `[H, W, 3]` in RGB; `[H, W]` or `[H, W, 1]` in grey; or `[H, W, 4]`, whose alpha
            channel is dropped. uint8, or another type whose values are scaled to 8 bits. A Pillow
            image may have any mode, and is turned as its EXIF data say.
        name: What messages call it.
        tell: Called with a line if the pixels are not 8-bit ones.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ImageFileError: The array has another shape, holds something other than numbers, or
            numbers whose range is not clear.
    """
    if isinstance(pixels, PIL.Image.Image):
        pixels = _pixels_of(PIL.ImageOps.exif_transpose(pixels))
    pixels = np.asarray(pixels)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or pixels.size == 0:
        raise ImageFileError(
            f"{name} has the shape {list(pixels.shape)}. Give one image: [H, W, 3] in RGB, or "
            "[H, W] in grey."
        )
    if pixels.dtype.kind not in "uif":
        raise ImageFileError(f"{name} holds {pixels.dtype} values. Give uint8 values, 0..255.")
    pixels = _to_8_bits(pixels.reshape(*pixels.shape[:2], channels)[..., :3], name, tell)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def open_image(
    source: str | os.PathLike | bytes, *, name: str = "", max_pixels: int = MAX_PIXELS
) -> PIL.Image.Image:
    """Opens an image file without decoding it, in a format of `FORMATS` and of a bounded size.

    Args:
        source: The file, or its content.
        name: What messages call it; by default the path.
        max_pixels: Larger images are refused.

    Returns:
        An image of Pillow, which is a context manager; the pixels are decoded when they are asked
        for.

    Raises:
        ImageFileError: The file is missing, no image in one of these formats, or too large.
    """
    name = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    with _errors_naming(name):
        if not isinstance(source, bytes) and files.is_remote(source):
            source = read_bytes(source)
        if _is_heif(source):
            _register_heif()
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        try:
            with _without_pillows_limit():
                image = PIL.Image.open(file, formats=_formats())
        except PIL.UnidentifiedImageError as error:
            raise ImageFileError(
                f"{name} is damaged, or not one of {', '.join(FORMATS)}: replace or convert it."
            ) from error
        check_size(*image.size, name=name, max_pixels=max_pixels)
        return image


def check_size(width: int, height: int, *, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuses an image by the size that its header states, before it is decoded.

    Args:
        width: In pixels.
        height: In pixels.
        name: What the message calls the file.
        max_pixels: The limit.

    Raises:
        ImageSizeError: The image is larger.
    """
    if width * height > max_pixels:
        raise ImageSizeError(
            f"{name} has {width}x{height} pixels, which is more than the limit of {max_pixels}. If "
            f"that is its true size, raise the limit with {MAX_PIXELS_FLAG}={width * height}."
        )


def check_num_values(width: int, height: int, num_bands: int, *, name: str) -> None:
    """Refuses an image of many bands that would not fit into memory as a whole.

    Raises:
        ImageSizeError: It has more values than are read at once.
    """
    if width * height * num_bands > _MAX_VALUES:
        raise ImageSizeError(
            f"{name} has {width}x{height} pixels in {num_bands} bands, which are more than the "
            f"{_MAX_VALUES} values that are read at once. Save it as a GeoTIFF and give "
            "--window_size, e.g. 513,513, or take fewer bands."
        )


def _in_folder(folder: str, endings: Sequence[str]) -> list[str]:
    """The files of a folder that have one of the endings; counts the others by ending."""
    if files.is_remote(folder):
        names = [path.name for path in RemotePath(folder).find(max_depth=1)]
    else:
        names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    names = [name for name in names if not is_litter(name)]
    taken = [name for name in names if name.lower().endswith(tuple(endings))]
    others = collections.Counter(
        os.path.splitext(name)[1].lower() or "without ending" for name in set(names) - set(taken)
    )
    if others:
        listed = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        print(f"{folder}: files left out, by ending: {listed}", flush=True)
    return [os.path.join(folder, name) for name in taken]


def _nothing_found(images: str, endings: Sequence[str]) -> UserError:
    if files.as_path(os.path.expanduser(images)).is_dir():
        return UserError(f"--images={images}: no file in this folder ends in {', '.join(endings)}.")
    return UserError(
        f"--images={images}: no file matches. Give a file, a folder, or a quoted glob such as "
        "'photos/*.jpg'."
    )


def read_bytes(path: str | os.PathLike) -> bytes:
    """Returns the content of an image file or label file.

    Raises:
        ImageFileError: It is larger than any that can be read.
        OSError: It cannot be read.
    """
    size = files.as_path(path).stat().st_size
    if size > _MAX_FILE_BYTES:
        raise ImageFileError(
            f"{os.fspath(path)} has {size / 2**30:.0f} GiB. Files of more than "
            f"{_MAX_FILE_BYTES // 2**30} GiB are not read: replace it, or cut the image up."
        )
    return files.as_path(path).read_bytes()


@contextlib.contextmanager
def _errors_naming(name: str) -> Iterator[None]:
    """Turns any error of a decoder into an `ImageFileError`."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise ImageFileError(f"{name} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise ImageFileError(f"{name} cannot be read: there is not enough memory.") from error
    except Exception as error:  # decoders raise errors of every kind on damaged files
        reason = f"{type(error).__name__}: {error}"
        raise ImageFileError(f"{name} is damaged ({reason}): replace it.") from error


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Disables Pillow's own size limit while a header is read; `check_size` has the limit."""
    with _PILLOW_LIMIT:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _is_heif(source: str | os.PathLike | bytes) -> bool:
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read(12)
    return source[4:8] == b"ftyp" and source[8:12] in _HEIF_BRANDS


@functools.cache
def _register_heif() -> None:
    with extra_for("Reading HEIC images", extra="heif"):
        import pillow_heif
    pillow_heif.register_heif_opener()


def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    PIL.Image.init()
    return [name for name in FORMATS if name in PIL.Image.OPEN]


def _read(
    source: str | os.PathLike | bytes, name: str, max_pixels: int, tell: Callable[[str], None]
) -> np.ndarray:
    """The pixels of an image, upright, as stored: [H, W, 3], or [H, W] for grey of many bits."""
    content = source if isinstance(source, bytes) else read_bytes(source)
    pixels = _decode_deep(content, name, max_pixels)
    return _decode(content, name, max_pixels, tell) if pixels is None else pixels


def _decode_deep(content: bytes, name: str, max_pixels: int) -> np.ndarray | None:
    """Decodes what Pillow would cut to 8 bits or cannot read: colours in 16 bits, and floats.

    Returns:
        uint16, int32 or float [H, W] or [H, W, 3], upright; None for what Pillow reads as it is.
    """
    if content.startswith(_PNG):
        width, height = struct.unpack(">II", content[16:24])
        bits, color_type = content[24:26]
        is_deep = bits == 16 and color_type != 0
    elif content.startswith(_TIFF):
        tags = _tiff_tags(content)
        width, height, bits = (tags.get(tag, 0) for tag in (256, 257, 258))
        is_deep = bits and max(bits) > (8 if len(bits) > 1 else 32)
    else:
        return None
    if not is_deep:
        return None
    check_size(width, height, name=name, max_pixels=max_pixels)
    if content.startswith(_PNG):
        _check_chunks(content, name)
    # Both turn the image upright: the first by a PNG's EXIF data, the second by a TIFF's tag.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if content.startswith(_TIFF):
        flags = cv2.IMREAD_UNCHANGED
    with quiet_opencv():
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise ImageFileError(
            f"{name} is damaged, or stores its pixels in a way that is not read: convert it to an "
            "8-bit RGB image."
        )
    return pixels[..., 2::-1] if pixels.ndim == 3 else pixels  # RGB, without alpha


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV from printing warnings about a file."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _check_chunks(png: bytes, name: str) -> None:
    """Checks that every chunk of a PNG ends within the file: OpenCV allocates what it states."""
    position = len(_PNG)
    while position < len(png):
        position += 12 + int.from_bytes(png[position : position + 4], "big")
    if position > len(png):
        raise ImageFileError(f"{name} is cut off or damaged: replace it.")


def _tiff_tags(content: bytes) -> PIL.TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of a TIFF file's first page, by number."""
    is_big = content[2:3] == b"\x2b" or content[3:4] == b"\x2b"
    tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if is_big else 8])
    file = io.BytesIO(content)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _decode(content: bytes, name: str, max_pixels: int, tell: Callable[[str], None]) -> np.ndarray:
    """Decodes what Pillow knows; uint8 [H, W, 3] or, for more bits, uint16, int32, float [H, W]."""
    with open_image(content, name=name, max_pixels=max_pixels) as image:
        if getattr(image, "is_animated", False) and image.format != "MPO":
            tell(f"{name}: the first of several frames or pages is read")
        PIL.ImageOps.exif_transpose(image, in_place=True)
        return _pixels_of(image)


def _pixels_of(image: PIL.Image.Image) -> np.ndarray:
    """Returns a Pillow image as uint8 [H, W, 3] or, for more bits, uint16, int32, float [H, W]."""
    if image.mode == "I" and image.format not in ("TIFF", None):  # 16 bits of a PGM file
        return np.asarray(image).astype(np.uint16)
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)
    # A conversion copies even what needs none.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def alpha_of_one_color(image: PIL.Image.Image) -> np.ndarray | None:
    """Returns the opacity of a mask that is drawn by it alone, uint8 [H, W]; None of other images.

    Such an image has one colour, which is not opaque everywhere.
    """
    if "A" not in image.mode:
        return None
    colors, alpha = np.asarray(image.convert("RGB")), np.asarray(image.getchannel("A"))
    return alpha if alpha.min() < 255 and (colors == colors[0, 0]).all() else None


def _to_8_bits(pixels: np.ndarray, name: str, tell: Callable[[str], None]) -> np.ndarray:
    """Scales pixels of more than 8 bits by the rules above; uint8 of the same shape."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    scale, remark = _scale(pixels.dtype, low, high)
    if scale is None:
        raise ImageFileError(
            f"{name} holds {pixels.dtype} values {low:g}..{high:g}, and it is not clear which of "
            "them are black and white: scale them to 8 bits, 0..255."
        )
    if remark:
        tell(f"{name}: {pixels.dtype} values {low:g}..{high:g} are read as {remark}")
    scaled = np.empty(pixels.shape, np.uint8)
    for row, scaled_row in zip(pixels, scaled):  # a copy of all in floats would be large
        scaled_row[:] = np.round(row * np.float32(scale)).clip(0, 255)
    return scaled


def _scale(dtype: np.dtype, low: float, high: float) -> tuple[float | None, str]:
    """The factor of pixels, or None if it is not clear; and what is printed about it."""
    if dtype == np.uint16:
        bits = next(bits for bits in _BITS if high < 2**bits)
        return 255 / (2**bits - 1), "" if bits == 16 else f"ones of {bits} bits"
    if dtype.kind == "f":
        scale = _scale_of_floats(low, high)
    else:
        scale = 1.0 if low >= 0 and high <= 255 else None
    return scale, "ones of 0..1" if scale == 255 else "ones of 0..255"


def _scale_of_floats(low: float, high: float) -> float | None:
    """The factor of floats; None if their range is not clear, or one is NaN."""
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return 255.0
    if low >= -255 * _OVERSHOOT and _DARKEST_WHITE <= high <= 255 * (1 + _OVERSHOOT):
        return 1.0
    return None
