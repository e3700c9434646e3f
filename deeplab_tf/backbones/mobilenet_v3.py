"""MobileNetV3 for segmentation, whose last stage has half the filters.

Reference: MobileNetV3, arXiv:1905.02244, tables 1 and 2, section 6.4.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import strides_and_rates
from deeplab_tf.backbones.mobilenet_v2 import make_divisible

# Bottlenecks: kernel size, expanded filters, filters, squeeze and excite, activation, stride.
_LARGE = (
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
_SMALL = (
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
# depthwise features are handed to a decoder.
_VARIANTS = {
    "mobilenet_v3_large_seg": (_LARGE, 480, {2: 4, 5: 8, 11: 16}),
    "mobilenet_v3_small_seg": (_SMALL, 288, {0: 4, 2: 8, 7: 16}),
}
_STEM_FILTERS = 16


def mobilenet_v3(
    variant: str,
    output_stride: int,
    in_channels: int = 3,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float = 0.997,
) -> keras.Model:
    """Builds a MobileNetV3 backbone; see `build_backbone`."""
    scope = "MobilenetV3"
    bottlenecks, last_filters, decoder_strides = _VARIANTS[variant]
    batch_norm = {"momentum": batch_norm_decay, "epsilon": 1e-3}

    def scaled(filters: int) -> int:
        return make_divisible(filters * depth_multiplier, 8)

    (stem_stride, _), *strides = strides_and_rates(
        [2] + [stride for *_, stride in bottlenecks], output_stride
    )

    image = pixels.image_input(in_channels)
    x = layers.conv_batch_norm(
        pixels.to_unit_range(image),
        scaled(_STEM_FILTERS),
        3,
        f"{scope}/Conv",
        batch_norm,
        layers.h_swish,
        strides=stem_stride,
    )
    outputs = {}
    unit_filters = _STEM_FILTERS
    for index, (bottleneck, (stride, rate)) in enumerate(zip(bottlenecks, strides)):
        kernel_size, expanded, filters, has_squeeze_excite, activation, own_stride = bottleneck
        name = f"{scope}/expanded_conv_{index}" if index else f"{scope}/expanded_conv"
        unit_input = x
        expanded = make_divisible(x.shape[-1] * (expanded / unit_filters), 8)
        if expanded > x.shape[-1]:
            x = layers.conv_batch_norm(x, expanded, 1, f"{name}/expand", batch_norm, activation)
        x = layers.depthwise_batch_norm(
            x,
            kernel_size,
            f"{name}/depthwise",
            batch_norm,
            activation,
            strides=stride,
            rate=rate,
        )
        if decoder_strides.get(index, output_stride + 1) <= output_stride:
            outputs[f"stride_{decoder_strides[index]}"] = x
        if has_squeeze_excite:
            x = _squeeze_excite(x, f"{name}/squeeze_excite")
        x = layers.conv_batch_norm(
            x, scaled(filters), 1, f"{name}/project", batch_norm, activation=None
        )
        # Its own stride, which may be lost: the original then adds here what it does not add at
        # output stride 32, and computes another function of the same weights.
        if own_stride == 1 and x.shape[-1] == unit_input.shape[-1]:
            x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([unit_input, x])
        unit_filters = filters
    x = layers.conv_batch_norm(
        x, scaled(last_filters), 1, f"{scope}/Conv_1", batch_norm, layers.h_swish
    )
    return keras.Model(image, {**outputs, "features": x}, name=scope)


def _squeeze_excite(inputs, name: str):
    """Weighs every channel by what all channels are like over the whole image.

    Reference: arXiv:1905.02244, section 5.3: a quarter of the channels in between.
    """
    channels = inputs.shape[-1]
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name=layers.layer_name(f"{name}/mean"))(
        inputs
    )
    for filters, activation, scope in (
        (make_divisible(channels / 4, 8), "relu", f"{name}/Conv"),
        (channels, layers.q_sigmoid, f"{name}/Conv_1"),
    ):
        x = keras.layers.Conv2D(
            filters,
            1,
            activation=activation,
            kernel_initializer=keras.initializers.HeNormal(),
            name=layers.layer_name(scope),
        )(x)
    return keras.layers.Multiply(name=layers.layer_name(f"{name}/multiply"))([inputs, x])
