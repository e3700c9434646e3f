"""MobileNetV2 up to its last bottleneck.

Reference: MobileNetV2, arXiv:1801.04381, table 2.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import strides_and_rates

# Expansion, filters, units, stride of the first unit; table 2.
_BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Bottleneck -> stride at which its depthwise features are handed to a decoder.
_DECODER_STRIDES = {2: 4, 5: 8, 12: 16}


def mobilenet_v2(
    output_stride: int,
    in_channels: int = 3,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float = 0.997,
) -> keras.Model:
    """Builds the MobileNetV2 backbone; see `build_backbone`."""
    scope = "MobilenetV2"
    batch_norm = {"momentum": batch_norm_decay, "epsilon": 1e-3}

    def scaled(filters: int) -> int:
        # The original rounds to multiples of 8 at multiplier 1 only.
        return make_divisible(filters * depth_multiplier, 8 if depth_multiplier == 1 else 1)

    units = [
        (expansion, filters, stride if unit == 0 else 1)
        for expansion, filters, count, stride in _BOTTLENECKS
        for unit in range(count)
    ]
    (stem_stride, _), *strides = strides_and_rates(
        [2] + [stride for *_, stride in units], output_stride
    )

    image = pixels.image_input(in_channels)
    x = pixels.to_unit_range(image)
    x = layers.conv_batch_norm(
        x, scaled(32), 3, f"{scope}/Conv", batch_norm, "relu6", strides=stem_stride
    )
    outputs = {}
    for index, ((expansion, filters, _), (stride, rate)) in enumerate(zip(units, strides)):
        name = f"{scope}/expanded_conv_{index}" if index else f"{scope}/expanded_conv"
        unit_input = x
        if expansion > 1:
            expanded = make_divisible(x.shape[-1] * expansion, 8)
            x = layers.conv_batch_norm(x, expanded, 1, f"{name}/expand", batch_norm, "relu6")
        x = layers.depthwise_batch_norm(
            x, 3, f"{name}/depthwise", batch_norm, "relu6", strides=stride, rate=rate
        )
        if _DECODER_STRIDES.get(index, output_stride + 1) <= output_stride:
            outputs[f"stride_{_DECODER_STRIDES[index]}"] = x
        x = layers.conv_batch_norm(
            x, scaled(filters), 1, f"{name}/project", batch_norm, activation=None
        )
        if stride == 1 and x.shape[-1] == unit_input.shape[-1]:
            x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([unit_input, x])
    return keras.Model(image, {**outputs, "features": x}, name=scope)


def make_divisible(value: float, divisor: int) -> int:
    """Rounds to a multiple of the divisor, up where rounding down would lose more than 10 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor
