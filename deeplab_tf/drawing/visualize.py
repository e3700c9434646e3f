"""Labels as images: palette PNGs, overlays with a legend, panels, contact sheets, confusion.

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
RIGHT = (8, 81, 156)  # of a confusion matrix
WRONG = (190, 20, 30)

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
        image = Image.fromarray(label.astype(np.uint8))
        image.putpalette(_color_table(colors, 256).tobytes())
    else:
        image = Image.fromarray(label.astype(np.uint16))
    image.save(path, format="PNG")


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
    """Lays the classes' colours over an image and draws the borders between them.

    A class that is black, as backgrounds are by custom, only darkens the image.

    Args:
        image: uint8 [H, W, 3].
        label: Class ids, [H, W].
        colors: RGB per class.
        opacity: 0 shows the image alone, 1 the colours alone.

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
    image: np.ndarray, label: np.ndarray, class_names: Sequence[str], colors: Colors
) -> np.ndarray:
    """Adds a strip below an image that names the classes in it, the largest first.

    Args:
        image: uint8 [H, W, 3], for example an overlay.
        label: Class ids, [H, W].
        class_names: Name per class; labels beyond them are called "no class".
        colors: RGB per class.

    Returns:
        uint8 [H + legend, W or more, 3]; wider than the image only where the longest entry is.
    """
    size = _letter_size(*image.shape[:2])
    return _with_legend(image, _legend_entries(label, class_names, colors), size)


def panel(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    colors: Colors,
    ignore_label: int = 255,
) -> np.ndarray:
    """Puts an image, its label and what was predicted side by side, with captions.

    Args:
        image: RGB pixels 0..255, uint8 or float, [H, W, 3].
        label: Class ids, [H, W].
        prediction: Class ids, [H, W].
        colors: RGB per class.
        ignore_label: The label of pixels that do not count.

    Returns:
        uint8 [H + captions, 3 W + gaps, 3].
    """
    images = {
        "image": _to_uint8(image),
        "label": colorize(label, colors, ignore_label),
        "prediction": colorize(prediction, colors, ignore_label),
    }
    return _captioned(images, columns=3)


def error_panel(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    class_names: Sequence[str],
    colors: Colors,
    ignore_label: int = 255,
    caption: str = "image",
) -> np.ndarray:
    """Shows what a prediction gets wrong: image, label, prediction and errors in two rows.

    Label and prediction lie over the image, with white borders between the classes. Among the
    errors a wrong pixel has the colour of the class that it was taken for, all others are grey,
    and the white borders are those of the label. The legend gives the IoU of every class in this
    image, the lowest first.

    Args:
        image: RGB pixels 0..255, uint8 or float, [H, W, 3].
        label: Class ids, [H, W].
        prediction: Class ids, [H, W].
        class_names: Name per class.
        colors: RGB per class.
        ignore_label: The label of pixels that do not count.
        caption: What is written above the image.

    Returns:
        uint8 [H', W', 3]; an image with a side over 800 pixels is shown smaller.
    """
    counts = label != ignore_label
    entries = _iou_entries(label[counts], prediction[counts], class_names, colors)
    share = np.count_nonzero(label[counts] != prediction[counts]) / max(1, counts.sum())
    # Beyond all classes: painted as no class even where the ignore label is the id of one.
    label = np.where(counts, label, len(colors))

    image = _to_uint8(image)
    scale = min(1.0, 800 / max(label.shape))
    size = (round(label.shape[1] * scale), round(label.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    label, prediction = (
        cv2.resize(classes.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
        for classes in (label, prediction)
    )

    # Neither black nor white, which are a class and the borders.
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2 + 64
    errors = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    is_wrong = label != prediction
    errors[is_wrong] = colorize(prediction, colors, ignore_label=-1)[is_wrong]
    errors[label == len(colors)] = NO_CLASS_COLOR
    errors[_borders(label)] = PAPER
    images = {
        caption: image,
        "label": overlay(image, label, colors),
        "prediction": overlay(image, prediction, colors),
        f"errors: {_percent(share)} of the pixels": errors,
    }
    return _with_legend(_captioned(images, columns=2), entries, _letter_size(*size))


def confusion_matrix_image(
    matrix: np.ndarray, class_names: Sequence[str], colors: Colors
) -> np.ndarray:
    """Draws a confusion matrix, every row as shares of the pixels of its label.

    What is right is blue and lies on the diagonal, what is wrong is red; shades go by the square
    root, so that a share of one percent is seen. The row of a label that does not occur is
    grey. Percentages and names stand where they fit.

    Args:
        matrix: Numbers of pixels, [num_classes, num_classes], rows are labels, columns
            predictions.
        class_names: Name per class.
        colors: RGB per class, shown beside the names.

    Returns:
        uint8 [H, W, 3].
    """
    num_classes = len(matrix)
    # Of a cell, pixels: 12 are enough for a name beside it, more where there is room.
    cell = min(80, max(1000 // num_classes, min(12, 2400 // num_classes), 1))
    side, gap = num_classes * cell, 8
    rows = _class_heads(class_names, colors, cell, is_left=True)
    columns = _class_heads(class_names, colors, cell, is_left=False)
    columns = columns.transpose(Image.Transpose.ROTATE_90)
    caption_font = ImageFont.load_default(14)
    caption = "row: label, column: prediction, % of the pixels of the label"
    left, top = gap + rows.width, 32 + columns.height

    labelled = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(labelled, 1)  # [num_classes, num_classes]
    base = np.where(np.eye(num_classes, dtype=bool)[..., np.newaxis], RIGHT, WRONG)
    shades = np.float32(PAPER) + np.sqrt(shares)[..., np.newaxis] * (base - np.float32(PAPER))
    shades[labelled[:, 0] == 0] = (225, 225, 225)
    grid = np.kron(np.uint8(np.round(shades)), np.ones((cell, cell, 1), np.uint8))
    if cell >= 8:
        grid[::cell] = grid[:, ::cell] = (205, 205, 205)

    width = max(left + side, gap + math.ceil(caption_font.getlength(caption))) + gap
    canvas = Image.new("RGB", (width, top + side + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 14), caption, font=caption_font, fill=INK, anchor="lm")
    canvas.paste(rows, (gap, top))
    canvas.paste(columns, (left, 32))
    canvas.paste(Image.fromarray(grid), (left, top))
    if cell >= 30:
        number_font = ImageFont.load_default(min(18, cell * 2 // 5))
        for row, column in np.argwhere(shares >= 0.005):
            place = (left + column * cell + cell // 2, top + row * cell + cell // 2)
            share = shares[row, column]
            fill = PAPER if share > 0.3 else INK
            draw.text(place, f"{share:.0%}"[:-1], font=number_font, fill=fill, anchor="mm")
    return np.asarray(canvas)


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
    sheet = np.full(sheet_size, PAPER, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top = gap + row * (height + gap) + (height - image.shape[0]) // 2
        left = gap + column * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _class_heads(
    class_names: Sequence[str], colors: Colors, cell: int, is_left: bool
) -> Image.Image:
    """Draws names and colours of classes, one every `cell` pixels downwards.

    Names stand only where a line of them fits; the colours come last in a head at the left of
    something, else first.
    """
    font = ImageFont.load_default(int(np.clip(cell * 0.8, 10, 16)))
    names = [_shorten(name, font, width=180) if cell >= 12 else "" for name in class_names]
    gap, swatch = 4, min(cell, 16)
    name_width = math.ceil(max(font.getlength(name) for name in names))
    heads = Image.new("RGB", (name_width + swatch + 2 * gap, len(names) * cell), PAPER)
    draw = ImageDraw.Draw(heads)
    name_left, swatch_left = (0, name_width + gap) if is_left else (gap + swatch + gap, gap)
    for index, (name, color) in enumerate(zip(names, colors, strict=True)):
        place = (name_left + name_width if is_left else name_left, index * cell + cell // 2)
        draw.text(place, name, font=font, fill=INK, anchor="rm" if is_left else "lm")
        box = (swatch_left, index * cell, swatch_left + swatch - 1, (index + 1) * cell - 1)
        draw.rectangle(box, fill=tuple(color), outline=PAPER if cell >= 12 else None)
    return heads


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _captioned(images: dict[str, np.ndarray], columns: int) -> np.ndarray:
    """Lays images of one size out in a grid, each below its caption."""
    height, width = next(iter(images.values())).shape[:2]
    gap = max(4, width // 64)
    size = int(np.clip(width / 20, 12, 32))  # of the letters, pixels
    top = size * 3 // 2
    rows = math.ceil(len(images) / columns)
    canvas_size = (columns * (width + gap) + gap, rows * (top + height) + gap)
    canvas = Image.new("RGB", canvas_size, PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size)
    for index, (caption, image) in enumerate(images.items()):
        row, column = divmod(index, columns)
        left, upper = gap + column * (width + gap), row * (top + height)
        caption = _shorten(caption, font, width)
        middle = (left + width // 2, upper + top // 2)
        draw.text(middle, caption, font=font, fill=INK, anchor="mm")
        canvas.paste(Image.fromarray(image), (left, upper + top))
    return np.asarray(canvas)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cuts a text that is wider than this many pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _letter_size(height: int, width: int) -> int:
    """Size in pixels of letters that can be read beside an image of this size."""
    return int(np.clip(math.hypot(height, width) / 40, 12, 48))


def _with_legend(
    image: np.ndarray, entries: list[tuple[str, tuple[int, int, int]]], size: int
) -> np.ndarray:
    """Adds a strip of colours and texts below an image, in letters of a size in pixels."""
    height, width = image.shape[:2]
    font = ImageFont.load_default(size)

    swatch, gap = size, size // 2
    text_widths = [math.ceil(font.getlength(text)) for text, _ in entries]
    column_width = gap + swatch + gap + max(text_widths) + gap
    line_height = size * 3 // 2
    columns = max(1, width // column_width)
    rows = math.ceil(len(entries) / columns)

    canvas_size = (max(width, column_width), height + rows * line_height + gap)
    canvas = Image.new("RGB", canvas_size, PAPER)
    canvas.paste(Image.fromarray(image), ((canvas_size[0] - width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for index, (text, color) in enumerate(entries):
        row, column = divmod(index, columns)
        left = column * column_width + gap
        middle = height + gap // 2 + row * line_height + line_height // 2
        box = (left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch)
        draw.rounded_rectangle(box, radius=size // 5, fill=color, outline=INK)
        draw.text((left + swatch + gap, middle), text, font=font, fill=INK, anchor="lm")
    return np.asarray(canvas)


def _iou_entries(
    label: np.ndarray, prediction: np.ndarray, class_names: Sequence[str], colors: Colors
) -> list[tuple[str, tuple[int, int, int]]]:
    """IoU and colour of every class that occurs among these pixels, the lowest IoU first."""
    ious = []
    for index in np.union1d(label, prediction):
        is_label, is_prediction = label == index, prediction == index
        iou = np.count_nonzero(is_label & is_prediction) / np.count_nonzero(
            is_label | is_prediction
        )
        ious.append((iou, index))
    return [
        (f"{class_names[index]}  IoU {_percent(iou)}", tuple(colors[index]))
        for iou, index in sorted(ious)
    ] or [("no class", NO_CLASS_COLOR)]


def _color_table(colors: Colors, size: int) -> np.ndarray:
    """The colour of every label below `size`, uint8 [size, 3]."""
    table = np.tile(np.uint8(NO_CLASS_COLOR), (size, 1))
    table[: len(colors)] = colors
    return table


def _borders(label: np.ndarray) -> np.ndarray:
    """Where the class changes, bool [H, W]; thicker in large images, so that it stays visible."""
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
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"
