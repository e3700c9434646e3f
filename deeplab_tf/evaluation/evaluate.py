"""Evaluates a function from image to class ids on a split of records."""

import time
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.data.damaged_records import DamagedRecords
from deeplab_tf.data.damaged_records import readable_errors
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation.prediction import BatchFunction

_BATCH_PIXELS, _BATCH_PIXELS_ON_GPU = 2**18, 2**21  # of images that are labelled at once
_PRINTED = {  # titles of the figures of all classes together, the most important last
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
    *,
    border_width: int = 0,
    on_image: Callable[[dict, np.ndarray, np.ndarray], None] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> dict:
    """Evaluates a function from image to class ids on a split of records.

    Args:
        label_of: Function of an image, uint8 [H, W, 3], that returns its class ids, [H, W]. A
            `prediction.BatchFunction` is called with neighbours of one size at once.
        source: The records.
        split: Name of the split.
        border_width: Evaluates only pixels closer than this to a border between classes; 0 for all.
        on_image: Called with every example, the class ids found in it, and its own confusion
            matrix.
        progress: Called after every image with the number done, the total, and the seconds so far.

    Returns:
        The figures of `segmentation_metrics`, with `confusion_matrix` (int64 [C, C], rows are
        labels), `num_images`, `num_damaged`, `damaged_records` (what is wrong with the records that
        were left out, by name) and `images_per_second` (without the first call, for which the
        network is compiled).

    Raises:
        UserError: Too many records are damaged, or the function returns an id that is not a class
            of the records.
    """
    info = source.info
    matrix = np.zeros((info.num_classes, info.num_classes), np.int64)
    damaged = DamagedRecords.of_split([source], split)
    examples = input_pipeline.evaluation_examples(source, split, on_damaged=damaged)
    stopwatch = _Stopwatch()
    with readable_errors():
        for example, prediction in _labelled(label_of, examples.as_numpy_iterator(), stopwatch):
            _check_classes(prediction, source)
            counts = _count(example["label"], prediction, info, border_width)
            matrix += counts
            stopwatch.num_images += 1
            if on_image:
                on_image(example, prediction, counts)
            if progress:
                progress(stopwatch.num_images, source.num_examples[split], stopwatch.seconds)
    if not stopwatch.num_images:
        raise UserError(f"No record of the split {split!r} of {source.folder} can be read.")
    return metrics.segmentation_metrics(matrix, info.class_names) | {
        "confusion_matrix": matrix,
        "num_images": stopwatch.num_images,
        "num_damaged": len(damaged.problems),
        "damaged_records": damaged.problems,
        "images_per_second": stopwatch.images_per_second,
    }


def print_metrics(figures: dict) -> None:
    """Prints the figures as a small table, the class with the lowest IoU first."""
    ious = figures["iou_per_class"]
    width = max(map(len, ious))
    for name in sorted(ious, key=lambda name: (ious[name] is None, ious[name])):
        iou = "absent" if ious[name] is None else f"{ious[name]:.4f}"
        print(f"  {name:<{width}}  {iou}")
    if "trimap" in figures:
        trimap = figures["trimap"]
        for width, miou in zip(trimap["widths"], trimap["miou"]):
            if width in (1, 2, 5) or width % 10 == 0 or width == trimap["widths"][-1]:
                print(f"trimap {width:<2}       {miou:.4f}")
    if figures.get("num_damaged"):
        print(f"damaged records left out: {figures['num_damaged']}")
    for title, name in _PRINTED.items():
        if name in figures:
            note = f"  ({figures['note']})" if name == "miou" and figures["note"] else ""
            print(f"{title:<15} {figures[name]:.4f}{note}", flush=True)


def _count(
    label: np.ndarray, prediction: np.ndarray, info: records.DatasetInfo, border_width: int
) -> np.ndarray:
    """The confusion matrix of one image."""
    if border_width:
        label = metrics.near_borders(label, border_width, info.ignore_label)
    return metrics.confusion_matrix(label, prediction, info.num_classes, info.ignore_label)


def _labelled(
    label_of: Callable[[np.ndarray], np.ndarray], examples: Iterator[dict], stopwatch: "_Stopwatch"
) -> Iterator[tuple[dict, np.ndarray]]:
    """Yields the examples, and the class ids found in each."""
    if not isinstance(label_of, BatchFunction):
        for example in examples:
            yield example, label_of(example["image"])
            stopwatch.after_call()
        return
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    max_pixels = _BATCH_PIXELS_ON_GPU if has_gpu else _BATCH_PIXELS
    for batch in _of_one_size(examples, max_pixels):
        predictions = label_of.of_batch(np.stack([example["image"] for example in batch]))
        yield from zip(batch, predictions, strict=True)
        stopwatch.after_call()


def _of_one_size(examples: Iterator[dict], max_pixels: int) -> Iterator[list[dict]]:
    """Yields neighbours whose images have one size, in their order: one, or at most so many pixels.

    On a CPU, small images gain by far the most: a call takes some milliseconds whatever its size.
    """
    batch: list[dict] = []
    for example in examples:
        shape = example["image"].shape
        num_pixels = (len(batch) + 1) * shape[0] * shape[1]
        if batch and (batch[0]["image"].shape != shape or num_pixels > max_pixels):
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


class _Stopwatch:
    """Counts images and measures their speed, without the first call, which traces the network."""

    def __init__(self):
        self.num_images = self._num_first = 0
        self._start = self._compiled = time.perf_counter()

    def after_call(self) -> None:
        if not self._num_first:
            self._num_first, self._compiled = self.num_images, time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def images_per_second(self) -> float:
        if self.num_images > self._num_first > 0:
            return (self.num_images - self._num_first) / (time.perf_counter() - self._compiled)
        return self.num_images / self.seconds


def _check_classes(prediction: np.ndarray, source: records.Records) -> None:
    """Checks that the class ids found in an image are classes of the records.

    Raises:
        UserError: One is not.
    """
    if prediction.max() >= source.info.num_classes:
        raise UserError(
            f"The model finds class {prediction.max()}, but the records in {source.folder} have "
            f"{source.info.num_classes} classes: give a model and records with the same classes."
        )
