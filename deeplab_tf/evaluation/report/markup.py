"""Pieces of HTML that all parts of the page are made of; every text is escaped here."""

import dataclasses
import html
from collections.abc import Sequence

NOTHING = "\N{EN DASH}"  # where there is no figure
_MINUS = "\N{MINUS SIGN}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, as HTML, and what the column is sorted by."""

    content: str
    key: float | str | None  # None comes last, in either direction
    is_number: bool = True


def escape(text: str) -> str:
    """Makes a text safe in HTML, between tags and in attributes."""
    return html.escape(text, quote=True)


def plain(value: object) -> str:
    """Writes what JSON can hold for people: a third is 0.3333, false is no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(plain, value))
    return str(value)


def percent(share: float | None, digits: int = 1) -> str:
    """Writes a share 0..1 as percent."""
    return NOTHING if share is None else f"{share:.{digits}%}"


def percent_cell(share: float | None) -> Cell:
    return Cell(percent(share), share)


def count_cell(number: int) -> Cell:
    return Cell(f"{number:,}", number)


def text_cell(text: str) -> Cell:
    return Cell(escape(text), text, is_number=False)


def signed(difference: float, digits: int = 1) -> str:
    """Writes a difference of shares in percentage points, with its sign."""
    text = f"{abs(100 * difference):.{digits}f}"
    if not float(text):
        return "0"
    return ("+" if difference > 0 else _MINUS) + text


def change_cell(difference: float | None) -> Cell:
    """The cell of a difference for which more is better."""
    if difference is None:
        return Cell(NOTHING, None)
    text = signed(difference)
    kind = {"+": "better", _MINUS: "worse"}.get(text[0], "same")
    return Cell(f'<span class="{kind}">{text}</span>', difference)


def swatch(color: Sequence[int]) -> str:
    """A small square of a class's colour."""
    return f'<i class="swatch" style="background:rgb({",".join(map(str, color))})"></i>'


def class_button(index: int, name: str, color: Sequence[int]) -> str:
    """The name of a class, which shows its images when it is pressed."""
    return (
        f'<button type="button" class="class" data-class="{index}">'
        f"{swatch(color)}{escape(name)}</button>"
    )


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], sorted_by: int
) -> str:
    """A table that is sorted by pressing the head of a column.

    Args:
        caption: What it shows, for those who cannot see it.
        columns: Heads.
        rows: Cells by row; the first is the row's head.
        sorted_by: The column by which the rows are given in ascending order.
    """
    is_number = [cell.is_number for cell in rows[0]] if rows else [False] * len(columns)
    heads = "".join(
        f'<th scope="col"{_class(numeric)} '
        f'aria-sort="{"ascending" if index == sorted_by else "none"}">'
        f'<button type="button">{escape(column)}</button></th>'
        for index, (column, numeric) in enumerate(zip(columns, is_number, strict=True))
    )
    body = "\n".join(f"<tr>{_row(row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="sortable"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def section(identifier: str, title: str, content: str) -> str:
    return (
        f'<section id="{identifier}" aria-labelledby="{identifier}-title">'
        f'<h2 id="{identifier}-title">{escape(title)}</h2>\n{content}\n</section>'
    )


def _row(cells: Sequence[Cell]) -> str:
    parts = []
    for index, cell in enumerate(cells):
        tag, scope = ("td", "") if index else ("th", ' scope="row"')
        key = "" if cell.key is None else escape(str(cell.key))
        parts.append(
            f'<{tag}{scope}{_class(cell.is_number)} data-key="{key}">{cell.content}</{tag}>'
        )
    return "".join(parts)


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""
