"""What became better and what became worse since another run."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.report import formats
from deeplab_tf.evaluation.results import Evaluation

MAX_IMAGES = 10  # that got better, and as many that got worse


@dataclasses.dataclass(frozen=True)
class Change:
    """A figure in the other run and in this one; None where it is missing."""

    name: str
    before: float | None
    now: float | None

    @property
    def difference(self) -> float | None:
        if self.before is None or self.now is None:
            return None
        return self.now - self.before


@dataclasses.dataclass(frozen=True)
class Tally:
    """The number of figures that changed."""

    noun: str
    better: int
    worse: int
    same: int

    @property
    def total(self) -> int:
        return self.better + self.worse + self.same


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The comparison with the other run, as the page shows it."""

    title: str
    differing: list[tuple[str, object, object]]  # setting, there, here
    figures: list[Change]
    classes: list[Change]  # the largest loss first, then the classes without a difference
    class_tally: Tally
    largest_change: float  # of a class
    image_tally: Tally
    better_images: list[Change]
    worse_images: list[Change]


def check_comparable(other: Evaluation, class_names: Sequence[str]) -> None:
    """Checks that another evaluation is of the same classes.

    Raises:
        UserError: It is not.
    """
    theirs = other.figures["iou_per_class"]
    if set(theirs) != set(class_names):
        raise UserError(
            f"{other.figures.get('run_dir', 'The other run')} cannot be compared: it was "
            f"evaluated on other classes ({', '.join(theirs)}) than those of this run "
            f"({', '.join(class_names)})."
        )


def image_changes(images: Sequence[dict], other_images: Sequence[dict]) -> list[Change]:
    """Returns the mIoU of every image in both runs; None where one has not counted it."""
    before = {line["name"]: line["miou"] for line in other_images if line["num_pixels"]}
    return [
        Change(line["name"], before.get(line["name"]), line["miou"] if line["num_pixels"] else None)
        for line in images
    ]


def compare(this: Evaluation, other: Evaluation, titles: Mapping[str, str]) -> Comparison:
    """Compares two evaluations.

    Args:
        this: Of this run.
        other: Of the other run, on the same classes.
        titles: Names of the figures that are compared, by their keys.
    """
    now, before = this.figures, other.figures
    figures = [Change(title, before.get(key), now.get(key)) for key, title in titles.items()]
    ious = before["iou_per_class"]
    classes = [Change(name, ious[name], iou) for name, iou in now["iou_per_class"].items()]
    images = _by_difference(image_changes(this.images, other.images))
    return Comparison(
        title=", ".join(str(before[key]) for key in ("run_dir", "model") if before.get(key)),
        differing=[
            (key, before.get(key), now.get(key))
            for key in ("records", "split")
            if before.get(key) != now.get(key)
        ],
        figures=[change for change in figures if change.difference is not None],
        classes=sorted(
            classes, key=lambda change: (change.difference is None, change.difference or 0.0)
        ),
        class_tally=_tally(classes, "classes"),
        largest_change=max((abs(change.difference or 0.0) for change in classes), default=0.0),
        image_tally=_tally(images, "images"),
        better_images=[c for c in images[::-1] if formats.trend(c.difference) == "better"][
            :MAX_IMAGES
        ],
        worse_images=[c for c in images if formats.trend(c.difference) == "worse"][:MAX_IMAGES],
    )


def _by_difference(changes: Sequence[Change]) -> list[Change]:
    known = [change for change in changes if change.difference is not None]
    return sorted(known, key=lambda change: (change.difference, change.name))


def _tally(changes: Sequence[Change], noun: str) -> Tally:
    trends = [formats.trend(c.difference) for c in changes if c.difference is not None]
    return Tally(noun, *(trends.count(trend) for trend in ("better", "worse", "same")))
