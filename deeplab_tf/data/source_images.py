"""Images of any format in the form of records: upright, 8-bit, JPEG or PNG.

Images of bands, see `bands`, become PNGs as `decoding` reads them.

The bytes of an upright 8-bit JPEG or PNG stay as they are. Everything else becomes a PNG, which
loses nothing: other formats, more bits (scaled as `image_files` states), CMYK, and images that
their EXIF data turn. Label maps are turned with their images.
"""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from deeplab_tf.data import decoding
from deeplab_tf.data import image_files
from deeplab_tf.data.frames import Frame
from deeplab_tf.data.frames import frame_of
from deeplab_tf.data.problems import DataProblem

_KEPT_MODES = {
    "JPEG": ("RGB", "L"),
    "MPO": ("RGB", "L"),
    "PNG": ("RGB", "L", "P", "RGBA", "LA", "1"),
}
_PNG_DEPTH = 24  # the place of that byte in a PNG


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
        frame = frame_of(image)
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
