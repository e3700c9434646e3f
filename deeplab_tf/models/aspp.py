"""Atrous spatial pyramid pooling, shared by v3 and v3+."""

from collections.abc import Sequence

import keras

from deeplab_tf import layers


def aspp_rates(output_stride: int) -> tuple[int, int, int]:
    """The atrous rates that the papers tie to an output stride: 6, 12, 18 at 16.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.3: doubled at output stride 8.
    """
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18))


def aspp(
    features,
    output_stride: int,
    atrous_rates: Sequence[int],
    filters: int = 256,
    with_separable_conv: bool = True,
    add_image_level_feature: bool = True,
    image_pooling_crop_size: Sequence[int] | None = None,
    batch_norm_decay: float = 0.9997,
):
    """Looks at the features at several rates and as a whole, and projects what was seen.

    Args:
        features: `[B, H, W, C]`, H and W at the output stride.
        output_stride: Of the features.
        atrous_rates: One 3x3 branch for each; `()` leaves the 1x1 branch and image pooling.
        filters: Channels of every branch and of the result.
        with_separable_conv: Whether the 3x3 branches are atrous separable convolutions.
        add_image_level_feature: Whether to add image pooling.
        image_pooling_crop_size: Height and width in pixels of the input whose features are
            averaged; None for those of the whole input.
        batch_norm_decay: Decay of the moving statistics.

    Returns:
        `[B, H, W, filters]`.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.3.
    """
    batch_norm = {"momentum": batch_norm_decay, "epsilon": 1e-5}
    branches = []
    if add_image_level_feature:
        if image_pooling_crop_size is None:
            pool = keras.layers.GlobalAveragePooling2D(keepdims=True, name="image_pooling.mean")
        else:
            sides = image_pooling_crop_size
            window = [layers.size_at_stride(side, output_stride) for side in sides]
            pool = keras.layers.AveragePooling2D(window, strides=1, name="image_pooling.mean")
        pooled = layers.conv_batch_norm(pool(features), filters, 1, "image_pooling", batch_norm)
        branches.append(layers.ResizeLike(name="image_pooling.resize")(pooled, features))
    branches.append(layers.conv_batch_norm(features, filters, 1, "aspp0", batch_norm))
    for index, rate in enumerate(atrous_rates, start=1):
        if with_separable_conv:
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
    x = layers.conv_batch_norm(x, filters, 1, "concat_projection", batch_norm)
    return keras.layers.Dropout(0.1, name="concat_projection.dropout")(x)
