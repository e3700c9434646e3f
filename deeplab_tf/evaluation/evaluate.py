"""Evaluates a function from image to class ids on a split of records."""

import collections
import concurrent.futures
import contextlib
import itertools
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.data.damaged_records import DamagedRecords
from deeplab_tf.data.damaged_records import readable_errors
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation.prediction import BatchFunction
from deeplab_tf.evaluation.tally import Tally
from deeplab_tf.runs import distribution

LabelFunction = Callable[[np.ndarray], np.ndarray]

_MATRIX = "confusion_matrix"

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
    label_of: LabelFunction | Sequence[LabelFunction],
    source: records.Records,
    split: str,
    *,
    border_width: int = 0,
    on_image: Callable[[dict, np.ndarray, np.ndarray], None] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    tally: Tally | None = None,
) -> dict:
    """Evaluates a function from image to class ids on a split of records.

    Each of several workers evaluates its own part of the images; the counts of all are added up.

    Args:
        label_of: Function of an image, uint8 [H, W, 3], that returns its class ids, [H, W]; or one
            for each device, which work side by side. A `prediction.BatchFunction` is called with
            neighbours of one size at once.
        source: The records.
        split: Name of the split.
        border_width: Evaluates only pixels closer than this to a border between classes; 0 for all.
        on_image: Called with every example, the class ids found in it, and its own confusion
            matrix, in the order of the examples.
        progress: Called after every image with the number done, the number of this worker, and the
            images per second.
        tally: Counts to go on with; those that `on_image` adds to are in it, too.

    Returns:
        The figures of `segmentation_metrics`, with `confusion_matrix` (int64 [C, C], rows are
        labels), `num_images`, `num_damaged`, `damaged_records` (what is wrong with the records that
        were left out, by name) and `images_per_second` (of this worker, without the first call, for
        which the network is compiled).

    Raises:
        UserError: Too many records are damaged, or the function returns an id that is not a class
            of the records.
    """
    info, tally = source.info, tally or Tally()
    matrix = tally.sums.setdefault(_MATRIX, empty_matrix(info))
    own = _own_numbers(source.num_records(split))
    damaged = DamagedRecords.of_split([source], split)
    damaged.problems = tally.damaged
    examples = input_pipeline.evaluation_examples(
        source, split, numbers=own[tally.num_read :], on_damaged=damaged
    )
    stopwatch = _Stopwatch()
    with readable_errors():
        for example, prediction in _labelled(label_of, examples.as_numpy_iterator(), stopwatch):
            _check_classes(prediction, source)
            counts = _count(example["label"], prediction, info, border_width)
            matrix += counts
            tally.num_images += 1
            tally.num_read = own.index(int(example["number"])) + 1
            stopwatch.num_images += 1
            if on_image:
                on_image(example, prediction, counts)
            if progress:
                progress(tally.num_read, len(own), stopwatch.images_per_second)
    tally.join_workers()
    if not tally.num_images:
        raise UserError(f"No record of the split {split!r} of {source.folder} can be read.")
    return metrics.segmentation_metrics(matrix, info.class_names) | {
        _MATRIX: matrix,
        "num_images": tally.num_images,
        "num_damaged": len(tally.damaged),
        "damaged_records": tally.damaged,
        "images_per_second": stopwatch.images_per_second,
    }


def empty_matrix(info: records.DatasetInfo) -> np.ndarray:
    """Returns a confusion matrix without counts, int64 [C, C]."""
    return np.zeros((info.num_classes, info.num_classes), np.int64)


def on_each_device(
    make: Callable[[], LabelFunction], strategy: tf.distribute.Strategy
) -> list[LabelFunction]:
    """Makes a function from image to class ids for each device of a process.

    Args:
        make: Function that loads the network and returns the function.
        strategy: The devices. The cores of a TPU are not used one by one.
    """
    devices = distribution.local_devices(strategy)
    if len(devices) == 1 or any("TPU" in device for device in devices):
        return [make()]

    def on(device: str) -> LabelFunction:
        with tf.device(device):
            label_of = make()

        def label_on_device(images):
            with tf.device(device):
                return _label(label_of, images)

        if isinstance(label_of, BatchFunction):
            return BatchFunction(label_on_device)
        return lambda image: label_on_device([image])[0]

    return [on(device) for device in devices]


def _own_numbers(count: int) -> range:
    """Returns the numbers of this worker's part of the images, which are neighbours."""
    index, workers = distribution.worker_index(), distribution.num_workers()
    return range(count * index // workers, count * (index + 1) // workers)


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
    label_of: LabelFunction | Sequence[LabelFunction],
    examples: Iterator[dict],
    stopwatch: "_Stopwatch",
) -> Iterator[tuple[dict, np.ndarray]]:
    """Yields the examples in order, and the class ids found in each."""
    functions = [label_of] if callable(label_of) else label_of
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    max_pixels = _BATCH_PIXELS_ON_GPU if has_gpu else _BATCH_PIXELS
    is_batched = isinstance(functions[0], BatchFunction)
    for batch, labels in _label_in_turn(
        functions, _of_one_size(examples, max_pixels if is_batched else 0)
    ):
        yield from zip(batch, labels, strict=True)
        stopwatch.after_call()


def _label_in_turn(
    functions: Sequence[LabelFunction], batches: Iterator[list[dict]]
) -> Iterator[tuple[list[dict], Sequence[np.ndarray]]]:
    """Yields batches with their class ids, in order; several functions take them in turn."""

    def label(function, batch):
        return _label(function, [example["image"] for example in batch])

    if len(functions) == 1:
        for batch in batches:
            yield batch, label(functions[0], batch)
        return
    with contextlib.ExitStack() as stack:
        devices = [
            (stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)), function)
            for function in functions
        ]
        waiting: collections.deque = collections.deque()
        for batch, (pool, function) in zip(batches, itertools.cycle(devices)):
            waiting.append((batch, pool.submit(label, function, batch)))
            if len(waiting) == 2 * len(devices):
                first, future = waiting.popleft()
                yield first, future.result()
        for batch, future in waiting:
            yield batch, future.result()


def _label(function: LabelFunction, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Returns the class ids of images of one size; of one, where the function takes no batch."""
    if isinstance(function, BatchFunction):
        return list(function.of_batch(np.stack(images)))
    return [function(image) for image in images]


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
    def images_per_second(self) -> float:
        if self.num_images > self._num_first > 0:
            return (self.num_images - self._num_first) / (time.perf_counter() - self._compiled)
        return self.num_images / (time.perf_counter() - self._start)


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
