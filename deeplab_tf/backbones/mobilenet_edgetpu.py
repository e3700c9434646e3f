"""MobileNetEdgeTPU: fused convolutions first, bottlenecks later, and no gates.

Reference: the authors' `mobilenet_edgetpu.py` in TensorFlow's image classification models; there is
no paper. The network was found by a search for the Edge TPU.
"""

import os
from typing import NamedTuple

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.backbones.atrous import strides_and_rates
from deeplab_tf.backbones.features import Features
from deeplab_tf.backbones.mobilenet_v2 import check_depth_multiplier
from deeplab_tf.backbones.mobilenet_v2 import make_divisible
from deeplab_tf.errors import UserError

# Blocks: whether the expansion is a full convolution, kernel size, expansion, filters, units,
# stride of the first unit. A unit of stride 1 adds its input where it keeps the number of filters.
BLOCKS = (
    (True, 3, 1, 16, 1, 1),
    (True, 3, 8, 32, 1, 2),
    (True, 3, 4, 32, 3, 1),
    (True, 3, 8, 48, 1, 2),
    (True, 3, 4, 48, 3, 1),
    (False, 3, 8, 96, 1, 2),
    (False, 3, 4, 96, 3, 1),
    (False, 3, 8, 96, 1, 1),
    (False, 3, 4, 96, 3, 1),
    (False, 5, 8, 160, 1, 2),
    (False, 5, 4, 160, 3, 1),
    (False, 3, 8, 192, 1, 1),
)
_UNIT_WITHOUT_SUM = 13  # keeps its filters, and yet the original does not add its input
_STEM_FILTERS, _LAST_FILTERS = 32, 1280


class _Unit(NamedTuple):
    is_fused: bool
    kernel_size: int
    expansion: int
    filters: int
    stride: int
    rate: int = 1


def MobileNetEdgeTPU(
    output_stride: int = 32,
    depth_multiplier: float = 1.0,
    in_channels: int = 3,
    batch_norm_decay: float = 0.997,
    weights: str | os.PathLike | None = None,
) -> keras.Model:
    """Builds MobileNetEdgeTPU up to its last 1x1 convolution.

    Args:
        output_stride: Input size over the size of the last features: 8, 16 or 32. The fused
            convolutions cannot lose their strides.
        depth_multiplier: Factor of the number of filters; the released slim network has 0.75.
        in_channels: Channels of the images; the first three are R, G and B.
        batch_norm_decay: Decay of the moving statistics of all batch norms.
        weights: Name of released weights (see `deeplab_tf.zoo`) or path of a TensorFlow 1
            checkpoint of the original; None for random weights.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to a dict of
        float features: `features`, `[B, H/output_stride, W/output_stride, 1280]` (times
        `depth_multiplier`). Sizes are rounded up. The original has no decoder on this backbone.

    Raises:
        UserError: If an argument has a wrong value, or the checkpoint does not fit.

    Example:

    >>> from deeplab_tf import backbones
    >>> model = backbones.MobileNetEdgeTPU(output_stride=16)
    >>> model.compute_output_shape((1, 257, 257, 3))["features"]
    (1, 17, 17, 1280)
    """
    check_output_stride(output_stride)
    check_depth_multiplier(depth_multiplier)
    if output_stride < 8:
        raise UserError(
            f"output_stride is {output_stride}; on mobilenet_edgetpu it must be 8, 16 or 32, since "
            "the fused convolutions keep their strides."
        )
    scope = "MobilenetEdgeTPU"

    def scaled(filters: int) -> int:
        return make_divisible(filters * depth_multiplier, 8)

    units = [
        _Unit(is_fused, kernel_size, expansion, filters, stride if index == 0 else 1)
        for is_fused, kernel_size, expansion, filters, count, stride in BLOCKS
        for index in range(count)
    ]
    unit_strides = [unit.stride for unit in units]
    (stem_stride, _), *strides = strides_and_rates([2, *unit_strides], output_stride)
    blocks = layers.ConvBlocks(batch_norm_decay, epsilon=1e-3)

    image = pixels.image_input(in_channels)
    stem = blocks.conv(scaled(_STEM_FILTERS), 3, f"{scope}/Conv", strides=stem_stride)
    x = layers.call_in_order(stem, pixels.to_unit_range(image))
    for index, (unit, (stride, rate)) in enumerate(zip(units, strides)):
        unit = unit._replace(stride=stride, rate=rate)
        name = f"{scope}/expanded_conv_{index}" if index else f"{scope}/expanded_conv"
        unit_input = x
        x = layers.call_in_order(_expansion(unit, x.shape[-1], name, blocks), x)
        project = blocks.conv(scaled(unit.filters), 1, f"{name}/project", activation=None)
        x = layers.call_in_order(project, x)
        keeps_size = stride == 1 and x.shape[-1] == unit_input.shape[-1]
        if keeps_size and index != _UNIT_WITHOUT_SUM:
            x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([unit_input, x])
    last = blocks.conv(scaled(_LAST_FILTERS), 1, f"{scope}/Conv_1")
    x = layers.call_in_order(last, x)
    return Features(output_stride).to_model(image, x, scope, weights, "mobilenet_edgetpu")


def _expansion(
    unit: _Unit, channels: int, name: str, blocks: layers.ConvBlocks
) -> list[keras.layers.Layer]:
    """Returns the layers of a unit before its projection; the first unit only projects."""
    expanded = make_divisible(channels * unit.expansion, 8)
    if unit.is_fused:
        size, stride = unit.kernel_size, unit.stride
        depthwise = []
    else:
        size, stride = 1, 1
        depthwise = blocks.depthwise(
            unit.kernel_size, f"{name}/depthwise", strides=unit.stride, rate=unit.rate
        )
    expand = blocks.conv(expanded, size, f"{name}/expand", strides=stride)
    return [*(expand if expanded > channels else []), *depthwise]
