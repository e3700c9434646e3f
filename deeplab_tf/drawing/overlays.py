"""The colours of classes laid over an image."""

from collections.abc import Iterator

import cv2
import numpy as np

from deeplab_tf.drawing import palettes

BAND_PIXELS = 2**22  # are painted at a time, so that large images need little extra memory


def overlay(
    image: np.ndarray, label: np.ndarray, colors: palettes.Colors, opacity: float = 0.55
) -> np.ndarray:
    """Lays the colours of the classes over an image and draws white borders between them.

    A class that is black, as the background is by convention, only darkens the image.

    Args:
        image: uint8 [H, W, 3].
        label: Class ids, [H, W].
        colors: RGB per class.
        opacity: 0 shows only the image, 1 only the colours.

    Returns:
        uint8 [H, W, 3].
    """
    table = palettes.color_table(colors, 1 + max(len(colors), int(label.max())))
    is_black = np.all(table == 0, axis=1)
    blended = np.empty_like(image)
    for rows in row_bands(label.shape):
        painted = table.take(label[rows], axis=0)  # four times as fast as table[label[rows]]
        darkened = is_black.take(label[rows]).view(np.uint8)
        cv2.copyTo(image[rows] // 2, darkened, painted)
        blended[rows] = cv2.addWeighted(image[rows], 1 - opacity, painted, opacity, 0)
    blended[class_borders(label)] = palettes.PAPER
    return blended


def class_borders(label: np.ndarray) -> np.ndarray:
    """Returns where the class changes, bool [H, W]; thicker in large images, to stay visible."""
    thickness = max(1, round(min(label.shape) / 400))  # pixels
    borders = np.zeros(label.shape, bool)
    borders[:, 1:] |= label[:, 1:] != label[:, :-1]
    borders[1:] |= label[1:] != label[:-1]
    return cv2.dilate(borders.view(np.uint8), np.ones((thickness, thickness), np.uint8)).view(bool)


def row_bands(shape: tuple[int, int]) -> Iterator[slice]:
    """Yields slices of rows that together cover an array [H, W, ...], some megapixels each."""
    height, width = shape[:2]
    step = max(1, BAND_PIXELS // max(1, width))
    for start in range(0, height, step):
        yield slice(start, start + step)
