"""Proof that an exported model computes what the Keras model does."""

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence

import cv2
import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import crf
from deeplab_tf import inference
from deeplab_tf import run_dir as run_dirs
from deeplab_tf.errors import UserError

# Rounding moves logits by 1e-6 of the largest and labels only where two classes tie. Whatever is
# really wrong (statistics of batch norm, a resize, a lost variable) moves them by far more.
SMALLEST_LABEL_AGREEMENT = 0.999
LARGEST_RELATIVE_DIFFERENCE = 0.01
TIMED_CALLS = 3


@dataclasses.dataclass(frozen=True)
class Parity:
    """How close an artefact is to its Keras model on one batch of drawn pictures.

    Attributes:
        shape: Of the batch: pictures, height, width, channels.
        label_agreement: Share of the pixels with equal labels.
        num_classes_predicted: Different labels among them; labels of one class prove little.
        largest_logit: Largest absolute logit of the Keras model.
        largest_logit_difference: Largest absolute difference from it.
        milliseconds: Of the artefact for one call with the whole batch, median of warm calls.
    """

    shape: tuple[int, ...]
    label_agreement: float
    num_classes_predicted: int
    largest_logit: float
    largest_logit_difference: float
    milliseconds: float

    @property
    def holds(self) -> bool:
        """Whether the two compute the same; false for logits that are no numbers."""
        difference = self.largest_logit_difference
        return (
            self.label_agreement >= SMALLEST_LABEL_AGREEMENT
            and difference <= LARGEST_RELATIVE_DIFFERENCE * self.largest_logit
        )


def draw_pictures(shape: Sequence[int], seed: int) -> np.ndarray:
    """Draws discs and boxes over noise, so that flat, sharp and busy parts occur.

    Returns:
        uint8 of the given shape [N, H, W, 3]; the same for the same seed.
    """
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, shape, dtype=np.uint8)
    height, width = shape[1:3]
    for picture in pictures:
        for _ in range(6):
            color = random.integers(0, 256, 3).tolist()
            x, y = int(random.integers(width)), int(random.integers(height))
            size = int(random.integers(4, max(5, min(height, width) // 3)))
            if random.random() < 0.5:
                cv2.circle(picture, (x, y), size, color, thickness=-1)
            else:
                cv2.rectangle(picture, (x, y), (x + size, y + 2 * size), color, thickness=-1)
    return pictures


def compare_with_keras(
    artefact_path: str,
    model: keras.Model,
    run: run_dirs.Run,
    crf_parameters: dict | None = None,
) -> list[Parity]:
    """Loads a SavedModel back in plain TensorFlow and compares it with its Keras model.

    The pictures are as large as the training crops and a little larger, alone and two at a time.

    Args:
        artefact_path: Folder with the saved `ServingModule`.
        model: The run's model that it was made of.
        run: The run.
        crf_parameters: Arguments of `dense_crf` that the labels are refined with; None for no CRF.

    Returns:
        One result per batch.

    Raises:
        UserError: They disagree.
    """
    loaded = tf.saved_model.load(artefact_path)
    height, width = run.data_config.train_crop_size
    shapes = ((1, height, width, 3), (2, height, width + 33, 3), (1, height + 50, width, 3))
    results = [
        _compare(loaded, model, run, crf_parameters, draw_pictures(shape, seed))
        for seed, shape in enumerate(shapes)
    ]
    disagreeing = [result for result in results if not result.holds]
    if disagreeing:
        raise UserError(
            "The exported model does not compute what the Keras model does, and was removed: "
            f"{disagreeing[0]}. Check that the model's layers pass `training=False` on and that "
            "its logits are finite numbers."
        )
    return results


def write_report(path: str, results: Sequence[Parity]) -> None:
    """Writes the results, and what they were measured with, as JSON."""
    report = {
        "reference": "the run's Keras model, called eagerly with training=False",
        "pictures": "noise with discs and boxes, seeded",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "devices": [device.device_type for device in tf.config.list_logical_devices()],
        "label_agreement": min(result.label_agreement for result in results),
        "largest_logit_difference": max(result.largest_logit_difference for result in results),
        "batches": [dataclasses.asdict(result) for result in results],
    }
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(report, indent=2) + "\n")


def _compare(
    loaded,
    model: keras.Model,
    run: run_dirs.Run,
    crf_parameters: dict | None,
    pictures: np.ndarray,
) -> Parity:
    expected = inference.predict_logits(
        model, pictures, run.model_config, run.data_config
    ).numpy()
    scores = expected
    if crf_parameters is not None:
        scores = crf.dense_crf(pictures, tf.nn.softmax(expected).numpy(), **crf_parameters)
    expected_labels = scores.argmax(axis=-1)
    pictures = tf.constant(pictures)
    serve = loaded.signatures["serving_default"]
    labels = serve(images=pictures)["labels"].numpy()
    seconds = []
    for _ in range(TIMED_CALLS):
        started = time.perf_counter()
        serve(images=pictures)["labels"].numpy()
        seconds.append(time.perf_counter() - started)
    return Parity(
        shape=tuple(pictures.shape),
        label_agreement=float(np.mean(labels == expected_labels)),
        num_classes_predicted=len(np.unique(expected_labels)),
        largest_logit=float(np.abs(expected).max()),
        largest_logit_difference=float(np.abs(loaded.logits(pictures).numpy() - expected).max()),
        milliseconds=round(1000 * statistics.median(seconds), 1),
    )
