"""Evaluates a function from image to labels on a split of records."""

import time
from collections.abc import Callable

import numpy as np

from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics


def evaluate(
    label_of: Callable[[np.ndarray], np.ndarray],
    source: records.Records,
    split: str,
    progress: Callable[[int, int, float], None] | None = None,
    border_width: int = 0,
    on_picture: Callable[[dict, np.ndarray, np.ndarray], None] | None = None,
) -> dict:
    """Evaluates a function from picture to labels on a split of records.

    Args:
        label_of: Function of a picture, uint8 [H, W, 3], that returns its class ids, [H, W].
        source: The records.
        split: Name of the split.
        progress: Called after every picture with the number done, of how many, and the seconds so
            far.
        border_width: Evaluates pixels less than this far from a border between classes; 0 for all.
        on_picture: Called with every example, the class ids found for it, and its own confusion
            matrix.

    Returns:
        The metrics of `segmentation_metrics`, with `confusion_matrix` (int64 [C, C], rows are
        labels), `num_pictures` and `pictures_per_second` (of those after the first, at which the
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
            if on_picture:
                on_picture(example, prediction, counts)
            if progress:
                progress(done, total, time.perf_counter() - start)
    end = time.perf_counter()
    return metrics.segmentation_metrics(matrix, info.class_names) | {
        "confusion_matrix": matrix,
        "num_pictures": done,
        "pictures_per_second": (done - 1) / (end - compiled) if done > 1 else done / (end - start),
    }
