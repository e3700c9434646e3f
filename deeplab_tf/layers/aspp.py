"""Atrous spatial pyramid pooling and its light form as Keras layers."""

from collections.abc import Callable
from collections.abc import Sequence

import keras

from deeplab_tf.errors import UserError
from deeplab_tf.layers.activations import q_sigmoid
from deeplab_tf.layers.arguments import pair
from deeplab_tf.layers.arguments import whole_numbers
from deeplab_tf.layers.blocks import Chain
from deeplab_tf.layers.blocks import ConvBlocks
from deeplab_tf.layers.blocks import LargeLayer
from deeplab_tf.layers.names import register
from deeplab_tf.layers.pooling import ImagePooling
from deeplab_tf.layers.resize import ResizeLike
from deeplab_tf.layers.separable import AtrousSeparableConv2D


@register
class ASPP(LargeLayer):
    """Atrous spatial pyramid pooling: processes features at several rates and as a whole.

    A 1x1 convolution, a 3x3 convolution at each rate and image pooling run side by side; their
    results are concatenated and projected to `filters` channels. The sub-layers are named by the
    original's scopes, whatever the name of the layer: `image_pooling`, `aspp0`, `aspp1_depthwise`,
    ..., `concat_projection`.

    Args:
        filters: Channels of every branch and of the projection.
        rates: Atrous rate of each 3x3 branch; `()` for none. The papers use 6, 12, 18 at output
            stride 16 and twice these at 8.
        separable: Whether the 3x3 branches are atrous separable convolutions.
        image_pooling: Whether image pooling is one of the branches.
        dropout: Share of the projection's outputs that training sets to zero.
        projection: Whether to project the concatenated branches; without it, there is no dropout.
        pool_size: Height and width, in pixels of the features, of the windows that image pooling
            averages; None for the whole map.
        pool_strides: Steps between these windows, down and across.
        squeeze_and_excitation: Whether image pooling weighs the channels of the other branches
            instead of being a branch.
        gate: Activation of these weights: a name or a function.
        batch_norm_momentum: Decay of the moving statistics.
        batch_norm_epsilon: Added to the variance.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Call arguments:
        features: Float tensor `[B, H, W, C]`.
        training: Whether batch norm and dropout train.

    Returns:
        Float tensor `[B, H, W, filters]`; without projection, `filters` channels for every branch.

    Raises:
        ValueError: If an argument has a wrong value, or if `squeeze_and_excitation` has no image
            pooling or no single branch to weigh.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.3; separable: DeepLabv3+, arXiv:1802.02611,
    section 3.1.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> aspp = layers.ASPP(filters=128, rates=(12, 24, 36))
    >>> aspp(np.zeros((1, 65, 65, 320), "float32")).shape.as_list()
    [1, 65, 65, 128]
    """

    def __init__(
        self,
        filters: int = 256,
        rates: Sequence[int] = (6, 12, 18),
        separable: bool = True,
        image_pooling: bool = True,
        dropout: float = 0.1,
        projection: bool = True,
        pool_size: int | Sequence[int] | None = None,
        pool_strides: int | Sequence[int] = (1, 1),
        squeeze_and_excitation: bool = False,
        gate: str | Callable = "sigmoid",
        batch_norm_momentum: float = 0.9997,
        batch_norm_epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.rates = whole_numbers("rates", rates)
        self.separable = separable
        self.image_pooling = image_pooling
        self.dropout = dropout
        self.projection = projection
        self.pool_size = None if pool_size is None else pair("pool_size", pool_size)
        self.pool_strides = pair("pool_strides", pool_strides)
        self.squeeze_and_excitation = squeeze_and_excitation
        self.gate = keras.activations.get(gate)
        self.batch_norm_momentum = batch_norm_momentum
        self.batch_norm_epsilon = batch_norm_epsilon
        self._check()

        blocks = ConvBlocks(batch_norm_momentum, batch_norm_epsilon, dtype=self.dtype_policy)
        self.pooling = self._make_pooling(blocks) if image_pooling else None
        self.resize = ResizeLike(name="image_pooling.resize", dtype=self.dtype_policy)
        self.branches = self._make_branches(blocks)
        self.concatenate = keras.layers.Concatenate(name="aspp.concat", dtype=self.dtype_policy)
        self.project = self._make_projection(blocks) if projection else None
        self.weigh = keras.layers.Multiply(name="image_pooling.weigh", dtype=self.dtype_policy)
        self.share_trainable()

    def _check(self) -> None:
        if not self.squeeze_and_excitation:
            return
        if not self.image_pooling:
            raise UserError(
                "Squeeze and excitation needs image pooling: leave image_pooling (flag: "
                "add_image_level_feature) on."
            )
        if self.rates and not self.projection:
            raise UserError(
                "Squeeze and excitation weighs the channels of a single branch: leave projection "
                "(flag: aspp_with_concat_projection) on, or rates (atrous_rates) empty."
            )

    def _make_pooling(self, blocks: ConvBlocks) -> Chain:
        mean = ImagePooling(
            self.pool_size, self.pool_strides, name="image_pooling.mean", dtype=self.dtype_policy
        )
        block = blocks.conv(self.filters, 1, "image_pooling")
        if self.squeeze_and_excitation:
            block = [
                keras.layers.Conv2D(
                    self.filters,
                    1,
                    activation=self.gate,
                    data_format="channels_last",
                    name="image_pooling",
                    dtype=self.dtype_policy,
                )
            ]
        return Chain([mean, *block], name="image_pooling", dtype=self.dtype_policy)

    def _make_branches(self, blocks: ConvBlocks) -> list[keras.layers.Layer]:
        branches = [
            Chain(blocks.conv(self.filters, 1, "aspp0"), name="aspp0", dtype=self.dtype_policy)
        ]
        for index, rate in enumerate(self.rates, start=1):
            name = f"aspp{index}"
            if self.separable:
                branch = AtrousSeparableConv2D(
                    self.filters,
                    dilation_rate=rate,
                    batch_norm_momentum=self.batch_norm_momentum,
                    batch_norm_epsilon=self.batch_norm_epsilon,
                    name=name,
                    dtype=self.dtype_policy,
                )
            else:
                block = blocks.conv(self.filters, 3, name, rate=rate)
                branch = Chain(block, name=name, dtype=self.dtype_policy)
            branches.append(branch)
        return branches

    def _make_projection(self, blocks: ConvBlocks) -> Chain:
        dropout = keras.layers.Dropout(
            self.dropout, name="concat_projection.dropout", dtype=self.dtype_policy
        )
        block = [*blocks.conv(self.filters, 1, "concat_projection"), dropout]
        return Chain(block, name="concat_projection", dtype=self.dtype_policy)

    def build(self, features_shape):
        if self.pooling:
            self.pooling.build(features_shape)
        for branch in self.branches:
            branch.build(features_shape)
        if self.project:
            self.project.build((*features_shape[:-1], self._concatenated_filters))
        # Without variables; Keras' `quantize` asks for all layers to be built.
        output_shape = self.compute_output_shape(features_shape)
        self.resize.build(output_shape)
        self.concatenate.build([(*features_shape[:-1], self.filters)] * len(self.branches))
        self.weigh.build([output_shape, output_shape])

    def call(self, features):
        branches = [branch(features) for branch in self.branches]  # each [B, H, W, filters]
        pooled = self.pooling and self.resize(self.pooling(features), features)
        if self.pooling and not self.squeeze_and_excitation:
            branches.insert(0, pooled)
        x = self.concatenate(branches) if len(branches) > 1 else branches[0]
        if self.project:
            x = self.project(x)
        return self.weigh([x, pooled]) if self.squeeze_and_excitation else x

    @property
    def _concatenated_filters(self) -> int:
        pools_as_branch = self.image_pooling and not self.squeeze_and_excitation
        return self.filters * (1 + len(self.rates) + pools_as_branch)

    def compute_output_shape(self, features_shape):
        filters = self.filters if self.projection else self._concatenated_filters
        return *features_shape[:-1], filters

    def get_config(self):
        config = {
            "filters": self.filters,
            "rates": self.rates,
            "separable": self.separable,
            "image_pooling": self.image_pooling,
            "dropout": self.dropout,
            "projection": self.projection,
            "pool_size": self.pool_size,
            "pool_strides": self.pool_strides,
            "squeeze_and_excitation": self.squeeze_and_excitation,
            "gate": keras.activations.serialize(self.gate),
            "batch_norm_momentum": self.batch_norm_momentum,
            "batch_norm_epsilon": self.batch_norm_epsilon,
        }
        return {**super().get_config(), **config}


@register
class LiteRASPP(ASPP):
    """MobileNetV3's light head: a 1x1 convolution whose channels image pooling weighs.

    It is the `ASPP` without 3x3 branches and projection, with squeeze and excitation.

    Args:
        filters: Channels of the output.
        pool_size: Height and width, in pixels of the features, of the windows that image pooling
            averages; None for the whole map. The released models use 25x25 at output stride 32:
            those of a crop of 769 pixels.
        strides: Steps between these windows, down and across.
        gate: Activation of the weights: a name or a function. The released models use `q_sigmoid`.
        batch_norm_momentum: Decay of the moving statistics.
        batch_norm_epsilon: Added to the variance.
        **kwargs: `name`, `dtype` and `trainable`, as for every Keras layer.

    Call arguments:
        features: Float tensor `[B, H, W, C]`.
        training: Whether batch norm trains.

    Returns:
        Float tensor `[B, H, W, filters]`.

    Reference: MobileNetV3, arXiv:1905.02244, section 6.4 and figure 10.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> head = layers.LiteRASPP(pool_size=(25, 25))
    >>> head(np.zeros((1, 33, 65, 480), "float32")).shape.as_list()
    [1, 33, 65, 128]
    """

    def __init__(
        self,
        filters: int = 128,
        pool_size: int | Sequence[int] | None = None,
        strides: int | Sequence[int] = (4, 5),
        gate: str | Callable = q_sigmoid,
        batch_norm_momentum: float = 0.9997,
        batch_norm_epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(
            filters,
            rates=(),
            projection=False,
            pool_size=pool_size,
            pool_strides=strides,
            squeeze_and_excitation=True,
            gate=gate,
            batch_norm_momentum=batch_norm_momentum,
            batch_norm_epsilon=batch_norm_epsilon,
            **kwargs,
        )

    def get_config(self):
        config = super().get_config()
        config["strides"] = config["pool_strides"]
        fixed = (
            *("rates", "separable", "image_pooling", "dropout", "projection", "pool_strides"),
            "squeeze_and_excitation",
        )
        return {name: value for name, value in config.items() if name not in fixed}
