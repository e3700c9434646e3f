"""Exports a run as a SavedModel that takes images and returns labels.

    python -m deeplab_tf.export.savedmodel --run_dir=RUN --output_dir=EXPORT

EXPORT is the base folder that TF Serving watches; the export becomes its next version, EXPORT/1,
EXPORT/2 and so on. It is proved before it appears under its number: it is loaded back and compared
with the Keras model (assets/parity.json tells the figures).
"""

import collections
import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from deeplab_tf import command_line
from deeplab_tf import crf
from deeplab_tf import layers
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import CrfConfig
from deeplab_tf.errors import UserError
from deeplab_tf.export import examples
from deeplab_tf.export import parity
from deeplab_tf.export import serving
from deeplab_tf.export import warmup
from deeplab_tf.runs import run_dir as run_dirs

# Rounding moves logits by 1e-6 of the largest and labels only where two classes tie. Whatever is
# really wrong (statistics of batch norm, a resize, a lost variable) moves them by far more.
MIN_LABEL_AGREEMENT = 0.999
MAX_RELATIVE_DIFFERENCE = 0.01
MAX_MIOU_DROP = 0.001

_LARGEST_VERSION = 2**63 - 1  # TF Serving keeps them in 64 bits


def export_savedmodel(
    run_dir: str,
    output_dir: str,
    checkpoint: str = "best",
    crf_config: CrfConfig = NO_CRF,
    serving_config: serving.ServingConfig = serving.LABELS_ALONE,
    *,
    version: int | None = None,
    data_dir: str | None = None,
    num_proof_images: int = 8,
    max_miou_drop: float = MAX_MIOU_DROP,
) -> tuple[str, parity.Parity]:
    """Writes a run's model as a SavedModel, with labels, palette and parity figures as assets.

    Args:
        run_dir: Folder of a trained or imported run.
        output_dir: The folder of all versions. The export becomes a folder in it, once it is
            complete and proved.
        checkpoint: "best" or "last".
        crf_config: The fully-connected CRF that the export carries; by default none.
        serving_config: What is served besides labels, at which size, and the warm-up.
        version: Number of the version; by default one more than the highest.
        data_dir: Records with which the export is proved, as in `examples.proof_examples`.
        num_proof_images: How many of them.
        max_miou_drop: What the mIoU may fall by.

    Returns:
        The version's folder, and how close it is to the Keras model.

    Raises:
        UserError: The run or the folder cannot be used, or the export does not compute what the
            Keras model does.
    """
    output_dir = os.path.realpath(output_dir)
    _check_free(output_dir, version)
    if num_proof_images < 1:
        raise UserError(f"--num_proof_images={num_proof_images}: give at least 1.")
    run = run_dirs.read(run_dir)
    crf_parameters = run_dirs.crf_parameters(run_dir, crf_config)
    source, images = examples.proof_examples(run, data_dir, num_proof_images)
    model = run_dirs.load_model(run, checkpoint)
    size = serving.serving_size(run, serving_config)
    examples.warn_if_shrunk(images, size, run.model_config.output_stride, "serving_size")
    with _workspace(output_dir) as folder:
        draft = os.path.join(folder, "export")
        module = serving.ServingModule(model, run, folder, crf_parameters, serving_config)
        try:
            with layers.portable_graphs():  # the server may be another machine than this one
                tf.saved_model.save(module, draft, signatures=module.signatures)
            warmup.write(draft, size, serving_config.warmup_batch_sizes)
        except (OSError, tf.errors.OpError) as error:  # such as a full disk
            raise UserError(
                f"--output_dir={output_dir} cannot be written: {str(error).splitlines()[0]}"
            ) from error

        loaded = tf.saved_model.load(draft)
        keras_scores = parity.keras_scores(model, run)
        logits = _measure_logits(loaded, keras_scores, run, draft)
        limits = parity.Limits(MIN_LABEL_AGREEMENT, MAX_RELATIVE_DIFFERENCE, max_miou_drop)
        parity.check(logits, limits, output_dir)
        if crf_parameters is not None:
            keras_scores = _refined(keras_scores, crf_parameters)
        served = parity.measure(
            images,
            keras_scores,
            lambda image: parity.Answer(_served_labels(loaded, image[np.newaxis])[0]),
            run.dataset,
            draft,
            _operators(loaded),
        )
        parity.check(served, limits, output_dir)
        about = {
            "reference": "the run's Keras model, compiled, with training=False",
            "images": source,
            "checkpoint": checkpoint,
            "crf": crf_parameters,
            "serving_size": size,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "devices": [device.device_type for device in tf.config.list_logical_devices()],
            "logits_of_drawn_images": dataclasses.asdict(logits),
            "label_agreement_of_image_files": _check_image_files(loaded, size, output_dir),
        }
        parity.write(os.path.join(draft, "assets", "parity.json"), served, about)
        return _publish(draft, output_dir, version), served


def _versions(output_dir: str) -> list[int]:
    """Numbers in a folder that TF Serving takes for versions."""
    if not os.path.isdir(output_dir):
        return []
    return [int(name) for name in os.listdir(output_dir) if re.fullmatch(r"[0-9]+", name)]


def _check_free(output_dir: str, version: int | None) -> None:
    """Lets through a folder that a version can be added to.

    Raises:
        UserError: It is none, or has the version already.
    """
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        raise UserError(f"--output_dir={output_dir} is a file: give a folder.")
    if tf.saved_model.contains_saved_model(output_dir):
        raise UserError(
            f"--output_dir={output_dir} is a SavedModel itself, not a folder of versions: give "
            "another folder, or the one that it lies in."
        )
    if version is None:
        return
    if not 1 <= version <= _LARGEST_VERSION:
        raise UserError(f"--version={version}: give a number from 1 to {_LARGEST_VERSION}.")
    if version in _versions(output_dir):
        raise UserError(
            f"--output_dir={output_dir} has a version {version}, which a server may be reading: "
            "give another --version, or none for the next one."
        )


@contextlib.contextmanager
def _workspace(output_dir: str) -> Iterator[str]:
    """A temporary folder within the base folder; a base folder that stays empty goes with it.

    There, as a rename is only atomic within one file system. Its name is no number, so that no
    server takes it for a version, not even when this process is killed.
    """
    is_new = not os.path.exists(output_dir)
    try:
        os.makedirs(output_dir, exist_ok=True)
        workspace = tempfile.TemporaryDirectory(dir=output_dir, prefix=".new_export_")
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {error}.") from error
    try:
        with workspace as folder:
            yield folder
    finally:
        if is_new and not os.listdir(output_dir):
            os.rmdir(output_dir)


def _publish(draft: str, output_dir: str, version: int | None) -> str:
    """Gives a finished export its number; returns its folder."""
    if version is None:
        version = max(_versions(output_dir), default=0) + 1
    folder = os.path.join(output_dir, str(version))
    try:
        os.rename(draft, folder)
    except OSError as error:
        raise UserError(
            f"The export cannot become {folder}: {error}. If another export has taken the number "
            "meanwhile, start again."
        ) from error
    return folder


def _refined(
    logits_of: Callable[[np.ndarray], np.ndarray], crf_parameters: dict
) -> Callable[[np.ndarray], np.ndarray]:
    def probabilities_of(image):
        probabilities = tf.nn.softmax(logits_of(image)).numpy()
        return crf.dense_crf(image, probabilities, **crf_parameters)

    return probabilities_of


def _served_labels(loaded, images: np.ndarray) -> np.ndarray:
    return loaded.signatures["serving_default"](images=tf.constant(images))["labels"].numpy()


def _measure_logits(
    loaded, keras_scores: Callable[[np.ndarray], np.ndarray], run: run_dirs.Run, path: str
) -> parity.Parity:
    """Compares logits on drawn images as large as the training crops, and a little larger."""
    height, width = run.data_config.train_crop_size
    sizes = ((height, width), (height, width + 33), (height + 50, width))
    drawn = [
        examples.Example(f"drawing {seed}", parity.draw_images((1, *size, 3), seed)[0], None)
        for seed, size in enumerate(sizes)
    ]

    def answer(image):
        # Beside another image, which must not matter.
        logits = loaded.logits(np.stack([image, image[::-1]]))[0].numpy()
        return parity.Answer(logits.argmax(axis=-1), logits)

    return parity.measure(drawn, keras_scores, answer, run.dataset, path)


def _check_image_files(loaded, size: tuple[int, int], path: str) -> float:
    """Makes sure that files of the serving size get the labels that their pixels get.

    Returns:
        The smallest share of equal labels.

    Raises:
        UserError: They do not.
    """
    images = parity.draw_images((2, *size, 3), seed=0)
    expected = _served_labels(loaded, images)
    files = [tf.io.encode_png(image).numpy() for image in images]
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
                f"{path} is not written: only {agreements[-1]:.2%} of the labels of the signature "
                f"{signature} are those of serving_default, for the same images."
            )
    return min(agreements)


def _operators(loaded) -> dict[str, int]:
    """Counts the operations of `serving_default` and all that it calls."""
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    counts = collections.Counter(node.op for body in bodies for node in body)
    return dict(counts.most_common())


def main(_):
    folder, proof = export_savedmodel(
        flags.FLAGS.run_dir,
        flags.FLAGS.output_dir,
        flags.FLAGS.checkpoint,
        command_line.read_flags(CrfConfig),
        command_line.read_flags(serving.ServingConfig),
        version=flags.FLAGS.version,
        data_dir=flags.FLAGS.data_dir,
        num_proof_images=flags.FLAGS.num_proof_images,
        max_miou_drop=flags.FLAGS.max_miou_drop,
    )
    print(f"{folder}: {proof.summary} (assets/parity.json)")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_string(
        "output_dir", None, "Folder that the next version is added to (required).", required=True
    )
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which weights of the run.")
    flags.DEFINE_integer("version", None, "Number of the version. By default the next one.")
    flags.DEFINE_string(
        "data_dir",
        None,
        "Records to prove the export with. By default those of the run, or drawn images.",
    )
    flags.DEFINE_integer("num_proof_images", 8, "How many images of them.", lower_bound=1)
    flags.DEFINE_float("max_miou_drop", MAX_MIOU_DROP, "What the mIoU may fall by.")
    command_line.define_flags(serving.ServingConfig)
    command_line.define_flags(CrfConfig)
    command_line.run(main)
