"""Proof that an exported model computes what the Keras model does."""

import collections
import dataclasses
import json
import os
import statistics
import sys
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
from deeplab_tf.export import examples as proof
from deeplab_tf.runs import run_dir as run_dirs

_ONE_CLASS = "only one class was predicted in all images, and labels of one class prove little."


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an artefact says of an image.

    Attributes:
        labels: int32 [h, w], class ids.
        scores: float32 [h, w, C], as the logits of the Keras model; None where it returns none.
    """

    labels: np.ndarray
    scores: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an artefact may differ by.

    Attributes:
        min_label_agreement: Share of the pixels with equal labels.
        max_relative_difference: Largest difference of scores over the largest logit; None for any.
        max_miou_drop: Of the mIoU, where there are labels.
    """

    min_label_agreement: float
    max_relative_difference: float | None
    max_miou_drop: float


@dataclasses.dataclass(frozen=True)
class Parity:
    """How close an artefact is to its Keras model.

    Attributes:
        num_images: How many were compared.
        shapes: Their different heights and widths.
        label_agreement: Share of the pixels with equal labels.
        num_classes_predicted: Different labels among them; labels of one class prove little.
        largest_logit: Largest absolute logit of the Keras model.
        largest_logit_difference: Largest absolute difference from it; None without scores.
        miou_keras: mIoU of the Keras model, over the images with labels; None without any.
        miou_artefact: That of the artefact.
        milliseconds_keras: For one image, median of warm calls.
        milliseconds_artefact: That of the artefact.
        size_bytes: Of the file, or of all files in the folder.
        ops: How many operators of each kind it has; None where this is not known.
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
    ops: dict[str, int] | None

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        miou = ""
        if self.miou_keras is not None:
            miou = f"mIoU {self.miou_artefact:.4f} (Keras {self.miou_keras:.4f}), "
        return (
            f"{self.label_agreement:.2%} of the labels agree on {self.num_images} images, "
            f"{miou}{self.milliseconds_artefact:.0f} ms an image (Keras "
            f"{self.milliseconds_keras:.0f}), {self.size_bytes / 2**20:.1f} MiB"
        )


def keras_scores(model: keras.Model, run: run_dirs.Run) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a run's model into a function from an image to its logits, as `measure` wants it.

    Args:
        model: The run's model.
        run: Tells how images reach the network.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns float32 [H, W, num_classes].
    """

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)], autograph=False)
    def scores(images):
        return predict_logits(model, images, run.model_config, run.data_config)

    return lambda image: scores(image[np.newaxis])[0].numpy()


def measure(
    examples: Iterable[proof.Example],
    keras_scores: Callable[[np.ndarray], np.ndarray],
    artefact: Callable[[np.ndarray], Answer],
    dataset: records.DatasetInfo,
    path: str,
    ops: dict[str, int] | None = None,
) -> Parity:
    """Compares an artefact with its Keras model, image by image.

    Args:
        examples: The images, at least one; only one at a time is held here.
        keras_scores: Function of an image, uint8 [H, W, 3], that returns the Keras model's logits
            (or what else its labels are the argmax of), float32 [h, w, C].
        artefact: Function of the same image that returns the artefact's answer, of the same size.
        dataset: The run's classes and ignore label.
        path: The artefact's file or folder.
        ops: As in `Parity`.

    Returns:
        The figures. Not a number where scores are none: `check` refuses that.
    """
    matrices = {name: np.zeros((dataset.num_classes,) * 2, np.int64) for name in ("keras", "it")}
    shapes, has_scores = collections.Counter(), False
    num_equal, num_pixels, num_labelled, predicted = 0, 0, 0, set()
    largest_logit = largest_difference = 0.0
    keras_scores, artefact = _Timed(keras_scores), _Timed(artefact)
    for example in examples:
        shapes[example.image.shape[:2]] += 1
        scores, answer = keras_scores(example.image), artefact(example.image)
        labels = scores.argmax(axis=-1)
        num_equal += int((labels == answer.labels).sum())
        num_pixels += labels.size
        predicted.update(np.unique(labels).tolist())
        # np.maximum, unlike max, keeps what is not a number.
        largest_logit = np.maximum(largest_logit, np.abs(scores).max())
        if answer.scores is not None:
            has_scores = True
            difference = np.abs(answer.scores - scores).max()
            largest_difference = np.maximum(largest_difference, difference)
        if example.label is not None:
            num_labelled += 1
            for name, prediction in (("keras", labels), ("it", answer.labels)):
                matrices[name] += metrics.confusion_matrix(
                    example.label, prediction, dataset.num_classes, dataset.ignore_label
                )
    miou_keras, miou_artefact = (
        metrics.segmentation_metrics(matrices[name], dataset.class_names)["miou"]
        if num_labelled
        else None
        for name in ("keras", "it")
    )
    return Parity(
        num_images=shapes.total(),
        shapes=tuple(shapes),
        label_agreement=num_equal / num_pixels,
        num_classes_predicted=len(predicted),
        largest_logit=float(largest_logit),
        largest_logit_difference=float(largest_difference) if has_scores else None,
        miou_keras=miou_keras,
        miou_artefact=miou_artefact,
        milliseconds_keras=keras_scores.milliseconds,
        milliseconds_artefact=artefact.milliseconds,
        size_bytes=_size(path),
        ops=ops,
    )


def check(parity: Parity, limits: Limits, path: str) -> None:
    """Lets an artefact through that is as close to its Keras model as it must be.

    Args:
        parity: The figures.
        limits: What they may be.
        path: Where the artefact was to be written, for the message.

    Raises:
        UserError: A figure is past its limit.
    """
    refused = f"{path} is not written, for it does not compute what the Keras model does: "
    if not np.isfinite(parity.largest_logit):
        raise UserError(
            f"{path} is not written: logits of the Keras model itself are not numbers. The "
            "training has diverged; take an earlier checkpoint, or train with a lower "
            "--base_learning_rate."
        )
    difference = parity.largest_logit_difference
    if difference is not None and limits.max_relative_difference is not None:
        allowed = limits.max_relative_difference * parity.largest_logit
        if not difference <= allowed:  # nor is what is not a number
            raise UserError(
                f"{refused}its scores differ by up to {difference:.3g}, and {allowed:.3g} is "
                f"allowed ({limits.max_relative_difference:.1%} of the largest logit). Check that "
                "the model's layers pass `training=False` on."
            )
    if parity.miou_keras is not None:
        drop = parity.miou_keras - parity.miou_artefact
        if drop > limits.max_miou_drop:
            raise UserError(
                f"{refused}mIoU falls by {drop:.4f}, from {parity.miou_keras:.4f} to "
                f"{parity.miou_artefact:.4f}, and --max_miou_drop={limits.max_miou_drop:g} is "
                "allowed. If it is quantised, calibrate with images more like these "
                "(--data_dir, --calibration_images, --num_calibration_images), or give "
                "--quantize=float16. A --result_stride above 1 makes borders coarser. Or give "
                "a larger --max_miou_drop."
            )
    if parity.label_agreement < limits.min_label_agreement:
        raise UserError(
            f"{refused}{parity.label_agreement:.3%} of the labels agree, and "
            f"{limits.min_label_agreement:.3%} must. If it is quantised, calibrate with images "
            "more like those of --data_dir (--calibration_images, --num_calibration_images), or "
            "give --quantize=float16."
        )
    if parity.num_classes_predicted == 1:
        print(f"warning: {_ONE_CLASS}", file=sys.stderr, flush=True)


def write(path: str, parity: Parity, about: dict) -> None:
    """Writes the figures as JSON.

    Args:
        path: The file.
        parity: The figures.
        about: What they were measured with (images, versions, devices, ...), for JSON.

    Raises:
        UserError: The file cannot be written.
    """
    report = about | dataclasses.asdict(parity)
    if parity.num_classes_predicted == 1:
        report["warning"] = _ONE_CLASS
    try:
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(json.dumps(report, indent=2) + "\n")
        os.replace(path + ".new", path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error


def draw_images(shape: Sequence[int], seed: int) -> np.ndarray:
    """Draws discs and boxes over noise, so that flat, sharp and busy parts occur.

    Returns:
        uint8 of the given shape [N, H, W, 3]; the same for the same seed.
    """
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, shape, dtype=np.uint8)
    height, width = shape[1:3]
    for image in images:
        for _ in range(6):
            color = random.integers(0, 256, 3).tolist()
            x, y = int(random.integers(width)), int(random.integers(height))
            size = int(random.integers(4, max(5, min(height, width) // 3)))
            if random.random() < 0.5:
                cv2.circle(image, (x, y), size, color, thickness=-1)
            else:
                cv2.rectangle(image, (x, y), (x + size, y + 2 * size), color, thickness=-1)
    return images


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
