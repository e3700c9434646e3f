"""Evaluates a function from image to labels on a split of records."""

import time
from collections.abc import Callable

import numpy as np

from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics

_PRINTED = {  # titles of what all classes are measured by together, the most important last
    "dice": "dice",
    "fw_iou": "frequency_weighted_iou",
    "mean_accuracy": "mean_accuracy",
    "boundary_iou": "boundary_iou",
    "miou": "miou",
    "pixel_accuracy": "pixel_accuracy",
}


def evaluate(
    label_of: Callable[[np.ndarray], np.ndarray],
    source: records.Records,
    split: str,
    progress: Callable[[int, int, float], None] | None = None,
    border_width: int = 0,
    on_image: Callable[[dict, np.ndarray, np.ndarray], None] | None = None,
) -> dict:
    """Evaluates a function from image to labels on a split of records.

    Args:
        label_of: Function of an image, uint8 [H, W, 3], that returns its class ids, [H, W].
        source: The records.
        split: Name of the split.
        progress: Called after every image with the number done, of how many, and the seconds so
            far.
        border_width: Evaluates pixels less than this far from a border between classes; 0 for all.
        on_image: Called with every example, the class ids found for it, and its own confusion
            matrix.

    Returns:
        The metrics of `segmentation_metrics`, with `confusion_matrix` (int64 [C, C], rows are
        labels), `num_images` and `images_per_second` (of those after the first, at which the
        network is compiled).

    Raises:
        UserError: A record is damaged, or the function returns the id of a class that the records
            have not.
    """
    info = source.info
    matrix = np.zeros((info.num_classes, info.num_classes), np.int64)
    examples = input_pipeline.evaluation_examples(source, split)
    total, done, start = source.num_examples[split], 0, time.perf_counter()
    with input_pipeline.readable_errors():
        for done, example in enumerate(examples.as_numpy_iterator(), start=1):
            label = example["label"]
            if border_width:
                label = metrics.near_borders(label, border_width, info.ignore_label)
            prediction = label_of(example["image"])
            if prediction.max() >= info.num_classes:
                raise UserError(
                    f"The model finds class {prediction.max()}, but the records in {source.folder} "
                    f"have {info.num_classes} classes: give a model and records of the same."
                )
            counts = metrics.confusion_matrix(
                label, prediction, info.num_classes, info.ignore_label
            )
            matrix += counts
            if done == 1:
                compiled = time.perf_counter()
            if on_image:
                on_image(example, prediction, counts)
            if progress:
                progress(done, total, time.perf_counter() - start)
    end = time.perf_counter()
    return metrics.segmentation_metrics(matrix, info.class_names) | {
        "confusion_matrix": matrix,
        "num_images": done,
        "images_per_second": (done - 1) / (end - compiled) if done > 1 else done / (end - start),
    }


def print_metrics(result: dict) -> None:
    """Prints the metrics as a small table, worst class first."""
    ious = result["iou_per_class"]
    width = max(map(len, ious))
    for name in sorted(ious, key=lambda name: (ious[name] is None, ious[name])):
        iou = "absent" if ious[name] is None else f"{ious[name]:.4f}"
        print(f"  {name:<{width}}  {iou}")
    if "trimap" in result:
        trimap = result["trimap"]
        for width, miou in zip(trimap["widths"], trimap["miou"]):
            if width in (1, 2, 5) or width % 10 == 0 or width == trimap["widths"][-1]:
                print(f"trimap {width:<2}       {miou:.4f}")
    for title, name in _PRINTED.items():
        if name in result:
            print(f"{title:<15} {result[name]:.4f}", flush=True)
