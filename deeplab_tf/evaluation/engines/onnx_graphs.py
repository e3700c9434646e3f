"""ONNX graphs of functions of TensorFlow."""

import contextlib
import gc
import importlib
import threading
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from deeplab_tf.errors import UserError

OPSET = 17  # the version of ONNX's operators: runtimes of 2022 and later know it
_SECONDS_BETWEEN_COLLECTIONS = 0.1


def from_function(function: tf.types.experimental.PolymorphicFunction):
    """Converts a function with an input signature; returns an `onnx.ModelProto`.

    Do not call it within `layers.portable_graphs`: the dilated kernel, where this machine has it,
    becomes one convolution that all runtimes have; its portable form becomes a chain of reshapes.

    Raises:
        UserError: The function cannot be converted.
    """
    onnx, tf2onnx = (importlib.import_module(name) for name in ("onnx", "tf2onnx"))
    # tf2onnx makes the remainder of a negative number negative, which spoils the padding of images
    # of any size. ONNX's own Mod is what TensorFlow computes.
    remainder = {"FloorMod": (lambda context, node, name, arguments: node, ["Mod"])}
    try:
        with _garbage_collected():
            converted, _ = tf2onnx.convert.from_function(
                function,
                input_signature=function.input_signature,
                opset=OPSET,
                custom_op_handlers=remainder,
                custom_rewriter=[_scalars_as_vectors],
            )
        _make_padding_explicit(converted.graph)
        _replace_factors_by_sizes(converted)
        _name_axes(converted.graph)
        onnx.checker.check_model(converted)  # what tf2onnx cannot convert, it copies
    except Exception as error:  # the converter raises errors of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"The model cannot be converted to ONNX: {reason}") from error
    return converted


@contextlib.contextmanager
def _garbage_collected() -> Iterator[None]:
    """Collects Python's garbage all the time.

    tf2onnx copies the graph for each of its optimizers, dozens of times. The copies are cycles, and
    Python, which counts objects and not their bytes, would keep most of them: 13 GB for ResNet-50.
    """
    has_ended = threading.Event()

    def collect() -> None:
        while not has_ended.wait(_SECONDS_BETWEEN_COLLECTIONS):
            gc.collect()

    gc.freeze()  # looks at what is made from here on only, which takes less time
    collector = threading.Thread(target=collect, daemon=True)
    collector.start()
    try:
        yield
    finally:
        has_ended.set()
        collector.join()
        gc.collect()
        gc.unfreeze()


def _scalars_as_vectors(graph, nodes: list) -> list:
    """Turns scalars that are added to feature maps into vectors of length 1.

    A scalar after a convolution, as in hard swish, stops tf2onnx's optimizer with an error in its
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
    onnx = importlib.import_module("onnx")
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


def _replace_factors_by_sizes(model) -> None:
    """Gives resizes to a known size that size, in place of factors.

    A runtime may round the product of side and factor down: 129 times 3.9767442 is 512.99999, and
    the last row would be missing.
    """
    onnx = importlib.import_module("onnx")
    graph = model.graph
    factors = {one.name: one for one in graph.initializer}
    resizes = [
        node
        for node in graph.node
        if node.op_type == "Resize" and len(node.input) == 3 and node.input[2] in factors
    ]
    for name in {node.input[2] for node in resizes}:  # large enough for the right sizes to follow
        enlarged = onnx.numpy_helper.to_array(factors[name]) * np.float32(1 + 1e-6)
        factors[name].CopyFrom(onnx.numpy_helper.from_array(enlarged, name))
    shapes = {
        tensor.name: [axis.dim_value for axis in tensor.type.tensor_type.shape.dim]
        for tensor in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for node in resizes:
        shape = shapes.get(node.output[0], [0])
        if all(shape):  # otherwise the number of images is not known
            sizes = onnx.numpy_helper.from_array(
                np.array(shape, np.int64), f"{node.output[0]}_size"
            )
            graph.initializer.append(sizes)
            node.input[:] = [node.input[0], "", "", sizes.name]
