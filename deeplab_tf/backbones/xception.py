"""The modified aligned Xception.

Reference: DeepLabv3+, arXiv:1802.02611, section 3.2 and figure 4.
"""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import strides_and_rates

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
_EXIT_FLOW = (
    ("exit_flow/block1", (728, 1024, 1024), 1, 2),
    ("exit_flow/block2", (1536, 1536, 2048), 1, 1),
)
# Block -> stride at which the features before its own stride are handed to a decoder.
_DECODER_STRIDES = {"entry_flow/block2": 4, "entry_flow/block3": 8, "exit_flow/block1": 16}
_DECODER_STRIDES_71 = {"entry_flow/block3": 4, "entry_flow/block5": 8, "exit_flow/block1": 16}
# Variant: entry flow, units of the middle flow, what a decoder gets.
_VARIANTS = {
    "xception_41": (_ENTRY_FLOW, 8, _DECODER_STRIDES),
    "xception_65": (_ENTRY_FLOW, 16, _DECODER_STRIDES),
    "xception_71": (_ENTRY_FLOW_71, 16, _DECODER_STRIDES_71),
}


def xception(
    variant: str,
    output_stride: int,
    in_channels: int = 3,
    multi_grid: Sequence[int] = (1, 1, 1),
    batch_norm_decay: float = 0.9997,
) -> keras.Model:
    """Builds an Xception backbone; see `build_backbone`."""
    scope = variant
    entry_flow, middle_units, decoder_strides = _VARIANTS[variant]
    middle_flow = ("middle_flow/block1", (728, 728, 728), middle_units, 1)
    blocks = (*entry_flow, middle_flow, *_EXIT_FLOW)
    batch_norm = {"momentum": batch_norm_decay, "epsilon": 1e-3}
    units = [
        (block, unit, filters, stride)
        for block, filters, count, stride in blocks
        for unit in range(1, count + 1)
    ]
    # The stem has stride 2 at any output stride.
    strides = strides_and_rates([stride for *_, stride in units], output_stride // 2)

    image = pixels.image_input(in_channels)
    x = pixels.to_unit_range(image)
    x = layers.conv_batch_norm(
        x, 32, 3, f"{scope}/entry_flow/conv1_1", batch_norm, strides=2, padding="symmetric"
    )
    x = layers.conv_batch_norm(x, 64, 3, f"{scope}/entry_flow/conv1_2", batch_norm)
    outputs = {}
    for (block, unit, filters, _), (stride, rate) in zip(units, strides):
        name = f"{scope}/{block}/unit_{unit}/xception_module"
        unit_input = x
        is_last = block == "exit_flow/block2"
        rates = [rate * grid for grid in multi_grid] if is_last else [rate] * 3
        for index in range(3):
            x = _separable_conv(
                x,
                filters[index],
                f"{name}/separable_conv{index + 1}",
                batch_norm,
                strides=stride if index == 2 else 1,
                rate=rates[index],
                relu_inside=is_last,
            )
            if index == 1 and decoder_strides.get(block, output_stride + 1) <= output_stride:
                outputs[f"stride_{decoder_strides[block]}"] = x
        if block == "middle_flow/block1":
            x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([unit_input, x])
        elif not is_last:
            shortcut = layers.conv_batch_norm(
                unit_input, filters[-1], 1, f"{name}/shortcut", batch_norm, None, strides=stride
            )
            x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([shortcut, x])
    return keras.Model(image, {**outputs, "features": x}, name=scope)


def _separable_conv(
    inputs, filters: int, name: str, batch_norm: dict, strides: int, rate: int, relu_inside: bool
):
    """A separable convolution with its ReLUs inside, or one before it."""
    activation = "relu" if relu_inside else None
    x = inputs
    if not relu_inside:
        x = keras.layers.Activation("relu", name=layers.layer_name(f"{name}/relu"))(x)
    x = layers.depthwise_batch_norm(
        x,
        3,
        f"{name}_depthwise",
        batch_norm,
        activation,
        strides=strides,
        rate=rate,
        padding="symmetric",
    )
    return layers.conv_batch_norm(x, filters, 1, f"{name}_pointwise", batch_norm, activation)
