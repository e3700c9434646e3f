"""Proves exports of all formats against their Keras models, and publishes them only then."""

import abc
import os
import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import deeplab_tf
from deeplab_tf import files
from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.export import other_runtimes
from deeplab_tf.export import parity
from deeplab_tf.export import proof_images
from deeplab_tf.export import publishing
from deeplab_tf.export.config import ProofConfig
from deeplab_tf.export.proof_images import ProofImage
from deeplab_tf.runs import run_dir as run_dirs


class Exporter(abc.ABC):
    """What a format adds to `prove_and_publish`: how a model is written, and how the result is run.

    Attributes:
        run: The run that is exported.
        limits: How much an export may differ from the Keras model.
        fake_quantization: What the Keras model rounds to 8 bits, of a run that was fine-tuned for
            them: "none", or "all" for a file in 8 bits.
    """

    run: run_dirs.Run
    limits: parity.Limits
    fake_quantization = "none"

    def fit(self, image: ProofImage) -> ProofImage:
        """Returns an image as the export takes it."""
        return image

    def check_images(self, images: list[ProofImage]) -> None:  # noqa: B027
        """Warns about problems that the images show, before they are fitted."""

    @abc.abstractmethod
    def write(self, model: keras.Model, draft: str) -> None:
        """Converts a model and writes it.

        Args:
            model: The run's model, with batch norm folded into its convolutions.
            draft: File or folder to write.

        Raises:
            UserError: The model cannot be converted.
        """

    def reference(self, model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
        """Returns what the export is compared with, a function as `parity.measure` takes it."""
        return parity.keras_scores(model, self.run)

    @abc.abstractmethod
    def load(self, draft: str) -> Callable[[np.ndarray], parity.Answer]:
        """Loads what was written; returns a function as `parity.measure` takes it."""

    @abc.abstractmethod
    def operators(self, draft: str) -> dict[str, int]:
        """Counts the operators of each kind in what was written."""

    def prove_further(self, model: keras.Model, draft: str, images: list[ProofImage]) -> dict:
        """Proves what only this format has.

        Returns:
            Its figures, for JSON.

        Raises:
            UserError: The export is not close enough to the Keras model.
        """
        return {}

    @abc.abstractmethod
    def about(self) -> dict:
        """Returns what the export was made from, for JSON."""


def prove_and_publish(
    exporter: Exporter,
    place: publishing.File | publishing.VersionFolder,
    checkpoint: str,
    config: ProofConfig,
) -> tuple[str, parity.Parity]:
    """Exports a run: the file or folder appears under its name when it is proved.

    Args:
        exporter: Converts the run's model to a format.
        place: Where the export appears.
        checkpoint: "best" or "last".
        config: The images that the export is compared with the Keras model on.

    Returns:
        Path of the export, and how close it is to the Keras model.

    Raises:
        UserError: The run or the records cannot be used, the model cannot be converted, the export
            is not close enough, or it cannot be written. Nothing is left then.
    """
    place.remove_drafts()
    run = exporter.run
    if config.proof_images:
        source, images = proof_images.from_files(run, config.proof_images, config.num_proof_images)
    else:
        source, images = proof_images.from_records_or_drawn(
            run, config.data_dir, config.num_proof_images
        )
    exporter.check_images(images)
    images = [exporter.fit(image) for image in images]
    model = run_dirs.load_model(run, checkpoint)
    with place.draft() as draft, layers.fake_quantization(exporter.fake_quantization):
        exporter.write(models.fold_batch_norm(model), draft)
        artefact = exporter.load(draft)
        figures = parity.measure(
            images,
            exporter.reference(model),
            artefact,
            run.dataset,
            draft,
            exporter.operators(draft),
        )
        parity.enforce(figures, exporter.limits, place.flag)
        if figures.warning:
            print(f"warning: {figures.warning}", file=sys.stderr, flush=True)
        further = exporter.prove_further(model, draft, images)
        further |= other_runtimes.compare(
            draft, artefact, images, exporter.limits.min_label_agreement
        )
        about = {
            "artefact": os.path.basename(draft),
            "images": source,
            "checkpoint": checkpoint,
            **_versions(),
            **exporter.about(),
        }
        files.write_json(place.parity_path(draft), parity.to_json(figures, about | further))
        return place.publish(draft), figures


def _versions() -> dict[str, str]:
    return {
        "deeplab_tf": deeplab_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
