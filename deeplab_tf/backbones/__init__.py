"""The networks that extract features from images.

Xception41, Xception65, Xception71                           the modified aligned Xception
ResNetV1_50, ResNetV1_101, ResNetV1_50Beta, ResNetV1_101Beta ResNet v1
MobileNetV2, MobileNetV3LargeSeg, MobileNetV3SmallSeg        the mobile networks
MobileNetEdgeTPU                                             the one made for the Edge TPU
VGG16                                                        VGG-16
build_backbone                                               any of them, by its official name

Each returns a `keras.Model` from pixels 0..255 to a dict of features. Strides beyond the output
stride become atrous rates.
"""

import difflib
import inspect
from collections.abc import Callable

import keras

from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.mobilenet_edgetpu import MobileNetEdgeTPU
from deeplab_tf.backbones.mobilenet_v2 import MobileNetV2
from deeplab_tf.backbones.mobilenet_v3 import MobileNetV3LargeSeg
from deeplab_tf.backbones.mobilenet_v3 import MobileNetV3SmallSeg
from deeplab_tf.backbones.resnet import ResNetV1_50
from deeplab_tf.backbones.resnet import ResNetV1_50Beta
from deeplab_tf.backbones.resnet import ResNetV1_101
from deeplab_tf.backbones.resnet import ResNetV1_101Beta
from deeplab_tf.backbones.vgg import VGG16
from deeplab_tf.backbones.xception import Xception41
from deeplab_tf.backbones.xception import Xception65
from deeplab_tf.backbones.xception import Xception71
from deeplab_tf.errors import UserError

__all__ = [
    "BACKBONES",
    "VGG16",
    "MobileNetEdgeTPU",
    "MobileNetV2",
    "MobileNetV3LargeSeg",
    "MobileNetV3SmallSeg",
    "ResNetV1_50",
    "ResNetV1_50Beta",
    "ResNetV1_101",
    "ResNetV1_101Beta",
    "Xception41",
    "Xception65",
    "Xception71",
    "build_backbone",
    "pad_pixel",
]

# Official name -> function.
BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "mobilenet_v3_large_seg": MobileNetV3LargeSeg,
    "mobilenet_v3_small_seg": MobileNetV3SmallSeg,
    "mobilenet_edgetpu": MobileNetEdgeTPU,
    "mobilenet_v2": MobileNetV2,
    "xception_41": Xception41,
    "xception_65": Xception65,
    "xception_71": Xception71,
    "resnet_v1_50": ResNetV1_50,
    "resnet_v1_101": ResNetV1_101,
    "resnet_v1_50_beta": ResNetV1_50Beta,
    "resnet_v1_101_beta": ResNetV1_101Beta,
    "vgg_16": VGG16,
}
# Setting -> the backbones that have it, and the value that all others have.
_OWNERS = {
    "multi_grid": ("Only Xception and ResNet have a block that it applies to.", None),
    "depth_multiplier": ("Only a MobileNet can be scaled.", 1),
    "last_block": ("Only a ResNet can repeat its last block.", 4),
}
# Backbones that map pixels to -1..1 are not listed.
_PIXEL_MEANS = {
    "resnet_v1_50": pixels.IMAGENET_MEAN,
    "resnet_v1_101": pixels.IMAGENET_MEAN,
    "vgg_16": pixels.VGG_MEAN,
}


def build_backbone(name: str, output_stride: int = 16, **settings) -> keras.Model:
    """Builds a backbone by its official name.

    Args:
        name: One of `BACKBONES`, e.g. "xception_65".
        output_stride: Input size over the size of the last features: 4, 8, 16 or 32.
        **settings: The other arguments of the backbone's function, e.g. of `Xception65`:
            `in_channels`, `multi_grid`, `depth_multiplier`, `last_block`, `batch_norm_decay`,
            `weights`. None stands for the default. `batch_norm_decay` is ignored by VGG-16, which
            has no batch norm.

    Returns:
        A `keras.Model` named by the original's scope, from pixels 0..255, uint8 or float
        `[B, H, W, in_channels]`, to a dict of float features: `features` at the output stride, and
        for decoders those of `stride_4`, `[B, H/4, W/4, C]`, `stride_8` and `stride_16` that are
        not above the output stride. Sizes are rounded up.

    Raises:
        UserError: If there is no such backbone, the backbone has no such setting, or a value is
            wrong.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.1.

    Example:

    >>> import deeplab_tf
    >>> backbone = deeplab_tf.build_backbone("mobilenet_v2", depth_multiplier=0.5)
    >>> sorted(backbone.output)
    ['features', 'stride_16', 'stride_4', 'stride_8']
    """
    if name not in BACKBONES:
        near = difflib.get_close_matches(str(name).lower(), BACKBONES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"backbone is {name!r}; it must be one of {', '.join(BACKBONES)}.{hint}")
    known = inspect.signature(BACKBONES[name]).parameters
    given = {key: value for key, value in settings.items() if value is not None}
    for key in given.keys() - known.keys() - {"batch_norm_decay"}:
        reason, neutral = _OWNERS.get(key, (f"Its settings are {', '.join(known)}.", None))
        if given[key] != neutral:
            raise UserError(
                f"{key} is {given[key]}, but {name} does not have this setting. {reason} Leave it "
                "out."
            )
    given = {key: value for key, value in given.items() if key in known}
    return BACKBONES[name](output_stride, **given)


def pad_pixel(name: str, in_channels: int | None = None) -> tuple[float, ...]:
    """Returns the pixel that a backbone maps to zeros; images are padded with it.

    Args:
        name: Official name of the backbone.
        in_channels: Channels of the images; None for RGB.
    """
    mean = _PIXEL_MEANS.get(name, (127.5, 127.5, 127.5))
    return pixels.means_of_channels(mean, in_channels or 3)
