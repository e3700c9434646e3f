"""Images with text beside them: legends, captions, contact sheets, errors of predictions.

Images are uint8 [H, W, 3] RGB, label maps integer [H, W].
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from deeplab_tf.drawing import overlays
from deeplab_tf.drawing import palettes

Legend = list[tuple[str, tuple[int, ...]]]  # texts and their colours

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_MAX_SIDE = 800  # of an image in an error panel, pixels


def add_legend(
    image: np.ndarray, label: np.ndarray, class_names: Sequence[str], colors: palettes.Colors
) -> np.ndarray:
    """Adds a strip below an image that names the classes in it, the largest first.

    Args:
        image: uint8 [H, W, 3], for example an overlay.
        label: Class ids, [H, W].
        class_names: Name per class; labels beyond them are called "no class".
        colors: RGB per class.

    Returns:
        uint8 [H + legend, W or more, 3]; wider than the image only if the longest entry is.
    """
    legend = share_legend(label, class_names, colors)
    return _above_legend(image, legend, _letter_size(*image.shape[:2]))


def share_legend(label: np.ndarray, class_names: Sequence[str], colors: palettes.Colors) -> Legend:
    """Returns the share of pixels and the colour of every class that occurs, the largest first.

    Args:
        label: Class ids, [H, W].
        class_names: Name per class; labels beyond them are called "no class".
        colors: RGB per class.
    """
    num_classes = len(class_names)
    counts = np.zeros(num_classes + 1, np.int64)  # the last is of what is not a class
    for rows in overlays.row_bands(label.shape):
        ids = label[rows].ravel()
        ids = np.where((ids >= 0) & (ids < num_classes), ids, num_classes)
        counts += np.bincount(ids, minlength=num_classes + 1)
    names = [*class_names, "no class"]
    all_colors = [*colors, palettes.NO_CLASS_COLOR]
    order = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
    return [
        (f"{names[index]}  {_percent(counts[index] / label.size)}", tuple(all_colors[index]))
        for index in order
    ]


def iou_legend(
    label: np.ndarray,
    prediction: np.ndarray,
    class_names: Sequence[str],
    colors: palettes.Colors,
) -> Legend:
    """Returns the IoU and the colour of every class that occurs, the lowest IoU first.

    Args:
        label: Class ids of any shape; without pixels that do not count.
        prediction: Class ids of the same shape.
        class_names: Name per class.
        colors: RGB per class.
    """
    ious = []
    for index in np.union1d(label, prediction):
        is_label, is_prediction = label == index, prediction == index
        union = np.count_nonzero(is_label | is_prediction)
        ious.append((np.count_nonzero(is_label & is_prediction) / union, index))
    return [
        (f"{class_names[index]}  IoU {_percent(iou)}", tuple(colors[index]))
        for iou, index in sorted(ious)
    ] or [("no class", palettes.NO_CLASS_COLOR)]


def error_panel(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    *,
    class_names: Sequence[str],
    colors: palettes.Colors,
    ignore_label: int = 255,
    caption: str = "image",
) -> np.ndarray:
    """Shows the errors of a prediction: image, label, prediction and errors in two rows.

    Label and prediction lie over the image, with white borders between the classes. Among the
    errors, a wrong pixel has the colour of the class it was taken for, all others are grey, and
    the white borders are those of the label. The legend gives the IoU of every class in this
    image, the lowest first.

    Args:
        image: RGB pixels 0..255, uint8 or float, [H, W, 3].
        label: Class ids, [H, W].
        prediction: Class ids, [H, W].
        class_names: Name per class.
        colors: RGB per class.
        ignore_label: The label of pixels that do not count.
        caption: Text above the image.

    Returns:
        uint8 [H', W', 3]; an image with a side over 800 pixels is shown smaller.
    """
    counted = label != ignore_label
    legend = iou_legend(label[counted], prediction[counted], class_names, colors)
    share = np.count_nonzero(label[counted] != prediction[counted]) / max(1, counted.sum())
    # Beyond all classes: painted as no class even if the ignore label is the id of one.
    label = np.where(counted, label, len(colors))

    scale = min(1.0, _MAX_SIDE / max(label.shape))
    height, width = (max(1, round(side * scale)) for side in label.shape)
    size = (width, height)
    image = np.clip(np.round(image), 0, 255).astype(np.uint8)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    label, prediction = (
        cv2.resize(classes.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
        for classes in (label, prediction)
    )
    images = {
        caption: image,
        "label": overlays.overlay(image, label, colors),
        "prediction": overlays.overlay(image, prediction, colors),
        f"errors: {_percent(share)} of the pixels": _errors(image, label, prediction, colors),
    }
    return _above_legend(_captioned(images, columns=2), legend, _letter_size(*size))


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lays images out in a grid, row by row, each in the middle of its cell.

    Args:
        images: uint8 [H, W, 3] each, of any sizes.
        columns: Images per row.

    Returns:
        uint8 [H, W, 3].
    """
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    gap = max(4, width // 64)
    rows = math.ceil(len(images) / columns)
    columns = min(columns, len(images))
    sheet_size = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(sheet_size, palettes.PAPER, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top = gap + row * (height + gap) + (height - image.shape[0]) // 2
        left = gap + column * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def below_name(image: np.ndarray, name: str) -> np.ndarray:
    """Adds a line with a name below an image, uint8 [H, W, 3]."""
    height, width = image.shape[:2]
    size = _letter_size(height, width)
    strip = Image.new("RGB", (width, size * 3 // 2), palettes.PAPER)
    font = ImageFont.load_default(size)
    middle = (width // 2, strip.height // 2)
    text = shorten(name, font, width)
    ImageDraw.Draw(strip).text(middle, text, font=font, fill=palettes.INK, anchor="mm")
    return np.concatenate([image, np.asarray(strip)])


def shorten(text: str, font: Font, width: int) -> str:
    """Returns a text, cut to a width in pixels if it is wider."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _errors(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, colors: palettes.Colors
) -> np.ndarray:
    """Wrong pixels in the colour that they were taken for, over a grey image; uint8 [H, W, 3]."""
    # Neither black nor white, which are a class and the borders.
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2 + 64
    errors = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    is_wrong = label != prediction
    errors[is_wrong] = palettes.colorize(prediction, colors, ignore_label=-1)[is_wrong]
    errors[label == len(colors)] = palettes.NO_CLASS_COLOR
    errors[overlays.class_borders(label)] = palettes.PAPER
    return errors


def _captioned(images: dict[str, np.ndarray], columns: int) -> np.ndarray:
    """Lays images of one size out in a grid, each below its caption."""
    height, width = next(iter(images.values())).shape[:2]
    gap = max(4, width // 64)
    size = int(np.clip(width / 20, 12, 32))  # of the letters, pixels
    top = size * 3 // 2
    rows = math.ceil(len(images) / columns)
    canvas_size = (columns * (width + gap) + gap, rows * (top + height) + gap)
    canvas = Image.new("RGB", canvas_size, palettes.PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size)
    for index, (caption, image) in enumerate(images.items()):
        row, column = divmod(index, columns)
        left, upper = gap + column * (width + gap), row * (top + height)
        caption = shorten(caption, font, width)
        middle = (left + width // 2, upper + top // 2)
        draw.text(middle, caption, font=font, fill=palettes.INK, anchor="mm")
        canvas.paste(Image.fromarray(image), (left, upper + top))
    return np.asarray(canvas)


def _letter_size(height: int, width: int) -> int:
    """Size in pixels of letters that can be read beside an image of this size."""
    return int(np.clip(math.hypot(height, width) / 40, 12, 48))


def _above_legend(image: np.ndarray, legend: Legend, size: int) -> np.ndarray:
    """Adds a strip of colours and texts below an image, in letters of a size in pixels."""
    height, width = image.shape[:2]
    strip = _legend_strip(legend, width, size)
    margin = strip.shape[1] - width
    sides = (margin // 2, margin - margin // 2)
    if margin:
        image = np.pad(image, ((0, 0), sides, (0, 0)), constant_values=255)
    return np.concatenate([image, strip])


def _legend_strip(legend: Legend, width: int, size: int) -> np.ndarray:
    """Draws a legend in columns, uint8 [H, width or more, 3]."""
    font = ImageFont.load_default(size)
    swatch, gap = size, size // 2
    text_width = max(math.ceil(font.getlength(text)) for text, _ in legend)
    column_width = gap + swatch + gap + text_width + gap
    line_height = size * 3 // 2
    columns = max(1, width // column_width)
    rows = math.ceil(len(legend) / columns)

    canvas_size = (max(width, column_width), rows * line_height + gap)
    canvas = Image.new("RGB", canvas_size, palettes.PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (text, color) in enumerate(legend):
        row, column = divmod(index, columns)
        left = column * column_width + gap
        middle = gap // 2 + row * line_height + line_height // 2
        box = (left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch)
        draw.rounded_rectangle(box, radius=size // 5, fill=color, outline=palettes.INK)
        place = (left + swatch + gap, middle)
        draw.text(place, text, font=font, fill=palettes.INK, anchor="lm")
    return np.asarray(canvas)


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"
