"""The last convolution of every version."""

import keras

from deeplab_tf import layers
from deeplab_tf.layers import arguments


def logits(
    features, num_classes: int, kernel_size: int = 1, rate: int = 1, name: str = "logits/semantic"
):
    """Returns the scores of the classes, float32 under any policy, `[B, H, W, num_classes]`.

    Raises:
        UserError: If `num_classes` is not a whole number above 0.
    """
    return layers.AtrousConv2D(
        arguments.whole_number("num_classes", num_classes),
        kernel_size,
        dilation_rate=rate,
        padding="same",
        data_format="channels_last",
        # The original's: the first predictions are undecided.
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01),
        dtype="float32",
        name=layers.layer_name(name),
    )(features)
