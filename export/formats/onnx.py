"""The ONNX file of a run, for other runtimes."""

import collections
import importlib
import importlib.metadata
import json
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf.data import bands
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.errors import extra_for
from deeplab_tf.evaluation.engines import onnx_graphs
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.evaluation.prediction import predict_logits
from deeplab_tf.export import parity
from deeplab_tf.export import proof_images
from deeplab_tf.export import proving
from deeplab_tf.export import publishing
from deeplab_tf.export.config import ANY_SIZE
from deeplab_tf.export.config import ONNX_PROOF
from deeplab_tf.export.config import OnnxConfig
from deeplab_tf.export.config import ProofConfig
from deeplab_tf.export.proof_images import ProofImage
from deeplab_tf.runs import run_dir as run_dirs

# Nothing is quantised: a right export differs by rounding alone, as a SavedModel does.
MIN_LABEL_AGREEMENT = 0.999
MAX_RELATIVE_DIFFERENCE = 0.01

_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")


def export_onnx(
    run_dir: str,
    output: str,
    *,
    checkpoint: str = "best",
    onnx_config: OnnxConfig = ANY_SIZE,
    proof_config: ProofConfig = ONNX_PROOF,
) -> parity.Parity:
    """Writes a run's model as an ONNX file, with its parity figures beside it.

    The file takes `images`, uint8 [N, H, W, 3] in RGB, or of the run's bands. It returns `labels`,
    uint8 (uint16 above 256 classes) [N, H, W], and `scores`, float32 logits
    [N, H, W, num_classes], at the images' own size. Its metadata are `class_names`, `colors` and
    `ignore_label`, as JSON.

    Args:
        run_dir: Folder of a trained or imported run.
        output: The file; one that is there already is replaced when the new one is proved.
        checkpoint: "best" or "last".
        onnx_config: What the file takes; by default any number of images of any size.
        proof_config: The images to prove the export with, and what it may lose.

    Returns:
        How close the file is to the Keras model.

    Raises:
        UserError: Packages are missing, the run or the file cannot be used, or the export does not
            compute what the Keras model does.
    """
    with extra_for("Exporting an ONNX file", extra="onnx"):
        for package in _PACKAGES:
            importlib.import_module(package)
    place = publishing.File(output, ".onnx")
    exporter = _OnnxExporter(run_dirs.read(run_dir), onnx_config, proof_config.max_miou_drop)
    _, figures = proving.prove_and_publish(exporter, place, checkpoint, proof_config)
    return figures


class _OnnxExporter(proving.Exporter):
    def __init__(self, run: run_dirs.Run, config: OnnxConfig, max_miou_drop: float):
        self.run = run
        self.limits = parity.Limits(MIN_LABEL_AGREEMENT, MAX_RELATIVE_DIFFERENCE, max_miou_drop)
        self._config = config
        self._operators: dict[str, int] = {}

    def fit(self, image: ProofImage) -> ProofImage:
        if not self._config.input_size:
            return image
        height, width = self._config.input_size
        config = self.run.model_config
        pad_pixel = backbones.pad_pixel(config.backbone, config.in_channels)
        fitter = ImageFitter(pad_pixel, size=(height, width))
        return proof_images.fitted(image, fitter, self.run.dataset.ignore_label)

    def write(self, model: keras.Model, draft: str) -> None:
        content, self._operators = convert(model, self.run, self._config)
        pathlib.Path(draft).write_bytes(content)

    def load(self, draft: str) -> Callable[[np.ndarray], parity.Answer]:
        import onnxruntime

        session = onnxruntime.InferenceSession(draft, providers=["CPUExecutionProvider"])

        def answer(image):
            labels, scores = session.run(["labels", "scores"], {"images": image[np.newaxis]})
            return parity.Answer(labels[0].astype(np.int32), scores[0])

        return answer

    def operators(self, draft: str) -> dict[str, int]:
        return self._operators

    def about(self) -> dict:
        return {
            "reference": "the run's Keras model, compiled, with training=False",
            "input_size": self._config.input_size or "any",
            "opset": onnx_graphs.OPSET,
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
            "device": "CPU",
        }


def convert(
    model: keras.Model, run: run_dirs.Run, onnx_config: OnnxConfig = ANY_SIZE
) -> tuple[bytes, dict[str, int]]:
    """Converts a model.

    Args:
        model: The run's model.
        run: The run, for how images are fitted to the network, and its class names and colours.
        onnx_config: What the file takes.

    Returns:
        The content of the ONNX file, and its number of operators of each kind.

    Raises:
        UserError: The model cannot be converted.
    """
    import onnx

    segment = _segmentation(model, run, onnx_config)
    converted = onnx_graphs.from_function(segment)
    onnx.helper.set_model_props(converted, _properties(run.dataset))
    operators = collections.Counter(node.op_type for node in converted.graph.node)
    return converted.SerializeToString(), dict(operators)


def _segmentation(model: keras.Model, run: run_dirs.Run, config: OnnxConfig):
    """Returns the function that becomes the file."""
    channels = run.dataset.num_channels
    shape = (1, *config.input_size, channels) if config.input_size else (None, None, None, channels)
    label_dtype = tf.uint8 if run.dataset.num_classes <= 256 else tf.uint16

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8, name="images")], autograph=False)
    def segment(images):
        scores = predict_logits(model, images, run.model_config, run.data_config)
        labels = tf.argmax(scores, axis=-1, output_type=tf.int32)
        return {"labels": tf.cast(labels, label_dtype), "scores": scores}

    return segment


def _properties(dataset: DatasetInfo) -> dict[str, str]:
    """Returns the metadata of the file."""
    description = {
        "class_names": dataset.class_names,
        "colors": dataset.colors,
        "ignore_label": dataset.ignore_label,
        **bands.to_fields(dataset.bands, dataset.rgb_bands),
    }
    return {name: json.dumps(value) for name, value in description.items()}
