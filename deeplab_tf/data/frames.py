"""How images lie in their files: sizes, and the EXIF orientation that turns them upright."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import PIL.Image

from deeplab_tf.data import image_files
from deeplab_tf.errors import UserError

_ORIENTATION = 0x0112

# What brings the stored rows and columns upright, by EXIF orientation.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels.swapaxes(0, 1), 2),
    8: lambda pixels: np.rot90(pixels, 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """The size of an image, as it is stored and upright.

    Args:
        size: Width and height of the upright image, in pixels.
        stored_size: Width and height of the file, in pixels.
        orientation: EXIF orientation of the file; 1 if it is upright.
    """

    size: tuple[int, int]
    stored_size: tuple[int, int]
    orientation: int = 1

    def upright(self, label_map: np.ndarray) -> np.ndarray:
        """Turns a label map, [H, W], like the image, if it has the size of the stored image.

        One that has the size of the upright image only stays as it is.
        """
        fits_stored = label_map.shape[:2] == self.stored_size[::-1]
        if self.orientation == 1 or not fits_stored:
            return label_map
        return np.ascontiguousarray(_TURNS[self.orientation](label_map))


def read_frame(source: pathlib.Path | bytes, name: str, max_pixels: int) -> Frame:
    """Reads the size of an image from its header.

    Raises:
        UserError: It is missing, too large, or not an image.
    """
    with image_files.open_image(source, name=name, max_pixels=max_pixels) as image:
        return frame_of(image)


def is_turned(content: bytes) -> bool:
    """Whether the EXIF data of an image file turn it; False for what is not an image."""
    try:
        with image_files.open_image(content) as image:
            return _orientation(image) != 1
    except UserError:
        return False


def is_turned_within_its_size(image: PIL.Image.Image) -> bool:
    """Whether EXIF data turn an image to one of the same width and height."""
    orientation = _orientation(image)
    return orientation != 1 and (orientation < 5 or image.width == image.height)


def frame_of(image: PIL.Image.Image) -> Frame:
    """Returns the frame of an opened image."""
    orientation = _orientation(image)
    width, height = image.size
    size = (height, width) if orientation >= 5 else (width, height)
    return Frame(size=size, stored_size=(width, height), orientation=orientation)


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation; 1 where there is none, or one that says nothing, such as 0."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of a damaged EXIF block, which hides no pixel
        return 1
    return orientation if orientation in _TURNS else 1
