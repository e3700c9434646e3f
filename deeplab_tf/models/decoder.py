"""The decoder of v3+, which brings back sharp borders.

Reference: DeepLabv3+, arXiv:1802.02611, sections 3.1 and 4.1.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.models.logits import logits
from deeplab_tf.models.settings import DecoderSettings


def decode(x, features: dict, num_classes: int, settings: DecoderSettings, batch_norm_decay: float):
    """Turns the encoder's output into logits with sharper features.

    Args:
        x: `[B, H, W, C]`, the encoder's output.
        features: The backbone's features by name.
        num_classes: Channels of the logits.
        settings: The stages and their layers.
        batch_norm_decay: Decay of the moving statistics.

    Returns:
        float32 `[B, H/s, W/s, num_classes]` at the stride `s` of the last stage.
    """
    low_level_features = [_low_level_features(features, stride) for stride in settings.strides]
    if settings.decoder_output_is_logits:
        return logits_merge(x, low_level_features[0], num_classes)
    merge = sum_merge if settings.decoder_use_sum_merge else concat_merge
    for stage, low_level in enumerate(low_level_features):
        suffix = f"_{stage}" if stage else ""
        x = merge(x, low_level, settings, batch_norm_decay, suffix)
    return logits(x, num_classes)


def concat_merge(
    features, low_level, settings: DecoderSettings, batch_norm_decay: float, suffix: str = ""
):
    """Concatenates sharper features with the encoder's, and refines them together.

    Args:
        features: `[B, H, W, C]`, the encoder's.
        low_level: `[B, H', W', D]` at the decoder's stride.
        settings: The 3x3 convolutions.
        batch_norm_decay: Decay of the moving statistics.
        suffix: Ending of the names, which distinguishes the stages.

    Returns:
        `[B, H', W', decoder_filters]`.

    Reference: arXiv:1802.02611, figure 2; section 4.1: 48 low-level channels, two 3x3 of 256.
    """
    low_level = _project(low_level, 48, batch_norm_decay, suffix)
    features = layers.ResizeLike(name=f"decoder.resize{suffix}")(features, low_level)
    x = keras.layers.Concatenate(name=f"decoder.concat{suffix}")([features, low_level])
    for index in range(2):
        if settings.decoder_use_separable_conv:
            scope = f"decoder/decoder_conv{index}{suffix}"
        else:
            scope = f"decoder/decoder_conv0{suffix}/decoder_conv0{suffix}_{index + 1}"
        x = _refine(x, scope, settings, batch_norm_decay)
    return x


def sum_merge(
    features, low_level, settings: DecoderSettings, batch_norm_decay: float, suffix: str = ""
):
    """Adds sharper features to the encoder's; arguments and result are those of `concat_merge`."""
    low_level = _project(low_level, settings.decoder_filters, batch_norm_decay, suffix)
    x = layers.ResizeLike(name=f"decoder.resize{suffix}")(features, low_level)
    conv = "decoder_split_sep_conv0" if settings.decoder_use_separable_conv else "decoder_conv0"
    x = _refine(x, f"decoder/{conv}{suffix}", settings, batch_norm_decay)
    return keras.layers.Add(name=f"decoder.add{suffix}")([x, low_level])


def logits_merge(features, low_level, num_classes: int):
    """Adds the logits of sharper features to those of the encoder's, as lite R-ASPP does.

    Args:
        features: `[B, H, W, C]`, the encoder's.
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


def _project(low_level, filters: int, batch_norm_decay: float, suffix: str):
    blocks = layers.ConvBlocks(batch_norm_decay)
    block = blocks.conv(filters, 1, f"decoder/feature_projection0{suffix}")
    return layers.call_in_order(block, low_level)


def _refine(x, scope: str, settings: DecoderSettings, batch_norm_decay: float):
    """Applies one of the decoder's 3x3 convolutions."""
    filters = settings.decoder_filters
    if settings.decoder_use_separable_conv:
        return layers.AtrousSeparableConv2D(
            filters, batch_norm_momentum=batch_norm_decay, name=layers.layer_name(scope)
        )(x)
    return layers.call_in_order(layers.ConvBlocks(batch_norm_decay).conv(filters, 3, scope), x)


def _low_level_features(features: dict, stride: int):
    low_level = features.get(f"stride_{stride}")
    if low_level is None:
        strides = [name.removeprefix("stride_") for name in features if name != "features"]
        raise UserError(
            f"decoder_output_stride is {stride}; at this output_stride the backbone has features "
            f"for a decoder at {', '.join(strides)}."
        )
    return low_level
