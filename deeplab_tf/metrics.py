"""Evaluation figures; all of them follow from one confusion matrix."""

import cv2
import numpy as np


def near_borders(label: np.ndarray, width: int, ignore_label: int) -> np.ndarray:
    """Leaves of a label image what lies along the borders between its classes (its trimap).

    A pixel with a direct neighbour of another label, the ignore label included, is on a border.

    Args:
        label: int32 [H, W], class ids or the ignore label.
        width: Pixels less than this far from a pixel on a border are kept; 1 keeps those alone.
        ignore_label: What all others become.

    Returns:
        int32 [H, W].

    Reference: DeepLab v1, arXiv:1412.7062, section 4.2 and figure 5; DeepLabv3+,
    arXiv:1802.02611, section 4.4.
    """
    is_border = np.zeros(label.shape, bool)
    down, across = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
    is_border[1:] |= down
    is_border[:-1] |= down
    is_border[:, 1:] |= across
    is_border[:, :-1] |= across
    if not is_border.any():
        return np.full_like(label, ignore_label)
    distance = cv2.distanceTransform(
        np.uint8(~is_border), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return np.where(distance < width, label, ignore_label)


def confusion_matrix(
    label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_label: int
) -> np.ndarray:
    """Counts the pixels of every (label, prediction) pair.

    Args:
        label: Integers of any shape, class ids or the ignore label.
        prediction: Integers of the same shape, class ids.
        num_classes: Number of classes.
        ignore_label: Pixels of this label are left out.

    Returns:
        int64 [num_classes, num_classes], rows are labels, columns predictions.
    """
    counts = label != ignore_label
    pairs = label[counts].astype(np.int64) * num_classes + prediction[counts]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def segmentation_metrics(matrix: np.ndarray, class_names: tuple[str, ...]) -> dict:
    """Computes mean IoU and its companions from a confusion matrix.

    A class that occurs neither in labels nor in predictions has no IoU and is left out of the
    mean; one that is predicted but never labelled counts as 0. Without any pixel, mIoU is 0.

    Args:
        matrix: [num_classes, num_classes], rows are labels, columns predictions.
        class_names: One name per class.

    Returns:
        A dict for JSON: `miou` and `pixel_accuracy` (0..1), `iou_per_class` and
        `accuracy_per_class` (by class name; None where there is none), `num_pixels`.
    """
    correct = np.diag(matrix).astype(np.float64)
    labelled, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    union = labelled + predicted - correct
    iou = _divide(correct, union)
    present = union > 0
    return {
        "miou": float(iou[present].mean()) if present.any() else 0.0,
        "pixel_accuracy": float(correct.sum() / max(matrix.sum(), 1)),
        "iou_per_class": _by_name(class_names, iou),
        "accuracy_per_class": _by_name(class_names, _divide(correct, labelled)),
        "num_pixels": int(matrix.sum()),
    }


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)


def _by_name(names: tuple[str, ...], values: np.ndarray) -> dict[str, float | None]:
    return {name: None if np.isnan(v) else float(v) for name, v in zip(names, values, strict=True)}
