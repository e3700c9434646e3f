"""DeepLab v3+: v3 as the encoder, and a decoder that brings the sharp borders back.

Reference: arXiv:1802.02611.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.models.aspp import aspp
from deeplab_tf.models.v3 import logits


def head(
    features: dict,
    num_classes: int,
    decoder_output_stride: int,
    decoder_filters: int,
    decoder_use_separable_conv: bool,
    **aspp_settings,
):
    """From the features of a backbone to logits at the decoder's stride.

    Args:
        features: The dict that the backbone returns.
        num_classes: Channels of the logits.
        decoder_output_stride: Input size over decoder size.
        decoder_filters: Channels of the decoder's two 3x3 convolutions.
        decoder_use_separable_conv: Whether these are separable.
        **aspp_settings: The arguments of `aspp`.

    Returns:
        float32 `[B, H / decoder_output_stride, W / decoder_output_stride, num_classes]`.
    """
    low_level = features.get(f"stride_{decoder_output_stride}")
    if low_level is None:
        strides = [name.removeprefix("stride_") for name in features if name != "features"]
        raise UserError(
            f"decoder_output_stride is {decoder_output_stride}; the backbone at output_stride "
            f"{aspp_settings['output_stride']} has features for a decoder at {', '.join(strides)}."
        )
    x = decoder(
        aspp(features["features"], **aspp_settings),
        low_level,
        decoder_filters,
        decoder_use_separable_conv,
        aspp_settings["batch_norm_decay"],
    )
    return logits(x, num_classes)


def decoder(
    features, low_level, filters: int, use_separable_conv: bool, batch_norm_decay: float
):
    """Refines features with sharper ones from early in the backbone.

    Args:
        features: `[B, H, W, C]`, what the encoder has seen.
        low_level: `[B, H', W', D]` at the decoder's stride.
        filters: Channels of the two 3x3 convolutions.
        use_separable_conv: Whether these are separable.
        batch_norm_decay: Decay of the moving statistics.

    Returns:
        `[B, H', W', filters]`.

    Reference: arXiv:1802.02611, sections 3.1 and 4.1: 48 low-level channels, two 3x3 of 256.
    """
    batch_norm = {"momentum": batch_norm_decay, "epsilon": 1e-5}
    low_level = layers.conv_batch_norm(
        low_level, 48, 1, "decoder/feature_projection0", batch_norm
    )
    features = layers.ResizeLike(name="decoder.resize")(features, low_level)
    x = keras.layers.Concatenate(name="decoder.concat")([features, low_level])
    for index in range(2):
        if use_separable_conv:
            x = layers.separable_conv_batch_norm(
                x, filters, f"decoder/decoder_conv{index}", batch_norm
            )
        else:
            name = f"decoder/decoder_conv0/decoder_conv0_{index + 1}"
            x = layers.conv_batch_norm(x, filters, 3, name, batch_norm)
    return x
