"""Operators that a `.tflite` file must not have, and those that a GPU leaves to the CPU."""

from collections.abc import Sequence

from deeplab_tf.errors import UserError
from deeplab_tf.export.litert import Operator

# Atrous convolution taken apart. A single operator is several times faster.
_SPACE_TO_BATCH = ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")

# Reference: https://ai.google.dev/edge/litert/performance/gpu, "Supported ops".
_ON_GPU = {
    "ADD",
    "AVERAGE_POOL_2D",
    "CONCATENATION",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "EXP",
    "FULLY_CONNECTED",
    "LOGISTIC",
    "LSTM",
    "MAX_POOL_2D",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "PAD",
    "PRELU",
    "RELU",
    "RELU6",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "SOFTMAX",
    "STRIDED_SLICE",
    "SUB",
    "TRANSPOSE_CONV",
}


def refuse_slow_or_missing(operators: Sequence[Operator], quantize: str) -> None:
    """Refuses a file that would be slow, or would not run, on a phone.

    Args:
        operators: Operators of the file.
        quantize: How it was quantised; with "int8" no operator may compute in floating point.

    Raises:
        UserError: The file has an operator that it must not have; the message names its layer.
    """
    for operator in operators:
        where = f"{operator.name} in the layer {operator.layer}"
        if operator.name in _SPACE_TO_BATCH:
            raise UserError(
                f"The model has {where}: an atrous convolution that was taken apart, which makes "
                "it several times slower on a phone. Use deeplab_tf.layers.AtrousConv2D or "
                "AtrousDepthwiseConv2D there, and export at a fixed input size."
            )
        if operator.is_custom:
            raise UserError(
                f"The model has {where}, which is not one of TensorFlow Lite's own operators: a "
                "phone needs more libraries to run it. Write that layer in other operations."
            )
        if quantize == "int8" and operator.has_floats:
            raise UserError(
                f"The model has {where}, which would compute in floating point in an 8-bit file. "
                "Give --quantize=float16 or dynamic, or write that layer in other operations."
            )


def outside_gpu_delegate(operators: Sequence[Operator]) -> dict[str, list[str]]:
    """Finds operators that are not on the GPU delegate's documented list.

    Each of them moves its data from the GPU to the CPU and back. Newer delegates take more than the
    list has, such as means and hard swish.

    Args:
        operators: Operators of the file.

    Returns:
        The layers of each such operator, by its name.
    """
    outside: dict[str, list[str]] = {}
    for operator in operators:
        # The delegate unpacks float16 weights itself.
        if operator.name not in _ON_GPU and not operator.unpacks_weights:
            outside.setdefault(operator.name, []).append(operator.layer)
    return outside


def gpu_sentence(outside: dict[str, list[str]]) -> str:
    """Puts the result of `outside_gpu_delegate` into a sentence."""
    if not outside:
        return "All operators are on the GPU delegate's documented list."
    found = "; ".join(
        f"{name} in {layers[0]}" + (f" and {len(layers) - 1} more" if layers[1:] else "")
        for name, layers in outside.items()
    )
    return (
        f"Operators that are not on the GPU delegate's documented list: {found}. For a phone's "
        "GPU, give --result=scores and --quantize=float16 or none."
    )
