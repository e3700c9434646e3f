"""A first look at images before they are read for records: duplicate, turned, scaled ones."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from deeplab_tf.data import band_files
from deeplab_tf.data import frames
from deeplab_tf.data import image_files
from deeplab_tf.data import label_files
from deeplab_tf.data import near_duplicates
from deeplab_tf.data import records
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError

_LARGE = 512  # pixels of the shorter side


def find_leaks(
    splits: dict[str, tuple[AnnotatedImage, ...]],
    looks: dict[str, list[near_duplicates.Look]],
    refuse_leaks: bool,
) -> list[str]:
    """Returns notes on images of one split that resemble one of another.

    Args:
        splits: The images by split.
        looks: What each looks like.
        refuse_leaks: Whether equal images are an error.

    Raises:
        UserError: One image is in two splits.
    """
    images = [(name, image) for name, own in splits.items() for image in own]
    pairs = near_duplicates.find_alike([look for name in splits for look in looks[name]])
    across = [
        (images[first], images[second], how)
        for first, second, how in pairs
        if images[first][0] != images[second][0]
    ]
    equal = [pair for pair in across if pair[2] == "equal"]
    if equal and refuse_leaks:
        (split, image), (other_split, other), _ = equal[0]
        raise UserError(
            f"{counted(len(equal), 'image')} {'is' if len(equal) == 1 else 'are'} in two splits, "
            "which spoils validation: "
            f"{image.image} ({split}) equals {other.image} ({other_split}). Remove one of each."
        )
    across = [pair for pair in across if pair[2] != "equal"]
    if not across:
        return []
    (split, image), (other_split, other), how = across[0]
    return [
        f"{counted(len(across), 'pair')} of images in different splits show nearly the same, such "
        f"as {image.name} ({split}) and {other.name} ({other_split}, {how}): validation may look "
        "better than it is."
    ]


@dataclasses.dataclass(frozen=True)
class Sight:
    """The first look at an image, before it is read for a record."""

    name: str
    look: near_duplicates.Look
    is_unclear: bool = False  # whether EXIF data turn it, and its size does not tell that
    told: str = ""  # how its pixels were scaled


def see(image: AnnotatedImage, max_pixels: int, info: records.DatasetInfo) -> Sight:
    """Looks at an image. One that cannot be read resembles no other; it is reported later."""
    name = str(image.image)
    if info.bands and isinstance(image.image, pathlib.Path):
        return _see_bands(image.name, image.image, max_pixels, info)
    told: list[str] = []
    try:
        content = label_files.read_bytes(image.image, "image")
        with image_files.open_image(content, name=name, max_pixels=max_pixels) as file:
            is_large_jpeg = file.format in ("JPEG", "MPO") and min(file.size) >= _LARGE
            is_unclear = frames.is_turned_within_its_size(file)
        pixels = None
        if is_large_jpeg:  # decoded at an eighth of its size, which saves most of the time
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_COLOR_8)
        if pixels is None:
            pixels = image_files.read_image(
                content, name=name, max_pixels=max_pixels, tell=told.append
            )
    except (OSError, UserError):
        return Sight(image.name, near_duplicates.Look(name.encode(), None))
    line = told[-1].removeprefix(f"{name}: ") if told else ""
    return Sight(image.name, near_duplicates.Look.of(pixels), is_unclear, line)


def _see_bands(name: str, path: pathlib.Path, max_pixels: int, info: records.DatasetInfo) -> Sight:
    """Looks at an image of bands, made smaller."""
    try:
        with band_files.open_bands(path, max_pixels=max_pixels) as file:
            values, is_nodata = file.sample(_LARGE, band_files.numbers_for(file, info.bands))
        pixels = band_files.scaled(values, is_nodata, info.bands)
    except UserError:
        return Sight(name, near_duplicates.Look(str(path).encode(), None))
    return Sight(name, near_duplicates.Look.of(info.displayed(pixels)))


def told_scaling(sights: Sequence[Sight]) -> list[str]:
    """Returns notes on how pixels of more than 8 bits were scaled, and whether uniformly."""
    scaled = [sight for sight in sights if "are read as" in sight.told]
    if not scaled:
        return []
    ways = collections.Counter(sight.told.partition("are read as ")[2] for sight in scaled)
    listed_ways = ", ".join(f"{count} as {way}" for way, count in ways.most_common())
    differs = (
        " They are scaled in different ways: if they are of one camera, convert them to 8 bits "
        "yourself, all alike."
    )
    return [
        f"{counted(len(scaled), 'image')} of more than 8 bits are scaled to 8: {listed_ways}, such "
        f"as {scaled[0].name} ({scaled[0].told}).{differs * (len(ways) > 1)}"
    ]


def told_turns(sights: Sequence[Sight]) -> list[str]:
    """Returns notes on images whose label images may or may not be upright."""
    unclear = [sight.name for sight in sights if sight.is_unclear]
    if not unclear:
        return []
    return [
        f"{counted(len(unclear), 'image')} turned by EXIF data, with label images whose size fits "
        f"either way, are turned together with these: {listed(unclear)}. If the labels were drawn "
        "on upright images, remove the tag first: exiftool -Orientation= FILE."
    ]
