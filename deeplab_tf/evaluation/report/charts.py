"""The charts of the page, as inline SVG in the colours of `page.css`."""

import math
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from deeplab_tf.evaluation.report import formats

# Of the curve, in units of its drawing; it is shown at up to one and a half times this size.
_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 42
_SMALLEST_SHARE = 0.0005  # of a label's pixels, below which a cell of the matrix stays empty
_SMALLEST_NUMBER = 0.005  # below which it has no number
# From this share on, letters in the colour of the page stand out better than those of its text.
_DARK_SHARE = 0.6


def bar(share: float | None, mark: float | None = None) -> Markup:
    """Draws a bar as long as a share 0..1, with a line across at another share."""
    line = "" if mark is None else f'<line x1="{mark:.1%}" x2="{mark:.1%}" y2="100%"/>'
    return Markup(
        '<svg class="bar" aria-hidden="true"><rect class="ground" width="100%" height="100%"/>'
        f'<rect class="filled" width="{share or 0:.1%}" height="100%"/>{line}</svg>'
    )


def change_bar(difference: float | None, largest: float) -> Markup:
    """Draws a bar from the middle to the right for a gain, to the left for a loss.

    Args:
        difference: The gain; None for an empty bar.
        largest: The difference that reaches the edge.
    """
    difference = difference or 0.0
    length = 50 * min(1.0, abs(difference) / largest) if largest else 0.0  # percent
    left, kind = (50.0, "better") if difference > 0 else (50 - length, "worse")
    return Markup(
        '<svg class="bar" aria-hidden="true"><rect class="ground" width="100%" height="100%"/>'
        f'<rect class="{kind}" x="{left:.1f}%" width="{length:.1f}%" height="100%"/>'
        '<line x1="50%" x2="50%" y2="100%"/></svg>'
    )


def curve(
    widths: Sequence[int],
    lines: Sequence[tuple[str, Sequence[float | None]]],
    references: Sequence[float],
    title: str,
) -> Markup:
    """Draws shares over widths in pixels.

    Args:
        widths: Along the horizontal axis, ascending.
        lines: Name and shares 0..1, one per width, of every line.
        references: A share per line, drawn dashed across.
        title: What the chart shows, for those who cannot see it.
    """
    values = [value for _, line in lines for value in line if value is not None]
    axes = _Axes(widths, [*values, *references])
    parts = [*axes.shares(), *axes.widths()]
    for number, ((name, line), reference) in enumerate(zip(lines, references, strict=True)):
        points = [(w, share) for w, share in zip(widths, line, strict=True) if share is not None]
        parts.append(
            Markup('<g class="line-{}">{}<polyline points="{}"/>{}</g>').format(
                number,
                axes.across(reference),
                " ".join(f"{axes.x(width):.1f},{axes.y(share):.1f}" for width, share in points),
                Markup("").join(axes.dot(name, width, share) for width, share in points),
            )
        )
    return Markup(
        '<svg class="curve" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, title, Markup("").join(parts))


class _Axes:
    """Places of widths and shares in a curve, and what is drawn along its axes."""

    def __init__(self, widths: Sequence[int], shares: Sequence[float]):
        self._first, self._last = widths[0], widths[-1]
        self._span = max(self._last - self._first, 1)
        self._low = math.floor(10 * min(shares)) / 10
        self._high = max(self._low + 0.1, math.ceil(10 * max(shares)) / 10)

    def x(self, width: float) -> float:
        return _LEFT + (width - self._first) / self._span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, share: float) -> float:
        height = _HEIGHT - _TOP - _BOTTOM
        return _TOP + (self._high - share) / (self._high - self._low) * height

    def across(self, share: float, kind: str = "reference") -> Markup:
        """A line across at a share."""
        return Markup('<line class="{0}" x1="{1}" x2="{2}" y1="{3:.1f}" y2="{3:.1f}"/>').format(
            kind, _LEFT, _WIDTH - _RIGHT, self.y(share)
        )

    def shares(self) -> Iterator[Markup]:
        """The lines across at every tenth, or every second one, with their percentages."""
        num_tenths = round(10 * (self._high - self._low))
        for tenth in range(0, num_tenths + 1, 1 if num_tenths <= 6 else 2):
            share = self._low + tenth / 10
            yield self.across(share, "grid")
            yield Markup('<text class="ordinate" x="{}" y="{:.1f}">{:.0%}</text>').format(
                _LEFT - 6, self.y(share) + 4, share
            )

    def widths(self) -> Iterator[Markup]:
        """The numbers below, and what they are."""
        step = next((step for step in (1, 2, 5, 10, 20, 50) if self._span / step <= 6), 100)
        ticks = range(step * (self._first // step + 1), self._last + 1, step)
        text = Markup('<text class="abscissa" x="{:.1f}" y="{}">{}</text>')
        for width in (self._first, *ticks):
            yield text.format(self.x(width), _HEIGHT - _BOTTOM + 17, width)
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        yield text.format(middle, _HEIGHT - 6, "distance from the border, pixels")

    def dot(self, name: str, width: int, share: float) -> Markup:
        """A point of a line, which says its figures."""
        return Markup(
            '<circle cx="{:.1f}" cy="{:.1f}" r="2.5"><title>{}, {} px: {}</title></circle>'
        ).format(self.x(width), self.y(share), name, width, formats.percent(share))


def matrix_cells(matrix: np.ndarray, cell: int) -> Markup:
    """Draws the cells of a confusion matrix, every row as shares of the pixels of its label.

    Shades follow the square root, so that a share of one percent is visible.

    Args:
        matrix: Numbers of pixels, [num_classes, num_classes], rows are labels, columns
            predictions.
        cell: Side of a cell in pixels.
    """
    labelled = matrix.sum(axis=1)
    shares = matrix / np.maximum(labelled, 1)[:, np.newaxis]
    parts = [
        f'<rect class="unlabelled" y="{row * cell}" width="{len(matrix) * cell}" height="{cell}"/>'
        for row in np.flatnonzero(labelled == 0)
    ]
    for row, column in np.argwhere(shares >= _SMALLEST_SHARE):
        share, left, top = shares[row, column], column * cell, row * cell
        kind = "right" if row == column else "wrong"
        parts.append(
            f'<rect class="{kind}" x="{left}" y="{top}" width="{cell}" height="{cell}" '
            f'fill-opacity="{math.sqrt(share):.2f}"/>'
        )
        if cell >= 32 and share >= _SMALLEST_NUMBER:
            dark = ' class="on-dark"' if share >= _DARK_SHARE else ""
            parts.append(
                f'<text{dark} x="{left + cell / 2:g}" y="{top + cell / 2 + 4:g}">'
                f"{100 * share:.0f}</text>"
            )
    return Markup("".join(parts))
