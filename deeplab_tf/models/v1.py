"""DeepLab v1: VGG-16 whose fully connected layers slide over the image as convolutions.

Its fully-connected CRF is applied at prediction: `deeplab_tf.dense_crf`.

Reference: arXiv:1412.7062.
"""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.layers import arguments
from deeplab_tf.models import assembly
from deeplab_tf.models.logits import logits
from deeplab_tf.models.settings import OutputSettings
from deeplab_tf.models.settings import sort_settings
from deeplab_tf.weights import Weights


def DeepLabV1(
    backbone: str | keras.Model,
    num_classes: int,
    output_stride: int | None = None,
    atrous_rates: Sequence[int] | None = None,
    fc6_kernel_size: int | None = None,
    fc_filters: int | None = None,
    weights: Weights = None,
    **settings,
) -> keras.Model:
    """Builds DeepLab v1: a backbone, then VGG's fc6 and fc7 as convolutions, then the logits.

    The paper's fields of view are kernels of 3 at rate 12 (LargeFOV), of 4 at rate 4 or 8, and of 7
    at rate 4, all at output stride 8 on VGG-16.

    Args:
        backbone: A model of `deeplab_tf.backbones`, or an official name such as "vgg_16".
        num_classes: Channels of the logits.
        output_stride: Input size over the size of the logits before they are resized; None for 8.
        atrous_rates: The single rate of fc6; None for 12 with a kernel of 3 and 4 with a larger
            one at output stride 8, in proportion at others.
        fc6_kernel_size: Height and width of fc6; None for 3.
        fc_filters: Channels of fc6 and fc7; None for 1024 with a kernel of 3 and VGG's 4096 with a
            larger one.
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
        UserError: If a value is wrong, or v1 or the backbone does not have a setting.
        TypeError: If no version has a setting.

    Reference: arXiv:1412.7062, sections 3.1 and 4.2.

    Example:

    >>> import deeplab_tf
    >>> model = deeplab_tf.DeepLabV1("vgg_16", num_classes=21)
    >>> model.output_shape
    (None, None, None, 21)
    """
    output, backbone_settings = sort_settings("v1", backbone, settings, OutputSettings)
    trunk = assembly.start("v1", backbone, output_stride, backbone_settings)
    kernel_size = fc6_kernel_size or 3
    is_large_fov = kernel_size <= 3
    if atrous_rates is None:
        atrous_rates = [(12 if is_large_fov else 4) * 8 // trunk.output_stride]
    filters = fc_filters or (1024 if is_large_fov else 4096)
    x = fully_connected(
        trunk.features["features"], filters, kernel_size, _single_rate(atrous_rates)
    )
    return assembly.finish(trunk, logits(x, num_classes), output, weights)


def _single_rate(atrous_rates: Sequence[int]) -> int:
    rates = arguments.whole_numbers("atrous_rates", atrous_rates, example=(12,))
    if len(rates) != 1:
        raise UserError(
            f"atrous_rates is {rates}, but v1 has a single branch: give one rate, or choose "
            "version v2."
        )
    return rates[0]


def fully_connected(features, filters: int, kernel_size: int, rate: int, branch: str = ""):
    """Applies VGG's fc6 and fc7 as convolutions, with their ReLUs and dropout.

    Args:
        features: `[B, H, W, C]`.
        filters: Channels of both.
        kernel_size: Height and width of fc6.
        rate: Atrous rate of fc6.
        branch: Ending of their names.

    Returns:
        `[B, H, W, filters]`.
    """
    x = features
    for name, size, atrous_rate in ((f"fc6{branch}", kernel_size, rate), (f"fc7{branch}", 1, 1)):
        x = layers.AtrousConv2D(
            filters,
            size,
            dilation_rate=atrous_rate,
            padding="same",
            data_format="channels_last",
            activation="relu",
            kernel_initializer=keras.initializers.HeNormal(),
            name=name,
        )(x)
        x = keras.layers.Dropout(0.5, name=f"{name}.dropout")(x)
    return x
