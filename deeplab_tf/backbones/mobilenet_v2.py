"""MobileNetV2 up to its last bottleneck.

Reference: MobileNetV2, arXiv:1801.04381, table 2.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.backbones.atrous import strides_and_rates
from deeplab_tf.backbones.features import Features
from deeplab_tf.errors import UserError
from deeplab_tf.weights import Weights

# Expansion, filters, units, stride of the first unit; table 2.
BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Bottleneck -> stride at which its depthwise features go to a decoder.
_DECODER_STRIDES = {2: 4, 5: 8, 12: 16}


def MobileNetV2(
    output_stride: int = 16,
    depth_multiplier: float = 1.0,
    in_channels: int = 3,
    batch_norm_decay: float = 0.997,
    weights: Weights = None,
) -> keras.Model:
    """Builds MobileNetV2 up to its last bottleneck.

    Args:
        output_stride: Input size over the size of the last features: 4, 8, 16 or 32.
        depth_multiplier: Factor of the number of filters.
        in_channels: Channels of the images; the first three are R, G and B.
        batch_norm_decay: Decay of the moving statistics of all batch norms.
        weights: Name of released weights (see `deeplab_tf.zoo`), path of a TensorFlow 1 checkpoint
            of the original, or "imagenet" for those of an ImageNet classifier; None for
            random weights.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to a dict of
        float features: `features`, `[B, H/output_stride, W/output_stride, 320]` (times
        `depth_multiplier`), and for decoders those of `stride_4`, `stride_8` and `stride_16` that
        are not above the output stride. Sizes are rounded up.

    Raises:
        UserError: If an argument has a wrong value, or the checkpoint does not fit.

    Reference: MobileNetV2, arXiv:1801.04381, table 2.

    Example:

    >>> from deeplab_tf import backbones
    >>> model = backbones.MobileNetV2(output_stride=8)
    >>> model.compute_output_shape((1, 257, 257, 3))["features"]
    (1, 33, 33, 320)
    """
    return _mobilenet_v2(
        output_stride=output_stride,
        depth_multiplier=depth_multiplier,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


def _mobilenet_v2(
    *,
    output_stride: int,
    depth_multiplier: float,
    in_channels: int,
    batch_norm_decay: float,
    weights: Weights,
) -> keras.Model:
    check_output_stride(output_stride)
    check_depth_multiplier(depth_multiplier)
    scope = "MobilenetV2"
    # The original rounds to multiples of 8 at multiplier 1 only.
    divisor = 8 if depth_multiplier == 1 else 1
    units = [
        (expansion, make_divisible(filters * depth_multiplier, divisor), stride if first else 1)
        for expansion, filters, count, stride in BOTTLENECKS
        for first in [True] + [False] * (count - 1)
    ]
    unit_strides = [stride for *_, stride in units]
    (stem_stride, _), *strides = strides_and_rates([2, *unit_strides], output_stride)
    blocks = layers.ConvBlocks(batch_norm_decay, epsilon=1e-3)

    image = pixels.image_input(in_channels)
    filters = make_divisible(32 * depth_multiplier, divisor)
    stem = blocks.conv(filters, 3, f"{scope}/Conv", "relu6", strides=stem_stride)
    x = layers.call_in_order(stem, pixels.to_unit_range(image))
    outputs = Features(output_stride)
    for index, ((expansion, filters, _), (stride, rate)) in enumerate(zip(units, strides)):
        name = f"{scope}/expanded_conv_{index}" if index else f"{scope}/expanded_conv"
        unit_input = x
        if expansion > 1:
            expanded = make_divisible(x.shape[-1] * expansion, 8)
            x = layers.call_in_order(blocks.conv(expanded, 1, f"{name}/expand", "relu6"), x)
        depthwise = blocks.depthwise(3, f"{name}/depthwise", "relu6", strides=stride, rate=rate)
        x = layers.call_in_order(depthwise, x)
        outputs.offer(x, _DECODER_STRIDES.get(index))
        x = layers.call_in_order(blocks.conv(filters, 1, f"{name}/project", None), x)
        if stride == 1 and x.shape[-1] == unit_input.shape[-1]:
            x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([unit_input, x])
    return outputs.to_model(image, x, scope, weights, "mobilenet_v2")


def check_depth_multiplier(depth_multiplier: float) -> None:
    """Raises a `UserError` for a multiplier that would leave no filters."""
    if depth_multiplier <= 0:
        raise UserError(f"depth_multiplier is {depth_multiplier}; it must be above 0.")


def make_divisible(value: float, divisor: int) -> int:
    """Rounds to a multiple of the divisor, up if rounding down would lose more than 10 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor
