"""The one seam to the packages that make `.tflite` files and look into them.

Graphs are converted, and quantised where that is asked for, by TensorFlow's own converter; files
are read by the tools of ai-edge-litert. (`artefacts.TFLiteModel` runs them, as `eval` needs it
too.) ai-edge-quantizer, which is to take over quantisation, kept as many labels in a trial on VOC
and CamVid images, but leaves inputs and outputs signed; a change to it stays within this file.
"""

import dataclasses
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from deeplab_tf.errors import UserError

_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One step of a `.tflite` file.

    Attributes:
        name: Such as CONV_2D; of a custom operator, its own.
        layer: Name of the tensor that it puts out, which begins with that of the Keras layer.
        is_custom: Whether it is none of the interpreter's own, such as a Flex operator, which needs
            TensorFlow beside it.
        has_floats: Whether a tensor that it takes or puts out is of floating point numbers.
        unpacks_weights: Whether it only brings constants into another type.
    """

    name: str
    layer: str
    is_custom: bool
    has_floats: bool
    unpacks_weights: bool


def convert(
    function: tf.types.experimental.ConcreteFunction,
    module: tf.Module,
    quantize: str,
    calibration_images: Iterable[np.ndarray] = (),
) -> bytes:
    """Converts a function from one image of a fixed size to one tensor.

    Operators that the interpreter does not have, or not in 8 bits, are let through: `gates` names
    them, and their layers.

    Args:
        function: Of pixels 0..255, float32 [1, H, W, 3].
        module: Holds the function's variables.
        quantize: "none" for float32; "float16" and "dynamic" (8 bits) for the weights; "int8" for
            weights, by channel, and all between them: then the file takes uint8 pixels, and scores
            are uint8 too.
        calibration_images: For "int8", uint8 [H, W, 3] each: the ranges of all values are taken
            from them.

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
    except Exception as error:  # The converter has no class of errors for all that it may meet.
        reason = str(error).strip() or type(error).__name__
        raise UserError(
            f"The model cannot be converted to TensorFlow Lite: {reason.splitlines()[0]}"
        ) from error


def operators(tflite: bytes) -> list[Operator]:
    """Lists the steps of a `.tflite` file, in their order."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            custom_name = model.operatorCodes[operator.opcodeIndex].customCode
            name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
            takes = [index for index in operator.inputs if index >= 0]  # -1: left out
            types = {graph.tensors[index].type for index in [*takes, *operator.outputs]}
            contents = [model.buffers[graph.tensors[index].buffer].data for index in takes]
            layer = graph.tensors[operator.outputs[0]].name.decode()
            found.append(
                Operator(
                    name=custom_name.decode() if custom_name else name,
                    layer=layer.split(";")[0],  # those of the layers fused into it follow
                    is_custom=bool(custom_name),
                    has_floats=not types.isdisjoint(_FLOATS),
                    unpacks_weights=all(content is not None for content in contents),
                )
            )
    return found


def _with_darkest_and_brightest(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Lets two pixels span 0..255, so that uint8 inputs are pixels whatever these show."""
    for index, image in enumerate(images):
        if index == 0:
            image = image.copy()
            image[0, 0], image[0, 1] = 0, 255
        yield image


def _with_progress(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Tells how far the calibration is, which takes a second for an image of 513x513."""
    for number, image in enumerate(images, start=1):
        yield image
        if number % 10 == 0 or number == len(images):
            print(f"  calibrated with {number}/{len(images)} images", flush=True)
