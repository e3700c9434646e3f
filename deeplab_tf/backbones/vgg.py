"""VGG-16 up to its last pooling, without batch norm.

References: VGG, arXiv:1409.1556, table 1, column D; DeepLab, arXiv:1412.7062, section 3.1.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.backbones.atrous import strides_and_rates
from deeplab_tf.backbones.features import Features
from deeplab_tf.weights import Weights

# Blocks: convolutions, filters; a pooling of stride 2 follows each.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
# Block -> stride at which the input of its pooling goes to a decoder.
_DECODER_STRIDES = {3: 4, 4: 8, 5: 16}


def VGG16(
    output_stride: int = 16,
    in_channels: int = 3,
    weights: Weights = None,
) -> keras.Model:
    """Builds VGG-16 up to its last pooling.

    Args:
        output_stride: Input size over the size of the last features: 4, 8, 16 or 32.
        in_channels: Channels of the images; the first three are R, G and B.
        weights: Name of released weights (see `deeplab_tf.zoo`), path of a TensorFlow 1 checkpoint
            with the names of TF-Slim's `vgg_16`, or "imagenet" for those of an ImageNet classifier;
            None for random weights.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to a dict of
        float features: `features`, `[B, H/output_stride, W/output_stride, 512]`, and for decoders
        those of `stride_4`, `stride_8` and `stride_16` that are not above the output stride. Sizes
        are rounded up.

    Raises:
        UserError: If an argument has a wrong value, or the checkpoint does not fit.

    Reference: VGG, arXiv:1409.1556, table 1, column D; DeepLab, arXiv:1412.7062, section 3.1.

    Example:

    >>> from deeplab_tf import backbones
    >>> model = backbones.VGG16(output_stride=8)
    >>> model.compute_output_shape((1, 257, 257, 3))["features"]
    (1, 33, 33, 512)
    """
    check_output_stride(output_stride)
    scope = "vgg_16"
    units = [stride for _ in BLOCKS for stride in (1, 2)]
    strides = strides_and_rates(units, output_stride)

    image = pixels.image_input(in_channels)
    x = pixels.subtract_mean(image, pixels.VGG_MEAN)
    outputs = Features(output_stride)
    for block, (count, filters) in enumerate(BLOCKS, start=1):
        (_, conv_rate), (pool_stride, pool_rate) = strides[2 * block - 2 : 2 * block]
        for index in range(1, count + 1):
            x = layers.AtrousConv2D(
                filters,
                3,
                dilation_rate=conv_rate,
                padding="same",
                data_format="channels_last",
                activation="relu",
                kernel_initializer=keras.initializers.HeNormal(),
                name=layers.layer_name(f"{scope}/conv{block}/conv{block}_{index}"),
            )(x)
        outputs.offer(x, _DECODER_STRIDES.get(block))
        x = _pool(x, f"{scope}/pool{block}", pool_stride, pool_rate)
    return outputs.to_model(image, x, scope, weights, scope)


def _pool(x, name: str, stride: int, rate: int):
    """Takes the maximum over 3x3 pixels around each pixel that stays.

    VGG's own windows are 2x2, whose middle lies between pixels. Those of the networks that DeepLab
    released are 3x3 with a pixel of padding on each side, which keeps pixels aligned.
    """
    name = layers.layer_name(name)
    if stride == 1:
        return layers.AtrousMaxPool2D(rate, name=name)(x)
    # Zeros do not change the maximum of what comes from a ReLU.
    channels_last = {"data_format": "channels_last"}
    padded = keras.layers.ZeroPadding2D(1, **channels_last, name=f"{name}.pad")(x)
    return keras.layers.MaxPooling2D(3, stride, **channels_last, name=name)(padded)
