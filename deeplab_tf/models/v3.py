"""DeepLab v3: atrous spatial pyramid pooling, or a cascade of blocks, then logits.

Reference: arXiv:1706.05587.
"""

from deeplab_tf.errors import UserError
from deeplab_tf.models.aspp import aspp
from deeplab_tf.models.dense_prediction_cell import dense_prediction_cell
from deeplab_tf.models.logits import logits


def head(features: dict, num_classes: int, **encoder_settings):
    """From the features of a backbone to logits at the output stride.

    Args:
        features: The dict that the backbone returns.
        num_classes: Channels of the logits.
        **encoder_settings: The arguments of `encode`.

    Returns:
        float32 `[B, H / output_stride, W / output_stride, num_classes]`.
    """
    return logits(encode(features["features"], **encoder_settings), num_classes)


def cascaded_head(features: dict, num_classes: int, *, output_stride: int):
    """From the last block of a cascade to logits at its output stride, `output_stride`.

    Reference: arXiv:1706.05587, section 3.2.
    """
    del output_stride  # The cascade has seen its rates through already.
    return logits(features["features"], num_classes)


def encode(
    features,
    *,
    output_stride: int,
    dense_prediction_cell_json: str | None = None,
    batch_norm_decay: float = 0.9997,
    **aspp_settings,
):
    """Looks at the features in context, by the ASPP or by a dense prediction cell.

    Args:
        features: `[B, H, W, C]`, H and W at the output stride.
        output_stride: Of the features.
        dense_prediction_cell_json: Path of a cell's JSON, or the JSON itself; None for the ASPP.
        batch_norm_decay: Decay of the moving statistics.
        **aspp_settings: The other arguments of `aspp`.

    Returns:
        `[B, H, W, filters]`.
    """
    if not dense_prediction_cell_json:
        return aspp(features, output_stride, batch_norm_decay=batch_norm_decay, **aspp_settings)
    if aspp_settings:
        raise UserError(
            f"{', '.join(aspp_settings)} would shape the ASPP, but dense_prediction_cell_json "
            "replaces it. Leave one of them out."
        )
    return dense_prediction_cell(
        features, dense_prediction_cell_json, output_stride, batch_norm_decay
    )
