"""Image files of any number of bands: read whole, in windows, or made small.

    with open_bands("field.tif") as file:
        values, is_nodata = file.read(slice(0, 512), slice(0, 512))

GeoTIFFs and other TIFFs of several bands are read by rasterio (the extra `geo`), whose windows keep
memory bounded. TIFF stacks (a page per band) and numpy arrays [H, W, N] are read as they are; all
other images as a viewer shows them, with their alpha channel as a band of its own.
"""

import abc
import contextlib
import dataclasses
import os
import pathlib
import re
import typing
import warnings
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin

from deeplab_tf.data import bands as image_bands
from deeplab_tf.data import frames
from deeplab_tf.data import image_files
from deeplab_tf.data import label_arrays
from deeplab_tf.data import records
from deeplab_tf.data.image_files import ImageFileError
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for

ARRAY_ENDINGS = (".npy", ".npz")
TIFF_ENDINGS = (".tif", ".tiff")

# Tags of TIFF files.
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 254, 256, 257, 258, 262
_SAMPLES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 277, 338, 339
_GEO_TAGS = (33550, 33922, 34264, 34735)  # pixel scale, tie points, transform, keys
_NODATA = 42113
_PALETTE, _CMYK = 3, 5
_ALPHA = (1, 2)  # of extra samples
_UNSIGNED = 1  # sample format
_MAX_PAGES = 4096
_CACHE_MIB = "256"

# Names of bands that stand for red, green and blue; the numbers are Sentinel-2's.
_RED, _GREEN, _BLUE = r"r|red|b0?4", r"g|green|b0?3", r"b|blue|b0?2"

Slices = tuple[slice, slice]


@dataclasses.dataclass(frozen=True)
class TiffHeader:
    """What the tags of a TIFF file say.

    Attributes:
        is_geo: Whether it is a GeoTIFF.
        num_samples: Values per pixel.
        has_alpha: Whether the last of these is said to be opacity.
        num_bits: Of a value.
        is_8_bit: Whether all of them are unsigned numbers of at most 8 bits.
        has_nodata: Whether a value is said to mean "no data".
        is_stack: Whether it has several grey pages of one size.
        is_color_coded: Whether its values are indices of a palette, or CMYK.
    """

    is_geo: bool
    num_samples: int
    has_alpha: bool
    num_bits: int
    is_8_bit: bool
    has_nodata: bool
    is_stack: bool
    is_color_coded: bool

    @property
    def has_bands(self) -> bool:
        """Whether the file holds bands rather than an image in RGB or grey."""
        num_bands = self.num_samples - self.has_alpha
        if self.is_color_coded:
            return False
        if self.is_stack or num_bands not in (1, 3):
            return True
        return self.is_geo and (not self.is_8_bit or self.has_nodata)


def tiff_header(path: pathlib.Path) -> TiffHeader | None:
    """Reads the tags of a TIFF file; None for other files and damaged ones."""
    try:
        with open(path, "rb") as file:
            pages = list(_pages(file))
        return _header_of(pages) if pages else None
    except Exception:  # Pillow raises errors of every kind on damaged files, and tags of any type
        return None


def _header_of(pages: Sequence[PIL.TiffImagePlugin.ImageFileDirectory_v2]) -> TiffHeader:
    first = pages[0]
    bits = _numbers(first, _BITS, (1,))
    num_samples = int(_numbers(first, _SAMPLES, (1,))[0])
    extra = _numbers(first, _EXTRA_SAMPLES, ())
    sides = [(page.get(_WIDTH), page.get(_HEIGHT)) for page in pages]
    whole = [page for page, size in zip(pages, sides) if size == sides[0] and _is_page(page)]
    return TiffHeader(
        is_geo=any(tag in first for tag in _GEO_TAGS),
        num_samples=num_samples,
        has_alpha=bool(extra) and extra[-1] in _ALPHA,
        num_bits=max(bits),
        is_8_bit=max(bits) <= 8 and set(_numbers(first, _SAMPLE_FORMAT, (1,))) == {_UNSIGNED},
        has_nodata=_NODATA in first,
        is_stack=len(whole) > 1 and num_samples == 1,
        is_color_coded=_numbers(first, _PHOTOMETRIC, (0,))[0] in (_PALETTE, _CMYK),
    )


def has_bands(path: pathlib.Path) -> bool:
    """Whether a file holds bands, as its header says, rather than an image in RGB or grey."""
    ending = path.suffix.lower()
    if ending in ARRAY_ENDINGS:
        return True
    if ending not in TIFF_ENDINGS:
        return False
    header = tiff_header(path)
    return header is not None and header.has_bands


def is_geotiff(path: str | pathlib.Path) -> bool:
    """Whether a file is a TIFF that says where on the Earth it lies."""
    path = pathlib.Path(path)
    header = tiff_header(path) if path.suffix.lower() in TIFF_ENDINGS else None
    return header is not None and header.is_geo


class BandFile(abc.ABC):
    """An open image file of any number of bands.

    Attributes:
        path: The file.
        size: Width and height in pixels.
        dtype: Of its values.
        names: A name per band; its number where the file has none.
        alpha: Numbers of the bands that are opacity.
        rgb: Numbers of the bands that the file names red, green and blue; empty where it does not.
        orientation: EXIF orientation that was applied; 1 for none.
    """

    path: pathlib.Path
    size: tuple[int, int]
    dtype: np.dtype
    names: tuple[str, ...]
    alpha: tuple[int, ...] = ()
    rgb: tuple[int, ...] = ()
    orientation: int = 1

    @property
    def frame(self) -> frames.Frame:
        """The size of the image, upright and as stored."""
        stored = self.size[::-1] if self.orientation >= 5 else self.size
        return frames.Frame(size=self.size, stored_size=stored, orientation=self.orientation)

    @property
    def num_bands(self) -> int:
        return len(self.names)

    @property
    def default_numbers(self) -> tuple[int, ...]:
        """The numbers of the bands that are taken where nothing else is said: all but opacity."""
        numbers = range(1, self.num_bands + 1)
        return tuple(number for number in numbers if number not in self.alpha)

    @abc.abstractmethod
    def read(
        self, rows: slice, columns: slice, numbers: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads a window.

        Args:
            rows: Rows of the image.
            columns: Columns of the image.
            numbers: Of the bands to read, from 1.

        Returns:
            Values [h, w, N] of the file's type; and which pixels hold no data, bool [h, w], or None
            where all do.
        """

    def nodata(self, rows: slice) -> np.ndarray | None:
        """Returns which pixels of some rows hold no data, bool [rows, W]; None where all do."""
        return self.read(rows, slice(0, self.size[0]), self.default_numbers)[1]

    @abc.abstractmethod
    def sample(self, side: int, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads the whole image, made smaller by leaving out pixels; as `read`.

        Args:
            side: Longest side of the result, whose sides have the ratio of the image's.
            numbers: Of the bands to read, from 1.
        """

    def _small_size(self, side: int) -> tuple[int, int]:
        scale = min(1, side / max(self.size))
        width, height = (max(1, round(length * scale)) for length in self.size)
        return width, height

    def close(self) -> None:  # noqa: B027 - arrays need no closing
        """Closes the file."""


class _ArrayFile(BandFile):
    """Bands in memory, or in a mapped file: [H, W, N]."""

    def __init__(
        self,
        path: pathlib.Path,
        values: np.ndarray,
        alpha: tuple[int, ...] = (),
        orientation: int = 1,
    ):
        self.path, self._values, self.alpha = path, values, alpha
        self.orientation = orientation
        self.size, self.dtype = values.shape[1::-1], values.dtype
        self.names = tuple(str(number + 1) for number in range(values.shape[2]))

    def read(self, rows, columns, numbers):
        return self._without_nan(self._values[rows, columns], numbers)

    def sample(self, side, numbers):
        width, height = self._small_size(side)
        rows, columns = (
            np.linspace(0, length - 1, small).astype(int)
            for length, small in zip(self._values.shape, (height, width))
        )
        return self._without_nan(self._values[rows[:, np.newaxis], columns], numbers)

    def _without_nan(self, values, numbers):
        values = values[..., [number - 1 for number in numbers]]
        return values, _where_nan(values)


class RasterFile(BandFile):
    """A TIFF that rasterio reads."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.dataset = open_raster(path)
        self.size = (self.dataset.width, self.dataset.height)
        self.dtype = np.result_type(*self.dataset.dtypes)
        colors = [color.name for color in self.dataset.colorinterp]
        self.alpha = tuple(index for index, color in enumerate(colors, 1) if color == "alpha")
        named = zip(self.dataset.descriptions, colors)
        self.names = tuple(
            str(name or (color if color in ("red", "green", "blue") else index))[:255]
            for index, (name, color) in enumerate(named, 1)
        )
        self.rgb = _rgb_of_colors(colors) or _rgb_of_names(self.names)
        # Whether the values are indices of a palette, or CMYK.
        self.is_color_coded = not {"palette", "cyan"}.isdisjoint(colors)

    def read(self, rows, columns, numbers):
        from rasterio.windows import Window

        left, width = columns.start, columns.stop - columns.start
        window = Window(left, rows.start, width, rows.stop - rows.start)
        return self._read(numbers, window=window)

    def sample(self, side, numbers):
        width, height = self._small_size(side)
        return self._read(numbers, out_shape=(len(numbers), height, width))

    def _read(self, numbers, **which):
        from rasterio.enums import MaskFlags

        with _readable_errors(self.path):
            values = np.moveaxis(self.dataset.read(list(numbers), **which), 0, -1)
            is_nodata = _where_nan(values)
            flags = {flag for number in numbers for flag in self._flags(number)}
            if MaskFlags.alpha in flags and set(self.alpha) & set(numbers):
                flags.discard(MaskFlags.alpha)  # taken for a band like the others
            if flags - {MaskFlags.all_valid, MaskFlags.per_dataset}:
                if "out_shape" in which:
                    which = {"out_shape": which["out_shape"]}
                masks = self.dataset.read_masks(list(numbers), **which)
                masked = (masks == 0).all(axis=0)
                is_nodata = masked if is_nodata is None else is_nodata | masked
        return np.ascontiguousarray(values), is_nodata

    def nodata(self, rows):
        from rasterio.enums import MaskFlags

        flags = {flag for number in self.default_numbers for flag in self._flags(number)}
        if self.dtype.kind != "f" and not flags - {MaskFlags.all_valid, MaskFlags.per_dataset}:
            return None
        return super().nodata(rows)

    def _flags(self, number: int):
        return self.dataset.mask_flag_enums[number - 1]

    def close(self) -> None:
        self.dataset.close()


@contextlib.contextmanager
def open_bands(
    path: str | pathlib.Path, *, max_pixels: int = image_files.MAX_WINDOWED_PIXELS
) -> Iterator[BandFile]:
    """Opens an image file of any number of bands.

    Args:
        path: The file.
        max_pixels: Larger images are refused.

    Raises:
        ImageFileError: It is missing, damaged, too large, or not an image.
        UserError: It is a TIFF of several bands, and rasterio is not installed.
    """
    path = pathlib.Path(path)
    file = _open(path, max_pixels)
    try:
        image_files.check_size(*file.size, name=str(path), max_pixels=max_pixels)
        yield file
    finally:
        file.close()


def open_raster(path: str | pathlib.Path):
    """Opens a TIFF by rasterio; returns its dataset.

    Raises:
        ImageFileError: It is missing or damaged.
        UserError: rasterio is not installed.
    """
    # GDAL would keep decoded blocks in 5 % of all memory.
    os.environ.setdefault("GDAL_CACHEMAX", _CACHE_MIB)
    with extra_for("Reading GeoTIFFs and TIFFs of several bands", extra="geo"):
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

    if not pathlib.Path(path).is_file():
        raise ImageFileError(f"There is no image {path}.")
    with warnings.catch_warnings(), _readable_errors(path):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver="GTiff")


def numbers_for(file: BandFile, bands: Sequence[image_bands.Band]) -> tuple[int, ...]:
    """Returns the numbers, in a file, of the bands of a data set.

    A file that holds just these bands, without the others that the files of the data set had, is
    read in their order.

    Raises:
        ImageFileError: It has too few bands.
    """
    numbers = tuple(band.number for band in bands)
    if max(numbers) <= file.num_bands:
        return numbers
    if len(file.default_numbers) == len(bands):
        return file.default_numbers
    raise ImageFileError(
        f"{file.path} has {file.num_bands} bands, but the bands {', '.join(map(str, numbers))} are "
        "needed: give images like those that were trained on."
    )


def read_image(
    path: str | pathlib.Path,
    dataset: records.DatasetInfo,
    *,
    max_pixels: int = image_files.MAX_PIXELS,
) -> np.ndarray:
    """Reads an image file as a network that was trained on a data set takes it.

    Args:
        path: The file.
        dataset: Describes the bands and how they are scaled; RGB without bands.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        uint8 [H, W, num_channels].

    Raises:
        ImageFileError: It is missing, damaged or too large, or lacks bands.
    """
    if not dataset.bands:
        return image_files.read_image(path, max_pixels=max_pixels)
    with open_bands(path, max_pixels=max_pixels) as file:
        image_files.check_num_values(*file.size, len(dataset.bands), name=str(path))
        values, is_nodata = file.read(*whole(file), numbers_for(file, dataset.bands))
    return scaled(values, is_nodata, dataset.bands)


def scaled(
    values: np.ndarray, is_nodata: np.ndarray | None, bands: Sequence[image_bands.Band]
) -> np.ndarray:
    """Returns values [H, W, N] in 8 bits; pixels without data are like padding."""
    image = image_bands.to_8_bits(values, bands)
    if is_nodata is not None:
        image[is_nodata] = image_bands.NODATA_LEVEL
    return image


def whole(file: BandFile) -> Slices:
    """Returns the rows and the columns of all of an image."""
    width, height = file.size
    return slice(0, height), slice(0, width)


def _open(path: pathlib.Path, max_pixels: int) -> BandFile:
    ending = path.suffix.lower()
    if ending in ARRAY_ENDINGS:
        return _ArrayFile(path, label_arrays.read_bands(path, max_pixels))
    header = tiff_header(path) if ending in TIFF_ENDINGS else None
    if header and header.is_stack:
        return _ArrayFile(path, _read_stack(path, max_pixels))
    if header and not header.is_color_coded:
        return RasterFile(path)
    return _of_picture(path, max_pixels)


def _of_picture(path: pathlib.Path, max_pixels: int) -> BandFile:
    """An image in RGB or grey, upright, with its alpha channel as a band."""
    orientation = frames.read_frame(path, str(path), max_pixels).orientation
    with image_files.open_image(path, max_pixels=max_pixels) as image:
        has_alpha = image.mode in ("RGBA", "LA")
        is_grey = image.mode in ("L", "LA", "1", "I;16", "I", "F")
        if has_alpha:
            with _readable_errors(path):
                image = PIL.ImageOps.exif_transpose(image)
                values = np.asarray(image.convert("RGBA"))
            values = values[..., [0, 3]] if is_grey else values
            return _ArrayFile(path, values, (values.shape[-1],), orientation)
    values = image_files.read_values(path, max_pixels=max_pixels)
    return _ArrayFile(path, values[..., :1] if is_grey else values, orientation=orientation)


def _read_stack(path: pathlib.Path, max_pixels: int) -> np.ndarray:
    """The pages of a TIFF that have the size of the first, [H, W, pages]."""
    pages = []
    with image_files.open_image(path, max_pixels=max_pixels) as image, _readable_errors(path):
        size = image.size
        for number in range(min(getattr(image, "n_frames", 1), _MAX_PAGES)):
            image.seek(number)
            if image.size == size:
                image_files.check_num_values(*size, len(pages) + 1, name=str(path))
                pages.append(np.asarray(image))
    if len({(page.shape, page.dtype) for page in pages}) != 1 or pages[0].ndim != 2:
        raise ImageFileError(f"{path} has pages of different kinds: give one band a page.")
    return np.stack(pages, axis=-1)


def _pages(file: typing.BinaryIO) -> Iterator[PIL.TiffImagePlugin.ImageFileDirectory_v2]:
    """The tags of every page."""
    start = file.read(8)
    if start[:4] in (b"II+\0", b"MM\0+"):
        start += file.read(8)
    elif start[:4] not in (b"II*\0", b"MM\0*"):
        return
    tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(start)
    seen = set()
    while tags.next and tags.next not in seen and len(seen) < _MAX_PAGES:
        seen.add(tags.next)
        file.seek(tags.next)
        tags = _loaded(file, start, tags.next)
        yield tags


def _loaded(file, start: bytes, offset: int) -> PIL.TiffImagePlugin.ImageFileDirectory_v2:
    tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(start)
    file.seek(offset)
    tags.load(file)
    return tags


def _numbers(tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple) else (value,)


def _is_page(tags) -> bool:
    """Whether a page is one of its own, not a small copy or a mask of another."""
    return not _numbers(tags, _SUBFILE_TYPE, (0,))[0] & 0b101


def _where_nan(values: np.ndarray) -> np.ndarray | None:
    if values.dtype.kind != "f":
        return None
    is_nan = np.isnan(values).all(axis=-1)
    return is_nan if is_nan.any() else None


def _rgb_of_colors(colors: Sequence[str]) -> tuple[int, ...]:
    if not {"red", "green", "blue"} <= set(colors):
        return ()
    return tuple(colors.index(color) + 1 for color in ("red", "green", "blue"))


def _rgb_of_names(names: Sequence[str]) -> tuple[int, ...]:
    found = []
    for pattern in (_RED, _GREEN, _BLUE):
        fitting = [
            index for index, name in enumerate(names, 1) if re.fullmatch(pattern, name.lower())
        ]
        if len(fitting) != 1:
            return ()
        found += fitting
    return tuple(found)


@contextlib.contextmanager
def _readable_errors(path: str | pathlib.Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise ImageFileError(f"{path} cannot be read: there is not enough memory.") from error
    except Exception as error:  # GDAL and Pillow raise errors of every kind on damaged files
        reason = f"{type(error).__name__}: {error}"
        raise ImageFileError(f"{path} is damaged ({reason}): replace it.") from error
