"""What got better and what got worse since another run."""

from collections.abc import Sequence

from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.report import charts
from deeplab_tf.evaluation.report import markup
from deeplab_tf.evaluation.report.markup import Cell

MAX_IMAGES = 10  # that got better, and as many that got worse
_SAME = 0.0005  # a difference smaller than this is none


def check_comparable(other: dict, info: DatasetInfo) -> None:
    """Lets through the result of a run that a run on these classes can be compared with.

    Raises:
        UserError: It is of other classes.
    """
    if set(other["iou_per_class"]) != set(info.class_names):
        raise UserError(
            f"{other.get('run_dir', 'The other run')} cannot be compared with: it was evaluated on "
            f"other classes ({', '.join(other['iou_per_class'])}) than those of this run "
            f"({', '.join(info.class_names)})."
        )


def image_changes(
    images: Sequence[dict], other_images: Sequence[dict]
) -> dict[str, tuple[float, float]]:
    """mIoU in the other run and in this one, by name, of the images that both have seen."""
    before = {line["name"]: line["miou"] for line in other_images if line["num_pixels"]}
    return {
        line["name"]: (before[line["name"]], line["miou"])
        for line in images
        if line["num_pixels"] and line["name"] in before
    }


def content(
    result: dict,
    other: dict,
    changes: dict[str, tuple[float, float]],
    figures: dict[str, str],
    info: DatasetInfo,
) -> str:
    """The HTML of the comparison.

    Args:
        result: Of this run.
        other: Of the run that it is compared with.
        changes: Of `image_changes`.
        figures: Names of the figures that are compared, by their key in the results.
        info: The classes.
    """
    parts = [f"<p>Compared with <b>{markup.escape(_title(other))}</b>; changes in points.</p>"]
    for key in ("records", "split"):
        if result.get(key) != other.get(key):
            parts.append(
                f'<p class="note">The {key} differ: {markup.escape(str(other.get(key)))} there, '
                f"{markup.escape(str(result.get(key)))} here.</p>"
            )
    parts.append(_overall(result, other, figures))
    parts.append("<h3>By class</h3>" + _by_class(result, other, info))
    parts.append("<h3>By image</h3>" + _by_image(changes))
    return "\n".join(parts)


def _title(other: dict) -> str:
    return ", ".join(str(other[key]) for key in ("run_dir", "model") if other.get(key))


def _overall(result: dict, other: dict, figures: dict[str, str]) -> str:
    keys = [key for key in figures if None not in (result.get(key), other.get(key))]
    rows = [
        [
            markup.text_cell(figures[key]),
            markup.percent_cell(other[key]),
            markup.percent_cell(result[key]),
            markup.change_cell(result[key] - other[key]),
        ]
        for key in keys
    ]
    return markup.table("Figures of both runs", ["", "other", "this", "change"], rows, -1)


def _by_class(result: dict, other: dict, info: DatasetInfo) -> str:
    before, now = other["iou_per_class"], result["iou_per_class"]
    changes = {
        name: None if None in (before[name], now[name]) else now[name] - before[name]
        for name in info.class_names
    }
    known = [change for change in changes.values() if change is not None]
    largest = max(map(abs, known), default=0.0)
    order = sorted(
        range(info.num_classes),
        key=lambda i: (changes[info.class_names[i]] is None, changes[info.class_names[i]] or 0.0),
    )
    rows = []
    for i in order:
        name = info.class_names[i]
        rows.append(
            [
                Cell(markup.class_button(i, name, info.colors[i]), name, is_number=False),
                markup.percent_cell(before[name]),
                markup.percent_cell(now[name]),
                markup.change_cell(changes[name]),
                Cell(charts.change_bar(changes[name], largest), changes[name], is_number=False),
            ]
        )
    scale = f"\N{PLUS-MINUS SIGN}{100 * largest:.1f}"
    columns = ["class", "other IoU", "this IoU", "change", scale]
    return _tally(known, "classes") + markup.table("IoU of both runs by class", columns, rows, 3)


def _by_image(changes: dict[str, tuple[float, float]]) -> str:
    if not changes:
        return "<p>The two runs have no image in common.</p>"
    by_change = sorted((now - before, name) for name, (before, now) in changes.items())
    worse = [name for change, name in by_change if change <= -_SAME][:MAX_IMAGES]
    better = [name for change, name in reversed(by_change) if change >= _SAME][:MAX_IMAGES]
    parts = [_tally([change for change, _ in by_change], "images"), '<div class="columns-2">']
    for title, names in (("Got better", better), ("Got worse", worse)):
        rows = [
            [
                markup.text_cell(name),
                markup.percent_cell(changes[name][0]),
                markup.percent_cell(changes[name][1]),
                markup.change_cell(changes[name][1] - changes[name][0]),
            ]
            for name in names
        ]
        if rows:
            columns = ["image", "other mIoU", "this mIoU", "change"]
            table = markup.table(f"Images that {title.lower()}", columns, rows, -1)
            parts.append(f"<div><h4>{title}, most of all</h4>{table}</div>")
    return "".join(parts) + "</div>"


def _tally(changes: Sequence[float], noun: str) -> str:
    better = sum(change >= _SAME for change in changes)
    worse = sum(change <= -_SAME for change in changes)
    same = len(changes) - better - worse
    return (
        f'<p>Of {len(changes):,} {noun}, <span class="better">{better:,} got better</span>, '
        f'<span class="worse">{worse:,} got worse</span>, {same:,} stayed the same.</p>'
    )
