"""MobileNetV3 for segmentation, whose last stage has half the filters.

Reference: MobileNetV3, arXiv:1905.02244, tables 1 and 2, section 6.4.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.backbones.atrous import strides_and_rates
from deeplab_tf.backbones.features import Features
from deeplab_tf.backbones.mobilenet_v2 import check_depth_multiplier
from deeplab_tf.backbones.mobilenet_v2 import make_divisible
from deeplab_tf.weights import Weights

# Bottlenecks: kernel size, expanded filters, filters, squeeze and excite, activation, stride.
LARGE = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, layers.h_swish, 2),
    (3, 200, 80, False, layers.h_swish, 1),
    (3, 184, 80, False, layers.h_swish, 1),
    (3, 184, 80, False, layers.h_swish, 1),
    (3, 480, 112, True, layers.h_swish, 1),
    (3, 672, 112, True, layers.h_swish, 1),
    (5, 336, 80, True, layers.h_swish, 2),
    (5, 480, 80, True, layers.h_swish, 1),
    (5, 480, 80, True, layers.h_swish, 1),
)
SMALL = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, layers.h_swish, 2),
    (5, 240, 40, True, layers.h_swish, 1),
    (5, 240, 40, True, layers.h_swish, 1),
    (5, 120, 48, True, layers.h_swish, 1),
    (5, 144, 48, True, layers.h_swish, 1),
    (5, 144, 48, True, layers.h_swish, 2),
    (5, 288, 48, True, layers.h_swish, 1),
    (5, 288, 48, True, layers.h_swish, 1),
)
# Variant: bottlenecks, filters of the last convolution, and bottleneck -> stride at which its
# depthwise features go to a decoder.
VARIANTS = {
    "mobilenet_v3_large_seg": (LARGE, 480, {2: 4, 5: 8, 11: 16}),
    "mobilenet_v3_small_seg": (SMALL, 288, {0: 4, 2: 8, 7: 16}),
}
_STEM_FILTERS = 16


def MobileNetV3LargeSeg(
    output_stride: int = 16,
    depth_multiplier: float = 1.0,
    in_channels: int = 3,
    batch_norm_decay: float = 0.997,
    weights: Weights = None,
) -> keras.Model:
    return _mobilenet_v3(
        "mobilenet_v3_large_seg",
        output_stride=output_stride,
        depth_multiplier=depth_multiplier,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


def MobileNetV3SmallSeg(
    output_stride: int = 16,
    depth_multiplier: float = 1.0,
    in_channels: int = 3,
    batch_norm_decay: float = 0.997,
    weights: Weights = None,
) -> keras.Model:
    return _mobilenet_v3(
        "mobilenet_v3_small_seg",
        output_stride=output_stride,
        depth_multiplier=depth_multiplier,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


for _function, _size, _filters in (
    (MobileNetV3LargeSeg, "large", 480),
    (MobileNetV3SmallSeg, "small", 288),
):
    _function.__doc__ = f"""Builds the {_size} MobileNetV3 whose last stage has half the filters.

    Args:
        output_stride: Input size over the size of the last features: 4, 8, 16 or 32. The released
            models use 32.
        depth_multiplier: Factor of the number of filters.
        in_channels: Channels of the images; the first three are R, G and B.
        batch_norm_decay: Decay of the moving statistics of all batch norms.
        weights: Name of released weights (see `deeplab_tf.zoo`) or path of a TensorFlow 1
            checkpoint of the original; None for random weights.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to a dict of
        float features: `features`, `[B, H/output_stride, W/output_stride, {_filters}]` (times
        `depth_multiplier`), and for decoders those of `stride_4`, `stride_8` and `stride_16` that
        are not above the output stride. Sizes are rounded up.

    Raises:
        UserError: If an argument has a wrong value, or the checkpoint does not fit.

    Reference: MobileNetV3, arXiv:1905.02244, tables 1 and 2, section 6.4.

    Example:

    >>> from deeplab_tf import backbones
    >>> model = backbones.{_function.__name__}(output_stride=32)
    >>> model.compute_output_shape((1, 257, 257, 3))["features"]
    (1, 9, 9, {_filters})
    """


def _mobilenet_v3(
    variant: str,
    *,
    output_stride: int,
    depth_multiplier: float,
    in_channels: int,
    batch_norm_decay: float,
    weights: Weights,
) -> keras.Model:
    check_output_stride(output_stride)
    check_depth_multiplier(depth_multiplier)
    scope = "MobilenetV3"
    bottlenecks, last_filters, decoder_strides = VARIANTS[variant]

    def scaled(filters: int) -> int:
        return make_divisible(filters * depth_multiplier, 8)

    unit_strides = [stride for *_, stride in bottlenecks]
    (stem_stride, _), *strides = strides_and_rates([2, *unit_strides], output_stride)
    blocks = layers.ConvBlocks(batch_norm_decay, epsilon=1e-3)

    image = pixels.image_input(in_channels)
    stem = blocks.conv(
        scaled(_STEM_FILTERS), 3, f"{scope}/Conv", layers.h_swish, strides=stem_stride
    )
    x = layers.call_in_order(stem, pixels.to_unit_range(image))
    outputs = Features(output_stride)
    unit_filters = _STEM_FILTERS
    for index, (bottleneck, (stride, rate)) in enumerate(zip(bottlenecks, strides)):
        kernel_size, expanded, filters, has_squeeze_excite, activation, own_stride = bottleneck
        name = f"{scope}/expanded_conv_{index}" if index else f"{scope}/expanded_conv"
        unit_input = x
        expanded = make_divisible(x.shape[-1] * (expanded / unit_filters), 8)
        block = blocks.depthwise(kernel_size, f"{name}/depthwise", activation, stride, rate)
        if expanded > x.shape[-1]:
            block = [*blocks.conv(expanded, 1, f"{name}/expand", activation), *block]
        x = layers.call_in_order(block, x)
        outputs.offer(x, decoder_strides.get(index))
        if has_squeeze_excite:
            x = _squeeze_excite(x, f"{name}/squeeze_excite")
        x = layers.call_in_order(blocks.conv(scaled(filters), 1, f"{name}/project", None), x)
        # Its own stride, which may be lost: the original then adds here what it does not add at
        # output stride 32, and computes another function of the same weights.
        if own_stride == 1 and x.shape[-1] == unit_input.shape[-1]:
            x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([unit_input, x])
        unit_filters = filters
    last = blocks.conv(scaled(last_filters), 1, f"{scope}/Conv_1", layers.h_swish)
    return outputs.to_model(image, layers.call_in_order(last, x), scope, weights, variant)


def _squeeze_excite(x, name: str):
    """Weighs each channel by a function of all channels' means over the image.

    Reference: arXiv:1905.02244, section 5.3: a quarter of the channels in between.
    """
    channels = x.shape[-1]
    mean = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", keepdims=True, name=layers.layer_name(f"{name}/mean")
    )
    gate = [mean]
    for filters, activation, scope in (
        (make_divisible(channels / 4, 8), "relu", f"{name}/Conv"),
        (channels, layers.q_sigmoid, f"{name}/Conv_1"),
    ):
        conv = keras.layers.Conv2D(
            filters,
            1,
            activation=activation,
            data_format="channels_last",
            kernel_initializer=keras.initializers.HeNormal(),
            name=layers.layer_name(scope),
        )
        gate.append(conv)
    multiply = keras.layers.Multiply(name=layers.layer_name(f"{name}/multiply"))
    return multiply([x, layers.call_in_order(gate, x)])
