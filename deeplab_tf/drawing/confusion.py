"""A confusion matrix as an image."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from deeplab_tf.drawing import palettes
from deeplab_tf.drawing import panels

RIGHT = (8, 81, 156)
WRONG = (190, 20, 30)
ABSENT = (225, 225, 225)
_GRID = (205, 205, 205)
_CAPTION = "row: label, column: prediction, % of the pixels of the label"
_CAPTION_HEIGHT = 32
_GAP = 8


def confusion_matrix_image(
    matrix: np.ndarray, class_names: Sequence[str], colors: palettes.Colors
) -> np.ndarray:
    """Draws a confusion matrix, every row as shares of the pixels of its label.

    Correct predictions are blue and lie on the diagonal, wrong ones are red. Shades follow the
    square root, so that a share of one percent is visible. The row of a label that does not occur
    is grey. Percentages and names are written where they fit.

    Args:
        matrix: Numbers of pixels, [num_classes, num_classes], rows are labels, columns
            predictions.
        class_names: Name per class.
        colors: RGB per class, shown beside the names.

    Returns:
        uint8 [H, W, 3].
    """
    num_classes = len(matrix)
    # Side of a cell: 12 pixels are enough for a name beside it; more if there is room.
    cell = min(80, max(1000 // num_classes, min(12, 2400 // num_classes), 1))
    side = num_classes * cell
    rows = _class_heads(class_names, colors, cell, is_left=True)
    columns = _class_heads(class_names, colors, cell, is_left=False)
    columns = columns.transpose(Image.Transpose.ROTATE_90)
    font = ImageFont.load_default(14)
    left, top = _GAP + rows.width, _CAPTION_HEIGHT + columns.height

    width = max(left + side, _GAP + math.ceil(font.getlength(_CAPTION))) + _GAP
    canvas = Image.new("RGB", (width, top + side + _GAP), palettes.PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, 14), _CAPTION, font=font, fill=palettes.INK, anchor="lm")
    canvas.paste(rows, (_GAP, top))
    canvas.paste(columns, (left, _CAPTION_HEIGHT))
    canvas.paste(_cells(matrix, cell), (left, top))
    return np.asarray(canvas)


def _cells(matrix: np.ndarray, cell: int) -> Image.Image:
    """The matrix itself, every cell a square of `cell` pixels."""
    labelled = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(labelled, 1)  # [num_classes, num_classes]
    is_right = np.eye(len(matrix), dtype=bool)[..., np.newaxis]
    paper = np.array(palettes.PAPER, np.float32)
    base = np.where(is_right, np.array(RIGHT), np.array(WRONG))
    shades = paper + np.sqrt(shares)[..., np.newaxis] * (base - paper)
    shades[labelled[:, 0] == 0] = ABSENT
    grid = np.kron(np.uint8(np.round(shades)), np.ones((cell, cell, 1), np.uint8))
    if cell >= 8:
        grid[::cell] = grid[:, ::cell] = _GRID
    image = Image.fromarray(grid)
    if cell >= 30:
        draw = ImageDraw.Draw(image)
        font = ImageFont.load_default(min(18, cell * 2 // 5))
        for row, column in np.argwhere(shares >= 0.005):
            middle = (column * cell + cell // 2, row * cell + cell // 2)
            share = shares[row, column]
            fill = palettes.PAPER if share > 0.3 else palettes.INK
            draw.text(middle, f"{share:.0%}"[:-1], font=font, fill=fill, anchor="mm")
    return image


def _class_heads(
    class_names: Sequence[str], colors: palettes.Colors, cell: int, is_left: bool
) -> Image.Image:
    """Draws names and colours of classes, one every `cell` pixels downwards.

    Names are written only where a line of them fits. The colours come after the names in a head
    that stands at the left of the matrix, else before them.
    """
    font = ImageFont.load_default(int(np.clip(cell * 0.8, 10, 16)))
    names = [panels.shorten(name, font, width=180) if cell >= 12 else "" for name in class_names]
    gap, swatch = 4, min(cell, 16)
    name_width = math.ceil(max(font.getlength(name) for name in names))
    heads = Image.new("RGB", (name_width + swatch + 2 * gap, len(names) * cell), palettes.PAPER)
    draw = ImageDraw.Draw(heads)
    name_left, swatch_left = (0, name_width + gap) if is_left else (gap + swatch + gap, gap)
    for index, (name, color) in enumerate(zip(names, colors, strict=True)):
        place = (name_left + name_width if is_left else name_left, index * cell + cell // 2)
        draw.text(place, name, font=font, fill=palettes.INK, anchor="rm" if is_left else "lm")
        box = (swatch_left, index * cell, swatch_left + swatch - 1, (index + 1) * cell - 1)
        draw.rectangle(box, fill=tuple(color), outline=palettes.PAPER if cell >= 12 else None)
    return heads
