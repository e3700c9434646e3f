"""The SavedModel of a run, which takes images and returns label maps."""

import collections
import dataclasses
import os
import typing
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import crf
from deeplab_tf import layers
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import CrfConfig
from deeplab_tf.data import decoding
from deeplab_tf.errors import UserError
from deeplab_tf.export import parity
from deeplab_tf.export import proof_images
from deeplab_tf.export import proving
from deeplab_tf.export import publishing
from deeplab_tf.export import serving
from deeplab_tf.export import warmup
from deeplab_tf.export.config import LABELS_ALONE
from deeplab_tf.export.config import SAVEDMODEL_PROOF
from deeplab_tf.export.config import SavedModelProofConfig
from deeplab_tf.export.config import ServingConfig
from deeplab_tf.export.proof_images import ProofImage
from deeplab_tf.runs import run_dir as run_dirs

# Rounding moves logits by 1e-6 of the largest, and labels only where two classes tie. A real fault
# (statistics of batch norm, a resize, a lost variable) moves them by far more.
MIN_LABEL_AGREEMENT = 0.999
MAX_RELATIVE_DIFFERENCE = 0.01


def export_savedmodel(
    run_dir: str,
    output_dir: str,
    *,
    checkpoint: str = "best",
    crf_config: CrfConfig = NO_CRF,
    serving_config: ServingConfig = LABELS_ALONE,
    model_version: int | None = None,
    proof_config: SavedModelProofConfig = SAVEDMODEL_PROOF,
) -> tuple[str, parity.Parity]:
    """Writes a run's model as a SavedModel, with class names, palette and parity figures as assets.

    Args:
        run_dir: Folder of a trained or imported run.
        output_dir: The folder of all versions. The export becomes a folder in it when it is
            complete and proved.
        checkpoint: "best" or "last".
        crf_config: The fully-connected CRF in the export; by default none.
        serving_config: What is served besides labels, at which size, and the warm-up.
        model_version: Number of the version; by default one more than the highest.
        proof_config: The images to prove the export with, and what it may lose.

    Returns:
        The version's folder, and how close it is to the Keras model.

    Raises:
        UserError: The run or the folder cannot be used, or the export does not compute what the
            Keras model does.
    """
    warmup.require_installed()
    place = publishing.VersionFolder(output_dir, model_version)
    exporter = _SavedModelExporter(
        run_dirs.read(run_dir),
        crf_parameters=run_dirs.crf_parameters(run_dir, crf_config),
        config=serving_config,
        max_miou_drop=proof_config.max_miou_drop,
    )
    return proving.prove_and_publish(exporter, place, checkpoint, proof_config)


class _SavedModelExporter(proving.Exporter):
    def __init__(
        self,
        run: run_dirs.Run,
        *,
        crf_parameters: dict | None,
        config: ServingConfig,
        max_miou_drop: float,
    ):
        self.run = run
        self.limits = parity.Limits(MIN_LABEL_AGREEMENT, MAX_RELATIVE_DIFFERENCE, max_miou_drop)
        self._crf_parameters, self._config = crf_parameters, config
        self._size = serving.serving_size(run, config)
        self._loaded: typing.Any = None  # what `load` has loaded

    def check_images(self, images: list[ProofImage]) -> None:
        output_stride = self.run.model_config.output_stride
        assert output_stride is not None  # a run's config has it
        proof_images.warn_if_shrunk(images, self._size, output_stride, "serving_size")

    def write(self, model: keras.Model, draft: str) -> None:
        assets_folder = os.path.dirname(draft)  # what lies there is copied into the SavedModel
        module = serving.ServingModule(
            model, self.run, assets_folder, self._crf_parameters, self._config
        )
        try:
            with layers.portable_graphs():  # the server may be another machine than this one
                tf.saved_model.save(module, draft, signatures=module.signatures)
            warmup.write(
                draft, self._size, self._config.warmup_batch_sizes, self.run.dataset.num_channels
            )
        except tf.errors.OpError as error:  # TensorFlow's error for a full disk
            raise OSError(str(error).splitlines()[0]) from error

    def load(self, draft: str) -> Callable[[np.ndarray], parity.Answer]:
        loaded = self._loaded = tf.saved_model.load(draft)
        return lambda image: parity.Answer(_served_labels(loaded, image[np.newaxis])[0])

    def operators(self, draft: str) -> dict[str, int]:
        """Counts the operations of `serving_default` and of all that it calls."""
        graph = self._loaded.signatures["serving_default"].graph.as_graph_def()
        bodies = [graph.node, *(function.node_def for function in graph.library.function)]
        counts = collections.Counter(node.op for body in bodies for node in body)
        return dict(counts.most_common())

    def reference(self, model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
        logits_of = parity.keras_scores(model, self.run)
        parameters = self._crf_parameters
        if parameters is None:
            return logits_of

        def refined(image):
            probabilities = tf.nn.softmax(logits_of(image)).numpy()
            return crf.dense_crf(self.run.dataset.displayed(image), probabilities, **parameters)

        return refined

    def prove_further(self, model: keras.Model, draft: str, images: list[ProofImage]) -> dict:
        logits = self._measure_logits(model, draft)
        parity.enforce(logits, self.limits, "The SavedModel")
        return {
            "logits_of_drawn_images": dataclasses.asdict(logits),
            "label_agreement_of_image_files": prove_image_files(
                self._loaded, self._size, self.run.dataset.num_channels
            ),
        }

    def about(self) -> dict:
        return {
            "reference": "the run's Keras model, compiled, with training=False",
            "crf": self._crf_parameters,
            "serving_size": self._size,
            "devices": [device.device_type for device in tf.config.list_logical_devices()],
        }

    def _measure_logits(self, model: keras.Model, draft: str) -> parity.Parity:
        """Compares logits on drawn images as large as the training crops, and a little larger."""
        height, width = self.run.data_config.train_crop_size
        channels = self.run.dataset.num_channels
        sizes = ((height, width), (height, width + 33), (height + 50, width))
        drawn = [
            ProofImage(f"drawing {seed}", parity.draw_images((1, *size, channels), seed)[0], None)
            for seed, size in enumerate(sizes)
        ]

        def answer(image):
            # In a batch with another image, which must not matter.
            logits = self._loaded.logits(np.stack([image, image[::-1]]))[0].numpy()
            return parity.Answer(logits.argmax(axis=-1), logits)

        keras_scores = parity.keras_scores(model, self.run)
        return parity.measure(drawn, keras_scores, answer, self.run.dataset, draft, {})


def prove_image_files(loaded, size: tuple[int, int], in_channels: int = 3) -> float:
    """Proves that image files of the serving size get the same labels as their pixels.

    Args:
        loaded: A loaded SavedModel, or a `serving.ServingModule`.
        size: The serving size, height and width.
        in_channels: Channels of the images.

    Returns:
        The smallest share of equal labels.

    Raises:
        UserError: They get other labels.
    """
    images = parity.draw_images((2, *size, in_channels), seed=0)
    expected = _served_labels(loaded, images)
    files = [decoding.encode_bands(image) for image in images]
    agreements = []
    for signature, takes, given in (
        ("serving_bytes", serving.IMAGE_BYTES, files),
        ("tf_example", serving.EXAMPLES, [warmup.serialized_example(one) for one in files]),
    ):
        answers = loaded.signatures[signature](**{takes.name: tf.constant(given)})
        labels = [
            tf.io.decode_png(mask, dtype=expected.dtype)[..., 0]
            for mask in answers["mask_png_bytes"]
        ]
        agreements.append(float(np.mean(np.stack(labels) == expected)))
        if agreements[-1] < MIN_LABEL_AGREEMENT:
            raise UserError(
                f"The SavedModel is not written: only {agreements[-1]:.2%} of the labels of the "
                f"signature {signature} equal those of serving_default for the same images."
            )
    return min(agreements)


def _served_labels(loaded, images: np.ndarray) -> np.ndarray:
    return loaded.signatures["serving_default"](images=tf.constant(images))["labels"].numpy()
