"""The networks that features come from."""

import functools
from collections.abc import Sequence

import keras

from deeplab_tf.backbones import mobilenet_v2
from deeplab_tf.backbones import xception
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.errors import UserError

BACKBONES = {
    "mobilenet_v2": mobilenet_v2.mobilenet_v2,
    "xception_41": functools.partial(xception.xception, "xception_41"),
    "xception_65": functools.partial(xception.xception, "xception_65"),
    "xception_71": functools.partial(xception.xception, "xception_71"),
}


def build_backbone(
    name: str,
    output_stride: int = 16,
    multi_grid: Sequence[int] | None = None,
    depth_multiplier: float = 1.0,
    batch_norm_decay: float | None = None,
) -> keras.Model:
    """Builds a backbone, from RGB pixels 0..255 to named features.

    Args:
        name: One of `BACKBONES`.
        output_stride: Input size over the size of the last features: 4, 8, 16 or 32.
        multi_grid: Multipliers of the atrous rates in the last block (in Xception, of its three
            separable convolutions); None for the paper's. MobileNet has no such block.
        depth_multiplier: Scales the filters of a MobileNet.
        batch_norm_decay: Decay of the moving statistics; None for the original's.

    Returns:
        A `keras.Model` with the name of the original's scope. It takes uint8 or float
        `[B, H, W, 3]` and returns a dict: `features` at the output stride, and what a decoder
        can refine them with, by stride: `stride_4` is `[B, ceil(H/4), ceil(W/4), C]`.

    Raises:
        UserError: For an argument that the backbone does not have.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone is {name!r}; it can be {', '.join(BACKBONES)}.")
    check_output_stride(output_stride)
    settings = {}
    if batch_norm_decay is not None:
        settings["batch_norm_decay"] = batch_norm_decay
    if name.startswith("mobilenet"):
        if depth_multiplier <= 0:
            raise UserError(f"depth_multiplier is {depth_multiplier}; it must be above 0.")
        settings["depth_multiplier"] = depth_multiplier
        if multi_grid is not None:
            raise UserError(
                f"multi_grid is {tuple(multi_grid)}, but {name} has no block it could apply to. "
                "Leave it out."
            )
    else:
        if depth_multiplier != 1:
            raise UserError(
                f"depth_multiplier is {depth_multiplier}, but {name} has a single width: only a "
                "MobileNet can be scaled. Leave it at 1."
            )
        if multi_grid is not None:
            if len(multi_grid) != 3 or min(multi_grid) < 1:
                raise UserError(
                    f"multi_grid is {tuple(multi_grid)}; it must be three whole numbers, as 1,2,4."
                )
            settings["multi_grid"] = tuple(multi_grid)
    return BACKBONES[name](output_stride=output_stride, **settings)
