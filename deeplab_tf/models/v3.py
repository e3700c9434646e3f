"""DeepLab v3: atrous spatial pyramid pooling, then logits.

Reference: arXiv:1706.05587.
"""

import keras

from deeplab_tf.models.aspp import aspp


def head(features: dict, num_classes: int, **aspp_settings):
    """From the features of a backbone to logits at the output stride.

    Args:
        features: The dict that the backbone returns.
        num_classes: Channels of the logits.
        **aspp_settings: The arguments of `aspp`.

    Returns:
        float32 `[B, H / output_stride, W / output_stride, num_classes]`.
    """
    return logits(aspp(features["features"], **aspp_settings), num_classes)


def logits(features, num_classes: int):
    """The last 1x1 convolution; float32 under any policy, `[B, H, W, num_classes]`."""
    return keras.layers.Conv2D(
        num_classes,
        1,
        # The original's: the first predictions are undecided.
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01),
        dtype="float32",
        name="logits.semantic",
    )(features)
