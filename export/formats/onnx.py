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
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
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

OPSET = 17  # the version of ONNX's operators: runtimes of 2022 and later know it

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
            "opset": OPSET,
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
    import tf2onnx

    segment = _segmentation(model, run, onnx_config)
    # tf2onnx makes the remainder of a negative number negative, which spoils the padding of images
    # of any size. ONNX's own Mod is what TensorFlow computes.
    remainder = {"FloorMod": (lambda context, node, name, arguments: node, ["Mod"])}
    # Not within `layers.portable_graphs`: the dilated kernel, where this machine has it, becomes
    # one convolution that all runtimes have; its portable form becomes a chain of reshapes.
    try:
        converted, _ = tf2onnx.convert.from_function(
            segment,
            input_signature=segment.input_signature,
            opset=OPSET,
            custom_op_handlers=remainder,
            custom_rewriter=[_scalars_as_vectors],
        )
        _make_padding_explicit(converted.graph)
        _name_axes(converted.graph)
        onnx.checker.check_model(converted)  # what tf2onnx cannot convert, it copies
    except Exception as error:  # the converter raises errors of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"The model cannot be converted to ONNX: {reason}") from error
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


def _scalars_as_vectors(graph, nodes: list) -> list:
    """Turns scalars that are added to feature maps into vectors of length 1.

    A scalar behind a convolution, as in hard swish, stops tf2onnx's optimizer with an error in its
    log, and a transpose stays on each side of every convolution.
    """
    for node in nodes:
        if node.type in ("Add", "AddV2") and len(graph.get_shape(node.output[0]) or ()) == 4:
            for number in node.inputs:
                if number.is_const() and graph.get_shape(number.output[0]) == []:
                    number.set_tensor_value(number.get_tensor_value(as_list=False).reshape(1))
    return nodes


def _name_axes(graph) -> None:
    """Names the axes of any size N, H and W, so that a runtime knows which of them are equal."""
    for tensor in [*graph.input, *graph.output]:
        for axis, name in zip(tensor.type.tensor_type.shape.dim, ("N", "H", "W")):
            if not axis.HasField("dim_value"):
                axis.dim_param = name


def _make_padding_explicit(graph) -> None:
    """Replaces `SAME_UPPER` padding of convolutions at stride 1 by numbers.

    tf2onnx leaves the padding to the runtime where sizes are unknown, but ONNX Runtime refuses that
    for dilated convolutions. At stride 1 the padding is the same for every size.
    """
    import onnx

    for node in graph.node:
        settings = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        is_same = node.op_type == "Conv" and settings.get("auto_pad") == b"SAME_UPPER"
        if not is_same or set(settings["strides"]) != {1}:
            continue
        rates, sides = settings.get("dilations", (1, 1)), settings["kernel_shape"]
        totals = [rate * (side - 1) for rate, side in zip(rates, sides)]
        del settings["auto_pad"]
        settings["pads"] = [half // 2 for half in totals] + [half - half // 2 for half in totals]
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(*one) for one in settings.items())
