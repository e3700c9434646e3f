"""The DeepLab versions.

DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus    a constructor for each version
build_model                                       any of them, by name
EncoderSettings, DecoderSettings, OutputSettings  the settings that they share
fold_batch_norm                                   a faster model for inference
"""

import dataclasses
from collections.abc import Callable

import keras

from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError
from deeplab_tf.models.assembly import backbone_of
from deeplab_tf.models.dense_prediction_cell import cell_to_text
from deeplab_tf.models.folding import fold_batch_norm
from deeplab_tf.models.pyramid import with_logits_of_every_scale
from deeplab_tf.models.quantization import quantize
from deeplab_tf.models.quantization import quantize_like
from deeplab_tf.models.settings import DecoderSettings
from deeplab_tf.models.settings import EncoderSettings
from deeplab_tf.models.settings import OutputSettings
from deeplab_tf.models.settings import default_output_stride
from deeplab_tf.models.v1 import DeepLabV1
from deeplab_tf.models.v2 import DeepLabV2
from deeplab_tf.models.v3 import DeepLabV3
from deeplab_tf.models.v3plus import DeepLabV3Plus
from deeplab_tf.weights import Weights

__all__ = [
    "VERSIONS",
    "DecoderSettings",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "EncoderSettings",
    "OutputSettings",
    "backbone_of",
    "build_model",
    "build_outline",
    "complete",
    "default_output_stride",
    "fold_batch_norm",
    "quantize",
    "quantize_like",
    "with_logits_of_every_scale",
]

VERSIONS: dict[str, Callable[..., keras.Model]] = {
    "v1": DeepLabV1,
    "v2": DeepLabV2,
    "v3": DeepLabV3,
    "v3plus": DeepLabV3Plus,
}


def build_model(
    version: str,
    backbone: str | keras.Model,
    num_classes: int,
    output_stride: int | None = None,
    weights: Weights = None,
    **settings,
) -> keras.Model:
    """Builds a DeepLab of any version.

    Args:
        version: "v1", "v2", "v3" or "v3plus".
        backbone: An official name, one of `deeplab_tf.backbones.BACKBONES`, or a model of
            `deeplab_tf.backbones`.
        num_classes: Channels of the logits.
        output_stride: Input size over the size of the backbone's features: 4, 8, 16 or 32. None for
            8 with v1 and v2, 32 with MobileNetV3, and 16 with all others.
        weights: Name of released weights (see `deeplab_tf.zoo`), path of a TensorFlow 1 checkpoint
            of the original, or "imagenet" for a backbone with the weights of an ImageNet
            classifier; None for random weights.
        **settings: The other arguments of the version's constructor, which have the names of the
            original's flags: see `DeepLabV1`, `DeepLabV2`, `DeepLabV3` and `DeepLabV3Plus`. None
            stands for the default of version and backbone.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]` of any height
        and width, to float32 logits `[B, H, W, num_classes]`; with `upsample_logits=False`
        `[B, H/s, W/s, num_classes]` at the stride `s` of the head, rounded up.

    Raises:
        UserError: If a value is wrong, or the version or the backbone does not have a setting; a
            setting that is switched off is ignored.
        TypeError: If no version has a setting.

    Example:

    >>> import deeplab_tf
    >>> model = deeplab_tf.build_model("v3plus", "mobilenet_v2", 21, output_stride=8)
    >>> model.output_shape
    (None, None, None, 21)
    """
    if version not in VERSIONS:
        raise UserError(f"version is {version!r}; it must be one of {', '.join(VERSIONS)}.")
    return VERSIONS[version](
        backbone, num_classes, output_stride=output_stride, weights=weights, **settings
    )


def build_outline(config: ModelConfig) -> keras.Model:
    """Builds a model whose weights have shapes but no values.

    That takes a third of the time of `build_model`, and is enough to describe a network.

    Args:
        config: The model's flags, with the number of classes.

    Returns:
        A `keras.Model` that cannot be called with numbers.

    Raises:
        UserError: A value is wrong.
    """
    with keras.StatelessScope(initialize_variables=False):
        return build_model(**dataclasses.asdict(config))


def complete(config: ModelConfig, num_classes: int, in_channels: int = 3) -> ModelConfig:
    """Fills in all that a run dir must record about its model, so that no file or default matters.

    Args:
        config: The model's flags.
        num_classes: Channels of the logits.
        in_channels: Channels of the images.

    Returns:
        The same flags with `num_classes`, `in_channels`, the output stride and the content of a
        cell's file.
    """
    cell = config.dense_prediction_cell_json
    return dataclasses.replace(
        config,
        num_classes=num_classes,
        in_channels=in_channels,
        output_stride=config.output_stride
        or default_output_stride(config.version, config.backbone),
        dense_prediction_cell_json=cell and cell_to_text(cell),
    )
