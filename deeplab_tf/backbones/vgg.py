"""VGG-16 up to its last pooling, without batch norm.

References: VGG, arXiv:1409.1556, table 1, column D; DeepLab, arXiv:1412.7062, section 3.1.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import strides_and_rates

# Blocks: convolutions, filters; a pooling of stride 2 follows each.
_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
# Block -> stride at which what goes into its pooling is handed to a decoder.
_DECODER_STRIDES = {3: 4, 4: 8, 5: 16}


def vgg_16(output_stride: int, in_channels: int = 3) -> keras.Model:
    """Builds the VGG-16 backbone; see `build_backbone`."""
    scope = "vgg_16"
    units = [stride for _ in _BLOCKS for stride in (1, 2)]
    strides = strides_and_rates(units, output_stride)

    image = pixels.image_input(in_channels)
    x = pixels.subtract_mean(image, pixels.VGG_MEAN)
    outputs = {}
    for block, (count, filters) in enumerate(_BLOCKS, start=1):
        (_, conv_rate), (pool_stride, pool_rate) = strides[2 * block - 2 : 2 * block]
        for index in range(1, count + 1):
            x = layers.AtrousConv2D(
                filters,
                3,
                dilation_rate=conv_rate,
                padding="same",
                activation="relu",
                kernel_initializer=keras.initializers.HeNormal(),
                name=layers.layer_name(f"{scope}/conv{block}/conv{block}_{index}"),
            )(x)
        if _DECODER_STRIDES.get(block, output_stride + 1) <= output_stride:
            outputs[f"stride_{_DECODER_STRIDES[block]}"] = x
        x = _pool(x, f"{scope}/pool{block}", pool_stride, pool_rate)
    return keras.Model(image, {**outputs, "features": x}, name=scope)


def _pool(inputs, name: str, stride: int, rate: int):
    """The maximum of 3x3 pixels with the one that stays in the middle.

    VGG's own windows are 2x2, whose middle lies between pixels; those of the networks that DeepLab
    released are 3x3 with a pixel of padding on each side, which keeps pixels aligned.
    """
    name = layers.layer_name(name)
    if stride == 1:
        return layers.AtrousMaxPool2D(rate, name=name)(inputs)
    # Zeros change no maximum of what comes from a ReLU.
    padded = keras.layers.ZeroPadding2D(1, name=f"{name}.pad")(inputs)
    return keras.layers.MaxPooling2D(3, strides=stride, name=name)(padded)
