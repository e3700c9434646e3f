"""Exports a run as an ONNX file for other runtimes: ONNX Runtime, OpenVINO, TensorRT.

    python -m deeplab_tf.export.onnx --run_dir=DIR --output=FILE.onnx

The file appears under its name only when it is proved: it is run by ONNX Runtime, and its labels
and scores are those of the Keras model (FILE.parity.json tells the figures). Needs the packages of
the extra `onnx`.
"""

import collections
import dataclasses
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from deeplab_tf import backbones
from deeplab_tf import command_line
from deeplab_tf.config import setting
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.evaluation.prediction import predict_logits
from deeplab_tf.export import drafts
from deeplab_tf.export import examples
from deeplab_tf.export import parity
from deeplab_tf.runs import run_dir as run_dirs

OPSET = 17  # the version of ONNX's operators: runtimes of 2022 and later know it

# Nothing is quantised: what is right differs by rounding alone, as in a SavedModel.
MIN_LABEL_AGREEMENT = 0.999
MAX_RELATIVE_DIFFERENCE = 0.01
MAX_MIOU_DROP = 0.01

_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class OnnxConfig:
    """What an ONNX file takes."""

    input_size: tuple[int, ...] = setting(
        (),
        "Height,width of one image, for runtimes that want fixed shapes. By default the file "
        "takes any number of images of any size.",
    )

    def __post_init__(self):
        size = self.input_size
        if size and (len(size) != 2 or min(size) < 1):
            raise UserError(
                f"--input_size={','.join(map(str, size))} is no height,width such as 513,513."
            )


ANY_SIZE = OnnxConfig()


def export_onnx(
    run_dir: str,
    output: str,
    checkpoint: str = "best",
    onnx_config: OnnxConfig = ANY_SIZE,
    *,
    data_dir: str | None = None,
    num_proof_images: int = 8,
    max_miou_drop: float = MAX_MIOU_DROP,
) -> parity.Parity:
    """Writes a run's model as an ONNX file, and beside it how close it is to the Keras model.

    It takes `images`, uint8 [N, H, W, 3], RGB, and returns `labels`, uint8 (uint16 above 256
    classes) [N, H, W], and `scores`, float32 logits [N, H, W, num_classes], at the images' own
    size. Its metadata are `class_names`, `colors` and `ignore_label`, as JSON.

    Args:
        run_dir: Folder of a trained or imported run.
        output: The file; one that is there already is replaced once the new one is proved.
        checkpoint: "best" or "last".
        onnx_config: What the file takes; by default any number of images of any size.
        data_dir: Records that it is proved with, as in `examples.proof_examples`.
        num_proof_images: How many images the file is compared with the Keras model on.
        max_miou_drop: What the mIoU on these may fall by.

    Returns:
        How close the file is to the Keras model.

    Raises:
        UserError: Packages are missing, the run or the file cannot be used, or the export does not
            compute what the Keras model does.
    """
    _check_packages()
    drafts.check(output, ".onnx")
    run = run_dirs.read(run_dir)
    source, proof = examples.proof_examples(run, data_dir, num_proof_images)
    size = onnx_config.input_size
    if size:
        fitter = ImageFitter(backbones.pad_pixel(run.model_config.backbone), size=size)
        proof = [examples.fitted(one, fitter, run.dataset.ignore_label) for one in proof]
    model = run_dirs.load_model(run, checkpoint)
    content, operators = convert(model, run, onnx_config)
    about = {
        "images": source,
        "reference": "the run's Keras model, compiled, with training=False",
        "checkpoint": checkpoint,
        "input_size": size or "any",
        "opset": OPSET,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": "CPU",
    }
    with drafts.draft(output, content) as draft:
        figures = parity.measure(
            proof,
            parity.keras_scores(model, run),
            _answers(draft),
            run.dataset,
            draft,
            operators,
        )
        limits = parity.Limits(MIN_LABEL_AGREEMENT, MAX_RELATIVE_DIFFERENCE, max_miou_drop)
        parity.check(figures, limits, output)
        parity.write(drafts.report_path(draft), figures, about)
    return figures


def convert(
    model: keras.Model, run: run_dirs.Run, onnx_config: OnnxConfig = ANY_SIZE
) -> tuple[bytes, dict[str, int]]:
    """Converts a model.

    Args:
        model: The run's model.
        run: Tells how images reach the network, and the classes' names and colours.
        onnx_config: What the file takes.

    Returns:
        The content of the ONNX file, and how many operators of each kind it has.

    Raises:
        UserError: The model cannot be converted.
    """
    import onnx
    import tf2onnx

    size = onnx_config.input_size
    shape = (1, *size, 3) if size else (None, None, None, 3)
    images = tf.TensorSpec(shape, tf.uint8, name="images")
    label_dtype = tf.uint8 if run.dataset.num_classes <= 256 else tf.uint16

    @tf.function(input_signature=[images], autograph=False)
    def segment(images):
        scores = predict_logits(model, images, run.model_config, run.data_config)
        labels = tf.argmax(scores, axis=-1, output_type=tf.int32)
        return {"labels": tf.cast(labels, label_dtype), "scores": scores}

    # tf2onnx takes the remainder of a negative number to be negative, which spoils the padding of
    # images of any size. ONNX's own Mod is what TensorFlow computes.
    remainder = {"FloorMod": (lambda context, node, name, arguments: node, ["Mod"])}
    # Not within `layers.portable_graphs`: the dilated kernel, where this machine has it, becomes
    # one convolution that all runtimes have, and its portable form a chain of reshapes and pads.
    try:
        converted, _ = tf2onnx.convert.from_function(
            segment,
            input_signature=[images],
            opset=OPSET,
            custom_op_handlers=remainder,
            custom_rewriter=[_scalars_as_vectors],
        )
        _make_padding_explicit(converted.graph)
        onnx.checker.check_model(converted)  # what tf2onnx cannot convert, it copies
    except Exception as error:  # They have no class of errors for all that they may meet.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"The model cannot be converted to ONNX: {reason}") from error
    dataset = run.dataset
    description = {
        "class_names": dataset.class_names,
        "colors": dataset.colors,
        "ignore_label": dataset.ignore_label,
    }
    onnx.helper.set_model_props(
        converted, {name: json.dumps(value) for name, value in description.items()}
    )
    operators = collections.Counter(node.op_type for node in converted.graph.node)
    return converted.SerializeToString(), dict(operators)


def _scalars_as_vectors(graph, nodes: list) -> list:
    """Gives the numbers that are added to maps an axis of length 1.

    At a scalar behind a convolution, as in hard swish, tf2onnx's optimizer stops with an error in
    its log, and leaves a transpose on each side of every convolution.
    """
    for node in nodes:
        if node.type in ("Add", "AddV2") and len(graph.get_shape(node.output[0]) or ()) == 4:
            for number in node.inputs:
                if number.is_const() and graph.get_shape(number.output[0]) == []:
                    number.set_tensor_value(number.get_tensor_value(as_list=False).reshape(1))
    return nodes


def _make_padding_explicit(graph) -> None:
    """Gives convolutions that keep a map's size their padding in numbers.

    With sizes unknown, tf2onnx leaves it to the runtime (`SAME_UPPER`), and ONNX Runtime refuses
    that of a dilated convolution. At stride 1 it is the same for every size.
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


def _answers(path: str) -> Callable[[np.ndarray], parity.Answer]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(image):
        labels, scores = session.run(["labels", "scores"], {"images": image[np.newaxis]})
        return parity.Answer(labels[0].astype(np.int32), scores[0])

    return answer


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"An ONNX export needs {', '.join(missing)}, not installed here: "
            "pip install 'deeplab_tf[onnx]'"
        )


def main(_):
    output = flags.FLAGS.output
    figures = export_onnx(
        flags.FLAGS.run_dir,
        output,
        flags.FLAGS.checkpoint,
        command_line.read_flags(OnnxConfig),
        data_dir=flags.FLAGS.data_dir,
        num_proof_images=flags.FLAGS.num_proof_images,
        max_miou_drop=flags.FLAGS.max_miou_drop,
    )
    print(f"{output}: {figures.summary} ({drafts.report_path(output)})")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_string("output", None, "File to write, FILE.onnx (required).", required=True)
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which weights of the run.")
    command_line.define_flags(OnnxConfig)
    flags.DEFINE_string(
        "data_dir",
        None,
        "Records to prove the export with. By default those of the run, or drawn images.",
    )
    flags.DEFINE_integer("num_proof_images", 8, "How many images of them.", lower_bound=1)
    flags.DEFINE_float("max_miou_drop", MAX_MIOU_DROP, "What the mIoU may fall by.")
    command_line.run(main)
