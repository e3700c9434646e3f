"""Problems of a data set as a whole, and their remedies."""

import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping

from deeplab_tf.data import class_ids
from deeplab_tf.data.problems import ERROR
from deeplab_tf.data.problems import KINDS
from deeplab_tf.data.problems import WARNING
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.data_report.statistics import UNLISTED
from deeplab_tf.data_report.statistics import SplitStatistics
from deeplab_tf.data_report.statistics import split_role
from deeplab_tf.data_report.statistics import training_split

MAX_NAMES = 5  # images that a finding names
LARGE_IGNORED_SHARE = 0.5
_MAX_LISTED_CLASSES = 8
_MAX_LISTED_IDS = 10


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to know before training."""

    kind: str
    severity: str  # ERROR or WARNING
    what: str
    remedy: str
    count: int = 1
    where: tuple[str, ...] = ()  # the first images concerned


def find(
    info: DatasetInfo,
    splits: Mapping[str, SplitStatistics],
    counts: Mapping[str, int],
    names: Mapping[str, list[str]],
    encodings: Mapping[str, str],
) -> list[Finding]:
    """Returns all findings, errors first.

    Args:
        info: The classes.
        splits: Counts by split.
        counts: By kind of problem, how many images have it.
        names: By kind of problem, the first of these images.
        encodings: By encoding of the labels, the first of that encoding.
    """
    findings = list(find_in_labels(info, splits)) + list(_mixed_encodings(encodings))
    is_explained = any(finding.kind == "mask" for finding in findings)
    ids = set().union(*(split.pixels for split in splits.values()))
    for kind, count in counts.items():
        what, remedy = KINDS[kind].what, KINDS[kind].remedy
        if kind == "ids_out_of_range":
            if is_explained:
                continue
            allowed = class_ids.range_text(info.num_classes, info.ignore_label)
            wrong = sorted({i for split in splits.values() for i in split.wrong_ids})
            what = f"{what}, {allowed}: id {_listed(wrong)}"
            remedy = class_ids.remedy_for_wrong_ids(ids, info.num_classes, info.ignore_label)
        where = tuple(names[kind])
        findings.append(Finding(kind, KINDS[kind].severity, what, remedy, count, where))
    return sorted(findings, key=lambda finding: finding.severity != ERROR)


def find_in_labels(info: DatasetInfo, splits: Mapping[str, SplitStatistics]) -> Iterator[Finding]:
    """Yields findings from the counts of labels; `datasets.build` refuses the errors among them.

    Args:
        info: The classes.
        splits: Counts by split.
    """
    findings = list(_of_all_labels(info, splits))
    yield from findings
    is_explained = any(finding.severity == ERROR for finding in findings)
    train = training_split(splits)
    for name, split in splits.items():
        if not split.num_labels:
            yield _without_labels(name)
            continue
        if not is_explained:
            yield from _of_pixels(info, name, split)
        if split.absent_classes and name != UNLISTED:
            yield _absent_classes(info, name, split)
        if name != train and split_role(name) not in ("", "train"):
            yield from _beyond_training(info, name, split, train, splits[train])


def _of_all_labels(info: DatasetInfo, splits: Mapping[str, SplitStatistics]) -> Iterator[Finding]:
    labelled = sum(split.num_labels for split in splits.values())
    ids = {i for split in splits.values() for i, pixels in split.pixels.items() if pixels}
    present = sorted(ids & set(_classes(info)))
    if len(_classes(info)) < 2:
        yield Finding(
            "one_class_only", WARNING, "there is a single class, so nothing can be told apart",
            "Name more classes, or drop fewer (--class_map).",
        )  # fmt: skip
    elif class_ids.looks_like_mask(ids) and len(present) < 2:
        yield Finding(
            "mask", ERROR,
            f"labels with 0 and {max(ids)} only, which are masks, not class ids",
            class_ids.MASK_REMEDY, labelled,
        )  # fmt: skip
    elif labelled and len(present) < 2:
        yield Finding(
            "single_class", ERROR, "all labels hold fewer than two classes: nothing to learn",
            "Check that the labels were exported as class ids.", labelled,
        )  # fmt: skip
    elif ids <= {*present, info.ignore_label} and (unused := _unused(info, present)):
        yield Finding(
            "unused_names", WARNING,
            f"the largest id that occurs is {present[-1]}, but there are {info.num_classes} "
            f"classes, so these have no label at all: {_names(info, unused)}",
            "Check that the list of classes is that of these labels.", len(unused),
        )  # fmt: skip


def _mixed_encodings(encodings: Mapping[str, str]) -> Iterator[Finding]:
    if len(encodings.keys() - {"grey"}) > 1 or encodings.keys() == {"grey", "color_map"}:
        yield Finding(
            "mixed_encodings", ERROR,
            f"labels are encoded in different ways: {', '.join(encodings)}",
            "Use one encoding for all; only grey and palette PNGs may be mixed.",
            len(encodings), tuple(f"{name}: {kind}" for kind, name in encodings.items()),
        )  # fmt: skip


def _without_labels(name: str) -> Finding:
    if name.startswith("test"):
        severity, remedy = WARNING, "Only predict can be run on it."
    else:
        severity, remedy = ERROR, "Repair or add labels."
    return Finding("no_labels", severity, f"split {name} has no label that can be read", remedy)


def _unused(info: DatasetInfo, present: list[int]) -> list[int]:
    """The classes beyond the largest id that occurs."""
    return [i for i in _classes(info) if present and i > present[-1]]


def _of_pixels(info: DatasetInfo, name: str, split: SplitStatistics) -> Iterator[Finding]:
    problem = class_ids.too_few_classes(split.pixels, info.class_names, info.ignore_label)
    if problem:
        is_blank = len(split.absent_classes) == len(split.class_ids)
        is_fit = name.startswith("test") or not is_blank
        yield Finding(
            "nothing_counts" if is_blank else "one_class", WARNING if is_fit else ERROR,
            f"split {name}: {problem.rstrip('.')}",
            f"Check that {info.ignore_label} is the right --ignore_label, and the ids of the "
            "classes." if is_blank else "Figures of this split say little: add images.",
        )  # fmt: skip
    elif split.ignored_share > LARGE_IGNORED_SHARE:
        yield Finding(
            "mostly_ignored", WARNING,
            f"{split.ignored_share:.0%} of the pixels of {name} are ignored",
            f"Check that {info.ignore_label} is the right --ignore_label.",
        )  # fmt: skip


def _absent_classes(info: DatasetInfo, name: str, split: SplitStatistics) -> Finding:
    return Finding(
        "absent_class", WARNING,
        f"classes that never occur in the split {name}: {_names(info, split.absent_classes)}",
        "Add images, or drop or merge the classes (--class_map).", len(split.absent_classes),
    )  # fmt: skip


def _beyond_training(
    info: DatasetInfo, name: str, split: SplitStatistics, train: str, learned: SplitStatistics
) -> Iterator[Finding]:
    absent = learned.absent_classes if learned.num_labels else []
    unlearned = [i for i in absent if i not in split.absent_classes]
    if unlearned:
        yield Finding(
            "not_in_train", WARNING,
            f"classes that are in {name}, but not in {train}: {_names(info, unlearned)}",
            f"Move some of their images into {train}; they cannot be learned, and count as 0 in "
            "the mean.", len(unlearned),
        )  # fmt: skip


def _classes(info: DatasetInfo) -> list[int]:
    return [i for i in range(info.num_classes) if i != info.ignore_label]


def _listed(ids: list[int]) -> str:
    more = f" and {len(ids) - _MAX_LISTED_IDS} more" if len(ids) > _MAX_LISTED_IDS else ""
    return ", ".join(map(str, ids[:_MAX_LISTED_IDS])) + more


def _names(info: DatasetInfo, ids: list[int]) -> str:
    shown = ids[:_MAX_LISTED_CLASSES]
    more = f" and {len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
    return ", ".join(info.class_names[i] for i in shown) + more
