"""Models that compute as their 8-bit `.tflite` files will, for fine-tuning."""

import collections
import dataclasses
import functools
import typing

import keras
import numpy as np
from keras import tree

from deeplab_tf import layers
from deeplab_tf.errors import UserError

# TensorFlow Lite computes these in the same operator as what is before them.
_FUSED_ACTIVATIONS = (keras.activations.relu, keras.activations.relu6)
# Their outputs have the range of their inputs.
_KEEP_THE_RANGE = (
    keras.layers.Dropout,
    keras.layers.MaxPooling2D,
    keras.layers.Rescaling,
    keras.layers.ZeroPadding2D,
    layers.AtrousMaxPool2D,
    layers.ResizeLike,
)


def quantize(model: keras.Model) -> keras.Model:
    """Returns a model that rounds to 8 bits what its `.tflite` file in int8 will round.

    Kernels are rounded by filter (`layers.fake_quantized_kernel`). Feature maps are rounded
    (`layers.FakeQuantize`) where an operator of the file ends: after a convolution with its batch
    norm and ReLU, a sum, a product, a mean. Batch norm is folded in the file. While its statistics
    are frozen, folding changes nothing here, see `layers.fake_quantized_kernel`. Pixels are moved
    by up to half a grey level, see `_rescale_exactly`.

    The given model does not change. The new one has weights of its own under the same official
    names, and the ranges in addition; its layers are not nested.

    Args:
        model: A model of `build_model` that sees images at one scale.

    Returns:
        A functional model with the same input and output.

    Raises:
        UserError: The model has an image pyramid.

    Reference: arXiv:1712.05877, section 3; arXiv:1806.08342, section 3.2.
    """
    if any(isinstance(layer, layers.ScaleImage) for layer in model.layers):
        raise UserError(
            "A network with an image pyramid cannot be quantised: give --image_pyramid=1."
        )
    uses = _Walk(model).uses
    image = keras.Input(batch_shape=model.input_shape, dtype=model.input.dtype, name="image")
    return keras.Model(image, _Walk(model, image, uses).output, name=model.name)


def is_quantized(model: keras.Model) -> bool:
    """Whether a model was made by `quantize`."""
    return any(isinstance(layer, layers.FakeQuantize) for layer in model.layers)


def quantize_like(model: keras.Model, other: keras.Model) -> keras.Model:
    """Returns the `quantize`d model if another one is quantised, otherwise the model itself."""
    return quantize(model) if is_quantized(other) else model


@dataclasses.dataclass(eq=False)
class _Value:
    """A feature map, which is rounded as soon as a layer reads it that is not fused.

    Attributes:
        tensor: The map, not rounded.
        name: Name of the layer that made it.
        parts: Classes of the layers that are one operator so far; empty if there is nothing to
            round.
        index: Its number in the order of the calls.
    """

    tensor: typing.Any
    name: str
    parts: tuple[type, ...]
    index: int

    @functools.cached_property
    def rounded(self):
        if not self.parts:
            return self.tensor
        return layers.FakeQuantize(name=f"{self.name}.quantized")(self.tensor)


class _Walk:
    """Runs a model on a symbolic image, with new layers in place of its own.

    Attributes:
        uses: How often each value is read, by its index.
        output: The output of the model.
    """

    def __init__(self, model: keras.Model, image=None, uses: collections.Counter | None = None):
        self.uses: collections.Counter = collections.Counter()
        self._known_uses = uses
        self._count = 0
        # To count uses, the model's own layers will do.
        self._layer = functools.cache((lambda layer: layer) if uses is None else _copy)
        image = model.input if image is None else image
        (result,) = tree.flatten(self._run(model, self._value(image, "image", ())))
        self.output = self._read(result)

    def _run(self, model: keras.Model, *inputs):
        return model._run_through_graph(
            inputs, operation_fn=lambda layer: functools.partial(self._call, layer)
        )

    def _call(self, layer, *args, **kwargs):
        if isinstance(layer, keras.Model):
            return self._run(layer, *args)
        if layers.all_layers(layer):
            inner = layers.as_model(layer, args[0].tensor)
            return self._run(inner, *args)
        source = args[0]
        if isinstance(source, _Value) and self._is_fused(layer, source):
            self.uses[source.index] += 1
            parts = (*source.parts, type(layer))
            return self._value(self._layer(layer)(source.tensor), layer.name, parts)
        # A concatenation has one range for all that it joins.
        read = self._read_unrounded if isinstance(layer, keras.layers.Concatenate) else self._read
        if isinstance(layer, layers.ResizeLike):  # reads only the size of its second argument
            args = (args[0], args[1].tensor)
        tensors = tree.map_structure(read, args)
        if isinstance(layer, keras.layers.Rescaling):
            return self._value(_rescale_exactly(layer, *tensors), layer.name, ())
        output = self._layer(layer)(*tensors, **kwargs)
        return self._value(output, layer.name, _first_part(layer))

    def _value(self, tensor, name: str, parts: tuple[type, ...]) -> _Value:
        self._count += 1
        return _Value(tensor, name, parts, self._count)

    def _read(self, value):
        """Returns the tensor of a value for a layer that is not fused with it."""
        if not isinstance(value, _Value):
            return value
        self.uses[value.index] += 1
        return value.tensor if self._known_uses is None else value.rounded

    def _read_unrounded(self, value):
        """Returns the tensor of a value, which is not rounded if no other layer reads it."""
        rounded = self._read(value)
        is_read_once = self._known_uses is None or self._known_uses[value.index] == 1
        return value.tensor if is_read_once else rounded

    def _is_fused(self, layer, source: _Value) -> bool:
        is_read_once = self._known_uses is None or self._known_uses[source.index] == 1
        if not (source.parts and is_read_once):
            return False
        if isinstance(layer, layers.BatchNorm):
            return source.parts[-1] in (layers.AtrousConv2D, layers.AtrousDepthwiseConv2D)
        is_activation = isinstance(layer, keras.layers.Activation)
        if not is_activation or layer.activation not in _FUSED_ACTIVATIONS:
            return False
        return source.parts[-1] is not keras.layers.Activation


def _rescale_exactly(layer: keras.layers.Rescaling, image):
    """Scales pixels so that each of their 256 values is one of the 256 of a feature map.

    These include 0: the offset becomes a whole number of pixel values, such as -128 for -127.5.
    """
    offset = np.floor(np.divide(layer.offset, layer.scale) + 0.5 - 1e-6).tolist()
    centre = keras.layers.Rescaling(1.0, offset, dtype="float32", name=f"{layer.name}.offset")
    scale = keras.layers.Rescaling(layer.scale, dtype="float32", name=layer.name)
    return scale(centre(image))


def _first_part(layer: keras.layers.Layer) -> tuple[type, ...]:
    # A mean over windows is an operator whose output has the range of its input; one over the whole
    # map is another operator, whose output has its own.
    is_windowed = isinstance(layer, layers.ImagePooling) and not layer.averages_all
    return () if is_windowed or isinstance(layer, _KEEP_THE_RANGE) else (type(layer),)


def _copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns another layer with the same settings and weights; kernels of a convolution round."""
    config = layer.get_config()
    if isinstance(layer, layers.AtrousConv2D | layers.AtrousDepthwiseConv2D):
        config["quantized"] = True
    copy = type(layer).from_config(config)
    if layer.weights:
        copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    return copy
