"""DeepLab v3: atrous spatial pyramid pooling, or a cascade of blocks, then logits.

Reference: arXiv:1706.05587.
"""

from collections.abc import Sequence

import keras

from deeplab_tf.errors import UserError
from deeplab_tf.models import assembly
from deeplab_tf.models.encoder import encode
from deeplab_tf.models.logits import logits
from deeplab_tf.models.settings import EncoderSettings
from deeplab_tf.models.settings import OutputSettings
from deeplab_tf.models.settings import check_pyramid
from deeplab_tf.models.settings import sort_settings
from deeplab_tf.weights import Weights


def DeepLabV3(
    backbone: str | keras.Model,
    num_classes: int,
    output_stride: int | None = None,
    atrous_rates: Sequence[int] | None = None,
    last_block: int | None = None,
    weights: Weights = None,
    **settings,
) -> keras.Model:
    """Builds DeepLab v3: a backbone, then the ASPP, then the logits.

    With `last_block` it is the cascade: a ResNet with copies of its last block in place of the
    ASPP.

    Args:
        backbone: A model of `deeplab_tf.backbones`, or an official name such as
            "resnet_v1_50_beta".
        num_classes: Channels of the logits.
        output_stride: Input size over the size of the logits before they are resized; None for 32
            on MobileNetV3 and 16 on all others.
        atrous_rates: Rate of each 3x3 branch of the ASPP; `()` for none (MobileNet's light head);
            None for 6, 12, 18 at output stride 16, in proportion at others.
        last_block: 4 to 7 for a cascade that ends there; None for the ASPP.
        weights: Name of released weights (see `deeplab_tf.zoo`), path of a TensorFlow 1 checkpoint
            of the original, or "imagenet" for a backbone with the weights of an ImageNet
            classifier; None for random weights.
        **settings: The other fields of `deeplab_tf.models.EncoderSettings`, such as
            `aspp_convs_filters`; `image_pyramid`, `merge_method` and `upsample_logits` of
            `deeplab_tf.models.OutputSettings`; if `backbone` is a name, also the backbone's own
            settings, such as `in_channels` and `multi_grid`. On a MobileNetV3 the defaults are
            those of its light head.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to float32
        logits `[B, H, W, num_classes]`; with `upsample_logits=False`
        `[B, H/output_stride, W/output_stride, num_classes]`, rounded up.

    Raises:
        UserError: If a value is wrong, or v3 or the backbone does not have a setting.
        TypeError: If no version has a setting.

    Reference: arXiv:1706.05587, sections 3.2 and 3.3.

    Example:

    >>> import deeplab_tf
    >>> model = deeplab_tf.DeepLabV3("mobilenet_v2", num_classes=21, atrous_rates=())
    >>> model.output_shape
    (None, None, None, 21)
    """
    settings = {**settings, "atrous_rates": atrous_rates}
    if last_block is not None:
        return _cascade(backbone, num_classes, output_stride, last_block, weights, settings)
    encoder, output, backbone_settings = sort_settings(
        "v3", backbone, settings, EncoderSettings, OutputSettings
    )
    check_pyramid(encoder, output)
    trunk = assembly.start("v3", backbone, output_stride, backbone_settings)
    x = encode(trunk.features["features"], trunk.output_stride, encoder)
    return assembly.finish(trunk, logits(x, num_classes), output, weights)


def _cascade(
    backbone: str | keras.Model,
    num_classes: int,
    output_stride: int | None,
    last_block: int,
    weights: Weights,
    settings: dict,
) -> keras.Model:
    """Builds the cascade: the backbone already has its rates.

    Reference: arXiv:1706.05587, section 3.2.
    """
    output, backbone_settings = sort_settings(
        "the cascade of v3", backbone, settings, OutputSettings
    )
    if isinstance(backbone, str):
        backbone_settings["last_block"] = last_block
    elif not any(
        layer.name.startswith(f"{backbone.name}.block{last_block}.") for layer in backbone.layers
    ):
        raise UserError(
            f"last_block is {last_block}, but the backbone {backbone.name} has no such block. "
            "Give last_block to the function that builds it."
        )
    trunk = assembly.start("v3", backbone, output_stride, backbone_settings)
    return assembly.finish(trunk, logits(trunk.features["features"], num_classes), output, weights)
