"""Labels as pictures: palette PNGs, overlays with a legend, panels, contact sheets.

Everything here is NumPy in and NumPy out: images uint8 [H, W, 3] RGB, labels integer [H, W].
`colors` is a sequence of RGB triples, one per class.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

# What PASCAL VOC paints its ignored borders with; here every label that has no class of its own.
NO_CLASS_COLOR = (224, 224, 192)
PAPER = (255, 255, 255)
INK = (40, 40, 40)

Colors = Sequence[tuple[int, int, int]]


def write_label_png(path: str, label: np.ndarray, colors: Colors) -> None:
    """Writes class ids as the pixel values of a PNG that viewers show in colour.

    Args:
        path: File to write.
        label: Class ids, [H, W].
        colors: RGB per class. Up to 256 classes make a palette PNG (labels up to 255); more make
            a 16-bit grey one, since a palette has no more than 256 entries.

    Raises:
        ValueError: A label does not fit into the file.
    """
    largest_label = 255 if len(colors) <= 256 else 65535
    if label.min() < 0 or label.max() > largest_label:
        raise ValueError(
            f"{path}: labels {label.min()}..{label.max()} do not fit; with {len(colors)} classes "
            f"they must lie in 0..{largest_label}"
        )
    if len(colors) <= 256:
        picture = Image.fromarray(label.astype(np.uint8))
        picture.putpalette(_color_table(colors, 256).tobytes())
    else:
        picture = Image.fromarray(label.astype(np.uint16))
    picture.save(path, format="PNG")


def colorize(label: np.ndarray, colors: Colors, ignore_label: int = 255) -> np.ndarray:
    """Paints every label in the colour of its class.

    Args:
        label: Class ids, [H, W].
        colors: RGB per class.
        ignore_label: Painted like every label without a class, even where it lies among the
            classes' ids.

    Returns:
        uint8 [H, W, 3].
    """
    table = _color_table(colors, 1 + max(len(colors), int(label.max())))
    if 0 <= ignore_label < len(table):
        table[ignore_label] = NO_CLASS_COLOR
    return table[label]


def overlay(
    image: np.ndarray, label: np.ndarray, colors: Colors, opacity: float = 0.55
) -> np.ndarray:
    """Lays the classes' colours over a picture and draws the borders between them.

    A class that is black, as backgrounds are by custom, only darkens the picture.

    Args:
        image: uint8 [H, W, 3].
        label: Class ids, [H, W].
        colors: RGB per class.
        opacity: 0 shows the picture alone, 1 the colours alone.

    Returns:
        uint8 [H, W, 3].
    """
    painted = colorize(label, colors, ignore_label=-1)
    is_black = ~painted.any(axis=-1)
    painted[is_black] = image[is_black] // 2
    blended = cv2.addWeighted(image, 1 - opacity, painted, opacity, 0)
    blended[_borders(label)] = PAPER
    return blended


def add_legend(
    picture: np.ndarray, label: np.ndarray, class_names: Sequence[str], colors: Colors
) -> np.ndarray:
    """Adds a strip below a picture that names the classes in it, the largest first.

    Args:
        picture: uint8 [H, W, 3], for example an overlay.
        label: Class ids, [H, W].
        class_names: Name per class; labels beyond them are called "no class".
        colors: RGB per class.

    Returns:
        uint8 [H + legend, W or more, 3]; wider than the picture only where the longest entry is.
    """
    height, width = picture.shape[:2]
    size = int(np.clip(math.hypot(height, width) / 40, 12, 48))  # of the letters, pixels
    font = ImageFont.load_default(size)
    entries = _legend_entries(label, class_names, colors)

    swatch, gap = size, size // 2
    text_widths = [math.ceil(font.getlength(text)) for text, _ in entries]
    column_width = gap + swatch + gap + max(text_widths) + gap
    line_height = size * 3 // 2
    columns = max(1, width // column_width)
    rows = math.ceil(len(entries) / columns)

    canvas_size = (max(width, column_width), height + rows * line_height + gap)
    canvas = Image.new("RGB", canvas_size, PAPER)
    canvas.paste(Image.fromarray(picture), ((canvas_size[0] - width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for index, (text, color) in enumerate(entries):
        row, column = divmod(index, columns)
        left = column * column_width + gap
        middle = height + gap // 2 + row * line_height + line_height // 2
        box = (left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch)
        draw.rounded_rectangle(box, radius=size // 5, fill=color, outline=INK)
        draw.text((left + swatch + gap, middle), text, font=font, fill=INK, anchor="lm")
    return np.asarray(canvas)


def panel(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    colors: Colors,
    ignore_label: int = 255,
) -> np.ndarray:
    """Puts a picture, its label and what was predicted side by side, with captions.

    Args:
        image: RGB pixels 0..255, uint8 or float, [H, W, 3].
        label: Class ids, [H, W].
        prediction: Class ids, [H, W].
        colors: RGB per class.
        ignore_label: The label of pixels that do not count.

    Returns:
        uint8 [H + captions, 3 W + gaps, 3].
    """
    height, width = label.shape
    gap = max(4, width // 64)
    size = int(np.clip(width / 20, 12, 32))  # of the letters, pixels
    top = size * 3 // 2
    pictures = {
        "image": np.clip(np.round(image), 0, 255).astype(np.uint8),
        "label": colorize(label, colors, ignore_label),
        "prediction": colorize(prediction, colors, ignore_label),
    }
    canvas = Image.new("RGB", (3 * width + 4 * gap, top + height + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size)
    for index, (caption, picture) in enumerate(pictures.items()):
        left = gap + index * (width + gap)
        draw.text((left + width // 2, top // 2), caption, font=font, fill=INK, anchor="mm")
        canvas.paste(Image.fromarray(picture), (left, top))
    return np.asarray(canvas)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lays pictures out in a grid, row by row, each in the middle of its cell.

    Args:
        pictures: uint8 [H, W, 3] each, of any sizes.
        columns: Pictures per row.

    Returns:
        uint8 [H, W, 3].
    """
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    gap = max(4, width // 64)
    rows = math.ceil(len(pictures) / columns)
    columns = min(columns, len(pictures))
    sheet_size = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(sheet_size, PAPER, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top = gap + row * (height + gap) + (height - picture.shape[0]) // 2
        left = gap + column * (width + gap) + (width - picture.shape[1]) // 2
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def _color_table(colors: Colors, size: int) -> np.ndarray:
    """The colour of every label below `size`, uint8 [size, 3]."""
    table = np.tile(np.uint8(NO_CLASS_COLOR), (size, 1))
    table[: len(colors)] = colors
    return table


def _borders(label: np.ndarray) -> np.ndarray:
    """Where the class changes, bool [H, W]; thicker in large pictures, so that it stays visible."""
    thickness = max(1, round(min(label.shape) / 400))  # pixels
    borders = np.zeros(label.shape, np.uint8)
    borders[:, 1:] |= label[:, 1:] != label[:, :-1]
    borders[1:] |= label[1:] != label[:-1]
    return cv2.dilate(borders, np.ones((thickness, thickness), np.uint8)).astype(bool)


def _legend_entries(
    label: np.ndarray, class_names: Sequence[str], colors: Colors
) -> list[tuple[str, tuple[int, int, int]]]:
    """Text and colour of every class that occurs, the largest first."""
    is_class = (label >= 0) & (label < len(class_names))
    counts = np.bincount(label[is_class].ravel(), minlength=len(class_names))
    entries = [
        (int(counts[index]), class_names[index], tuple(colors[index]))
        for index in np.flatnonzero(counts)
    ]
    if not is_class.all():
        entries.append((int((~is_class).sum()), "no class", NO_CLASS_COLOR))
    entries.sort(key=lambda entry: -entry[0])
    return [(f"{name}  {_percent(count / label.size)}", color) for count, name, color in entries]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
