"""The page as a whole: what stands on it, in which order."""

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.drawing import palettes
from deeplab_tf.evaluation.report import charts
from deeplab_tf.evaluation.report import comparison
from deeplab_tf.evaluation.report import images as image_parts
from deeplab_tf.evaluation.report import markup
from deeplab_tf.evaluation.report.images import Shown
from deeplab_tf.evaluation.report.markup import Cell

MAX_CONFUSIONS = 12  # listed beside the matrix
SHARES = {  # of the summary, by key of the result; more is better
    "miou": "mIoU",
    "pixel_accuracy": "Pixel accuracy",
    "mean_accuracy": "Mean accuracy",
    "frequency_weighted_iou": "Frequency-weighted IoU",
    "dice": "Dice",
    "boundary_iou": "Boundary IoU",
}
COST = {
    "num_images": ("Images", "{:,}"),
    "images_per_second": ("Images per second", "{:.1f}"),
    "peak_memory_mib": ("Peak memory", "{:,.0f} MiB"),
}
CLASS_COLUMNS = {  # of the classes' table, beside IoU, by key of the result
    "accuracy_per_class": "accuracy",
    "dice_per_class": "Dice",
    "boundary_iou_per_class": "boundary IoU",
}
# Shown in a way of their own; everything else of a result is listed as it is.
_NOT_LISTED = {
    *SHARES, *COST, *CLASS_COLUMNS, "iou_per_class", "confusion_matrix", "trimap", "command"
}  # fmt: skip
# The browser itself keeps the page from asking the network for anything.
_SECURITY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
_HERE = pathlib.Path(__file__).parent


def write(
    path: str | os.PathLike,
    result: dict,
    images: Sequence[dict],
    worst: Sequence[Shown],
    best: Sequence[Shown],
    info: DatasetInfo,
    other: tuple[dict, Sequence[dict]] | None = None,
) -> None:
    """Writes the page of an evaluation, one file that needs no network and no other file.

    Args:
        path: The HTML file.
        result: What `eval.evaluate_run` returns; figures that it lacks are left out.
        images: The lines of `images.jsonl`: `name`, `miou`, `pixel_accuracy`,
            `iou_per_class` of the classes that are present, `num_pixels`.
        worst: Images to be shown, the worst first.
        best: Others, the best first.
        info: The classes.
        other: Result and images of the run to compare with, see `check_comparable`.
    """
    changes = comparison.image_changes(images, other[1]) if other else {}
    sections = {
        "summary": ("Summary", _summary(result)),
        "comparison": (
            "Better and worse",
            other and comparison.content(result, other[0], changes, SHARES, info),
        ),
        "classes": ("Classes", _classes(result, images, info, other and other[0])),
        "confusion": ("Confusion matrix", _confusion(result, info)),
        "borders": ("Along the borders", _borders(result, other and other[0])),
        "images": ("Images", _images(images, worst, best, info, other is not None)),
    }
    sections = {key: (title, content) for key, (title, content) in sections.items() if content}
    title = f"{info.name} {result.get('split', '')}: mIoU {markup.percent(result['miou'], 2)}"
    links = "".join(f'<a href="#{key}">{name}</a>' for key, (name, _) in sections.items())
    body = "\n".join(markup.section(key, *section) for key, section in sections.items())
    data = _json(
        {
            "classes": info.class_names,
            "matrix": result["confusion_matrix"],
            "images": [_image_data(line, changes, info) for line in images],
        }
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_SECURITY}">
<meta name="color-scheme" content="light dark">
<title>{markup.escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{(_HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header><h1>{markup.escape(title)}</h1>
<nav aria-label="Sections">{links}</nav></header>
<main>
{body}
</main>
<script type="application/json" id="data">{data}</script>
<script>
{(_HERE / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""
    pathlib.Path(path).write_text(page, encoding="utf-8")


def _summary(result: dict) -> str:
    tiles = [
        (title, markup.percent(result[key], 2))
        for key, title in SHARES.items()
        if result.get(key) is not None
    ]
    tiles += [
        (title, form.format(result[key]))
        for key, (title, form) in COST.items()
        if result.get(key) is not None
    ]
    parts = [
        '<dl class="tiles">',
        *(f"<div><dt>{title}</dt><dd>{value}</dd></div>" for title, value in tiles),
        '</dl>\n<dl class="facts">',
    ]
    for key, value in result.items():
        # What is off is not listed, nor is what it would have been set to.
        is_off = not value or (key == "window_overlap" and not result["window_size"])
        if key not in _NOT_LISTED and not is_off:
            title, text = key.replace("_", " "), markup.plain(value)
            parts.append(f"<dt>{markup.escape(title)}</dt><dd>{markup.escape(text)}</dd>")
    parts.append("</dl>")
    if result.get("command"):
        parts.append(f"<h3>Command</h3><pre>{markup.escape(result['command'])}</pre>")
    return "\n".join(parts)


def _classes(result: dict, images: Sequence[dict], info: DatasetInfo, other: dict | None) -> str:
    matrix = np.asarray(result["confusion_matrix"])
    shares = matrix.sum(axis=1) / max(1, matrix.sum())
    iou = result["iou_per_class"]
    before = other["iou_per_class"] if other else {}
    columns = {title: result[key] for key, title in CLASS_COLUMNS.items() if result.get(key)}
    rows = []
    for i in sorted(
        range(info.num_classes),
        key=lambda i: (iou[info.class_names[i]] is None, iou[info.class_names[i]] or 0.0),
    ):
        name = info.class_names[i]
        rows.append(
            [
                Cell(markup.class_button(i, name, info.colors[i]), name, is_number=False),
                markup.percent_cell(iou[name]),
                Cell(charts.bar(iou[name], before.get(name)), iou[name], is_number=False),
                *(markup.percent_cell(values[name]) for values in columns.values()),
                Cell(markup.percent(shares[i], 2), float(shares[i])),
                markup.count_cell(sum(name in line["iou_per_class"] for line in images)),
                markup.count_cell(i),
            ]
        )
    heads = ["class", "IoU", "0 to 100%", *columns, "share of pixels", "images", "id"]
    hint = "<p>A class opens its images, the lowest IoU first; a column's head sorts."
    if other:
        hint += " The mark in a bar is the other run."
    return f"{hint}</p>\n" + markup.table("Figures by class", heads, rows, sorted_by=1)


def _confusion(result: dict, info: DatasetInfo) -> str:
    matrix = np.asarray(result["confusion_matrix"])
    labelled = np.maximum(matrix.sum(axis=1), 1)
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix) / labelled[:, np.newaxis]
    rows = []
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]:
        label, prediction = np.unravel_index(flat, matrix.shape)
        if wrong[label, prediction] > 0:
            share = float(wrong[label, prediction])
            rows.append(
                [
                    _class_cell(label, info),
                    _class_cell(prediction, info),
                    markup.percent_cell(share),
                    markup.count_cell(int(matrix[label, prediction])),
                ]
            )
    parts = [
        "<p>Each row is a label: where its pixels went, in percent. Blue on the diagonal is right, "
        "red is wrong.</p>",
        '<div class="beside"><div>',
        charts.confusion_matrix(matrix, info.class_names, info.colors),
        '<output id="cell" for="matrix">Point at a cell, or move with the arrow keys.</output>',
        "</div>",
    ]
    if rows:
        heads = ["label", "taken for", "of the label", "pixels"]
        table = markup.table("The most frequent confusions", heads, rows, sorted_by=-1)
        parts.append(f"<div><h3>Most confused</h3>{table}</div>")
    return "\n".join(parts) + "</div>"


def _class_cell(index: int, info: DatasetInfo) -> Cell:
    name = info.class_names[index]
    content = f'<span class="class">{markup.swatch(info.colors[index])}{markup.escape(name)}</span>'
    return Cell(content, name, is_number=False)


def _borders(result: dict, other: dict | None) -> str:
    """The trimap figures: mIoU of the pixels near a border."""
    trimap = result.get("trimap")
    if not trimap:
        return ""
    widths = trimap["widths"]
    lines, references = [("this run", trimap["miou"])], [result["miou"]]
    if other and (other.get("trimap") or {}).get("widths") == widths:
        lines.append(("other run", other["trimap"]["miou"]))
        references.append(other["miou"])
    keys = "".join(
        f'<li class="line-{number}"><svg aria-hidden="true"><line y1="50%" x2="100%" y2="50%"/>'
        f"</svg>{name}</li>"
        for number, (name, _) in enumerate(lines)
    )
    title = (
        f"mIoU of pixels near a border: {markup.percent(trimap['miou'][0])} at {widths[0]} px, "
        f"{markup.percent(trimap['miou'][-1])} at {widths[-1]} px"
    )
    columns = ["pixels", *(f"mIoU, {name}" for name, _ in lines)]
    values = [line for _, line in lines]
    if trimap.get("pixel_accuracy"):
        columns.append("pixel accuracy")
        values.append(trimap["pixel_accuracy"])
    rows = [
        [markup.count_cell(width), *(markup.percent_cell(line[i]) for line in values)]
        for i, width in enumerate(widths)
    ]
    table = markup.table("mIoU by distance from the border", columns, rows, sorted_by=0)
    return (
        "<p>mIoU of the pixels that lie near a border between classes. Dashed: of all pixels.</p>"
        f'<div class="columns-2"><div>{charts.curve(widths, lines, references, title)}'
        f'<ul class="keys">{keys}</ul></div>'
        f"<details><summary>Values</summary>{table}</details></div>"
    )


def _images(
    images: Sequence[dict],
    worst: Sequence[Shown],
    best: Sequence[Shown],
    info: DatasetInfo,
    has_changes: bool,
) -> str:
    options = "".join(
        f'<option value="{index}">{markup.escape(name)}</option>'
        for index, name in enumerate(info.class_names)
    )
    legend = "".join(
        f"<li>{markup.class_button(index, name, color)}</li>"
        for index, (name, color) in enumerate(zip(info.class_names, info.colors, strict=True))
    )
    legend += f"<li>{markup.swatch(palettes.NO_CLASS_COLOR)}not counted</li>"
    columns = {
        "name": "image", "miou": "mIoU", "iou": "IoU of the class",
        "pixel_accuracy": "pixel accuracy", "change": "change of mIoU",
    }  # fmt: skip
    if not has_changes:
        del columns["change"]
    heads = "".join(
        f'<th scope="col" data-column="{key}"{"" if key == "name" else " class=number"} '
        f'aria-sort="{"ascending" if key == "miou" else "none"}">'
        f'<button type="button">{title}</button></th>'
        for key, title in columns.items()
    )
    groups = {"worst": enumerate(worst), "best": enumerate(best, start=len(worst))}
    parts = [
        '<div class="filter"><label>Images with <select id="class" autocomplete="off">'
        f'<option value="">any class</option>{options}</select></label>'
        '<span id="found" role="status"></span></div>',
        f"<details{' open' if info.num_classes <= 30 else ''}><summary>Legend</summary>"
        f'<ul class="classes">{legend}</ul><p>Wrong pixels, in the panels of errors, have the '
        "colour of the class that they were taken for.</p></details>",
    ]
    for group, members in groups.items():
        articles = "\n".join(image_parts.article(image, number, info) for number, image in members)
        if articles:
            parts.append(f'<div class="shown"><h3>The {group}</h3>\n{articles}</div>')
    parts.append(
        '<h3 id="all">All images</h3><div class="scroll" tabindex="0" role="region" '
        f'aria-label="All images"><table id="table"><thead><tr>{heads}</tr></thead>'
        '<tbody></tbody></table></div><button type="button" id="more" hidden></button>'
        "<noscript><p>The table of all images needs JavaScript.</p></noscript>"
        '<dialog id="large" aria-label="Image"><form method="dialog"><p></p>'
        '<button>Close</button></form><img alt=""><div class="choice"></div></dialog>'
    )
    return "\n".join(parts)


def _image_data(line: dict, changes: dict[str, tuple[float, float]], info: DatasetInfo) -> dict:
    """What the page's script knows of an image; shares are rounded to save space."""
    before, now = changes.get(line["name"], (None, None))
    ids = {name: index for index, name in enumerate(info.class_names)}
    return {
        "name": line["name"],
        "miou": round(line["miou"], 4) if line["num_pixels"] else None,
        "pixel_accuracy": round(line["pixel_accuracy"], 4) if line["num_pixels"] else None,
        "ious": {ids[name]: round(iou, 4) for name, iou in line["iou_per_class"].items()},
        "change": None if before is None else round(now - before, 4),
    }


def _json(data: dict) -> str:
    # A name could otherwise end the script that it stands in.
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
