"""The last convolution of every generation."""

import keras

from deeplab_tf import layers


def logits(
    features, num_classes: int, kernel_size: int = 1, rate: int = 1, name: str = "logits/semantic"
):
    """The scores of the classes, float32 under any policy, `[B, H, W, num_classes]`."""
    return layers.AtrousConv2D(
        num_classes,
        kernel_size,
        dilation_rate=rate,
        padding="same",
        # The original's: the first predictions are undecided.
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01),
        dtype="float32",
        name=layers.layer_name(name),
    )(features)
