"""Batch norm folded into the convolutions before it, for inference."""

import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import tree

from deeplab_tf import layers

_CONVOLUTIONS: dict[type, type] = {  # and what takes its place
    keras.layers.Conv2D: layers.AtrousConv2D,
    keras.layers.DepthwiseConv2D: layers.AtrousDepthwiseConv2D,
}
# TensorFlow computes these in the same kernel as the convolution and its bias.
_FUSED_ACTIVATIONS = (keras.activations.relu, keras.activations.relu6)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Returns a model for inference whose convolutions include the batch norm after them.

    In inference, batch norm multiplies each channel by a constant and adds another. The first is
    multiplied into the kernel of the convolution, the second becomes its bias. A ReLU or ReLU6
    after them becomes the activation of the convolution. Dropout is left out. In float32, the
    logits differ by rounding alone: by less than 1e-4 of the largest logit.

    The given model does not change. The new one has weights of its own, and its layers are not
    nested.

    Args:
        model: A functional model of one input, such as `build_model` returns.

    Returns:
        A functional model with the same input and outputs.

    Example:

    >>> import deeplab_tf
    >>> from deeplab_tf import models
    >>> model = deeplab_tf.DeepLabV3("mobilenet_v2", num_classes=3, atrous_rates=())
    >>> folded = models.fold_batch_norm(model)
    >>> folded.output_shape
    (None, None, None, 3)
    >>> len(deeplab_tf.layers.batch_norms(folded))
    0
    """
    image = keras.Input(batch_shape=model.input_shape, dtype=model.input.dtype, name="image")
    outputs = tree.map_structure(_tensor, _Folding().run(model, image))
    return keras.Model(image, outputs, name=model.name)


class _Convolution:
    """A convolution with what was folded into it so far.

    It joins the new model only when its `tensor` is needed: intermediate steps leave no layer.

    Attributes:
        parts: The convolution, its batch norm and its activation, in this order.
        inputs: What it reads.
    """

    def __init__(self, make_layer: Callable[[tuple], keras.layers.Layer], inputs, parts: tuple):
        self.parts, self.inputs = parts, inputs
        self._make_layer = make_layer

    def followed_by(self, layer: keras.layers.Layer) -> "_Convolution | None":
        """Returns the convolution with a layer folded into it, or None if that is not possible."""
        if not _can_follow(layer, self.parts):
            return None
        return _Convolution(self._make_layer, self.inputs, (*self.parts, layer))

    @functools.cached_property
    def tensor(self) -> keras.KerasTensor:
        return self._make_layer(self.parts)(self.inputs)


class _Folding:
    """Runs a model on a symbolic image, with new layers in place of its own.

    A layer that the model calls several times, as on an image pyramid, becomes one new layer.
    """

    def __init__(self):
        self._copy = functools.cache(_copy)
        self._folded = functools.cache(_folded)

    def run(self, model: keras.Model, *inputs):
        """Returns the outputs of a model: tensors, or convolutions that are not called yet."""
        return model._run_through_graph(
            inputs, operation_fn=lambda layer: functools.partial(self._call, layer)
        )

    def _call(self, layer, *args, **kwargs):
        if isinstance(layer, keras.Model):
            return self.run(layer, *args)
        if isinstance(layer, keras.layers.Dropout):
            return args[0]
        if isinstance(args[0], _Convolution) and (larger := args[0].followed_by(layer)):
            return larger
        tensors = tree.map_structure(_tensor, args)
        if not isinstance(layer, keras.layers.Layer):  # an operation such as `x + y`
            return layer(*tensors, **kwargs)
        if layers.all_layers(layer):
            return self.run(layers.as_model(layer, *tensors), *tensors)
        if isinstance(layer, tuple(_CONVOLUTIONS)):
            return _Convolution(self._folded, tensors[0], (layer,))
        return self._copy(layer)(*tensors, **kwargs)


def _tensor(value):
    """Returns the tensor of a convolution; anything else as it is."""
    return value.tensor if isinstance(value, _Convolution) else value


def _can_follow(layer: keras.layers.Layer, parts: tuple[keras.layers.Layer, ...]) -> bool:
    """Whether a layer can be folded into a convolution that has these parts already."""
    convolution, *others = parts
    has_activation = convolution.activation is not keras.activations.linear or any(
        isinstance(one, keras.layers.Activation) for one in others
    )
    if has_activation:
        return False
    if isinstance(layer, keras.layers.BatchNormalization):
        scales_filters = layer.axis in (-1, 3) and convolution.data_format == "channels_last"
        return scales_filters and not others
    return isinstance(layer, keras.layers.Activation) and layer.activation in _FUSED_ACTIVATIONS


def _copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns another layer with the same settings and weights."""
    copy = type(layer).from_config(layer.get_config())
    if layer.weights:
        copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    return copy


def _folded(parts: tuple[keras.layers.Layer, ...]) -> keras.layers.Layer:
    """Returns the convolution that computes what its parts compute one after another.

    It is named after its last part: the output of another part may be needed too.
    """
    convolution, *others = parts
    config = convolution.get_config() | {"use_bias": True, "name": parts[-1].name}
    for initializer in config.keys() & {"kernel_initializer", "depthwise_initializer"}:
        config[initializer] = "zeros"  # at once; the values follow below
    kernel = _float64(convolution.kernel)
    bias = _float64(convolution.bias) if convolution.use_bias else 0
    for layer in others:
        if isinstance(layer, keras.layers.Activation):
            config["activation"] = layer.activation
        else:
            scale, offset = _scale_and_offset(layer)
            bias = bias * scale + offset
            if isinstance(convolution, keras.layers.DepthwiseConv2D):
                scale = scale.reshape(kernel.shape[2:])  # of [h, w, channels, multiplier]
            kernel = kernel * scale
    (make_layer,) = (new for old, new in _CONVOLUTIONS.items() if isinstance(convolution, old))
    layer = make_layer(**config)
    layer.build_from_config(convolution.get_build_config())
    layer.set_weights([kernel, np.broadcast_to(bias, layer.bias.shape)])
    return layer


def _scale_and_offset(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns what batch norm multiplies each channel by in inference, and what it adds."""
    gamma = _float64(norm.gamma) if norm.scale else 1
    beta = _float64(norm.beta) if norm.center else 0
    scale = gamma / np.sqrt(_float64(norm.moving_variance) + norm.epsilon)
    return scale, beta - _float64(norm.moving_mean) * scale


def _float64(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
