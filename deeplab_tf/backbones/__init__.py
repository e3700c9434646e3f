"""The networks that features come from."""

import functools
from collections.abc import Sequence

import keras

from deeplab_tf.backbones import mobilenet_v2
from deeplab_tf.backbones import mobilenet_v3
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones import resnet
from deeplab_tf.backbones import vgg
from deeplab_tf.backbones import xception
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.errors import UserError

BACKBONES = {
    "mobilenet_v3_large_seg": functools.partial(
        mobilenet_v3.mobilenet_v3, "mobilenet_v3_large_seg"
    ),
    "mobilenet_v3_small_seg": functools.partial(
        mobilenet_v3.mobilenet_v3, "mobilenet_v3_small_seg"
    ),
    "mobilenet_v2": mobilenet_v2.mobilenet_v2,
    "xception_41": functools.partial(xception.xception, "xception_41"),
    "xception_65": functools.partial(xception.xception, "xception_65"),
    "xception_71": functools.partial(xception.xception, "xception_71"),
    "resnet_v1_50": functools.partial(resnet.resnet_v1, "resnet_v1_50"),
    "resnet_v1_101": functools.partial(resnet.resnet_v1, "resnet_v1_101"),
    "resnet_v1_50_beta": functools.partial(resnet.resnet_v1, "resnet_v1_50_beta"),
    "resnet_v1_101_beta": functools.partial(resnet.resnet_v1, "resnet_v1_101_beta"),
    "vgg_16": vgg.vgg_16,
}
# Backbones that map pixels to -1..1 are not listed.
_PIXEL_MEANS = {
    "resnet_v1_50": pixels.IMAGENET_MEAN,
    "resnet_v1_101": pixels.IMAGENET_MEAN,
    "vgg_16": pixels.VGG_MEAN,
}


def build_backbone(
    name: str,
    output_stride: int = 16,
    multi_grid: Sequence[int] | None = None,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float | None = None,
    in_channels: int = 3,
    last_block: int = 4,
) -> keras.Model:
    """Builds a backbone, from pixels 0..255 to named features.

    Args:
        name: One of `BACKBONES`.
        output_stride: Input size over the size of the last features: 4, 8, 16 or 32.
        multi_grid: Multipliers of the atrous rates in the last block (in Xception, of its three
            separable convolutions; in a ResNet, of the three units of block4 and its copies); None
            for 1, 1, 1. MobileNet and VGG have no such block.
        depth_multiplier: Scales the filters of a MobileNet.
        batch_norm_decay: Decay of the moving statistics; None for the original's. VGG has none.
        in_channels: Channels of the images; the first three are R, G and B.
        last_block: Of a ResNet: 4, or 5 to 7 for copies of block4 behind it (v3 in cascade).

    Returns:
        A `keras.Model` with the name of the original's scope. It takes uint8 or float
        `[B, H, W, in_channels]` and returns a dict: `features` at the output stride, and what a
        decoder can refine them with, by stride: `stride_4` is `[B, ceil(H/4), ceil(W/4), C]`, and
        so are `stride_8` and `stride_16` where the output stride is not below.

    Raises:
        UserError: For an argument that the backbone does not have.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone is {name!r}; it can be {', '.join(BACKBONES)}.")
    check_output_stride(output_stride)
    if not isinstance(in_channels, int) or in_channels < 1:
        raise UserError(f"in_channels is {in_channels!r}; it must be a whole number, 1 or more.")
    settings = {"output_stride": output_stride, "in_channels": in_channels}
    if batch_norm_decay is not None and name != "vgg_16":
        settings["batch_norm_decay"] = batch_norm_decay
    if name.startswith("mobilenet"):
        if depth_multiplier <= 0:
            raise UserError(f"depth_multiplier is {depth_multiplier}; it must be above 0.")
        settings["depth_multiplier"] = depth_multiplier
    elif depth_multiplier != 1:
        raise UserError(
            f"depth_multiplier is {depth_multiplier}, but {name} has a single width: only a "
            "MobileNet can be scaled. Leave it at 1."
        )
    if multi_grid is not None:
        if not name.startswith(("xception", "resnet")):
            raise UserError(
                f"multi_grid is {tuple(multi_grid)}, but {name} has no block it could apply to. "
                "Leave it out."
            )
        if len(multi_grid) != 3 or min(multi_grid) < 1:
            raise UserError(
                f"multi_grid is {tuple(multi_grid)}; it must be three whole numbers, as 1,2,4."
            )
        settings["multi_grid"] = tuple(multi_grid)
    if name.startswith("resnet"):
        if last_block not in (4, 5, 6, 7):
            raise UserError(f"last_block is {last_block!r}; it can be 4, 5, 6 or 7.")
        settings["last_block"] = last_block
    elif last_block != 4:
        raise UserError(
            f"last_block is {last_block!r}, but {name} has no copies of its last block: only a "
            "ResNet can. Leave it at 4."
        )
    return BACKBONES[name](**settings)


def pad_pixel(name: str) -> tuple[float, float, float]:
    """The R, G and B that a backbone maps to zeros, with which images are padded."""
    return _PIXEL_MEANS.get(name, (127.5, 127.5, 127.5))
