"""The bands of images of other people: which there are, and how all of them are scaled to 8 bits.

Images in RGB or grey of 8 bits have none: they are read as `image_files` states. All images of a
folder have the same bands, and each band has one range of values for all images, since the same
value means the same everywhere in measured data. 8-bit images keep their values. Of others, the
range is that between the percentiles 0.5 and 99.5 of the training images, so that a few extreme
pixels do not take the contrast of all others; `--band_range` gives another one. Networks see 256
levels of that range, which is finer than the noise of the sensors.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data import band_files
from deeplab_tf.data import bands as image_bands
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import EmbeddedImage
from deeplab_tf.data.bands import Band
from deeplab_tf.data.threads import map_in_threads
from deeplab_tf.data.wording import counted
from deeplab_tf.errors import UserError

_PERCENTILES = (0.5, 99.5)
_SAMPLE_SIDE = 128  # pixels of an image that are looked at, across and down
_MAX_SAMPLED = 400  # images
_AS_THEY_ARE = "as they are"


@dataclasses.dataclass(frozen=True)
class BandOptions:
    """What a person says about bands.

    Args:
        numbers: Of the bands to take, from 1; empty for all but opacity.
        ranges: LOW, HIGH for all bands, or a pair for each.
        rgb: Which of the taken bands, counted from 1, are red, green and blue; empty for those that
          the files name, or the first three.
    """

    numbers: tuple[int, ...] = ()
    ranges: tuple[float, ...] = ()
    rgb: tuple[int, ...] = ()

    @property
    def are_given(self) -> bool:
        return bool(self.numbers or self.ranges or self.rgb)


NOTHING_SAID = BandOptions()


@dataclasses.dataclass(frozen=True)
class FoundBands:
    """The bands of a folder of images.

    Args:
        bands: Empty for RGB.
        rgb_bands: See `records.DatasetInfo`.
        notes: What was decided, in sentences.
    """

    bands: tuple[Band, ...] = ()
    rgb_bands: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def find_bands(
    images: Sequence[AnnotatedImage],
    max_pixels: int,
    options: BandOptions = NOTHING_SAID,
) -> FoundBands:
    """Finds out which bands images have, and how these are scaled.

    Args:
        images: The images to train on.
        max_pixels: Larger images are refused.
        options: What is known already.

    Raises:
        UserError: The images have different bands, or not those that are asked for.
    """
    paths = [image.image for image in images if not isinstance(image.image, EmbeddedImage)]
    first = next((path for path in paths if band_files.has_bands(path)), None)
    if first is None and not options.are_given:
        return FoundBands(notes=tuple(_note_on_alpha(paths)))
    if not paths:
        raise UserError("--bands is for image files, but the images lie in the annotation files.")
    headers = list(map_in_threads(lambda path: _header(path, max_pixels), paths))
    _check_alike(headers, options)
    with band_files.open_bands(first or paths[0], max_pixels=max_pixels) as file:
        numbers = options.numbers or file.default_numbers
        names = [file.names[number - 1] for number in numbers]
        rgb = tuple(numbers.index(number) + 1 for number in file.rgb if number in numbers)
        if len(numbers) > image_bands.MAX_BANDS:
            raise UserError(
                f"{file.path} has {len(numbers)} bands; at most {image_bands.MAX_BANDS} are "
                "possible: choose some with --bands."
            )
    ranges, how = _ranges(paths, headers, numbers, options)
    bands = tuple(Band(*each) for each in zip(numbers, names, *zip(*ranges)))
    if options.rgb:
        rgb_bands = image_bands.check_rgb_bands(options.rgb, len(bands), "rgb_bands")
    elif len(rgb) == 3:
        rgb_bands = rgb
    else:
        rgb_bands = image_bands.default_rgb_bands(len(bands))
    return FoundBands(bands, rgb_bands, (_told(bands, rgb_bands, headers[0].dtype, how),))


@dataclasses.dataclass(frozen=True)
class _Header:
    path: pathlib.Path
    default_numbers: tuple[int, ...]
    num_bands: int
    dtype: np.dtype


def _header(path: pathlib.Path, max_pixels: int) -> _Header:
    with band_files.open_bands(path, max_pixels=max_pixels) as file:
        return _Header(path, file.default_numbers, file.num_bands, np.dtype(file.dtype))


def _check_alike(headers: Sequence[_Header], options: BandOptions) -> None:
    first = headers[0]
    for other in headers:
        missing = [number for number in options.numbers if number > other.num_bands]
        if missing:
            raise UserError(
                f"--bands asks for band {missing[0]}, but {other.path} has {other.num_bands}."
            )
        if not options.numbers and len(other.default_numbers) != len(first.default_numbers):
            few = range(1, min(len(other.default_numbers), len(first.default_numbers)) + 1)
            raise UserError(
                f"The images have different bands: {first.path} has {len(first.default_numbers)}, "
                f"{other.path} has {len(other.default_numbers)}. Say which to take of all, for "
                f"instance --bands={','.join(map(str, few))}."
            )
        if other.dtype != first.dtype and not options.ranges:
            raise UserError(
                f"The images hold different kinds of values: {first.path} {first.dtype}, "
                f"{other.path} {other.dtype}. Say which values become 0 and 255 in all of them: "
                "--band_range=LOW,HIGH."
            )


def _ranges(
    paths: Sequence[pathlib.Path],
    headers: Sequence[_Header],
    numbers: Sequence[int],
    options: BandOptions,
) -> tuple[list[tuple[float, float]], str]:
    """LOW and HIGH of every band, and where they come from, for messages."""
    if options.ranges:
        pairs = list(zip(options.ranges[::2], options.ranges[1::2]))
        if len(pairs) not in (1, len(numbers)):
            raise UserError(
                f"--band_range has {len(pairs)} pairs for {len(numbers)} bands: give one pair for "
                "all, or one for each."
            )
        return pairs * (len(numbers) // len(pairs)), "--band_range"
    if headers[0].dtype == np.uint8:
        return [(0.0, 255.0)] * len(numbers), _AS_THEY_ARE
    sampled = [paths[index] for index in _spread(len(paths), _MAX_SAMPLED)]
    samples = map_in_threads(lambda path: _sample(path, numbers), sampled)
    values = np.concatenate(list(samples))  # [pixels, bands]
    if not len(values):
        raise UserError(f"The images hold no data, {sampled[0]} for one.")
    low, high = np.nanpercentile(values, _PERCENTILES, axis=0)
    if headers[0].dtype.kind in "ui":
        low, high = np.floor(low), np.ceil(high)
    high = np.where(high > low, high, low + 1)
    how = "99 of 100 values of the training images; otherwise --band_range"
    return [(float(f"{a:.6g}"), float(f"{b:.6g}")) for a, b in zip(low, high)], how


def _sample(path: pathlib.Path, numbers: Sequence[int]) -> np.ndarray:
    """Some pixels of an image that hold data, [pixels, bands]."""
    with band_files.open_bands(path) as file:
        values, is_nodata = file.sample(_SAMPLE_SIDE, numbers)
    if is_nodata is not None:
        return values[~is_nodata].astype(np.float64)
    return values.reshape(-1, values.shape[-1]).astype(np.float64)


def _spread(total: int, number: int) -> list[int]:
    return np.linspace(0, total - 1, min(total, number)).round().astype(int).tolist()


def _told(bands: Sequence[Band], rgb_bands: Sequence[int], dtype: np.dtype, how: str) -> str:
    names = [
        band.name if band.name == str(band.number) else f"{band.number} ({band.name})"
        for band in bands
    ]
    rgb = f"Red, green and blue are {', '.join(map(str, rgb_bands))} of these (--rgb_bands)."
    if how == _AS_THEY_ARE:
        return f"Images have {counted(len(bands), 'band')} of 8 bits: {', '.join(names)}. {rgb}"
    ranges = ", ".join(f"{name}: {b.low:g}..{b.high:g}" for name, b in zip(names, bands))
    return (
        f"Images have {counted(len(bands), 'band')} of {dtype} values. In all images, these values "
        f"become 0..255 ({how}): {ranges}. {rgb}"
    )


def _note_on_alpha(paths: Sequence[pathlib.Path]) -> list[str]:
    """Says where a fourth band may be more than opacity: GDAL marks any as such."""
    tiffs = [path for path in paths if path.suffix.lower() in band_files.TIFF_ENDINGS]
    for path in tiffs[:1]:
        header = band_files.tiff_header(path)
        if header and header.is_geo and header.has_alpha:
            return [
                f"The last band of {path.name} is marked as opacity and left out. If it is another "
                f"one, such as near infrared: --bands={_counted_up(header.num_samples)}."
            ]
    return []


def _counted_up(number: int) -> str:
    return ",".join(str(index) for index in range(1, number + 1))
