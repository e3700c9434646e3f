"""The modified aligned Xception.

Reference: DeepLabv3+, arXiv:1802.02611, section 3.2 and figure 4.
"""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import check_multi_grid
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.backbones.atrous import strides_and_rates
from deeplab_tf.backbones.features import Features
from deeplab_tf.weights import Weights

# Blocks: scope, filters of a unit's three separable convolutions, units, stride.
_ENTRY_FLOW = (
    ("entry_flow/block1", (128, 128, 128), 1, 2),
    ("entry_flow/block2", (256, 256, 256), 1, 2),
    ("entry_flow/block3", (728, 728, 728), 1, 2),
)
_ENTRY_FLOW_71 = (
    ("entry_flow/block1", (128, 128, 128), 1, 2),
    ("entry_flow/block2", (256, 256, 256), 1, 1),
    ("entry_flow/block3", (256, 256, 256), 1, 2),
    ("entry_flow/block4", (728, 728, 728), 1, 1),
    ("entry_flow/block5", (728, 728, 728), 1, 2),
)
EXIT_FLOW = (
    ("exit_flow/block1", (728, 1024, 1024), 1, 2),
    ("exit_flow/block2", (1536, 1536, 2048), 1, 1),
)
_MIDDLE_BLOCK, _LAST_BLOCK = "middle_flow/block1", "exit_flow/block2"
# Block -> stride at which the features before its own stride go to a decoder.
_DECODER_STRIDES = {"entry_flow/block2": 4, "entry_flow/block3": 8, "exit_flow/block1": 16}
_DECODER_STRIDES_71 = {"entry_flow/block3": 4, "entry_flow/block5": 8, "exit_flow/block1": 16}
# Variant: entry flow, units of the middle flow, features for a decoder.
VARIANTS = {
    "xception_41": (_ENTRY_FLOW, 8, _DECODER_STRIDES),
    "xception_65": (_ENTRY_FLOW, 16, _DECODER_STRIDES),
    "xception_71": (_ENTRY_FLOW_71, 16, _DECODER_STRIDES_71),
}


def Xception41(
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 1, 1),
    in_channels: int = 3,
    batch_norm_decay: float = 0.9997,
    weights: Weights = None,
) -> keras.Model:
    return _xception(
        "xception_41",
        output_stride=output_stride,
        multi_grid=multi_grid,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


def Xception65(
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 1, 1),
    in_channels: int = 3,
    batch_norm_decay: float = 0.9997,
    weights: Weights = None,
) -> keras.Model:
    return _xception(
        "xception_65",
        output_stride=output_stride,
        multi_grid=multi_grid,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


def Xception71(
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 1, 1),
    in_channels: int = 3,
    batch_norm_decay: float = 0.9997,
    weights: Weights = None,
) -> keras.Model:
    return _xception(
        "xception_71",
        output_stride=output_stride,
        multi_grid=multi_grid,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


for _function in (Xception41, Xception65, Xception71):
    _layers = _function.__name__.removeprefix("Xception")
    _function.__doc__ = f"""Builds the modified aligned Xception with {_layers} layers.

    Args:
        output_stride: Input size over the size of the last features: 4, 8, 16 or 32.
        multi_grid: Multipliers of the atrous rates of the last three separable convolutions.
        in_channels: Channels of the images; the first three are R, G and B.
        batch_norm_decay: Decay of the moving statistics of all batch norms.
        weights: Name of released weights (see `deeplab_tf.zoo`), path of a TensorFlow 1 checkpoint
            of the original, or "imagenet" for those of an ImageNet classifier; None for
            random weights.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to a dict of
        float features: `features`, `[B, H/output_stride, W/output_stride, 2048]`, and for decoders
        those of `stride_4`, `stride_8` and `stride_16` that are not above the output stride. Sizes
        are rounded up.

    Raises:
        UserError: If an argument has a wrong value, or the checkpoint does not fit.

    Reference: DeepLabv3+, arXiv:1802.02611, section 3.2 and figure 4.

    Example:

    >>> from deeplab_tf import backbones
    >>> model = backbones.{_function.__name__}(output_stride=8)
    >>> model.compute_output_shape((1, 257, 257, 3))["features"]
    (1, 33, 33, 2048)
    """


def _xception(
    scope: str,
    *,
    output_stride: int,
    multi_grid: Sequence[int],
    in_channels: int,
    batch_norm_decay: float,
    weights: Weights,
) -> keras.Model:
    check_output_stride(output_stride)
    check_multi_grid(multi_grid)
    entry_flow, middle_units, decoder_strides = VARIANTS[scope]
    middle_flow = (_MIDDLE_BLOCK, (728, 728, 728), middle_units, 1)
    units = [
        (block, unit, filters, stride)
        for block, filters, count, stride in (*entry_flow, middle_flow, *EXIT_FLOW)
        for unit in range(1, count + 1)
    ]
    # The stem has stride 2 at any output stride.
    strides = strides_and_rates([stride for *_, stride in units], output_stride // 2)
    blocks = layers.ConvBlocks(batch_norm_decay, epsilon=1e-3, padding="symmetric")

    image = pixels.image_input(in_channels)
    stem = [
        *blocks.conv(32, 3, f"{scope}/entry_flow/conv1_1", strides=2),
        *blocks.conv(64, 3, f"{scope}/entry_flow/conv1_2"),
    ]
    x = layers.call_in_order(stem, pixels.to_unit_range(image))
    outputs = Features(output_stride)
    for (block, unit, filters, _), (stride, rate) in zip(units, strides):
        name = layers.layer_name(f"{scope}/{block}/unit_{unit}/xception_module")
        is_last = block == _LAST_BLOCK
        rates = [rate * grid for grid in multi_grid] if is_last else [rate] * 3
        first, second, third = _separable_convs(
            name, filters, blocks, stride=stride, rates=rates, relu_inside=is_last
        )
        low_level = layers.call_in_order([*first, *second], x)
        outputs.offer(low_level, decoder_strides.get(block))
        residual = layers.call_in_order(third, low_level)
        if is_last:
            x = residual
            continue
        if block != _MIDDLE_BLOCK:
            shortcut = blocks.conv(filters[-1], 1, f"{name}/shortcut", None, strides=stride)
            x = layers.call_in_order(shortcut, x)
        x = keras.layers.Add(name=f"{name}.add")([x, residual])
    return outputs.to_model(image, x, scope, weights, scope)


def _separable_convs(
    name: str,
    filters: Sequence[int],
    blocks: layers.ConvBlocks,
    *,
    stride: int,
    rates: Sequence[int],
    relu_inside: bool,
) -> list[list[keras.layers.Layer]]:
    """Returns a module's three separable convolutions, with ReLUs inside or one before each."""
    convs = []
    for index in range(3):
        conv = f"{name}.separable_conv{index + 1}"
        relu = [] if relu_inside else [keras.layers.Activation("relu", name=f"{conv}.relu")]
        separable_conv = layers.AtrousSeparableConv2D(
            filters[index],
            strides=stride if index == 2 else 1,
            dilation_rate=rates[index],
            activation="relu" if relu_inside else None,
            padding=blocks.padding,
            batch_norm_momentum=blocks.momentum,
            batch_norm_epsilon=blocks.epsilon,
            name=conv,
        )
        convs.append([*relu, separable_conv])
    return convs
