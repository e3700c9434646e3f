"""The DeepLab generations."""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import build_backbone
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.errors import UserError
from deeplab_tf.models import v3
from deeplab_tf.models import v3plus
from deeplab_tf.models.aspp import aspp_rates

VERSIONS = {"v3": v3.head, "v3plus": v3plus.head}


def build_model(
    version: str,
    backbone: str,
    num_classes: int,
    output_stride: int = 16,
    atrous_rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
    depth_multiplier: float = 1.0,
    decoder_output_stride: int | Sequence[int] | None = None,
    add_image_level_feature: bool = True,
    image_pooling_crop_size: Sequence[int] | None = None,
    aspp_with_separable_conv: bool = True,
    aspp_convs_filters: int = 256,
    decoder_use_separable_conv: bool = True,
    decoder_filters: int = 256,
    batch_norm_decay: float | None = None,
    upsample_logits: bool = True,
) -> keras.Model:
    """Builds a DeepLab, from RGB pixels to logits.

    Args:
        version: One of `VERSIONS`.
        backbone: One of `deeplab_tf.backbones.BACKBONES`.
        num_classes: Channels of the logits.
        output_stride: Input size over the size of the backbone's features: 4, 8, 16 or 32.
        atrous_rates: Of the ASPP branches; None for what the papers tie to the output stride, `()`
            for no such branch (MobileNet's light head).
        multi_grid: Multipliers of the atrous rates of the last block's three units; None for the
            paper's.
        depth_multiplier: Scales the filters of a MobileNet.
        decoder_output_stride: Input size over decoder size of v3+; None for the paper's 4.
        add_image_level_feature: Whether image pooling is part of the ASPP.
        image_pooling_crop_size: Height and width in pixels of the input whose features image
            pooling averages; None for those of the whole input.
        aspp_with_separable_conv: Whether the ASPP branches are atrous separable convolutions.
        aspp_convs_filters: Channels of every ASPP branch.
        decoder_use_separable_conv: Whether the decoder's two 3x3 convolutions are separable.
        decoder_filters: Their channels.
        batch_norm_decay: Decay of all moving statistics; None for the original's, part by part.
        upsample_logits: Whether logits are resized to the size of the input.

    Returns:
        A `keras.Model` that takes uint8 or float `[B, H, W, 3]` in 0..255 of any height and width,
        and returns float32 logits `[B, H, W, num_classes]`, or `[B, H/s, W/s, num_classes]` at the
        stride `s` of the head if `upsample_logits` is false.

    Raises:
        UserError: For an argument that names nothing, or does not go with another.
    """
    if version not in VERSIONS:
        raise UserError(f"version is {version!r}; it can be {', '.join(VERSIONS)}.")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(
            f"num_classes is {num_classes!r}; it must be a whole number of classes, 1 or more."
        )
    if atrous_rates is None:
        check_output_stride(output_stride)
        atrous_rates = aspp_rates(output_stride)
    if atrous_rates and min(atrous_rates) < 1:
        raise UserError(f"atrous_rates is {tuple(atrous_rates)}; each must be 1 or more.")
    if image_pooling_crop_size is not None and len(image_pooling_crop_size) != 2:
        raise UserError(
            f"image_pooling_crop_size is {tuple(image_pooling_crop_size)}; give height and width."
        )
    image = keras.Input((None, None, 3), name="image")
    features = build_backbone(
        backbone, output_stride, multi_grid, depth_multiplier, batch_norm_decay
    )(image)
    settings = {
        "output_stride": output_stride,
        "atrous_rates": atrous_rates,
        "filters": aspp_convs_filters,
        "with_separable_conv": aspp_with_separable_conv,
        "add_image_level_feature": add_image_level_feature,
        "image_pooling_crop_size": image_pooling_crop_size,
        "batch_norm_decay": 0.9997 if batch_norm_decay is None else batch_norm_decay,
    }
    if version == "v3plus":
        settings["decoder_output_stride"] = _decoder_stride(decoder_output_stride)
        settings["decoder_filters"] = decoder_filters
        settings["decoder_use_separable_conv"] = decoder_use_separable_conv
    elif decoder_output_stride is not None:
        raise UserError(
            f"decoder_output_stride is {decoder_output_stride}, but {version} has no decoder. "
            "Leave it out, or choose version v3plus."
        )
    logits = VERSIONS[version](features, num_classes, **settings)
    if upsample_logits:
        logits = layers.ResizeLike(dtype="float32", name="upsampled_logits")(logits, image)
    return keras.Model(image, logits, name=f"deeplab_{version}_{backbone}")


def _decoder_stride(decoder_output_stride: int | Sequence[int] | None) -> int:
    """The stride of the one decoder stage that there is."""
    if decoder_output_stride is None:
        return 4
    if isinstance(decoder_output_stride, int):
        return decoder_output_stride
    if len(decoder_output_stride) != 1:
        raise UserError(
            f"decoder_output_stride is {tuple(decoder_output_stride)}; give a single stride, as 4."
        )
    return decoder_output_stride[0]
