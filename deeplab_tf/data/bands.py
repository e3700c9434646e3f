"""Bands: what the channels of images are that are not simply RGB.

A band has a name, and a range of values that becomes 0..255. All images of a data set are scaled
alike; the ranges are kept with the records and with the run, so that `predict` scales new images
as training did.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data.json_fields import JsonObject
from deeplab_tf.errors import UserError

MAX_BANDS = 256  # of the images of a data set
MAX_FILE_BANDS = 65536  # of a file, of which some are taken
NODATA_LEVEL = 128  # what networks that scale pixels to -1..1 see as zero, like padding


@dataclasses.dataclass(frozen=True)
class Band:
    """One band of the images.

    Attributes:
        number: Its number in the image files, from 1.
        name: Its name in the image files, or its number.
        low: The value that becomes 0, like all values below it.
        high: The value that becomes 255, like all values above it.
    """

    number: int
    name: str
    low: float = 0.0
    high: float = 255.0


def to_8_bits(pixels: np.ndarray, bands: Sequence[Band]) -> np.ndarray:
    """Scales every band to 0..255 by its own range.

    Args:
        pixels: Numbers [H, W, N].
        bands: The N bands.

    Returns:
        uint8 [H, W, N]; NaN becomes `NODATA_LEVEL`.
    """
    scaled = np.empty(pixels.shape, np.uint8)
    for index, band in enumerate(bands):
        values = pixels[..., index]
        if pixels.dtype == np.uint8 and (band.low, band.high) == (0, 255):
            scaled[..., index] = values
            continue
        levels = (values.astype(np.float32) - band.low) * np.float32(255 / (band.high - band.low))
        levels = np.nan_to_num(levels, nan=NODATA_LEVEL, posinf=255, neginf=0)
        scaled[..., index] = np.round(levels).clip(0, 255)
    return scaled


def as_rgb(image: np.ndarray, rgb_bands: Sequence[int]) -> np.ndarray:
    """Returns three bands of an image, for display.

    Args:
        image: uint8 [H, W, N].
        rgb_bands: Numbers of the bands for red, green and blue, from 1.

    Returns:
        uint8 [H, W, 3].
    """
    return np.ascontiguousarray(image[..., [number - 1 for number in rgb_bands]])


def default_rgb_bands(num_bands: int) -> tuple[int, int, int]:
    """Returns the bands for red, green and blue of images that do not name them.

    >>> default_rgb_bands(5), default_rgb_bands(2)
    ((1, 2, 3), (1, 1, 1))
    """
    return (1, 2, 3) if num_bands >= 3 else (1, 1, 1)


def check_rgb_bands(rgb_bands: Sequence[int], num_bands: int, flag: str) -> tuple[int, int, int]:
    """Returns the numbers that a flag gives for red, green and blue.

    Raises:
        UserError: There are not three, or there is no such band.
    """
    if len(rgb_bands) != 3 or not all(1 <= number <= num_bands for number in rgb_bands):
        given = ",".join(map(str, rgb_bands))
        raise UserError(
            f"--{flag}={given} must be three numbers of bands, for red, green and blue, each from "
            f"1 to {num_bands}."
        )
    red, green, blue = rgb_bands
    return red, green, blue


def to_fields(bands: Sequence[Band], rgb_bands: Sequence[int]) -> dict:
    """Returns what describes the bands in JSON files; nothing for RGB images."""
    if not bands:
        return {}
    return {"bands": [dataclasses.asdict(band) for band in bands], "rgb_bands": list(rgb_bands)}


def from_fields(fields: JsonObject) -> tuple[tuple[Band, ...], tuple[int, ...]]:
    """Reads what `to_fields` returned from a JSON file: the bands and the numbers of R, G and B.

    Raises:
        UserError: The fields make no sense.
    """
    described = fields.objects("bands", MAX_BANDS, default=())
    bands = []
    for each in described:
        number = each.integer("number", 1, MAX_FILE_BANDS)
        band = Band(number, each.text("name"), each.number("low"), each.number("high"))
        if not band.low < band.high:
            raise each.error("high", band.high, f"a number above low, {band.low:g}")
        bands.append(band)
    if not bands:
        return (), ()
    rgb_bands = fields.items("rgb_bands", 3)
    is_rgb = len(rgb_bands) == 3 and all(
        isinstance(number, int) and 1 <= number <= len(bands) for number in rgb_bands
    )
    if not is_rgb:
        raise fields.error(
            "rgb_bands", rgb_bands, f"a list of three numbers of bands, from 1 to {len(bands)}"
        )
    return tuple(bands), tuple(rgb_bands)


def range_flag(bands: Sequence[Band]) -> str:
    """Returns the flag that scales other images as these bands are scaled.

    >>> range_flag([Band(1, "red", 0, 3000), Band(4, "near infrared", 0, 5000)])
    '--band_range=0,3000,0,5000'
    """
    return "--band_range=" + ",".join(f"{value:.9g}" for b in bands for value in (b.low, b.high))
