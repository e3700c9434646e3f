"""DeepLab v2: classifiers that look at the features at several rates, summed.

Reference: arXiv:1606.00915.
"""

from collections.abc import Sequence

import keras

from deeplab_tf.models.logits import logits
from deeplab_tf.models.v1 import fully_connected


def head(
    features: dict,
    num_classes: int,
    *,
    output_stride: int,
    atrous_rates: Sequence[int] | None = None,
    fc_filters: int | None = None,
):
    """From the features of a backbone to logits at the output stride.

    Args:
        features: The dict that the backbone returns.
        num_classes: Channels of the logits.
        output_stride: Of the features.
        atrous_rates: One branch for each; None for ASPP-L, 6, 12, 18 and 24 at output stride 8.
            ASPP-S is 2, 4, 8 and 12 there.
        fc_filters: Channels of VGG's fc6 and fc7, which each branch has its own of; None for
            branches that classify the features themselves, as on ResNet.

    Returns:
        float32 `[B, H / output_stride, W / output_stride, num_classes]`.

    Reference: arXiv:1606.00915, sections 3.1 and 4.1.2, figure 7.
    """
    if atrous_rates is None:
        atrous_rates = [rate * 8 // output_stride for rate in (6, 12, 18, 24)]
    branches = []
    for index, rate in enumerate(atrous_rates):
        name = f"logits/semantic_{index}" if index else "logits/semantic"
        x = features["features"]
        if fc_filters:
            x = fully_connected(x, fc_filters, 3, rate, branch=f"_{index + 1}")
            branches.append(logits(x, num_classes, name=name))
        else:
            branches.append(logits(x, num_classes, 3, rate, name))
    if len(branches) == 1:
        return branches[0]
    return keras.layers.Add(dtype="float32", name="logits.sum")(branches)
