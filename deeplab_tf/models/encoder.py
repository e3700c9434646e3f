"""The context module of v3 and v3+: the ASPP, its light form or a cell."""

from typing import Any

from deeplab_tf import layers
from deeplab_tf.models.dense_prediction_cell import dense_prediction_cell
from deeplab_tf.models.settings import EncoderSettings


def aspp_rates(output_stride: int) -> tuple[int, ...]:
    """Returns the atrous rates that the papers tie to an output stride: 6, 12, 18 at 16.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.3: doubled at output stride 8.
    """
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18))


def encode(features, output_stride: int, settings: EncoderSettings):
    """Adds context to the features.

    Args:
        features: `[B, H, W, C]`, H and W at the output stride.
        output_stride: Output stride of the features.
        settings: The context module and its settings.

    Returns:
        `[B, H, W, filters]`.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.3; MobileNetV3, arXiv:1905.02244, section 6.4.
    """
    if settings.dense_prediction_cell_json:
        return dense_prediction_cell(
            features,
            settings.dense_prediction_cell_json,
            output_stride,
            settings.batch_norm_decay,
        )
    shared: dict[str, Any] = {
        "filters": settings.aspp_convs_filters,
        "pool_size": _pool_size(settings, output_stride),
        "gate": layers.q_sigmoid if settings.image_se_uses_qsigmoid else "sigmoid",
        "batch_norm_momentum": settings.batch_norm_decay,
        "name": "aspp",
    }
    rates = settings.atrous_rates
    if rates is None:
        rates = aspp_rates(output_stride)
    if _is_lite(settings):
        return layers.LiteRASPP(strides=settings.image_pooling_stride, **shared)(features)
    return layers.ASPP(
        rates=rates,
        separable=settings.aspp_with_separable_conv,
        image_pooling=settings.add_image_level_feature,
        projection=settings.aspp_with_concat_projection,
        pool_strides=settings.image_pooling_stride,
        squeeze_and_excitation=settings.aspp_with_squeeze_and_excitation,
        **shared,
    )(features)


def _is_lite(settings: EncoderSettings) -> bool:
    """Whether the ASPP is reduced to MobileNetV3's light form."""
    return (
        settings.atrous_rates is not None
        and not len(settings.atrous_rates)
        and settings.add_image_level_feature
        and settings.aspp_with_squeeze_and_excitation
        and not settings.aspp_with_concat_projection
    )


def _pool_size(settings: EncoderSettings, output_stride: int) -> list[int] | None:
    """Returns the height and width of image pooling's window in pixels of the features."""
    crop_size = settings.image_pooling_crop_size
    if crop_size is None:
        return None
    return [layers.size_at_stride(side, output_stride) for side in crop_size]
