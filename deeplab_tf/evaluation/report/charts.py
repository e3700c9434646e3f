"""What is drawn on the page, as inline SVG in the colours of `page.css`."""

import math
from collections.abc import Sequence

import numpy as np

from deeplab_tf.evaluation.report import markup

# Of the curve, in units of its drawing; it is shown up to one and a half times as large.
_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 42
_SMALLEST_SHARE = 0.0005  # of a label's pixels, below which a cell of the matrix stays empty


def bar(share: float | None, mark: float | None = None) -> str:
    """A bar as long as a share 0..1, with a line across at another share."""
    line = "" if mark is None else f'<line x1="{mark:.1%}" x2="{mark:.1%}" y2="100%"/>'
    return (
        '<svg class="bar" aria-hidden="true"><rect class="ground" width="100%" height="100%"/>'
        f'<rect class="filled" width="{share or 0:.1%}" height="100%"/>{line}</svg>'
    )


def change_bar(difference: float | None, largest: float) -> str:
    """A bar from the middle to the right for a gain, to the left for a loss.

    Args:
        difference: What is shown; None for an empty one.
        largest: The difference that reaches the edge.
    """
    difference = difference or 0.0
    length = 50 * min(1.0, abs(difference) / largest) if largest else 0.0  # percent
    left, kind = (50.0, "better") if difference > 0 else (50 - length, "worse")
    return (
        '<svg class="bar" aria-hidden="true"><rect class="ground" width="100%" height="100%"/>'
        f'<rect class="{kind}" x="{left:.1f}%" width="{length:.1f}%" height="100%"/>'
        '<line x1="50%" x2="50%" y2="100%"/></svg>'
    )


def curve(
    widths: Sequence[int],
    lines: Sequence[tuple[str, Sequence[float | None]]],
    references: Sequence[float],
    title: str,
) -> str:
    """Draws shares over widths in pixels.

    Args:
        widths: Along the abscissa, ascending.
        lines: Name and shares 0..1, one per width, of every line; the first is the one to look at.
        references: A share per line, drawn dashed across.
        title: What is shown, for those who cannot see it.
    """
    values = [value for _, line in lines for value in line if value is not None]
    low = math.floor(10 * min(values + list(references))) / 10
    high = max(low + 0.1, math.ceil(10 * max(values + list(references))) / 10)
    span = max(widths[-1] - widths[0], 1)

    def x(width: float) -> float:
        return _LEFT + (width - widths[0]) / span * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _TOP + (high - share) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    num_tenths = round(10 * (high - low))
    for tenth in range(0, num_tenths + 1, 1 if num_tenths <= 6 else 2):
        share = low + tenth / 10
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(share):.1f}" '
            f'y2="{y(share):.1f}"/><text class="ordinate" x="{_LEFT - 6}" y="{y(share) + 4:.1f}">'
            f"{share:.0%}</text>"
        )
    step = next((step for step in (1, 2, 5, 10, 20, 50) if span / step <= 6), 100)  # pixels
    ticks = range(step * (int(widths[0]) // step + 1), int(widths[-1]) + 1, step)
    for width in (widths[0], *ticks):
        place = f'x="{x(width):.1f}" y="{_HEIGHT - _BOTTOM + 17}"'
        parts.append(f'<text class="abscissa" {place}>{width}</text>')
    parts.append(
        f'<text class="abscissa" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}">'
        "pixels from the border, less than</text>"
    )
    for number, ((name, line), reference) in enumerate(zip(lines, references, strict=True)):
        points = [(x(w), y(v), w, v) for w, v in zip(widths, line, strict=True) if v is not None]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top, _, _ in points)
        dots = "".join(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.5"><title>'
            f"{markup.escape(name)}, {width} px: {markup.percent(share)}</title></circle>"
            for left, top, width, share in points
        )
        across = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(reference):.1f}"'
        parts.append(
            f'<g class="line-{number}"><line {across} y2="{y(reference):.1f}"/>'
            f'<polyline points="{path}"/>{dots}</g>'
        )
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{markup.escape(title)}">{"".join(parts)}</svg>'
    )


def confusion_matrix(
    matrix: np.ndarray, class_names: Sequence[str], colors: Sequence[Sequence[int]]
) -> str:
    """Draws a confusion matrix, every row as shares of the pixels of its label.

    Shades go by the square root, so that a share of one percent is seen. Names stay in sight when
    it is scrolled.

    Args:
        matrix: Numbers of pixels, [num_classes, num_classes], rows are labels, columns
            predictions.
        class_names: Name per class.
        colors: RGB per class.
    """
    num_classes = len(matrix)
    cell = 44 if num_classes <= 12 else 32 if num_classes <= 30 else 16  # pixels
    side = num_classes * cell
    labelled = matrix.sum(axis=1)
    shares = matrix / np.maximum(labelled, 1)[:, np.newaxis]
    parts = [
        f'<rect class="unlabelled" y="{row * cell}" width="{side}" height="{cell}"/>'
        for row in np.flatnonzero(labelled == 0)
    ]
    for row, column in np.argwhere(shares >= _SMALLEST_SHARE):
        share, left, top = shares[row, column], column * cell, row * cell
        kind = "right" if row == column else "wrong"
        parts.append(
            f'<rect class="{kind}" x="{left}" y="{top}" width="{cell}" height="{cell}" '
            f'fill-opacity="{math.sqrt(share):.2f}"/>'
        )
        if cell >= 32 and share >= 0.005:
            # From here on letters of the page's ground stand out better than those of its ink.
            strong = ' class="on-dark"' if share >= 0.6 else ""
            parts.append(
                f'<text{strong} x="{left + cell / 2:g}" y="{top + cell / 2 + 4:g}">'
                f"{100 * share:.0f}</text>"
            )
    heads = "".join(
        f'<li title="{markup.escape(name)}">{markup.swatch(color)}'
        f"<span>{markup.escape(name)}</span></li>"
        for name, color in zip(class_names, colors, strict=True)
    )
    title = f"Confusion matrix of {num_classes} classes; arrow keys move from cell to cell"
    return (
        f'<div class="matrix" style="--cell:{cell}px">'
        '<div class="corner">label &darr;<br>prediction &rarr;</div>'
        f'<ol class="columns" aria-hidden="true">{heads}</ol>'
        f'<ol class="rows" aria-hidden="true">{heads}</ol>'
        f'<svg id="matrix" width="{side}" height="{side}" viewBox="0 0 {side} {side}" '
        f'tabindex="0" role="img" aria-label="{title}" aria-describedby="cell">{"".join(parts)}'
        f'<rect id="cursor" width="{cell}" height="{cell}" visibility="hidden"/></svg></div>'
    )
