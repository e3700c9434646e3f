"""Exports a run as a `.tflite` file for phones and other small devices.

    python -m deeplab_tf.export.tflite --run_dir=DIR --output=FILE.tflite --quantize=int8

The file appears under its name only when it is proved: it has no operator that is slow or missing
on a phone, and its labels are those of the Keras model (FILE.parity.json tells the figures).
"""

import collections
import dataclasses
import importlib.metadata
import math
import os
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from deeplab_tf import command_line
from deeplab_tf import crf
from deeplab_tf import layers
from deeplab_tf.config import setting
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts import TFLiteModel
from deeplab_tf.evaluation.fitting import image_fitter
from deeplab_tf.evaluation.views import without_last_resize
from deeplab_tf.export import drafts
from deeplab_tf.export import examples
from deeplab_tf.export import gates
from deeplab_tf.export import litert
from deeplab_tf.export import metadata
from deeplab_tf.export import parity
from deeplab_tf.runs import run_dir as run_dirs

# How `quantize` may move what the Keras model says: the smallest share of equal labels, and the
# largest difference of scores over the largest logit (None: labels alone count). Rounding floats
# moves labels only where two classes tie; 8 bits move borders too.
_LIMITS = {
    "none": (0.999, 0.01),
    "float16": (0.99, 0.1),  # machines that can compute in float16 between the layers too
    "dynamic": (0.95, None),
    "int8": (0.95, None),
}
MAX_MIOU_DROP = 0.01


@dataclasses.dataclass(frozen=True)
class TFLiteConfig:
    """What a `.tflite` file takes, computes in, and returns."""

    quantize: str = setting(
        "none",
        "none: float32. float16: weights of half the size, for GPUs too. dynamic: weights of a "
        "quarter. int8: all of it in 8 bits, calibrated with images; takes uint8 pixels.",
    )
    result: str = setting(
        "labels", "labels: class ids, int32. scores: logits of all classes, uint8 with int8."
    )
    result_stride: int = setting(
        1,
        "Input pixels from one result to the next, a divisor of the output stride. 1: a result for "
        "every pixel. 4: for every fourth in both directions, which is faster, and for labels "
        "coarser. No more is computed than the head leaves: a stride of 16 in v3, mostly 4 in "
        "v3plus.",
    )
    input_size: tuple[int, ...] = setting(
        (),
        "Height,width of the image that it takes, multiples of the output stride plus 1. By "
        "default the run's train_crop_size, rounded up to such.",
    )

    def __post_init__(self):
        for name, choices in (
            ("quantize", tuple(_LIMITS)),
            ("result", ("labels", "scores")),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(f"--{name}={value}; it can be {', '.join(choices)}.")
        size = self.input_size
        if size and (len(size) != 2 or min(size) < 1):
            raise UserError(
                f"--input_size={','.join(map(str, size))} is no height,width such as 513,513."
            )


LABELS_IN_FLOAT32 = TFLiteConfig()


def export_tflite(
    run_dir: str,
    output: str,
    checkpoint: str = "best",
    tflite_config: TFLiteConfig = LABELS_IN_FLOAT32,
    *,
    data_dir: str | None = None,
    calibration_images: str | None = None,
    num_calibration_images: int = 128,
    num_proof_images: int = 32,
    max_miou_drop: float = MAX_MIOU_DROP,
) -> tuple[parity.Parity, list[str]]:
    """Writes a run's model as a `.tflite` file, and beside it how close it is to the Keras model.

    Args:
        run_dir: Folder of a trained or imported run.
        output: The file; one that is there already is replaced once the new one is proved.
        checkpoint: "best" or "last".
        tflite_config: What the file takes, computes in, and returns.
        data_dir: Records that it is calibrated and proved with, as in `examples.proof_examples`.
        calibration_images: Glob of images to calibrate with in place of records.
        num_calibration_images: How many, at most; for "int8" only.
        num_proof_images: How many images the file is compared with the Keras model on.
        max_miou_drop: What the mIoU on these may fall by.

    Returns:
        How close the file is to the Keras model; and, in sentences, what of the run it does not do,
        and which of its operators a phone's GPU may not take.

    Raises:
        UserError: The run, the files or the size cannot be used, the model cannot be exported, or
            the export is not close enough.
    """
    drafts.check(output, ".tflite")
    run = run_dirs.read(run_dir)
    size = fixed_input_size(run, tflite_config)
    fitter, ignore_label = (
        image_fitter(run.model_config, run.data_config, size),
        run.dataset.ignore_label,
    )
    calibration = []
    if tflite_config.quantize == "int8":
        images = examples.calibration_images(
            run, data_dir, calibration_images, num_calibration_images
        )
        calibration = [
            examples.fitted(examples.Example("", image, None), fitter, ignore_label).image
            for image in images
        ]
    source, proof = examples.proof_examples(run, data_dir, num_proof_images)
    if run.data_config.min_resize_value is None:
        examples.warn_if_shrunk(proof, size, run.model_config.output_stride, "input_size")
    proof = [examples.fitted(one, fitter, ignore_label) for one in proof]
    model = run_dirs.load_model(run, checkpoint)
    content = convert(model, tflite_config, size, calibration)
    operators = litert.operators(content)
    gates.check(operators, tflite_config.quantize)
    outside_gpu_delegate = gates.outside_gpu_delegate(operators)
    notes = [*left_out(run), gates.gpu_sentence(outside_gpu_delegate)]
    about = {
        "images": source,
        "reference": "the run's Keras model in float32, at the same size and with the same result",
        "num_calibration_images": len(calibration),
        "outside_gpu_delegate": outside_gpu_delegate,
        "notes": notes,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "ai_edge_litert": importlib.metadata.version("ai-edge-litert"),
        "device": "CPU",
        "threads": crf.num_cores(),
    }
    about |= dataclasses.asdict(tflite_config) | {"input_size": size}
    content = metadata.add(content, run.dataset, tflite_config.result)
    with drafts.draft(output, content) as draft:
        figures = parity.measure(
            proof,
            _keras_scores(model, tflite_config, size),
            _answers(draft),
            run.dataset,
            draft,
            dict(collections.Counter(operator.name for operator in operators)),
        )
        limits = parity.Limits(*_LIMITS[tflite_config.quantize], max_miou_drop)
        parity.check(figures, limits, output)
        if _is_coarse(tflite_config):
            about["against_labels_of_all_pixels"] = _cost_of_coarse_labels(
                model, size, run, proof, draft, max_miou_drop, output
            )
        parity.write(drafts.report_path(draft), figures, about)
    return figures, notes


def fixed_input_size(
    run: run_dirs.Run, config: TFLiteConfig = LABELS_IN_FLOAT32
) -> tuple[int, int]:
    """Returns the height and width of the images that a file takes.

    Only at multiples of the output stride plus 1 do the first and the last features lie on the
    first and the last pixels.

    Args:
        run: The run.
        config: Its `input_size` counts; by default it is the training crop, rounded up to such.

    Raises:
        UserError: `input_size` is no such size; the message names the nearest two that are. Or
            results at `result_stride` would not lie on pixels of all such sizes.
    """
    stride, given = run.model_config.output_stride, tuple(config.input_size)
    if config.result_stride < 1 or stride % config.result_stride:
        divisors = [str(number) for number in range(1, stride + 1) if stride % number == 0]
        raise UserError(
            f"--result_stride={config.result_stride} does not divide the run's output stride "
            f"{stride}; it can be {', '.join(divisors)}."
        )
    wanted = given or run.data_config.train_crop_size
    below, above = (
        tuple(max(1, round_side((side - 1) / stride)) * stride + 1 for side in wanted)
        for round_side in (math.floor, math.ceil)
    )
    if given and given != above:
        raise UserError(
            f"--input_size={given[0]},{given[1]} does not fit: both must be a multiple of the "
            f"output stride {stride} plus 1, else labels shift against the image. The nearest "
            f"that do are {below[0]},{below[1]} and {above[0]},{above[1]}; images are shrunk or "
            "padded to that before they reach the file."
        )
    return above


def convert(
    model: keras.Model,
    config: TFLiteConfig,
    size: tuple[int, int],
    calibration_images: Sequence[np.ndarray] = (),
) -> bytes:
    """Converts a model as it is, without gates, metadata and proof.

    Args:
        model: A model of `deeplab_tf.build_model` in float32.
        config: Of the file; `input_size` does not count.
        size: Height and width of the image that it takes.
        calibration_images: For "int8", uint8 [H, W, 3] each, of that size.

    Returns:
        The content of a `.tflite` file.

    Raises:
        UserError: The model cannot be converted.
    """
    # Each result lies on a pixel: whether logits are resized once or twice is all the same to it.
    network = model if config.result_stride == 1 else without_last_resize(model)[0]

    @tf.function(
        input_signature=[tf.TensorSpec([1, *size, 3], tf.float32, name="image")], autograph=False
    )
    def segment(image):
        scores = network(image, training=False)
        if config.result_stride > 1:
            grid = [layers.size_at_stride(side, config.result_stride) for side in size]
            scores = transforms.resize_bilinear(scores, grid)
        if config.result == "scores":
            return {"scores": scores}
        return {"labels": tf.argmax(scores, axis=-1, output_type=tf.int32)}

    module = tf.Module(name="deeplab")
    module.model_variables = [variable.value for variable in model.variables]
    with layers.portable_graphs(means_by_pooling=config.quantize != "int8"):
        function = segment.get_concrete_function()
    return litert.convert(function, module, config.quantize, calibration_images)


def left_out(run: run_dirs.Run) -> list[str]:
    """What of a run no `.tflite` file does, in sentences."""
    notes, config = [], run.data_config
    if config.min_resize_value is not None:
        notes.append(
            "The file does not resize images as those that the run was trained on "
            f"(--min_resize_value={config.min_resize_value}): that is left to whoever calls it."
        )
    if os.path.exists(os.path.join(run.folder, "crf.json")):
        notes.append(
            "The CRF that was tuned for the run is not in the file; eval and predict can refine "
            "the scores of a file with --result=scores by --crf=tuned."
        )
    return notes


def _keras_scores(
    model: keras.Model, config: TFLiteConfig, size: tuple[int, int]
) -> Callable[[np.ndarray], np.ndarray]:
    """The Keras model as a function of an image to its logits at the image's size.

    Where the file's labels are to be repeated up to that size, so are the logits that they are
    decided by.
    """

    @tf.function(input_signature=[tf.TensorSpec([1, *size, 3], tf.uint8)], autograph=False)
    def predict(images):
        logits = model(images, training=False)
        if not _is_coarse(config):
            return logits
        logits = logits[:, :: config.result_stride, :: config.result_stride]
        return tf.raw_ops.ResizeNearestNeighbor(images=logits, size=size, align_corners=True)

    return lambda image: predict(image[np.newaxis])[0].numpy()


def _is_coarse(config: TFLiteConfig) -> bool:
    """Whether there are fewer labels than pixels."""
    return config.result == "labels" and config.result_stride > 1


def _cost_of_coarse_labels(
    model: keras.Model,
    size: tuple[int, int],
    run: run_dirs.Run,
    proof: Sequence[examples.Example],
    draft: str,
    max_miou_drop: float,
    output: str,
) -> dict:
    """Compares coarse labels with what the Keras model says of every pixel.

    Raises:
        UserError: They cost more mIoU than is allowed.
    """
    figures = parity.measure(
        proof,
        _keras_scores(model, LABELS_IN_FLOAT32, size),
        _answers(draft),
        run.dataset,
        draft,
    )
    parity.check(figures, parity.Limits(0, None, max_miou_drop), output)
    names = ("label_agreement", "miou_keras", "miou_artefact")
    return {name: getattr(figures, name) for name in names}


def _answers(path: str) -> Callable[[np.ndarray], parity.Answer]:
    """A `.tflite` file as a function of an image to what it says, at the image's size."""
    model = TFLiteModel(path)

    def answer(image):
        result = model(image).numpy()
        if not model.has_scores:
            return parity.Answer(result)
        return parity.Answer(result.argmax(axis=-1).astype(np.int32), result)

    return answer


def main(_):
    output = flags.FLAGS.output
    figures, notes = export_tflite(
        flags.FLAGS.run_dir,
        output,
        flags.FLAGS.checkpoint,
        command_line.read_flags(TFLiteConfig),
        data_dir=flags.FLAGS.data_dir,
        calibration_images=flags.FLAGS.calibration_images,
        num_calibration_images=flags.FLAGS.num_calibration_images,
        num_proof_images=flags.FLAGS.num_proof_images,
        max_miou_drop=flags.FLAGS.max_miou_drop,
    )
    for note in notes:
        print(note)
    print(f"{output}: {figures.summary} ({drafts.report_path(output)})")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_string("output", None, "File to write, FILE.tflite (required).", required=True)
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which weights of the run.")
    command_line.define_flags(TFLiteConfig)
    flags.DEFINE_string(
        "data_dir", None, "Records to calibrate and prove with. By default those of the run."
    )
    flags.DEFINE_string(
        "calibration_images", None, "Images to calibrate with in place of records, as a glob."
    )
    flags.DEFINE_integer(
        "num_calibration_images", 128, "How many to calibrate with.", lower_bound=1
    )
    flags.DEFINE_integer("num_proof_images", 32, "How many to prove with.", lower_bound=1)
    flags.DEFINE_float("max_miou_drop", MAX_MIOU_DROP, "What the mIoU on these may fall by.")
    command_line.run(main)
