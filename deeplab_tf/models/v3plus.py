"""DeepLab v3+: v3 as the encoder, and a decoder that brings the sharp borders back.

Reference: arXiv:1802.02611.
"""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.models.logits import logits
from deeplab_tf.models.v3 import encode


def head(
    features: dict,
    num_classes: int,
    *,
    decoder_output_stride: int | Sequence[int] = 4,
    decoder_filters: int = 256,
    decoder_use_separable_conv: bool = True,
    decoder_use_sum_merge: bool = False,
    decoder_output_is_logits: bool = False,
    **encoder_settings,
):
    """From the features of a backbone to logits at the decoder's stride.

    Args:
        features: The dict that the backbone returns.
        num_classes: Channels of the logits.
        decoder_output_stride: Input size over decoder size; of each stage, where there are several.
        decoder_filters: Channels of the decoder's 3x3 convolutions.
        decoder_use_separable_conv: Whether these are separable.
        decoder_use_sum_merge: Whether low-level features are added to a single convolution of the
            others, rather than put beside them before two.
        decoder_output_is_logits: Whether the decoder ends in the logits; its convolutions are 1x1
            then, without batch norm.
        **encoder_settings: The arguments of `v3.encode`.

    Returns:
        float32 `[B, H / decoder_output_stride, W / decoder_output_stride, num_classes]`.

    Reference: arXiv:1802.02611, sections 3.1 and 4.1: 48 low-level channels, two 3x3 of 256.
    """
    decay = encoder_settings.get("batch_norm_decay", 0.9997)
    batch_norm = {"momentum": decay, "epsilon": 1e-5}
    strides = decoder_output_stride
    if isinstance(strides, int):
        strides = [strides]
    if decoder_output_is_logits and (len(strides) > 1 or not decoder_use_sum_merge):
        raise UserError(
            "decoder_output_is_logits is for a decoder of one stage with decoder_use_sum_merge: "
            "switch that on, or this off."
        )
    low_level_features = [_low_level_features(features, stride) for stride in strides]
    x = encode(features["features"], **encoder_settings)
    if decoder_output_is_logits:
        return logits_merge(x, low_level_features[0], num_classes)
    merge = sum_merge if decoder_use_sum_merge else concat_merge
    for stage, low_level in enumerate(low_level_features):
        suffix = f"_{stage}" if stage else ""
        x = merge(x, low_level, decoder_filters, decoder_use_separable_conv, batch_norm, suffix)
    return logits(x, num_classes)


def concat_merge(
    features, low_level, filters: int, use_separable_conv: bool, batch_norm: dict, suffix: str = ""
):
    """Puts sharper features beside the encoder's, and refines them together.

    Args:
        features: `[B, H, W, C]`, what the encoder has seen.
        low_level: `[B, H', W', D]` at the decoder's stride.
        filters: Channels of the two 3x3 convolutions.
        use_separable_conv: Whether these are separable.
        batch_norm: `momentum` and `epsilon`.
        suffix: Appended to the names; distinguishes the stages.

    Returns:
        `[B, H', W', filters]`.

    Reference: arXiv:1802.02611, figure 2.
    """
    projection = f"decoder/feature_projection0{suffix}"
    low_level = layers.conv_batch_norm(low_level, 48, 1, projection, batch_norm)
    features = layers.ResizeLike(name=f"decoder.resize{suffix}")(features, low_level)
    x = keras.layers.Concatenate(name=f"decoder.concat{suffix}")([features, low_level])
    for index in range(2):
        if use_separable_conv:
            name = f"decoder/decoder_conv{index}{suffix}"
            x = layers.separable_conv_batch_norm(x, filters, name, batch_norm)
        else:
            name = f"decoder/decoder_conv0{suffix}"
            name = f"{name}/{name.removeprefix('decoder/')}_{index + 1}"
            x = layers.conv_batch_norm(x, filters, 3, name, batch_norm)
    return x


def sum_merge(
    features, low_level, filters: int, use_separable_conv: bool, batch_norm: dict, suffix: str = ""
):
    """Adds sharper features to the encoder's; arguments and result as of `concat_merge`."""
    projection = f"decoder/feature_projection0{suffix}"
    low_level = layers.conv_batch_norm(low_level, filters, 1, projection, batch_norm)
    x = layers.ResizeLike(name=f"decoder.resize{suffix}")(features, low_level)
    if use_separable_conv:
        name = f"decoder/decoder_split_sep_conv0{suffix}"
        x = layers.separable_conv_batch_norm(x, filters, name, batch_norm)
    else:
        x = layers.conv_batch_norm(x, filters, 3, f"decoder/decoder_conv0{suffix}", batch_norm)
    return keras.layers.Add(name=f"decoder.add{suffix}")([x, low_level])


def logits_merge(features, low_level, num_classes: int):
    """Adds the logits of sharper features to those of the encoder's, as lite R-ASPP does.

    Args:
        features: `[B, H, W, C]`, what the encoder has seen.
        low_level: `[B, H', W', D]` at the decoder's stride.
        num_classes: Channels of the logits.

    Returns:
        float32 `[B, H', W', num_classes]`.

    Reference: MobileNetV3, arXiv:1905.02244, section 6.4 and figure 10.
    """
    low_level = logits(low_level, num_classes, name="decoder/feature_projection0")
    features = layers.ResizeLike(name="decoder.resize")(features, low_level)
    x = logits(features, num_classes, name="decoder/decoder_conv0")
    return keras.layers.Add(dtype="float32", name="decoder.add")([x, low_level])


def _low_level_features(features: dict, stride: int):
    low_level = features.get(f"stride_{stride}")
    if low_level is None:
        strides = [name.removeprefix("stride_") for name in features if name != "features"]
        raise UserError(
            f"decoder_output_stride is {stride}; the backbone at this output_stride has features "
            f"for a decoder at {', '.join(strides)}."
        )
    return low_level
