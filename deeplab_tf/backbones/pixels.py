"""The preprocessing of pixels before the first convolution."""

import keras

from deeplab_tf.layers import arguments

# Means of R, G and B over ImageNet: those of the original's ResNet, and those VGG was trained with.
IMAGENET_MEAN = (123.15, 115.90, 103.06)
VGG_MEAN = (123.68, 116.78, 103.94)


def image_input(in_channels: int):
    """Returns the input of a backbone: pixels 0..255, `[B, H, W, in_channels]`.

    Raises:
        UserError: If `in_channels` is not a whole number above 0.
    """
    in_channels = arguments.whole_number("in_channels", in_channels)
    return keras.Input((None, None, in_channels), name="image")


def to_unit_range(image):
    """Maps pixels from 0..255 to -1..1."""
    # float32 under any policy: bfloat16 would round pixels that were resized.
    return keras.layers.Rescaling(2 / 255, offset=-1, dtype="float32", name="rescaling")(image)


def means_of_channels(mean: tuple[float, float, float], in_channels: int) -> tuple[float, ...]:
    """Returns what `subtract_mean` subtracts from each channel."""
    rgb = mean if in_channels >= 3 else ()
    return (*rgb, *[sum(mean) / 3] * (in_channels - len(rgb)))


def subtract_mean(image, mean: tuple[float, float, float]):
    """Subtracts the means of R, G and B, and the mean of these from any further channel.

    (The original leaves further channels unchanged.) Images of one or two channels have no R, G and
    B: all of their channels count as further ones.
    """
    offset = [-value for value in means_of_channels(mean, image.shape[-1])]
    # float32 under any policy, as above.
    return keras.layers.Rescaling(1.0, offset=offset, dtype="float32", name="rescaling")(image)
