"""Class ids of labels: which are in range, and how to tell labels that are not class ids."""

import os
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data.problems import KINDS
from deeplab_tf.data.problems import DataProblem

_MIN_WHITE = 100  # of a mask, whose values are 0 and this or more
_MANY_IDS = 32  # of ids out of range: not a numbering of classes, but grey levels
_NUM_LISTED = 10

MASK_REMEDY = (
    "They look like masks of two classes: build the records with --label_encoding=mask, which "
    "makes 0 class 0 and the other value class 1."
)


def wrong_ids(label: np.ndarray, num_classes: int, ignore_label: int) -> dict[int, int]:
    """Returns the number of pixels of every id that is neither a class nor the ignore label.

    Args:
        label: Integers [H, W].
        num_classes: Ids are 0 to num_classes - 1, ...
        ignore_label: ... or this.
    """
    if _are_in_range(label, num_classes, ignore_label):
        return {}
    wrong = label[((label < 0) | (label >= num_classes)) & (label != ignore_label)]
    ids, counts = np.unique(wrong, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _are_in_range(label: np.ndarray, num_classes: int, ignore_label: int) -> bool:
    """Whether a quick look shows that all ids are in range, as for nearly all labels."""
    if label.dtype.kind != "u" or not label.size:
        return False
    if ignore_label == np.iinfo(label.dtype).max:
        label = label + label.dtype.type(1)  # the ignore label becomes 0
        return label.max() <= num_classes
    return label.max() < num_classes


def check_ids(
    label: np.ndarray, num_classes: int, ignore_label: int, name: str | os.PathLike = ""
) -> None:
    """Raises a `DataProblem` if a label has ids out of range.

    Args:
        label: Integers [H, W].
        num_classes: Number of classes.
        ignore_label: Label of pixels that do not count.
        name: File of the label, where the caller does not add it.
    """
    wrong = wrong_ids(label, num_classes, ignore_label)
    if not wrong:
        return
    listed = [f"{class_id} ({pixels:,} px)" for class_id, pixels in wrong.items()]
    more = f" and {len(listed) - _NUM_LISTED} more" if len(listed) > _NUM_LISTED else ""
    raise DataProblem(
        "ids_out_of_range",
        f"has the id{'s' * (len(wrong) > 1)} {', '.join(listed[:_NUM_LISTED])}{more}, but there "
        f"are {num_classes} classes ({range_text(num_classes, ignore_label)})",
        subject="label",
        name=os.fspath(name),
        remedy=remedy_for_wrong_ids(set(np.unique(label).tolist()), num_classes, ignore_label),
    )


def remedy_for_wrong_ids(ids: Collection[int], num_classes: int, ignore_label: int) -> str:
    """Says what to do about labels with ids out of range.

    Args:
        ids: All ids that occur, those in range included.
        num_classes: Number of classes.
        ignore_label: Label of pixels that do not count.
    """
    wrong = sorted(i for i in ids if not 0 <= i < num_classes and i != ignore_label)
    if looks_like_mask(ids):
        return MASK_REMEDY
    if num_classes == 2 and {0, 255} <= set(ids):
        return (
            "Values between 0 and 255 look like smooth edges of masks: export the masks without "
            "them, and build the records with --label_encoding=mask."
        )
    if len(wrong) >= _MANY_IDS:
        return (
            "So many ids look like grey levels, not classes: of an image, of colours turned to "
            "grey, or of a label that once was a JPEG. Export the labels again as class ids."
        )
    if wrong == [num_classes] and 0 not in ids:
        return (
            f"The ids seem to be numbered 1 to {num_classes}: subtract 1. If 0 is a class that "
            f"does not occur, name it too (--num_classes={num_classes + 1})."
        )
    if wrong == [num_classes]:
        return (
            f"If 0 is not a class, but means `not labelled`: subtract 1 from all others, and write "
            f"the ignore label for 0. If {num_classes} means `not labelled`: "
            f"--ignore_label={num_classes}. Otherwise there are {num_classes + 1} classes: name "
            f"them all (--num_classes={num_classes + 1})."
        )
    if wrong == [255]:
        return "If 255 means `not labelled`: --ignore_label=255. Otherwise map it to a class."
    return KINDS["ids_out_of_range"].remedy


def looks_like_mask(ids: Collection[int]) -> bool:
    """Whether these are the values of masks, such as 0 and 255, and not class ids."""
    return len(set(ids)) == 2 and min(ids) == 0 and max(ids) >= _MIN_WHITE


def range_text(num_classes: int, ignore_label: int) -> str:
    """Returns the ids that a label may have, for messages: `0..20 or 255`."""
    return f"0..{num_classes - 1} or {ignore_label}"


def too_few_classes(
    pixels_by_id: Mapping[int, int], class_names: Sequence[str], ignore_label: int
) -> str:
    """Says what is wrong with labels in which fewer than two classes occur.

    For the labels of a split: its figures say little, and training on it learns nothing.

    Args:
        pixels_by_id: Number of pixels of every id, the ignore label included.
        class_names: Of all classes, in the order of their ids.
        ignore_label: Label of pixels that do not count.

    Returns:
        One or two sentences; empty where two classes or more occur.
    """
    ids = {class_id for class_id, pixels in pixels_by_id.items() if pixels}
    classes = sorted((ids & set(range(len(class_names)))) - {ignore_label})
    if len(classes) > 1:
        return ""
    if not classes:
        text = f"No pixel has a class: all have the ignore label {ignore_label}."
    else:
        text = f"Only the class {class_names[classes[0]]!r} (id {classes[0]}) occurs."
    is_mask = looks_like_mask(ids) and len(class_names) > 1
    return f"{text} {MASK_REMEDY}" if is_mask else text
