"""The calls of a model's layers, and what each keeps for the backward pass."""

import dataclasses
import functools
import math
from collections.abc import Iterator

import keras
from keras import tree

from deeplab_tf import layers

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call of a layer that has no layers inside.

    Attributes:
        layer: The layer.
        model_name: Name of the innermost model that it belongs to.
        args: Its arguments, as symbolic tensors.
        kwargs: Its other arguments.
        output: Its output, a symbolic tensor.
    """

    layer: keras.layers.Layer
    model_name: str
    args: tuple
    kwargs: dict
    output: keras.KerasTensor

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        return tree.flatten(self.args)

    def kept(self) -> Iterator[tuple[object, int]]:
        """Yields what the gradient of the call needs: a key for each map, and its bytes.

        The key is the map itself, or a pair that begins with the output.
        """
        layer, output, first = self.layer, self.output, self.inputs[0]
        if isinstance(layer, (*CONVOLUTIONS, keras.layers.BatchNormalization, layers.ResizeLike)):
            yield first, num_bytes(first)
        elif isinstance(layer, (keras.layers.Multiply, keras.layers.Maximum)):
            yield from ((tensor, num_bytes(tensor)) for tensor in self.inputs)
        elif isinstance(layer, keras.layers.MaxPooling2D):
            yield from ((tensor, num_bytes(tensor)) for tensor in (first, output))
        elif isinstance(layer, layers.AtrousMaxPool2D):
            # Both sides of its four comparisons.
            yield (output, "compared"), 8 * num_bytes(output)
        elif isinstance(layer, keras.layers.Dropout):
            yield (output, "mask"), math.prod(output.shape)
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if activation in ("relu", "relu6", "sigmoid"):
            yield output, num_bytes(output)
        elif activation != "linear":
            # The two factors of x * relu6(x + 3) and the like.
            yield (output, "factors"), 2 * num_bytes(output)


def calls_of(model: keras.Model, image: keras.KerasTensor) -> tuple[object, list[Call]]:
    """Lists the calls of all layers of a model, down to the layers inside layers, in their order.

    Args:
        model: A functional model with one input.
        image: The input, for its shape and dtype.

    Returns:
        The outputs, in the model's structure, as symbolic tensors; and the calls.
    """
    calls = []

    def run(model: keras.Model, name: str, *inputs):
        # The public `keras.models.clone_model` would leave a second call on every layer.
        return model._run_through_graph(
            *inputs, operation_fn=lambda layer: functools.partial(call, layer, name)
        )

    def call(layer: keras.layers.Layer, model_name: str, *args, **kwargs):
        if isinstance(layer, keras.Model):
            return run(layer, layer.name, *args)
        if layers.all_layers(layer):
            return run(layers.as_model(layer, *args), model_name, *args)
        output = layer.compute_output_spec(*args, **kwargs)
        calls.append(Call(layer, model_name, args, kwargs, output))
        return output

    return run(model, model.name, image), calls


def num_bytes(tensor: keras.KerasTensor) -> int:
    """Returns the bytes of a tensor of known shape."""
    return math.prod(tensor.shape) * {"float16": 2, "bfloat16": 2}.get(tensor.dtype, 4)
