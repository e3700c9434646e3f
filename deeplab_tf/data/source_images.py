"""Images of any format as records hold them: upright, 8-bit, JPEG or PNG.

Images of bands, see `bands`, become PNGs as `decoding` reads them.

The bytes of an upright 8-bit JPEG or PNG stay as they are. Everything else becomes a PNG, which
loses nothing: other formats, more bits (scaled as `image_files` states), CMYK, and images that
their EXIF data turn. Label maps are turned with their images.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image

from deeplab_tf.data import decoding
from deeplab_tf.data import image_files
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.errors import UserError

_ORIENTATION = 0x0112
_KEPT_MODES = {
    "JPEG": ("RGB", "L"),
    "MPO": ("RGB", "L"),
    "PNG": ("RGB", "L", "P", "RGBA", "LA", "1"),
}
_PNG_DEPTH = 24  # the place of that byte in a PNG

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceImage(Frame):
    """An image, ready for a record.

    Args:
        content: A JPEG or PNG, upright.
        format: "jpeg" or "png".
        num_channels: 3, or the number of bands.
        is_nodata: Which pixels hold no data, bool [H, W]; None where all do.
    """

    content: bytes
    format: str
    num_channels: int = 3
    is_nodata: np.ndarray | None = None

    def pixels(self) -> np.ndarray:
        """Decodes the image; uint8 [H, W, num_channels]."""
        return decoding.decode_image(self.content, self.size[0] * self.size[1], self.num_channels)


def read_frame(source: pathlib.Path | bytes, name: str, max_pixels: int) -> Frame:
    """Reads the size of an image from its header.

    Raises:
        UserError: It is missing, too large, or not an image.
    """
    with image_files.open_image(source, name=name, max_pixels=max_pixels) as image:
        return _frame(image)


def read_source_image(
    content: bytes,
    name: str,
    *,
    max_pixels: int = image_files.MAX_PIXELS,
    tell: Callable[[str], None] = lambda line: None,
) -> SourceImage:
    """Reads an image file to its last pixel and brings it into the form of records.

    Args:
        content: Of the file.
        name: For messages.
        max_pixels: Larger images are refused before they are decoded.
        tell: Called with a line if the pixels were scaled, or a frame was chosen.

    Raises:
        UserError: It is damaged, too large, or not an image.
    """
    with image_files.open_image(content, name=name, max_pixels=max_pixels) as image:
        frame = _frame(image)
        is_kept = (
            frame.orientation == 1
            and image.mode in _KEPT_MODES.get(image.format or "", ())
            and not (image.format == "PNG" and content[_PNG_DEPTH] > 8)
        )
    if is_kept:
        try:
            decoding.decode_image_strictly(content, max_pixels)
        except DataProblem as problem:
            raise problem.named(name) from None
        image_format = "png" if image.format == "PNG" else "jpeg"
        return SourceImage(content=content, format=image_format, **vars(frame))
    pixels = image_files.read_image(content, name=name, max_pixels=max_pixels, tell=tell)
    encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()
    return SourceImage(content=encoded, format="png", **vars(frame))


def source_image_of_bands(
    image: np.ndarray, is_nodata: np.ndarray | None = None, orientation: int = 1
) -> SourceImage:
    """Returns pixels in the form of records.

    Args:
        image: uint8 [H, W, N], upright.
        is_nodata: Which pixels hold no data, bool [H, W]; None where all do.
        orientation: EXIF orientation of the file.
    """
    height, width, num_bands = image.shape
    return SourceImage(
        size=(width, height),
        stored_size=(height, width) if orientation >= 5 else (width, height),
        orientation=orientation,
        content=decoding.encode_bands(image),
        format="png",
        num_channels=num_bands,
        is_nodata=is_nodata,
    )


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


def _frame(image: PIL.Image.Image) -> Frame:
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
