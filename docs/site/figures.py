"""The figures of the concepts, drawn as SVG from what the code of this project computes.

Lines and words have the colour of the text around them, so that a figure fits light and dark pages.
"""

import base64
import functools
import html

import cv2
import numpy as np

from deeplab_tf import crf
from deeplab_tf.backbones import atrous
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.drawing import palettes

TEAL, ORANGE, PURPLE, BLUE = "#009688", "#ef6c00", "#8e5bd0", "#3f88d8"
CELL = 14  # side of a pixel of a feature map, in units of the figure


def draw(name: str, description: str) -> str:
    """Returns a figure as SVG.

    Args:
        name: Name of one of `FIGURES`.
        description: What the figure shows, for readers who do not see it.
    """
    return FIGURES[name]().to_svg(description)


class Figure:
    """A drawing of rectangles, lines, words and images, in units of about a pixel."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self._elements: list[str] = []

    def rectangle(self, x, y, width, height, color="none", opacity=1.0, line=True) -> None:
        """Draws a rectangle, with a line around it in the colour of the text."""
        stroke = 'stroke="currentColor" stroke-opacity="0.45"' if line else ""
        self._elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{color}" '
            f'fill-opacity="{opacity:g}" {stroke}/>'
        )

    def line(self, points, color="currentColor", width=1.5, dashes="") -> None:
        """Draws a line through points (x, y)."""
        text = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self._elements.append(
            f'<polyline points="{text}" fill="none" stroke="{color}" stroke-width="{width:g}" '
            f'stroke-dasharray="{dashes}"/>'
        )

    def arrow(self, x1, y1, x2, y2) -> None:
        """Draws an arrow from one point to another."""
        length = np.hypot(x2 - x1, y2 - y1)
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        back = np.array([x2 - 7 * ux, y2 - 7 * uy])
        side = 3.5 * np.array([-uy, ux])
        self.line([(x1, y1), (x2, y2)])
        self.line([back + side, (x2, y2), back - side])

    def text(self, x, y, words, anchor="start", size=13, color="currentColor") -> None:
        """Writes words; `y` is their base line."""
        self._elements.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{color}">{html.escape(words)}</text>'
        )

    def image(self, x, y, pixels: np.ndarray, scale=1.0) -> None:
        """Places an image, uint8 RGB [H, W, 3]."""
        encoded = base64.b64encode(cv2.imencode(".png", pixels[..., ::-1])[1]).decode()
        height, width = pixels.shape[:2]
        self._elements.append(
            f'<image x="{x:g}" y="{y:g}" width="{scale * width:g}" height="{scale * height:g}" '
            f'href="data:image/png;base64,{encoded}"/>'
        )

    def to_svg(self, description: str) -> str:
        """Returns the figure as an element of a page."""
        label = html.escape(description)
        return (
            f'<div class="figure"><svg role="img" aria-label="{label}" width="{self.width}" '
            f'viewBox="0 0 {self.width} {self.height}" xmlns="http://www.w3.org/2000/svg">'
            f"{''.join(self._elements)}</svg></div>"
        )


def taps(rate: int) -> list[tuple[int, int]]:
    """Returns the 9 pixels that a 3x3 kernel sees, as (row, column) from its centre."""
    return [(rate * row, rate * column) for row in (-1, 0, 1) for column in (-1, 0, 1)]


def share_of_taps_inside(size: int, rate: int) -> float:
    """Returns which share of the taps of a 3x3 kernel lies on the features, not on padding.

    Args:
        size: Height and width of the features.
        rate: Atrous rate.
    """
    along_a_side = (size + 2 * max(0, size - rate)) / (3 * size)
    return along_a_side**2


def atrous_convolution() -> Figure:
    """A 3x3 kernel at the rates 1, 2 and 4."""
    size, gap = 11, 40
    figure = Figure(3 * size * CELL + 2 * gap + 2, size * CELL + 46)
    for index, rate in enumerate((1, 2, 4)):
        left = 1 + index * (size * CELL + gap)
        for row in range(size):
            for column in range(size):
                figure.rectangle(left + column * CELL, 1 + row * CELL, CELL, CELL)
        for row, column in taps(rate):
            x, y = left + (size // 2 + column) * CELL, 1 + (size // 2 + row) * CELL
            figure.rectangle(x, y, CELL, CELL, TEAL)
        seen = 1 + 2 * rate
        figure.text(left, size * CELL + 22, f"rate {rate}")
        figure.text(left, size * CELL + 40, f"9 weights, {seen}x{seen} pixels", size=12)
    return figure


def output_stride() -> Figure:
    """The blocks of a ResNet at the output strides 32, 16 and 8."""
    strides = (2, 2, 1, 2, 2, 2)  # the stem, its pooling, and the four blocks
    names = ("image", "stem", "pooling", "block 1", "block 2", "block 3", "block 4")
    figure = Figure(640, 320)
    for line, stride in enumerate((32, 16, 8)):
        base = 100 + line * 100
        figure.text(0, base - 44, f"output stride {stride}", size=13)
        size, total_rate = 64.0, 1
        for index, (own, _) in enumerate([(1, 1), *atrous.strides_and_rates(strides, stride)]):
            if index and own == 1 and strides[index - 1] > 1:
                total_rate *= strides[index - 1]
            size /= own
            x = 130 + index * 72
            is_atrous = total_rate > 1
            figure.rectangle(x, base - size, 40, size, ORANGE if is_atrous else TEAL, 0.85)
            figure.text(x + 20, base + 14, f"1/{round(64 / size)}", "middle", 11)
            if is_atrous:
                figure.text(x + 20, base - size - 5, f"rate {total_rate}", "middle", 11, ORANGE)
            if line == 0:
                figure.text(x + 20, 20, names[index], "middle", 12)
    return figure


def aspp() -> Figure:
    """The taps of the branches of the ASPP on 33x33 features."""
    size, cell = 33, 8
    figure = Figure(560, size * cell + 2)
    figure.rectangle(1, 1, size * cell, size * cell)
    colors = {6: TEAL, 12: ORANGE, 18: PURPLE}
    for rate, color in colors.items():
        for row, column in taps(rate):
            if max(abs(row), abs(column)) <= size // 2:
                x, y = 1 + (size // 2 + column) * cell, 1 + (size // 2 + row) * cell
                figure.rectangle(x - 2, y - 2, cell + 4, cell + 4, color, line=False)
    centre = 1 + size // 2 * cell
    figure.rectangle(centre - 2, centre - 2, cell + 4, cell + 4, BLUE, line=False)
    rows = [(BLUE, "1x1 convolution: the pixel itself")]
    for rate, color in colors.items():
        percent = 100 * share_of_taps_inside(size, rate)
        rows.append((color, f"3x3 at rate {rate}: {percent:.0f} % of all taps lie inside"))
    rows.append(("none", "image pooling: the mean of all pixels"))
    for index, (color, words) in enumerate(rows):
        figure.rectangle(290, 40 + index * 32, 12, 12, color)
        figure.text(312, 51 + index * 32, words, size=12)
    figure.text(
        290, 51 + len(rows) * 32 + 10, "33x33 features: a crop of 513 at stride 16", size=12
    )
    return figure


def separable_convolution() -> Figure:
    """The weights of a 3x3 convolution from 3 to 16 channels, and of its separable form."""
    cell = 8
    figure = Figure(620, 245)

    def kernel(x, y, side, depth, color):
        """Draws a kernel of side x side pixels; its channels lie one below the other."""
        for channel in range(depth):
            for row in range(side):
                for column in range(side):
                    top = y + channel * (side * cell + 3) + row * cell
                    figure.rectangle(x + column * cell, top, cell, cell, color, 0.85)

    dense = 3 * 3 * 3 * 16
    separable = 3 * 3 * 3 + 3 * 16
    figure.text(0, 16, f"3x3 convolution: 16 kernels of 3x3x3 weights = {dense}")
    for index in range(16):
        kernel(1 + index * 33, 28, 3, 3, TEAL)
    words = "separable: a 3x3 kernel for each of 3 channels, then 16 kernels of 1x1x3"
    figure.text(0, 150, f"{words} = {separable}")
    for index in range(3):
        kernel(1 + index * 33, 180, 3, 1, ORANGE)
    figure.text(0, 236, "3x3x3 = 27", size=12)
    for index in range(16):
        kernel(150 + index * 16, 170, 1, 3, PURPLE)
    figure.text(150, 236, "3x16 = 48", size=12)
    return figure


def decoder() -> Figure:
    """The way of the features through encoder and decoder of v3+."""
    figure = Figure(660, 250)

    def box(x, y, width, words, below, color):
        figure.rectangle(x, y, width, 44, color, 0.25)
        figure.text(x + width / 2, y + 19, words, "middle", 12)
        figure.text(x + width / 2, y + 35, below, "middle", 11)

    box(0, 20, 130, "image", "513x513x3", BLUE)
    box(170, 20, 130, "backbone", "33x33x2048", TEAL)
    box(340, 20, 130, "ASPP", "33x33x256", TEAL)
    box(510, 20, 140, "resize by 4", "129x129x256", TEAL)
    box(170, 120, 130, "features at stride 4", "129x129x256", ORANGE)
    box(340, 120, 130, "1x1 convolution", "129x129x48", ORANGE)
    box(510, 120, 140, "concatenate", "129x129x304", PURPLE)
    box(340, 200, 130, "logits", "513x513x21", BLUE)
    box(510, 200, 140, "two 3x3 separable", "129x129x256", PURPLE)
    for x in (130, 300, 470):
        figure.arrow(x, 42, x + 40, 42)
    figure.arrow(235, 64, 235, 120)
    figure.arrow(300, 142, 340, 142)
    figure.arrow(470, 142, 510, 142)
    figure.arrow(580, 64, 580, 120)
    figure.arrow(580, 164, 580, 200)
    figure.arrow(510, 222, 470, 222)
    return figure


def fully_connected_crf() -> Figure:
    """A drawn image, labels of blurred probabilities, and what the CRF makes of them."""
    image, label = drawing.draw("val", 17)
    num_classes = len(drawing.CLASS_NAMES)
    present = [(label == index).astype(np.float32) for index in range(num_classes)]
    probabilities = np.stack([cv2.blur(one, (21, 21)) + 0.01 for one in present], axis=-1)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    refined = crf.dense_crf(image, probabilities)
    figure = Figure(700, 202)
    scale = 216 / image.shape[1]
    figure.text(0, 16, "image", size=12)
    figure.image(0, 24, image, scale)
    for index, (words, scores) in enumerate([("before", probabilities), ("after", refined)], 1):
        labels = scores.argmax(axis=-1).astype(np.uint8)
        counted = label != drawing.IGNORE_LABEL
        percent = 100 * np.mean(labels[counted] == label[counted])
        figure.text(index * 236, 16, f"{words}: {percent:.1f} % of the labels are right", size=12)
        figure.image(index * 236, 24, palettes.colorize(labels, drawing.COLORS), scale)
    return figure


def batch_norm_and_crop_size() -> Figure:
    """Which share of the taps of an atrous convolution lies on features, by crop size."""
    crops = np.arange(65, 1026, 32)
    figure = Figure(640, 300)
    left, top, width, height = 60, 20, 440, 220

    def place(crop, share):
        return left + width * (crop - 65) / (1025 - 65), top + height * (1 - share)

    for percent in (25, 50, 75, 100):
        y = place(65, percent / 100)[1]
        figure.line([(left, y), (left + width, y)], width=0.4)
        figure.text(left - 8, y + 4, f"{percent} %", "end", 11)
    for crop in (65, 257, 513, 769, 1025):
        x = place(crop, 0)[0]
        figure.line([(x, top + height), (x, top + height + 5)], width=1)
        figure.text(x, top + height + 20, str(crop), "middle", 11)
    figure.line([(left, top), (left, top + height), (left + width, top + height)], width=1)
    figure.text(left + width / 2, top + height + 42, "side of the crop, pixels", "middle", 12)
    for rate, color in ((6, TEAL), (12, ORANGE), (18, PURPLE)):
        shares = [share_of_taps_inside((crop - 1) // 16 + 1, rate) for crop in crops]
        points = [place(crop, share) for crop, share in zip(crops, shares)]
        figure.line(points, color, 2)
        figure.text(points[-1][0] + 8, points[-1][1] + 4, f"rate {rate}", size=12, color=color)
    return figure


FIGURES = {
    "atrous_convolution": atrous_convolution,
    "output_stride": output_stride,
    "aspp": aspp,
    "separable_convolution": separable_convolution,
    "decoder": decoder,
    "fully_connected_crf": functools.cache(fully_connected_crf),
    "batch_norm_and_crop_size": batch_norm_and_crop_size,
}
