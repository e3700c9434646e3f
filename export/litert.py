"""The packages that make `.tflite` files and look into them are used here only.

TensorFlow's own converter converts graphs, and quantises them on request. litert-quantizer
quantises files, too; it leaves the argmax of labels in float32, and does not read fake
quantisation. The tools of ai-edge-litert read files; `evaluation.artefacts.tflite` runs them.
"""

import dataclasses
import importlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for

INPUT = "image"  # of the functions that are converted


@dataclasses.dataclass(frozen=True)
class Operator:
    """One step of a `.tflite` file.

    Attributes:
        name: Name such as CONV_2D; custom operators have names of their own.
        layer: Name of its output tensor, which begins with the name of the Keras layer.
        is_custom: Whether the interpreter does not have it, such as a Flex operator, which needs
            TensorFlow too.
        has_floats: Whether one of its inputs or outputs holds floating point numbers.
        unpacks_weights: Whether it only converts constants to another type.
    """

    name: str
    layer: str
    is_custom: bool
    has_floats: bool
    unpacks_weights: bool


def require_installed() -> None:
    """Raises a UserError unless the packages that this module needs are installed."""
    with extra_for("Exporting a .tflite file", extra="litert"):
        importlib.import_module("ai_edge_litert")


def convert(
    function: tf.types.experimental.ConcreteFunction,
    module: tf.Module,
    quantize: str,
    calibration_images: Iterable[np.ndarray] = (),
) -> bytes:
    """Converts a function from one image of a fixed size to one tensor.

    Operators that the interpreter does not have, or not in 8 bits, are not an error here:
    `mobile_operators` names them and their layers.

    Args:
        function: Takes pixels 0..255, float32 [1, H, W, channels].
        module: Holds the function's variables.
        quantize: "none" keeps float32; "float16" and "dynamic" (8 bits) quantise the weights;
            "int8" quantises everything, weights by channel: the file then takes uint8 pixels, and
            scores are uint8 too.
        calibration_images: uint8 [H, W, channels] each, from which "int8" takes the ranges.

    Returns:
        The content of a `.tflite` file.

    Raises:
        UserError: The function cannot be converted.
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    converter.allow_custom_ops = True
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        images = list(_with_darkest_and_brightest(calibration_images))
        converter.representative_dataset = lambda: (
            [image[np.newaxis].astype(np.float32)] for image in _with_progress(images)
        )
        converter.inference_input_type = tf.uint8
        if function.outputs[0].dtype.is_floating:
            converter.inference_output_type = tf.uint8
    try:
        return converter.convert()
    except Exception as error:  # the converter raises errors of many kinds
        reason = str(error).strip() or type(error).__name__
        raise UserError(
            f"The model cannot be converted to TensorFlow Lite: {reason.splitlines()[0]}"
        ) from error


def quantize(tflite: bytes, calibration_images: Iterable[np.ndarray]) -> bytes:
    """Quantises a float32 file of scores by the package litert-quantizer.

    Args:
        tflite: A file from pixels 0..255, float32 [1, H, W, channels], to scores.
        calibration_images: uint8 [H, W, channels] each, which give the ranges of all values.

    Returns:
        A file from uint8 pixels to uint8 scores that computes in 8 bits.

    Raises:
        UserError: The package is not installed.
    """
    with extra_for("--quantizer=litert", extra="litert_quantizer"):
        quantizer = importlib.import_module("litert_quantizer.quantizer")
        recipe = importlib.import_module("litert_quantizer.recipe")
        types = importlib.import_module("litert_quantizer.qtyping")
    tool = quantizer.Quantizer(bytearray(tflite), recipe.static_wi8_ai8())
    in_uint8 = types.OpQuantizationConfig(
        activation_tensor_config=types.TensorQuantizationConfig(
            num_bits=8,
            symmetric=False,
            granularity=types.QuantGranularity.TENSORWISE,
            dtype=types.TensorDataType.UINT,
        ),
        compute_precision=types.ComputePrecision.INTEGER,
    )
    for end in (types.TFLOperationName.INPUT, types.TFLOperationName.OUTPUT):
        tool.update_quantization_recipe(regex=".*", operation_name=end, op_config=in_uint8)
    # Each spans 0..255, since their ranges are averaged.
    images = [next(_with_darkest_and_brightest([image])) for image in calibration_images]
    inputs = [{INPUT: image[np.newaxis].astype(np.float32)} for image in images]
    ranges = tool.calibrate({"serving_default": inputs})
    return bytes(tool.quantize(ranges).quantized_model)


def operators(tflite: bytes) -> list[Operator]:
    """Lists the operators of a `.tflite` file in the order of execution."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    floats = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            custom_name = model.operatorCodes[operator.opcodeIndex].customCode
            name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
            takes = [index for index in operator.inputs if index >= 0]  # -1: not given
            types = {graph.tensors[index].type for index in [*takes, *operator.outputs]}
            contents = [model.buffers[graph.tensors[index].buffer].data for index in takes]
            layer = graph.tensors[operator.outputs[0]].name.decode()
            found.append(
                Operator(
                    name=custom_name.decode() if custom_name else name,
                    layer=layer.split(";")[0],  # the names of layers fused into it follow
                    is_custom=bool(custom_name),
                    has_floats=not types.isdisjoint(floats),
                    unpacks_weights=all(content is not None for content in contents),
                )
            )
    return found


def _with_darkest_and_brightest(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Makes two pixels span 0..255, so that uint8 inputs are pixels whatever the images show."""
    for index, image in enumerate(images):
        if index == 0:
            image = image.copy()
            image[0, 0], image[0, 1] = 0, 255
        yield image


def _with_progress(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Prints the progress of the calibration, which takes about a second per 513x513 image."""
    for number, image in enumerate(images, start=1):
        yield image
        if number % 10 == 0 or number == len(images):
            print(f"  calibrated with {number}/{len(images)} images", flush=True)
