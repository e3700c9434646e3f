"""DeepLab v3+: v3 as the encoder, and a decoder that brings back sharp borders.

Reference: arXiv:1802.02611.
"""

from collections.abc import Sequence

import keras

from deeplab_tf.models import assembly
from deeplab_tf.models.decoder import decode
from deeplab_tf.models.encoder import encode
from deeplab_tf.models.settings import DecoderSettings
from deeplab_tf.models.settings import EncoderSettings
from deeplab_tf.models.settings import OutputSettings
from deeplab_tf.models.settings import check_pyramid
from deeplab_tf.models.settings import sort_settings
from deeplab_tf.weights import Weights


def DeepLabV3Plus(
    backbone: str | keras.Model,
    num_classes: int,
    output_stride: int | None = None,
    atrous_rates: Sequence[int] | None = None,
    decoder_output_stride: int | Sequence[int] | None = None,
    weights: Weights = None,
    **settings,
) -> keras.Model:
    """Builds DeepLab v3+: a backbone, then the ASPP, then a decoder, then the logits.

    Args:
        backbone: A model of `deeplab_tf.backbones`, or an official name such as "xception_65".
        num_classes: Channels of the logits.
        output_stride: Input size over the size of the encoder's features; None for 32 on
            MobileNetV3 and 16 on all others.
        atrous_rates: Rate of each 3x3 branch of the ASPP; `()` for none (MobileNet's light head);
            None for 6, 12, 18 at output stride 16, in proportion at others.
        decoder_output_stride: Input size over the size of the logits before they are resized; a
            sequence for a decoder of several stages; None for 8 on MobileNetV3 and 4 on all others.
        weights: Name of released weights (see `deeplab_tf.zoo`), path of a TensorFlow 1 checkpoint
            of the original, or "imagenet" for a backbone with the weights of an ImageNet
            classifier; None for random weights.
        **settings: The other fields of `deeplab_tf.models.EncoderSettings` and
            `deeplab_tf.models.DecoderSettings`, such as `decoder_filters`; `image_pyramid`,
            `merge_method` and `upsample_logits` of `deeplab_tf.models.OutputSettings`; if
            `backbone` is a name, also the backbone's own settings, such as `in_channels` and
            `multi_grid`. On a MobileNetV3 the defaults are those of its light head.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to float32
        logits `[B, H, W, num_classes]`; with `upsample_logits=False` `[B, H/s, W/s, num_classes]`
        at the decoder's stride `s`, rounded up.

    Raises:
        UserError: If a value is wrong, or v3+ or the backbone does not have a setting.
        TypeError: If no version has a setting.

    Reference: arXiv:1802.02611, section 3.1.

    Example:

    >>> import deeplab_tf
    >>> backbone = deeplab_tf.backbones.MobileNetV2(output_stride=8, in_channels=4)
    >>> model = deeplab_tf.DeepLabV3Plus(backbone, num_classes=21)
    >>> model.input_shape, model.output_shape
    ((None, None, None, 4), (None, None, None, 21))
    """
    settings |= {"atrous_rates": atrous_rates, "decoder_output_stride": decoder_output_stride}
    encoder, decoder, output, backbone_settings = sort_settings(
        "v3plus", backbone, settings, EncoderSettings, DecoderSettings, OutputSettings
    )
    check_pyramid(encoder, output)
    trunk = assembly.start("v3plus", backbone, output_stride, backbone_settings)
    x = encode(trunk.features["features"], trunk.output_stride, encoder)
    x = decode(x, trunk.features, num_classes, decoder, encoder.batch_norm_decay)
    return assembly.finish(trunk, x, output, weights)
