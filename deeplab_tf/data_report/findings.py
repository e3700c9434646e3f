"""What is wrong with a data set as a whole, and what to do about it."""

import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping

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
_MANY_IDS = 32  # of ids out of range: no numbering of classes, but grey levels


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
    findings = list(_of_labels_as_a_whole(info, splits, encodings))
    explained = {finding.kind for finding in findings}
    for kind, count in counts.items():
        what, remedy = KINDS[kind].what, KINDS[kind].remedy
        if kind == "ids_out_of_range":
            if "mask" in explained:
                continue
            wrong = sorted({i for split in splits.values() for i in split.wrong_ids})
            what = f"{what}, {_range_text(info)}: id {_listed(wrong)}"
            remedy = _remedy_of_wrong_ids(info, splits, wrong)
        where = tuple(names[kind])
        findings.append(Finding(kind, KINDS[kind].severity, what, remedy, count, where))
    findings += _of_splits(info, splits)
    return sorted(findings, key=lambda finding: finding.severity != ERROR)


def _of_labels_as_a_whole(
    info: DatasetInfo, splits: Mapping[str, SplitStatistics], encodings: Mapping[str, str]
) -> Iterator[Finding]:
    labelled = sum(split.num_labels for split in splits.values())
    ids = set().union(*(split.pixels for split in splits.values()))
    if ids == {0, 255}:
        yield Finding(
            "mask", ERROR, "labels that hold nothing but 0 and 255: masks, no class ids",
            "Write 1 in place of 255 (divide by 255).", labelled,
        )  # fmt: skip
    elif labelled and len(ids & set(range(info.num_classes)) - {info.ignore_label}) < 2:
        yield Finding(
            "single_class", ERROR, "all labels hold fewer than two classes: nothing to learn",
            "See whether the labels were exported as class ids.", labelled,
        )  # fmt: skip
    if len(encodings.keys() - {"grey"}) > 1 or encodings.keys() == {"grey", "color_map"}:
        yield Finding(
            "mixed_encodings", ERROR,
            f"labels are encoded in different ways: {', '.join(encodings)}",
            "Bring all into one encoding; only grey and palette PNGs may be mixed.",
            len(encodings), tuple(f"{name}: {kind}" for kind, name in encodings.items()),
        )  # fmt: skip


def _of_splits(info: DatasetInfo, splits: Mapping[str, SplitStatistics]) -> Iterator[Finding]:
    train = training_split(splits)
    for name, split in splits.items():
        if not split.num_labels:
            yield Finding(
                "no_labels", WARNING if name.startswith("test") else ERROR,
                f"split {name} has no label that can be read",
                "Only predict can be run on it." if name.startswith("test") else
                "Repair or add labels.",
            )  # fmt: skip
            continue
        if split.ignored_share > LARGE_IGNORED_SHARE:
            yield Finding(
                "mostly_ignored", WARNING,
                f"{split.ignored_share:.0%} of the pixels of {name} are ignored",
                f"See whether {info.ignore_label} is the right --ignore_label.",
            )  # fmt: skip
        absent = split.absent_classes
        if name != train and split_role(name) not in ("", "train"):
            learned = splits[train].absent_classes if splits[train].num_labels else []
            unlearned = [i for i in learned if i not in absent]
            if unlearned:
                yield Finding(
                    "not_in_train", WARNING,
                    f"classes that are in {name}, but not in {train}: {_names(info, unlearned)}",
                    f"Move some of their images into {train}; they cannot be learned, and count "
                    "as 0 in the mean.", len(unlearned),
                )  # fmt: skip
        if absent and name != UNLISTED:
            yield Finding(
                "absent_class", WARNING,
                f"classes that never occur in the split {name}: {_names(info, absent)}",
                "Add images, or drop or merge the classes (--class_map).", len(absent),
            )  # fmt: skip


def _remedy_of_wrong_ids(
    info: DatasetInfo, splits: Mapping[str, SplitStatistics], wrong: list[int]
) -> str:
    num_classes = info.num_classes
    has_zero = any(split.pixels[0] for split in splits.values())
    if len(wrong) >= _MANY_IDS:
        return (
            "So many ids look like grey levels, not classes: of an image, of colours turned to "
            "grey, or of a label that was a JPEG once. Export the labels again as class ids."
        )
    if wrong == [num_classes] and not has_zero:
        return (
            f"The ids seem to be numbered 1 to {num_classes}: subtract 1; or, if 0 is a class "
            f"that does not occur, give --num_classes={num_classes + 1}."
        )
    if wrong == [num_classes]:
        return (
            f"If 0 is no class, but what is not labelled: subtract 1 of all others, and write "
            f"the ignore label for 0. If {num_classes} is what is not labelled: "
            f"--ignore_label={num_classes}. Else give --num_classes={num_classes + 1}."
        )
    if wrong == [255]:
        return "If 255 is what is not labelled: --ignore_label=255. Else map it to a class."
    return (
        "Map the ids into this range, or name more classes (--num_classes, --classes); "
        "one id that means `not labelled` is given by --ignore_label."
    )


def _range_text(info: DatasetInfo) -> str:
    return f"0..{info.num_classes - 1} or {info.ignore_label}"


def _listed(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:10])) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")


def _names(info: DatasetInfo, class_ids: list[int]) -> str:
    more = f" and {len(class_ids) - 8} more" if len(class_ids) > 8 else ""
    return ", ".join(info.class_names[i] for i in class_ids[:8]) + more
