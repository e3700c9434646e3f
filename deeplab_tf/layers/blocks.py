"""Convolution blocks, from which backbones and larger layers are built.

A block is a list of layers that run one after another. A backbone calls it on a Keras tensor, so
that each layer is part of the backbone's graph; a larger layer keeps it as a `Chain`.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import keras

from deeplab_tf.layers.arguments import pair
from deeplab_tf.layers.atrous import AtrousConv2D
from deeplab_tf.layers.atrous import AtrousDepthwiseConv2D
from deeplab_tf.layers.batch_norm import BatchNorm
from deeplab_tf.layers.batch_norm import batch_norms
from deeplab_tf.layers.names import layer_name
from deeplab_tf.layers.nesting import all_layers

Activation = str | Callable | None
Size = int | Sequence[int]  # for height and width, or a pair of them
# Key in the config of a large layer -> attribute of the batch norms inside.
_SET_ON_BATCH_NORMS = {"batch_norm_frozen": "frozen", "batch_norm_synchronized": "synchronized"}


@dataclasses.dataclass(frozen=True)
class ConvBlocks:
    """Makes blocks of convolution, batch norm and activation that share their settings.

    Attributes:
        momentum: Decay of the moving statistics of the batch norms.
        epsilon: Added to the variance in the batch norms.
        padding: How a convolution with strides above 1 is padded: "same" as in TensorFlow, which
            pads even sizes at the bottom and right only, or "symmetric".
        dtype: Dtype policy of the layers; None for Keras' global one.
    """

    momentum: float = 0.9997
    epsilon: float = 1e-5
    padding: str = "same"
    dtype: keras.DTypePolicy | str | None = None

    def conv(
        self,
        filters: int,
        kernel_size: Size,
        scope: str,
        activation: Activation = "relu",
        strides: Size = 1,
        rate: Size = 1,
    ) -> list[keras.layers.Layer]:
        """Makes a convolution block.

        Args:
            filters: Channels of the output.
            kernel_size: Height and width of the kernel before it is spread by `rate`.
            scope: Scope of the convolution in the original.
            activation: Name of a Keras activation, a function such as `h_swish`, or None.
            strides: Strides down and across.
            rate: Atrous rate, or one down and one across.

        Returns:
            Layers that turn `[B, H, W, C]` into `[B, H/strides, W/strides, filters]`, rounded up.
        """
        pad, padding = self._pad(kernel_size, scope, strides)
        conv = AtrousConv2D(
            filters,
            kernel_size,
            strides=strides,
            dilation_rate=rate,
            padding=padding,
            data_format="channels_last",
            use_bias=False,
            # He's 2 / fan-in suits every width; the original draws all with a deviation of 0.09.
            kernel_initializer=keras.initializers.HeNormal(),
            name=layer_name(scope),
            dtype=self.dtype,
        )
        return [*pad, conv, *self._normalize_and_activate(scope, activation)]

    def depthwise(
        self,
        kernel_size: Size,
        scope: str,
        activation: Activation = "relu",
        strides: Size = 1,
        rate: Size = 1,
    ) -> list[keras.layers.Layer]:
        """Makes a block of depthwise convolution; the arguments are those of `conv`."""
        pad, padding = self._pad(kernel_size, scope, strides)
        conv = AtrousDepthwiseConv2D(
            kernel_size,
            strides=strides,
            dilation_rate=rate,
            padding=padding,
            data_format="channels_last",
            use_bias=False,
            # He's too: a depthwise kernel sees its window only, which Keras counts as fan-out.
            depthwise_initializer=keras.initializers.VarianceScaling(2.0, mode="fan_out"),
            name=layer_name(scope),
            dtype=self.dtype,
        )
        return [*pad, conv, *self._normalize_and_activate(scope, activation)]

    def _pad(self, kernel_size: Size, scope: str, strides: Size):
        """Returns the layers that pad before a convolution, and the padding left for it to do."""
        sides = pair("kernel_size", kernel_size)
        if self.padding == "same" or max(pair("strides", strides)) == 1 or max(sides) == 1:
            return [], "same"
        pad = keras.layers.ZeroPadding2D(
            tuple(((side - 1) // 2, side // 2) for side in sides),
            data_format="channels_last",
            name=layer_name(f"{scope}/pad"),
            dtype=self.dtype,
        )
        return [pad], "valid"

    def _normalize_and_activate(self, scope: str, activation: Activation):
        batch_norm = BatchNorm(
            self.momentum, self.epsilon, name=layer_name(f"{scope}/BatchNorm"), dtype=self.dtype
        )
        if activation is None:
            return [batch_norm]
        name = layer_name(f"{scope}/{getattr(activation, '__name__', activation)}")
        return [batch_norm, keras.layers.Activation(activation, name=name, dtype=self.dtype)]


def call_in_order(block: Sequence[keras.layers.Layer], inputs):
    """Calls layers one after another: each on the output of the one before, the first on `inputs`.

    Inside a layer's `call`, Keras passes that call's `training` on to them.
    """
    x = inputs
    for layer in block:
        x = layer(x)
    return x


class LargeLayer(keras.layers.Layer):
    """A layer that consists of layers, for feature maps `[B, H, W, C]`.

    Its config keeps settings of all batch norms inside, such as those of `freeze_batch_norm`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def share_trainable(self) -> None:
        """Gives the layers inside, once they are made, the `trainable` of the constructor."""
        for layer in all_layers(self):
            layer.trainable = self.trainable

    def get_config(self):
        norms = batch_norms(self)
        config = {
            key: True
            for key, attribute in _SET_ON_BATCH_NORMS.items()
            if norms and all(getattr(norm, attribute) for norm in norms)
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        attributes = [
            attribute for key, attribute in _SET_ON_BATCH_NORMS.items() if config.pop(key, False)
        ]
        layer = super().from_config(config)
        for norm in batch_norms(layer):
            for attribute in attributes:
                setattr(norm, attribute, True)
        return layer


class Chain(LargeLayer):
    """Runs a block as one layer, for use inside a larger layer.

    Args:
        block: Layers of one input and one output.
        **kwargs: The arguments of every Keras layer.
    """

    def __init__(self, block: Sequence[keras.layers.Layer] = (), **kwargs):
        super().__init__(**kwargs)
        self.block = list(block)

    def build(self, input_shape):
        for layer in self.block:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs):
        return call_in_order(self.block, inputs)

    def compute_output_shape(self, input_shape):
        for layer in self.block:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape
