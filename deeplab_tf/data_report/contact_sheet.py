"""A grid of images with their labels over them, those with problems first."""

import math
import textwrap

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from deeplab_tf.data_report.report import Report
from deeplab_tf.data_report.report import Sample
from deeplab_tf.drawing import overlays
from deeplab_tf.drawing import palettes
from deeplab_tf.drawing import panels

COLUMNS = 4
_RED = (200, 30, 30)
_MAGENTA = (255, 0, 255)  # ids out of range; no class is likely to be so
_GREY = (225, 225, 225)
# Pixels.
_WIDTH, _HEIGHT = 340, 255  # of an image
_FRAME = 5
_TEXT_SIZE = 15
_LINE_HEIGHT = 19
_MAX_LINES = 4  # below an image
_LETTERS = 43  # of a line


def contact_sheet(report: Report) -> np.ndarray:
    """Draws the samples of a report in a grid, with their names, and all classes below.

    Returns:
        uint8 [H, W, 3].
    """
    colors = (*report.info.colors, palettes.NO_CLASS_COLOR, _MAGENTA)
    captions = [_caption(sample) for sample in report.samples]
    num_lines = max(map(len, captions), default=0)
    cells = [
        _cell(sample, colors, caption, num_lines)
        for sample, caption in zip(report.samples, captions)
    ]
    font = ImageFont.load_default(_TEXT_SIZE)
    grid = panels.contact_sheet(cells, COLUMNS)
    class_names = [f"{i} {name}" for i, name in enumerate(report.info.class_names)]
    class_names.append(f"{report.info.ignore_label} ignored")
    if any(split.wrong_ids for split in report.splits.values()):
        class_names.append("id out of range")
    legend = _legend(list(zip(class_names, colors)), grid.shape[1], font)
    return np.concatenate([grid, legend])


def _caption(sample: Sample) -> list[str]:
    # The end of a name tells images apart.
    name = sample.name if len(sample.name) <= _LETTERS else "..." + sample.name[3 - _LETTERS :]
    words = textwrap.wrap(
        "; ".join(sample.problems), _LETTERS, max_lines=_MAX_LINES - 1, placeholder=" ..."
    )
    return [name, *words]


def _cell(
    sample: Sample, colors: palettes.Colors, caption: list[str], num_lines: int
) -> np.ndarray:
    """An image in a frame, which is red if there is a problem, and words below."""
    width, height = _WIDTH + 2 * _FRAME, _HEIGHT + 2 * _FRAME
    canvas = Image.new("RGB", (width, height + num_lines * _LINE_HEIGHT), palettes.PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_TEXT_SIZE)
    outline = _RED if sample.problems else _GREY
    draw.rectangle((0, 0, width - 1, height - 1), fill=_GREY, outline=outline, width=_FRAME)
    if sample.image is None:
        middle = (width // 2, height // 2)
        draw.text(middle, "nothing to show", font=font, fill=palettes.INK, anchor="mm")
    else:
        image = sample.image
        if sample.label is not None:
            image = overlays.overlay(image, sample.label, colors)
        scale = min(_WIDTH / image.shape[1], _HEIGHT / image.shape[0])
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        scaled = Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BOX)
        canvas.paste(scaled, ((width - size[0]) // 2, (height - size[1]) // 2))
    for number, line in enumerate(caption):
        place = (_FRAME, height + number * _LINE_HEIGHT + _LINE_HEIGHT // 2)
        color = _RED if number else palettes.INK
        draw.text(place, line, font=font, fill=color, anchor="lm")
    return np.asarray(canvas)


def _legend(
    entries: list[tuple[str, tuple[int, int, int]]], width: int, font: panels.Font
) -> np.ndarray:
    """All classes in columns, uint8 [H, width, 3]; with ids, unlike `panels.add_legend`."""
    gap = _TEXT_SIZE // 2
    longest = max(math.ceil(font.getlength(text)) for text, _ in entries)
    columns = max(1, width // (_TEXT_SIZE + longest + 3 * gap))
    rows = math.ceil(len(entries) / columns)
    canvas = Image.new("RGB", (width, rows * 2 * _TEXT_SIZE + gap), palettes.PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (text, color) in enumerate(entries):
        column, row = divmod(index, rows)
        left, middle = gap + column * (width // columns), (2 * row + 1) * _TEXT_SIZE
        top = middle - _TEXT_SIZE // 2
        box = (left, top, left + _TEXT_SIZE, top + _TEXT_SIZE)
        draw.rounded_rectangle(box, radius=3, fill=color, outline=palettes.INK)
        place = (left + _TEXT_SIZE + gap, middle)
        draw.text(place, text, font=font, fill=palettes.INK, anchor="lm")
    return np.asarray(canvas)
