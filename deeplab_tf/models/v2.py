"""DeepLab v2: the sum of classifiers at several rates.

Reference: arXiv:1606.00915.
"""

from collections.abc import Sequence

import keras

from deeplab_tf.errors import UserError
from deeplab_tf.layers import arguments
from deeplab_tf.models import assembly
from deeplab_tf.models.logits import logits
from deeplab_tf.models.settings import OutputSettings
from deeplab_tf.models.settings import sort_settings
from deeplab_tf.models.v1 import fully_connected
from deeplab_tf.weights import Weights

_VGG_FILTERS = 1024  # section 4.1.2


def DeepLabV2(
    backbone: str | keras.Model,
    num_classes: int,
    output_stride: int | None = None,
    atrous_rates: Sequence[int] | None = None,
    fc_filters: int | None = None,
    weights: Weights = None,
    **settings,
) -> keras.Model:
    """Builds DeepLab v2: a backbone, then a classifier at each rate, then their sum.

    Args:
        backbone: A model of `deeplab_tf.backbones`, or an official name such as "resnet_v1_101".
        num_classes: Channels of the logits.
        output_stride: Input size over the size of the logits before they are resized; None for 8.
        atrous_rates: Rate of each branch; None for ASPP-L, 6, 12, 18 and 24 at output stride 8, in
            proportion at others. ASPP-S is 2, 4, 8 and 12.
        fc_filters: Channels of the fc6 and fc7 of each branch; 0 for branches that classify the
            features themselves; None for 1024 on VGG-16 and 0 on all others.
        weights: Name of released weights (see `deeplab_tf.zoo`), path of a TensorFlow 1 checkpoint
            of the original, or "imagenet" for a backbone with the weights of an ImageNet
            classifier; None for random weights.
        **settings: `image_pyramid`, `merge_method` and `upsample_logits` of
            `deeplab_tf.models.OutputSettings`; if `backbone` is a name, also the backbone's own
            settings, such as `in_channels`.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to float32
        logits `[B, H, W, num_classes]`; with `upsample_logits=False`
        `[B, H/output_stride, W/output_stride, num_classes]`, rounded up.

    Raises:
        UserError: If a value is wrong, or v2 or the backbone does not have a setting.
        TypeError: If no version has a setting.

    Reference: arXiv:1606.00915, sections 3.1 and 4.1.2, figure 7.

    Example:

    >>> import deeplab_tf
    >>> model = deeplab_tf.DeepLabV2("mobilenet_v2", num_classes=21, atrous_rates=(2, 4, 8, 12))
    >>> model.output_shape
    (None, None, None, 21)
    """
    output, backbone_settings = sort_settings("v2", backbone, settings, OutputSettings)
    trunk = assembly.start("v2", backbone, output_stride, backbone_settings)
    if atrous_rates is None:
        atrous_rates = [rate * 8 // trunk.output_stride for rate in (6, 12, 18, 24)]
    rates = arguments.whole_numbers("atrous_rates", atrous_rates, example=(6, 12, 18, 24))
    if not rates:
        raise UserError(
            "atrous_rates is empty, but v2 has a branch for each rate: give one or more."
        )
    if fc_filters is None:
        fc_filters = _VGG_FILTERS if trunk.backbone.name == "vgg_16" else 0
    features = trunk.features["features"]
    branches = [
        _branch(features, num_classes, index, rate, fc_filters) for index, rate in enumerate(rates)
    ]
    total = branches[0]
    if len(branches) > 1:
        total = keras.layers.Add(dtype="float32", name="logits.sum")(branches)
    return assembly.finish(trunk, total, output, weights)


def _branch(features, num_classes: int, index: int, rate: int, fc_filters: int):
    """Returns the logits of a classifier at a rate, with or without its own fc6 and fc7."""
    name = f"logits/semantic_{index}" if index else "logits/semantic"
    if not fc_filters:
        return logits(features, num_classes, 3, rate, name)
    x = fully_connected(features, fc_filters, 3, rate, branch=f"_{index + 1}")
    return logits(x, num_classes, name=name)
