"""How fine the parts of label maps are, compared with the features that have to hold them."""

from collections.abc import Sequence

import cv2
import numpy as np

from deeplab_tf.evaluation import metrics

_FEATURE_STRIDE = 8  # input pixels: between the features of the backbone and those of the decoder
_ENOUGH = 0.9  # mIoU
_ENLARGEMENTS = (1.0, 1.5, 2.0)


def enlargement(label_maps: Sequence[np.ndarray], num_classes: int) -> float:
    """Returns how much images should be enlarged, so that features can hold their label maps.

    Thin parts, such as the membranes between cells, are lost between the features of a network. A
    larger input keeps them.

    Args:
        label_maps: uint8 [H, W] each; ids from `num_classes` on are ignored.
        num_classes: Number of classes.

    Returns:
        1, 1.5 or 2: the smallest for which label maps reduced to the features keep an mIoU of 0.9,
        otherwise the largest. 1 without label maps.
    """
    if not label_maps:
        return 1.0
    for factor in _ENLARGEMENTS:
        if kept_miou(label_maps, num_classes, _FEATURE_STRIDE / factor) >= _ENOUGH:
            return factor
    return _ENLARGEMENTS[-1]


def kept_miou(label_maps: Sequence[np.ndarray], num_classes: int, stride: float) -> float:
    """Returns the mIoU of label maps that are reduced, and enlarged again as logits are.

    Args:
        label_maps: uint8 [H, W] each; ids from `num_classes` on are ignored.
        num_classes: Number of classes.
        stride: Side of the squares of pixels that become one.
    """
    total = np.zeros((num_classes, num_classes), np.int64)
    for label in label_maps:
        label = np.minimum(label, num_classes)
        kept = _reduced_and_enlarged(label, num_classes, stride)
        total += metrics.confusion_matrix(label, kept, num_classes, ignore_label=num_classes)
    return metrics.segmentation_metrics(total, tuple(map(str, range(num_classes))))["miou"]


def _reduced_and_enlarged(label: np.ndarray, num_classes: int, stride: float) -> np.ndarray:
    """Returns the class ids, int32 [H, W], that the classes' mean shares in squares still tell."""
    height, width = label.shape
    size = [max(1, round(side / stride)) for side in (width, height)]
    largest = np.full(label.shape, -1, np.float32)
    ids = np.zeros(label.shape, np.int32)
    for class_id in np.unique(label[label < num_classes]):
        share = (label == class_id).astype(np.float32)
        share = cv2.resize(share, size, interpolation=cv2.INTER_AREA)
        share = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
        is_larger = share > largest
        largest[is_larger], ids[is_larger] = share[is_larger], class_id
    return ids
