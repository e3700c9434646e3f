"""Atrous separable convolution as a Keras layer."""

from collections.abc import Callable

import keras

from deeplab_tf.errors import UserError
from deeplab_tf.layers.arguments import pair
from deeplab_tf.layers.blocks import Chain
from deeplab_tf.layers.blocks import ConvBlocks
from deeplab_tf.layers.names import register

PADDINGS = ("same", "symmetric")


@register
class AtrousSeparableConv2D(Chain):
    """Atrous separable convolution: depthwise, then pointwise, each with batch norm and activation.

    Its sub-layers are named `NAME_depthwise` and `NAME_pointwise` after the layer, as in the
    original, and their batch norms `NAME_depthwise.BatchNorm` and `NAME_pointwise.BatchNorm`.

    Args:
        filters: Channels of the output.
        kernel_size: Height and width of the kernel before it is spread by `dilation_rate`; one
            number for both, here and below, or two.
        strides: Strides down and across.
        dilation_rate: Atrous rates down and across. Above 1, the strides must be 1.
        activation: Activation after both batch norms: a name, a function or None.
        padding: How the map is padded if `strides` is above 1: "same" as in TensorFlow, which pads
            even sizes at the bottom and right only, or "symmetric".
        batch_norm_momentum: Decay of the moving statistics.
        batch_norm_epsilon: Added to the variance.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Call arguments:
        inputs: Float tensor `[B, H, W, C]`.
        training: Whether the batch norms train.

    Returns:
        Float tensor `[B, H/strides, W/strides, filters]`, rounded up.

    Raises:
        ValueError: If an argument has a wrong value, or if both `strides` and `dilation_rate` are
            above 1.

    Reference: DeepLabv3+, arXiv:1802.02611, section 3.1 and figure 4.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> layer = layers.AtrousSeparableConv2D(256, dilation_rate=6)
    >>> layer(np.zeros((1, 33, 33, 64), "float32")).shape.as_list()
    [1, 33, 33, 256]
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int] = 3,
        strides: int | tuple[int, int] = 1,
        dilation_rate: int | tuple[int, int] = 1,
        activation: str | Callable | None = "relu",
        padding: str = "same",
        batch_norm_momentum: float = 0.9997,
        batch_norm_epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = pair("kernel_size", kernel_size)
        self.strides = pair("strides", strides)
        self.dilation_rate = pair("dilation_rate", dilation_rate)
        self.activation = activation and keras.activations.get(activation)
        self.padding = padding
        self.batch_norm_momentum = batch_norm_momentum
        self.batch_norm_epsilon = batch_norm_epsilon
        self._check()

        blocks = ConvBlocks(batch_norm_momentum, batch_norm_epsilon, padding, self.dtype_policy)
        depthwise, pointwise = f"{self.name}_depthwise", f"{self.name}_pointwise"
        self.block = [
            *blocks.depthwise(
                self.kernel_size, depthwise, self.activation, self.strides, self.dilation_rate
            ),
            *blocks.conv(filters, 1, pointwise, self.activation),
        ]
        self.share_trainable()

    def _check(self) -> None:
        if self.padding not in PADDINGS:
            raise UserError(
                f"padding is {self.padding!r}; it must be one of {', '.join(PADDINGS)}."
            )
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise UserError(
                f"strides is {self.strides} and dilation_rate is {self.dilation_rate}; one of them "
                "must be 1."
            )

    def get_config(self):
        config = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "dilation_rate": self.dilation_rate,
            "activation": self.activation and keras.activations.serialize(self.activation),
            "padding": self.padding,
            "batch_norm_momentum": self.batch_norm_momentum,
            "batch_norm_epsilon": self.batch_norm_epsilon,
        }
        return {**super().get_config(), **config}
