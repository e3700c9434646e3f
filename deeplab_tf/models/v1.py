"""DeepLab v1: VGG-16 whose fully connected layers slide over the image as convolutions.

They go behind any other backbone as well.

Its fully-connected CRF comes behind it, at prediction.

Reference: arXiv:1412.7062.
"""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.models.logits import logits


def head(
    features: dict,
    num_classes: int,
    *,
    output_stride: int,
    atrous_rates: Sequence[int] | None = None,
    fc6_kernel_size: int = 3,
    fc_filters: int | None = None,
):
    """From the features of a backbone to logits at the output stride.

    The papers' fields of view are kernels of 3 at rate 12 (LargeFOV), 4 at rate 4 or 8, and 7 at
    rate 4, all at output stride 8.

    Args:
        features: The dict that the backbone returns.
        num_classes: Channels of the logits.
        output_stride: Of the features.
        atrous_rates: The one rate of fc6; None for 12 with a kernel of 3 and 4 with a larger one,
            at output stride 8.
        fc6_kernel_size: Height and width of fc6.
        fc_filters: Channels of fc6 and fc7; None for 1024 with a kernel of 3 and VGG's 4096 with a
            larger one.

    Returns:
        float32 `[B, H / output_stride, W / output_stride, num_classes]`.

    Reference: arXiv:1412.7062, sections 3.1 and 4.2.
    """
    is_large_fov = fc6_kernel_size <= 3
    if atrous_rates is None:
        atrous_rates = [(12 if is_large_fov else 4) * 8 // output_stride]
    if len(atrous_rates) != 1:
        raise UserError(
            f"atrous_rates is {tuple(atrous_rates)}, but v1 has a single branch: give one rate, "
            "or choose version v2."
        )
    filters = fc_filters or (1024 if is_large_fov else 4096)
    x = fully_connected(features["features"], filters, fc6_kernel_size, atrous_rates[0])
    return logits(x, num_classes)


def fully_connected(features, filters: int, kernel_size: int, rate: int, branch: str = ""):
    """VGG's fc6 and fc7 as convolutions, with their ReLU and dropout.

    Args:
        features: `[B, H, W, C]`.
        filters: Channels of both.
        kernel_size: Height and width of fc6.
        rate: Atrous rate of fc6.
        branch: Appended to their names.

    Returns:
        `[B, H, W, filters]`.
    """
    x = features
    for name, size, atrous_rate in (("fc6", kernel_size, rate), ("fc7", 1, 1)):
        name = f"{name}{branch}"
        x = layers.AtrousConv2D(
            filters,
            size,
            dilation_rate=atrous_rate,
            padding="same",
            activation="relu",
            kernel_initializer=keras.initializers.HeNormal(),
            name=layers.layer_name(name),
        )(x)
        x = keras.layers.Dropout(0.5, name=layers.layer_name(f"{name}/dropout"))(x)
    return x
