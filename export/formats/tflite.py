"""The `.tflite` file of a run, for phones and other small devices."""

import collections
import dataclasses
import importlib.metadata
import math
import pathlib
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import crf
from deeplab_tf import files
from deeplab_tf import layers
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts.tflite import TFLiteModel
from deeplab_tf.evaluation.fitting import image_fitter
from deeplab_tf.evaluation.network import without_last_resize
from deeplab_tf.export import litert
from deeplab_tf.export import metadata
from deeplab_tf.export import mobile_operators
from deeplab_tf.export import parity
from deeplab_tf.export import proof_images
from deeplab_tf.export import proving
from deeplab_tf.export import publishing
from deeplab_tf.export.config import CALIBRATION_BY_RECORDS
from deeplab_tf.export.config import LABELS_IN_FLOAT32
from deeplab_tf.export.config import TFLITE_PROOF
from deeplab_tf.export.config import CalibrationConfig
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.config import TFLiteProofConfig
from deeplab_tf.export.proof_images import ProofImage
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files

# By `quantize`: the smallest share of labels that equal the Keras model's, and the largest
# difference of scores over the largest logit (None: labels alone count). Rounding floats moves
# labels only where two classes tie; 8 bits move borders too.
_LIMITS = {
    "none": (0.999, 0.01),
    "float16": (0.99, 0.1),  # some machines compute in float16 between the layers too
    "dynamic": (0.95, None),
    "int8": (0.95, None),
}


def export_tflite(
    run_dir: str,
    output: str,
    *,
    checkpoint: str = "best",
    tflite_config: TFLiteConfig = LABELS_IN_FLOAT32,
    calibration_config: CalibrationConfig = CALIBRATION_BY_RECORDS,
    proof_config: TFLiteProofConfig = TFLITE_PROOF,
) -> tuple[parity.Parity, list[str]]:
    """Writes a run's model as a `.tflite` file, with its parity figures beside it.

    Args:
        run_dir: Folder of a trained or imported run.
        output: The file; one that is there already is replaced when the new one is proved.
        checkpoint: "best" or "last".
        tflite_config: What the file takes, computes in, and returns.
        calibration_config: The images to calibrate "int8" with.
        proof_config: The images to prove the export with, and what it may lose.

    Returns:
        How close the file is to the Keras model; and sentences on what the run does but the file
        does not, and on operators that a phone's GPU may not have.

    Raises:
        UserError: The run, the files or the size cannot be used, the model cannot be exported, or
            the export is not close enough to the Keras model.
    """
    litert.require_installed()
    place = publishing.File(output, ".tflite")
    run = run_dirs.read(run_dir)
    exporter = _TFLiteExporter(run, tflite_config, proof_config.max_miou_drop)
    if tflite_config.quantize == "int8":
        exporter.calibration_images = proof_images.calibration_images(
            run,
            proof_config.data_dir,
            calibration_config.calibration_images,
            number=calibration_config.num_calibration_images,
            fit=lambda image: exporter.fit(ProofImage("", image, None)).image,
        )
    elif calibration_config.calibration_images:
        raise UserError("--calibration_images needs --quantize=int8: nothing else is calibrated.")
    _, figures = proving.prove_and_publish(exporter, place, checkpoint, proof_config)
    return figures, exporter.notes


class _TFLiteExporter(proving.Exporter):
    def __init__(self, run: run_dirs.Run, config: TFLiteConfig, max_miou_drop: float):
        self.run = run
        self.limits = parity.Limits(*_LIMITS[config.quantize], max_miou_drop)
        self.calibration_images: list[np.ndarray] = []
        self.notes = left_out(run)
        _check_quantizer(run, config)
        self._config = config
        self._size = fixed_input_size(run, config)
        self._fitter = image_fitter(run.model_config, run.data_config, self._size)
        self._outside_gpu_delegate: dict[str, list[str]] = {}
        self.fake_quantization = "all" if config.quantize == "int8" else "none"

    def check_images(self, images: list[ProofImage]) -> None:
        if not self.run.data_config.min_resize_value:
            output_stride = self.run.model_config.output_stride
            assert output_stride is not None  # a run's config has it
            proof_images.warn_if_shrunk(images, self._size, output_stride, "input_size")

    def fit(self, image: ProofImage) -> ProofImage:
        return proof_images.fitted(image, self._fitter, self.run.dataset.ignore_label)

    def write(self, model: keras.Model, draft: str) -> None:
        content = convert(model, self._config, self._size, self.calibration_images)
        operators = litert.operators(content)
        mobile_operators.refuse_slow_or_missing(operators, self._config.quantize)
        self._outside_gpu_delegate = mobile_operators.outside_gpu_delegate(operators)
        self.notes.append(mobile_operators.gpu_sentence(self._outside_gpu_delegate))
        content = metadata.add(content, self.run.dataset, self._config.result)
        pathlib.Path(draft).write_bytes(content)

    def reference(self, model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
        return _keras_scores(model, self._config, self._size)

    def load(self, draft: str) -> Callable[[np.ndarray], parity.Answer]:
        model = TFLiteModel(draft, self.run.dataset.num_channels)

        def answer(image):
            result = model(image).numpy()
            if not model.has_scores:
                return parity.Answer(result)
            return parity.Answer(result.argmax(axis=-1).astype(np.int32), result)

        return answer

    def operators(self, draft: str) -> dict[str, int]:
        found = litert.operators(pathlib.Path(draft).read_bytes())
        return dict(collections.Counter(operator.name for operator in found))

    def prove_further(self, model: keras.Model, draft: str, images: list[ProofImage]) -> dict:
        """Compares coarse labels with the Keras model's label of every pixel."""
        if not _is_coarse(self._config):
            return {}
        reference = _keras_scores(model, LABELS_IN_FLOAT32, self._size)
        figures = parity.measure(images, reference, self.load(draft), self.run.dataset, draft, {})
        limits = parity.Limits(0, None, self.limits.max_miou_drop)
        parity.enforce(figures, limits, "The file")
        names = ("label_agreement", "miou_keras", "miou_artefact")
        return {"against_labels_of_all_pixels": {name: getattr(figures, name) for name in names}}

    def about(self) -> dict:
        is_rounded = self.run.train_config.is_quantized and self._config.quantize == "int8"
        computes = "rounding to 8 bits as in its training" if is_rounded else "in float32"
        return {
            "reference": f"the run's Keras model, {computes}, of the same size and result",
            "pad_pixel": self._fitter.pad_pixel,
            "num_calibration_images": len(self.calibration_images),
            "outside_gpu_delegate": self._outside_gpu_delegate,
            "notes": self.notes,
            "ai_edge_litert": importlib.metadata.version("ai-edge-litert"),
            "device": "CPU",
            "threads": crf.num_cores(),
            **dataclasses.asdict(self._config),
            "input_size": self._size,
        }


def _check_quantizer(run: run_dirs.Run, config: TFLiteConfig) -> None:
    if config.quantizer == "tensorflow":
        return
    flag = f"--quantizer={config.quantizer}"
    if config.quantize != "int8" or config.result != "scores":
        raise UserError(f"{flag} needs --quantize=int8 and --result=scores.")
    if run.train_config.is_quantized:
        raise UserError(
            f"{flag} does not use the ranges of a run that was fine-tuned for 8 bits: leave it out."
        )


def fixed_input_size(
    run: run_dirs.Run, config: TFLiteConfig = LABELS_IN_FLOAT32
) -> tuple[int, int]:
    """Returns the height and width of the images that a file takes.

    They are multiples of the output stride plus 1, see `fitting.ImageFitter`.

    Args:
        run: The run.
        config: Its `input_size` counts, by default `DataConfig.exported_size`, rounded up; and its
            `result_stride`.

    Raises:
        UserError: `input_size` does not fit, and the message names the nearest two that do; or
            `result_stride` does not divide the output stride.
    """
    stride, given = run.model_config.output_stride, tuple(config.input_size)
    assert stride is not None  # a run's config has it
    if config.result_stride < 1 or stride % config.result_stride:
        divisors = [str(number) for number in range(1, stride + 1) if stride % number == 0]
        raise UserError(
            f"--result_stride={config.result_stride} does not divide the run's output stride "
            f"{stride}; it can be {', '.join(divisors)}."
        )
    wanted = given or run.data_config.exported_size
    below, above = (
        tuple(max(1, round_side((side - 1) / stride)) * stride + 1 for side in wanted)
        for round_side in (math.floor, math.ceil)
    )
    if given and given != above:
        raise UserError(
            f"--input_size={given[0]},{given[1]} does not fit: both must be a multiple of the "
            f"output stride {stride} plus 1, else labels shift against the image. The nearest that "
            f"fit are {below[0]},{below[1]} and {above[0]},{above[1]}; images are shrunk or padded "
            "to that size before they reach the file."
        )
    return above[0], above[1]


def convert(
    model: keras.Model,
    config: TFLiteConfig,
    size: tuple[int, int],
    calibration_images: Sequence[np.ndarray] = (),
) -> bytes:
    """Converts a model, without checks, metadata and proof.

    Args:
        model: A model of `deeplab_tf.build_model` in float32.
        config: What the file computes in and returns; `input_size` does not count.
        size: Height and width of the images that it takes.
        calibration_images: For "int8": uint8 [H, W, channels] each, of that size.

    Returns:
        The content of a `.tflite` file.

    Raises:
        UserError: The model cannot be converted.
    """
    # Each result lies on a pixel, where it is the same whether logits are resized once or twice.
    network = model if config.result_stride == 1 else without_last_resize(model)[0]

    spec = tf.TensorSpec([1, *size, model.input_shape[-1]], tf.float32, name=litert.INPUT)

    @tf.function(input_signature=[spec], autograph=False)
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
    is_int8 = config.quantize == "int8"
    with (
        layers.portable_graphs(means_by_pooling=not is_int8),
        # The converter takes the ranges of feature maps, and quantises the kernels itself.
        layers.fake_quantization("activations" if is_int8 else "none"),
    ):
        function = segment.get_concrete_function()
    if not (is_int8 and config.quantizer == "litert"):
        return litert.convert(function, module, config.quantize, calibration_images)
    return litert.quantize(litert.convert(function, module, "none"), calibration_images)


def left_out(run: run_dirs.Run) -> list[str]:
    """Returns sentences on what a run does but its `.tflite` file does not."""
    notes, config = [], run.data_config
    if config.min_resize_value:
        notes.append(
            "The file does not resize images as in training (--min_resize_value="
            f"{config.min_resize_value}): resize them before you give them to it."
        )
    if files.as_path(run.folder, run_files.CRF).exists():
        notes.append(
            "The CRF that was tuned for the run is not in the file. With --result=scores, eval and "
            "predict can refine the file's scores by --crf=tuned."
        )
    return notes


def _keras_scores(
    model: keras.Model, config: TFLiteConfig, size: tuple[int, int]
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles the Keras model into a function from an image to its logits at the image's size.

    If the file's labels are repeated up to that size, so are the logits.
    """

    spec = tf.TensorSpec([1, *size, model.input_shape[-1]], tf.uint8)

    @tf.function(input_signature=[spec], autograph=False)
    def predict(images):
        logits = model(images, training=False)
        if not _is_coarse(config):
            return logits
        logits = logits[:, :: config.result_stride, :: config.result_stride]
        return tf.raw_ops.ResizeNearestNeighbor(images=logits, size=size, align_corners=True)

    return lambda image: predict(image[np.newaxis])[0].numpy()


def _is_coarse(config: TFLiteConfig) -> bool:
    """Whether the file returns fewer labels than pixels."""
    return config.result == "labels" and config.result_stride > 1
