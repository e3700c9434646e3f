"""Class ids as colours: label maps as palette PNGs, and as images for the eye."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

# The colour of ignored borders in PASCAL VOC; here of every label that is not a class.
NO_CLASS_COLOR = (224, 224, 192)
PAPER = (255, 255, 255)
INK = (40, 40, 40)

_COMPRESSION = 3  # of 0 to 9; the usual 6 takes two to three times as long

Colors = Sequence[tuple[int, int, int]]  # RGB per class


def color_table(colors: Colors, size: int) -> np.ndarray:
    """Returns the colour of every label below `size`, uint8 [size, 3]."""
    table = np.tile(np.array(NO_CLASS_COLOR, np.uint8), (size, 1))
    table[: len(colors)] = colors
    return table


def colorize(label: np.ndarray, colors: Colors, ignore_label: int = 255) -> np.ndarray:
    """Paints every pixel of a label map in the colour of its class.

    Args:
        label: Class ids, [H, W].
        colors: RGB per class.
        ignore_label: Painted in `NO_CLASS_COLOR`, as every label that is not a class, even if it
            is the id of a class.

    Returns:
        uint8 [H, W, 3].
    """
    table = color_table(colors, 1 + max(len(colors), int(label.max())))
    if 0 <= ignore_label < len(table):
        table[ignore_label] = NO_CLASS_COLOR
    return table[label]


def write_label_png(path: str, label: np.ndarray, colors: Colors) -> None:
    """Writes class ids as the pixel values of a PNG that viewers show in colour.

    Args:
        path: File to write.
        label: Class ids, [H, W].
        colors: RGB per class. Up to 256 classes give a palette PNG (labels up to 255); more give a
            16-bit grey one, since a palette has at most 256 entries.

    Raises:
        ValueError: A label does not fit into the file.
        OSError: The file cannot be written.
    """
    has_palette = len(colors) <= 256
    largest_label = 255 if has_palette else 65535
    if label.min() < 0 or label.max() > largest_label:
        raise ValueError(
            f"{path}: labels {label.min()}..{label.max()} do not fit; with {len(colors)} classes "
            f"they must be between 0 and {largest_label}"
        )
    image = Image.fromarray(label.astype(np.uint8 if has_palette else np.uint16))
    if has_palette:
        image.putpalette(color_table(colors, 256).tobytes())
    image.save(path, format="PNG", compress_level=_COMPRESSION)
