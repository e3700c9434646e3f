"""How closely an exported model computes what the Keras model does."""

import collections
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import cv2
import keras
import numpy as np
import tensorflow as tf

from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation.prediction import predict_logits
from deeplab_tf.export.proof_images import ProofImage
from deeplab_tf.runs import run_dir as run_dirs

_FINE_TUNE = "For int8, fine-tune the run with train --quantize_delay_step=0."


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an artefact returns for an image.

    Attributes:
        labels: int32 [h, w], class ids.
        scores: float32 [h, w, C], comparable with the logits of the Keras model; None where the
            artefact returns none.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much an artefact may differ from its Keras model.

    Attributes:
        min_label_agreement: Smallest share of pixels with equal labels.
        max_relative_difference: Largest difference of scores over the largest logit; None for no
            limit.
        max_miou_drop: Largest drop of the mIoU, where there are labels.
    """

    min_label_agreement: float
    max_relative_difference: float | None
    max_miou_drop: float


@dataclasses.dataclass(frozen=True)
class Parity:
    """How close an artefact is to its Keras model.

    Attributes:
        num_images: Number of images compared.
        shapes: Their different heights and widths.
        label_agreement: Share of pixels with equal labels, padding left out.
        num_classes_predicted: Number of different labels among them.
        largest_logit: Largest absolute logit of the Keras model.
        largest_logit_difference: Largest absolute difference from it; None without scores.
        miou_keras: mIoU of the Keras model on the images with labels; None without any.
        miou_artefact: mIoU of the artefact on the same images.
        milliseconds_keras: Median time of the Keras model per image, after warm-up.
        milliseconds_artefact: Median time of the artefact per image, after warm-up.
        size_bytes: Size of the file, or of all files in the folder.
        ops: Number of operators of each kind.
    """

    num_images: int
    shapes: tuple[tuple[int, int], ...]
    label_agreement: float
    num_classes_predicted: int
    largest_logit: float
    largest_logit_difference: float | None
    miou_keras: float | None
    miou_artefact: float | None
    milliseconds_keras: float
    milliseconds_artefact: float
    size_bytes: int
    ops: dict[str, int]

    @property
    def warning(self) -> str:
        """What makes the figures less reliable; empty for nothing."""
        if self.num_classes_predicted > 1:
            return ""
        return "only one class was predicted in all images, which proves little about the labels"

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        miou = ""
        if self.miou_keras is not None:
            miou = f"mIoU {self.miou_artefact:.4f} (Keras {self.miou_keras:.4f}), "
        return (
            f"{self.label_agreement:.2%} of the labels agree on {self.num_images} images, "
            f"{miou}{self.milliseconds_artefact:.0f} ms per image (Keras "
            f"{self.milliseconds_keras:.0f} ms), {self.size_bytes / 2**20:.1f} MiB"
        )


def keras_scores(model: keras.Model, run: run_dirs.Run) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a run's model into a function from an image to its logits, as `measure` takes it.

    Args:
        model: The run's model.
        run: The run, for how images are fitted to the network.

    Returns:
        A function of an image, uint8 [H, W, channels], that returns float32 [H, W, num_classes].
    """
    spec = tf.TensorSpec([1, None, None, run.dataset.num_channels], tf.uint8)

    @tf.function(input_signature=[spec], autograph=False)
    def scores(images):
        return predict_logits(model, images, run.model_config, run.data_config)

    return lambda image: scores(image[np.newaxis])[0].numpy()


def measure(
    images: Iterable[ProofImage],
    keras_scores: Callable[[np.ndarray], np.ndarray],
    artefact: Callable[[np.ndarray], Answer],
    dataset: records.DatasetInfo,
    path: str,
    ops: dict[str, int],
) -> Parity:
    """Compares an artefact with its Keras model, image by image.

    Args:
        images: The images, at least one.
        keras_scores: Function of an image, uint8 [H, W, channels], that returns the Keras model's
            logits, or other scores whose argmax its labels are, float32 [h, w, C].
        artefact: Function of the same image that returns the artefact's answer, of the same size.
        dataset: The run's classes and ignore label.
        path: The artefact's file or folder.
        ops: Number of operators of each kind in the artefact.

    Returns:
        The figures. NaN where scores are NaN: `enforce` refuses that.
    """
    keras_scores, artefact = _Timed(keras_scores), _Timed(artefact)
    labels, scores, mious = _LabelCounts(), _ScoreDifferences(), _Mious(dataset)
    shapes = collections.Counter()
    for image in images:
        expected, answer = keras_scores(image.image), artefact(image.image)
        expected_labels = expected.argmax(axis=-1)
        shapes[image.image.shape[:2]] += 1
        labels.add(*map(image.without_padding, (expected_labels, answer.labels)))
        scores.add(expected, answer.scores)
        if image.label is not None:
            mious.add(image.label, expected_labels, answer.labels)
    return Parity(
        num_images=shapes.total(),
        shapes=tuple(shapes),
        label_agreement=labels.agreement,
        num_classes_predicted=len(labels.classes),
        largest_logit=float(scores.largest),
        largest_logit_difference=scores.largest_difference,
        miou_keras=mious.of_keras,
        miou_artefact=mious.of_artefact,
        milliseconds_keras=keras_scores.milliseconds,
        milliseconds_artefact=artefact.milliseconds,
        size_bytes=_size(path),
        ops=ops,
    )


def enforce(parity: Parity, limits: Limits, name: str) -> None:
    """Refuses an artefact that is too far from its Keras model.

    Args:
        parity: The figures.
        limits: Their limits.
        name: What messages call the artefact, such as the flag that says where it is written.

    Raises:
        UserError: A figure is beyond its limit.
    """
    if not np.isfinite(parity.largest_logit):
        raise UserError(
            f"{name} is not written: logits of the Keras model itself are not finite. The "
            "training has diverged: take an earlier checkpoint, or train with a lower "
            "--base_learning_rate."
        )
    problem = (
        _difference_problem(parity, limits)
        or _miou_problem(parity, limits)
        or _agreement_problem(parity, limits)
    )
    if problem:
        raise UserError(
            f"{name} is not written, since it does not compute what the Keras model does: {problem}"
        )


def to_json(parity: Parity, about: dict) -> dict:
    """Returns the figures for JSON.

    Args:
        parity: The figures.
        about: What they were measured with (images, versions, devices, ...), for JSON.
    """
    warning = {"warning": parity.warning} if parity.warning else {}
    return about | dataclasses.asdict(parity) | warning


def draw_images(shape: Sequence[int], seed: int) -> np.ndarray:
    """Draws discs and boxes over noise, so that there are flat, sharp and busy parts.

    Args:
        shape: [N, H, W, channels].
        seed: The same seed gives the same images.

    Returns:
        uint8 of the given shape.
    """
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, shape, dtype=np.uint8)
    height, width = shape[1:3]
    for image in images:
        for _ in range(6):
            color = random.integers(0, 256, shape[-1])
            mask = np.zeros((height, width), np.uint8)  # OpenCV draws into four channels at most
            x, y = int(random.integers(width)), int(random.integers(height))
            size = int(random.integers(4, max(5, min(height, width) // 3)))
            if random.random() < 0.5:
                cv2.circle(mask, (x, y), size, 1, thickness=-1)
            else:
                cv2.rectangle(mask, (x, y), (x + size, y + 2 * size), 1, thickness=-1)
            image[mask == 1] = color
    return images


def _difference_problem(parity: Parity, limits: Limits) -> str:
    difference = parity.largest_logit_difference
    if difference is None:
        return ""
    if not np.isfinite(difference):
        return "some of its scores are not finite."
    if limits.max_relative_difference is None:
        return ""
    allowed = limits.max_relative_difference * parity.largest_logit
    if difference <= allowed:
        return ""
    return (
        f"its scores differ by up to {difference:.3g}; the limit is {allowed:.3g} "
        f"({limits.max_relative_difference:.1%} of the largest logit). Check that the model's "
        "layers pass `training=False` on."
    )


def _miou_problem(parity: Parity, limits: Limits) -> str:
    if parity.miou_keras is None or parity.miou_artefact is None:
        return ""
    drop = parity.miou_keras - parity.miou_artefact
    if drop <= limits.max_miou_drop:
        return ""
    return (
        f"the mIoU drops by {drop:.4f}, from {parity.miou_keras:.4f} to "
        f"{parity.miou_artefact:.4f}; the limit is "
        f"--max_miou_drop={limits.max_miou_drop:g}. If the file is quantised, calibrate with "
        "images more like these (--data_dir, --calibration_images, --num_calibration_images), or "
        f"give --quantize=float16. {_FINE_TUNE} A --result_stride above 1 makes borders coarser. "
        "Or raise --max_miou_drop."
    )


def _agreement_problem(parity: Parity, limits: Limits) -> str:
    if parity.label_agreement >= limits.min_label_agreement:
        return ""
    return (
        f"{parity.label_agreement:.3%} of the labels agree; at least "
        f"{limits.min_label_agreement:.3%} must. If the file is quantised, calibrate with images "
        "more like those of --data_dir (--calibration_images, --num_calibration_images), or give "
        f"--quantize=float16. {_FINE_TUNE}"
    )


class _LabelCounts:
    """Counts equal labels, and the classes among them."""

    def __init__(self):
        self._num_equal = self._num_pixels = 0
        self.classes: set[int] = set()

    def add(self, expected: np.ndarray, labels: np.ndarray) -> None:
        self._num_equal += int((expected == labels).sum())
        self._num_pixels += expected.size
        self.classes.update(np.unique(expected).tolist())

    @property
    def agreement(self) -> float:
        return self._num_equal / self._num_pixels


class _ScoreDifferences:
    """Keeps the largest score, and the largest difference from it."""

    def __init__(self):
        self.largest = 0.0
        self.largest_difference: float | None = None

    def add(self, expected: np.ndarray, scores: np.ndarray | None) -> None:
        # np.maximum, unlike max, keeps NaN.
        self.largest = np.maximum(self.largest, np.abs(expected).max())
        if scores is not None:
            difference = np.abs(scores - expected).max()
            self.largest_difference = float(np.maximum(self.largest_difference or 0, difference))


class _Mious:
    """Sums up the confusion matrices of the Keras model and of the artefact."""

    def __init__(self, dataset: records.DatasetInfo):
        self._dataset = dataset
        self._matrices = np.zeros((2, dataset.num_classes, dataset.num_classes), np.int64)
        self._num_images = 0

    def add(self, label: np.ndarray, *predictions: np.ndarray) -> None:
        self._num_images += 1
        for matrix, prediction in zip(self._matrices, predictions, strict=True):
            matrix += metrics.confusion_matrix(
                label, prediction, self._dataset.num_classes, self._dataset.ignore_label
            )

    @property
    def of_keras(self) -> float | None:
        return self._miou(0)

    @property
    def of_artefact(self) -> float | None:
        return self._miou(1)

    def _miou(self, index: int) -> float | None:
        if not self._num_images:
            return None
        matrix, names = self._matrices[index], self._dataset.class_names
        return metrics.segmentation_metrics(matrix, names)["miou"]


class _Timed:
    """A function of an image whose warm calls are timed: the first of every size is left out."""

    def __init__(self, function: Callable[[np.ndarray], object]):
        self._function = function
        self._warm: set[tuple[int, ...]] = set()
        self._seconds: list[float] = []

    def __call__(self, image: np.ndarray):
        if image.shape not in self._warm:
            self._function(image)
            self._warm.add(image.shape)
        started = time.perf_counter()
        result = self._function(image)
        self._seconds.append(time.perf_counter() - started)
        return result

    @property
    def milliseconds(self) -> float:
        return round(1000 * statistics.median(self._seconds), 2)


def _size(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )
