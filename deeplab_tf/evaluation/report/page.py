"""The page as a whole: its sections and their order."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

import jinja2
import numpy as np
from markupsafe import Markup

from deeplab_tf import files
from deeplab_tf import html_templates
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.drawing import palettes
from deeplab_tf.evaluation.report import charts
from deeplab_tf.evaluation.report import comparison
from deeplab_tf.evaluation.report import formats
from deeplab_tf.evaluation.report import images as image_parts
from deeplab_tf.evaluation.report.images import Shown
from deeplab_tf.evaluation.results import Evaluation

MAX_CONFUSIONS = 12  # listed beside the matrix
MAX_OPEN_LEGEND = 30  # classes; a longer legend is folded
SHARES = {  # of the summary, by key of the figures; more is better
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
CLASS_COLUMNS = {  # of the table of classes, besides the IoU, by key of the figures
    "accuracy_per_class": "accuracy",
    "dice_per_class": "Dice",
    "boundary_iou_per_class": "boundary IoU",
}
# Shown in special ways; every other figure or setting is listed as it is.
_NOT_LISTED = {
    *SHARES, *COST, *CLASS_COLUMNS, "iou_per_class", "confusion_matrix", "trimap", "command",
    "note", "num_damaged", "damaged_records",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Class:
    """A class as the templates show it."""

    id: int
    name: str
    color: tuple[int, int, int]


def write(
    path: str | os.PathLike,
    evaluation: Evaluation,
    *,
    info: DatasetInfo,
    worst: Sequence[Shown] = (),
    best: Sequence[Shown] = (),
    other: Evaluation | None = None,
) -> None:
    """Writes the page of an evaluation, one file that needs no network and no other file.

    Args:
        path: The HTML file.
        evaluation: Its figures and those of its images; figures that are missing are left out.
        info: The classes.
        worst: Images to show, the worst first.
        best: Others, the best first.
        other: The run to compare with, see `check_comparable`.

    Raises:
        OSError: The file cannot be written.
    """
    figures = evaluation.figures
    classes = [Class(*each) for each in zip(range(info.num_classes), info.class_names, info.colors)]
    changes = comparison.image_changes(evaluation.images, other.images) if other else []
    sections = {
        "summary": ("Summary", _summary(figures)),
        "comparison": (
            "Better and worse",
            comparison.compare(evaluation, other, SHARES) if other else None,
        ),
        "classes": ("Classes", _classes(evaluation, classes, other)),
        "confusion": ("Confusion matrix", _confusion(figures, classes)),
        "borders": ("Along the borders", _borders(figures, other.figures if other else None)),
        "images": ("Images", _images(worst, best, info)),
    }
    page = _templates().get_template("page.html")
    html = page.render(
        title=f"{info.name} {figures.get('split', '')}: mIoU {formats.percent(figures['miou'], 2)}",
        sections={key: section for key, section in sections.items() if section[1]},
        classes=classes,
        class_of={each.name: each for each in classes},
        other=other,
        no_class_color=palettes.NO_CLASS_COLOR,
        max_open_legend=MAX_OPEN_LEGEND,
        data={
            "classes": info.class_names,
            "matrix": figures["confusion_matrix"],
            "images": _image_data(evaluation.images, changes, classes),
        },
    )
    files.write_text(path, html)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = html_templates.environment(jinja2.PackageLoader(__package__))
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        name: getattr(formats, name) for name in ("percent", "count", "points", "trend", "plain")
    }
    environment.globals |= {
        name: getattr(charts, name) for name in ("bar", "change_bar", "curve", "matrix_cells")
    }
    folder = pathlib.Path(__file__).parent / "templates"
    environment.globals |= {
        "style": Markup((folder / "page.css").read_text(encoding="utf-8")),
        "script": Markup((folder / "page.js").read_text(encoding="utf-8")),
    }
    return environment


def _summary(figures: dict) -> dict:
    tiles = [
        (title, formats.percent(figures[key], 2))
        for key, title in SHARES.items()
        if figures.get(key) is not None
    ]
    tiles += [
        (title, form.format(figures[key]))
        for key, (title, form) in COST.items()
        if figures.get(key) is not None
    ]
    notes = [figures["note"]] if figures.get("note") else []
    if figures.get("num_damaged"):
        problems = figures["damaged_records"].items()
        named = "; ".join(f"{name}: {problem}" for name, problem in problems)
        notes.append(f"Damaged records left out: {figures['num_damaged']:,} ({named}).")
    return {
        "tiles": tiles,
        "notes": notes,
        "facts": {
            key.replace("_", " "): formats.plain(value)
            for key, value in figures.items()
            # A setting that is off is not listed, nor are those that depend on it.
            if key not in _NOT_LISTED
            and value
            and not (key == "window_overlap" and not figures["window_size"])
        },
        "command": figures.get("command"),
    }


def _classes(evaluation: Evaluation, classes: Sequence[Class], other: Evaluation | None) -> dict:
    figures = evaluation.figures
    matrix = np.asarray(figures["confusion_matrix"])
    shares = matrix.sum(axis=1) / max(1, matrix.sum())
    iou = figures["iou_per_class"]
    before = other.figures["iou_per_class"] if other else {}
    columns = {title: figures[key] for key, title in CLASS_COLUMNS.items() if figures.get(key)}
    rows = [
        {
            "class": each,
            "iou": iou[each.name],
            "before": before.get(each.name),
            "others": [values[each.name] for values in columns.values()],
            "share": float(shares[each.id]),
            "num_images": sum(each.name in line["iou_per_class"] for line in evaluation.images),
        }
        for each in classes
    ]
    rows.sort(key=lambda row: (row["iou"] is None, row["iou"] or 0.0))
    return {"columns": list(columns), "rows": rows}


def _confusion(figures: dict, classes: Sequence[Class]) -> dict:
    matrix = np.asarray(figures["confusion_matrix"])
    labelled = np.maximum(matrix.sum(axis=1), 1)
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix) / labelled[:, np.newaxis]
    most = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [np.unravel_index(flat, matrix.shape) for flat in most]
    num_classes = len(classes)
    return {
        "matrix": matrix,
        "cell": 44 if num_classes <= 12 else 32 if num_classes <= 30 else 16,  # pixels
        "pairs": [
            {
                "label": classes[label],
                "prediction": classes[prediction],
                "share": float(wrong[label, prediction]),
                "num_pixels": int(matrix[label, prediction]),
            }
            for label, prediction in pairs
            if wrong[label, prediction] > 0
        ],
    }


def _borders(figures: dict, other: dict | None) -> dict | None:
    """The trimap figures: mIoU of the pixels near a border."""
    trimap = figures.get("trimap")
    if not trimap:
        return None
    widths = trimap["widths"]
    lines, references = [("this run", trimap["miou"])], [figures["miou"]]
    if other and (other.get("trimap") or {}).get("widths") == widths:
        lines.append(("other run", other["trimap"]["miou"]))
        references.append(other["miou"])
    columns = {f"mIoU, {name}": values for name, values in lines}
    if trimap.get("pixel_accuracy"):
        columns["pixel accuracy"] = trimap["pixel_accuracy"]
    first, last = (
        f"{formats.percent(trimap['miou'][place])} at {widths[place]} px" for place in (0, -1)
    )
    return {
        "title": f"mIoU of pixels near a border: {first}, {last}",
        "widths": widths,
        "lines": lines,
        "references": references,
        "columns": columns,
    }


def _images(worst: Sequence[Shown], best: Sequence[Shown], info: DatasetInfo) -> dict:
    groups, number = {"worst": [], "best": []}, 0
    for group, members in zip(groups.values(), (worst, best)):
        for shown in members:
            name = shown.name or f"image {number + 1}"
            group.append(
                {
                    "number": number,
                    "name": name,
                    "miou": shown.miou,
                    "size": shown.smaller().label.shape,
                    "panels": image_parts.panels(shown, name, info),
                    "iou_per_class": shown.iou_per_class(info),
                }
            )
            number += 1
    return groups


def _image_data(
    images: Sequence[dict], changes: Sequence[comparison.Change], classes: Sequence[Class]
) -> list[dict]:
    """The data of every image for the script of the page; shares are rounded to save space."""
    ids = {each.name: each.id for each in classes}
    difference = {change.name: change.difference for change in changes}
    return [
        {
            "name": line["name"],
            "miou": _rounded(line["miou"] if line["num_pixels"] else None),
            "pixel_accuracy": _rounded(line["pixel_accuracy"] if line["num_pixels"] else None),
            "ious": {ids[name]: _rounded(iou) for name, iou in line["iou_per_class"].items()},
            "change": _rounded(difference.get(line["name"])),
        }
        for line in images
    ]


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
