"""Atrous spatial pyramid pooling, shared by v3 and v3+."""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.errors import UserError


def aspp_rates(output_stride: int) -> tuple[int, int, int]:
    """The atrous rates that the papers tie to an output stride: 6, 12, 18 at 16.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.3: doubled at output stride 8.
    """
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18))


def aspp(
    features,
    output_stride: int,
    *,
    atrous_rates: Sequence[int] | None = None,
    aspp_convs_filters: int = 256,
    aspp_with_separable_conv: bool = True,
    aspp_with_concat_projection: bool = True,
    aspp_with_squeeze_and_excitation: bool = False,
    add_image_level_feature: bool = True,
    image_pooling_crop_size: Sequence[int] | None = None,
    image_pooling_stride: Sequence[int] = (1, 1),
    image_se_uses_qsigmoid: bool = False,
    batch_norm_decay: float = 0.9997,
):
    """Looks at the features at several rates and as a whole, and projects what was seen.

    Args:
        features: `[B, H, W, C]`, H and W at the output stride.
        output_stride: Of the features.
        atrous_rates: One 3x3 branch for each; `()` leaves the 1x1 branch and image pooling; None
            for those that the papers tie to the output stride.
        aspp_convs_filters: Channels of every branch and of the result.
        aspp_with_separable_conv: Whether the 3x3 branches are atrous separable convolutions.
        aspp_with_concat_projection: Whether the branches are projected to one branch's channels.
        aspp_with_squeeze_and_excitation: Whether image pooling weighs the channels of the other
            branches, rather than being one itself (lite R-ASPP).
        add_image_level_feature: Whether there is image pooling.
        image_pooling_crop_size: Height and width in pixels of the input whose features are
            averaged; None for those of the whole input.
        image_pooling_stride: Between the windows, down and across.
        image_se_uses_qsigmoid: Whether those weights are piecewise linear rather than a sigmoid.
        batch_norm_decay: Decay of the moving statistics.

    Returns:
        `[B, H, W, aspp_convs_filters]`, or as many channels more as there are branches without
        projection.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.3; lite R-ASPP: MobileNetV3,
    arXiv:1905.02244, section 6.4.
    """
    if aspp_with_squeeze_and_excitation and not add_image_level_feature:
        raise UserError(
            "aspp_with_squeeze_and_excitation needs the image level feature: leave "
            "add_image_level_feature on."
        )
    batch_norm = {"momentum": batch_norm_decay, "epsilon": 1e-5}
    filters = aspp_convs_filters
    branches, pooled = [], None
    if add_image_level_feature:
        window = image_pooling_crop_size and [
            layers.size_at_stride(side, output_stride) for side in image_pooling_crop_size
        ]
        pooled = layers.ImagePooling(window, image_pooling_stride, name="image_pooling.mean")(
            features
        )
        if aspp_with_squeeze_and_excitation:
            gate = layers.q_sigmoid if image_se_uses_qsigmoid else "sigmoid"
            pooled = keras.layers.Conv2D(filters, 1, activation=gate, name="image_pooling")(pooled)
        else:
            pooled = layers.conv_batch_norm(pooled, filters, 1, "image_pooling", batch_norm)
        pooled = layers.ResizeLike(name="image_pooling.resize")(pooled, features)
        if not aspp_with_squeeze_and_excitation:
            branches.append(pooled)
    branches.append(layers.conv_batch_norm(features, filters, 1, "aspp0", batch_norm))
    if atrous_rates is None:
        atrous_rates = aspp_rates(output_stride)
    for index, rate in enumerate(atrous_rates, start=1):
        if aspp_with_separable_conv:
            branch = layers.separable_conv_batch_norm(
                features, filters, f"aspp{index}", batch_norm, rate
            )
        else:
            branch = layers.conv_batch_norm(
                features, filters, 3, f"aspp{index}", batch_norm, rate=rate
            )
        branches.append(branch)
    x = branches[0]
    if len(branches) > 1:
        x = keras.layers.Concatenate(name="aspp.concat")(branches)
    if aspp_with_concat_projection:
        x = layers.conv_batch_norm(x, filters, 1, "concat_projection", batch_norm)
        x = keras.layers.Dropout(0.1, name="concat_projection.dropout")(x)
    if aspp_with_squeeze_and_excitation:
        if x.shape[-1] != filters:
            raise UserError(
                "aspp_with_squeeze_and_excitation weighs the channels of a single branch: leave "
                "aspp_with_concat_projection on, or atrous_rates empty."
            )
        x = keras.layers.Multiply(name="image_pooling.weigh")([x, pooled])
    return x
