"""The DeepLab generations."""

import dataclasses
import inspect
from collections.abc import Callable
from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import build_backbone
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError
from deeplab_tf.models import v1
from deeplab_tf.models import v2
from deeplab_tf.models import v3
from deeplab_tf.models import v3plus
from deeplab_tf.models.aspp import aspp
from deeplab_tf.models.dense_prediction_cell import cell_to_text

VERSIONS = {"v1": v1.head, "v2": v2.head, "v3": v3.head, "v3plus": v3plus.head}


def build_model(
    version: str,
    backbone: str,
    num_classes: int,
    output_stride: int | None = None,
    atrous_rates: Sequence[int] | None = None,
    multi_grid: Sequence[int] | None = None,
    depth_multiplier: float = 1.0,
    decoder_output_stride: int | Sequence[int] | None = None,
    add_image_level_feature: bool | None = None,
    image_pooling_crop_size: Sequence[int] | None = None,
    image_pooling_stride: Sequence[int] | None = None,
    image_se_uses_qsigmoid: bool | None = None,
    aspp_with_separable_conv: bool | None = None,
    aspp_with_concat_projection: bool | None = None,
    aspp_with_squeeze_and_excitation: bool | None = None,
    aspp_convs_filters: int | None = None,
    dense_prediction_cell_json: str | None = None,
    decoder_use_separable_conv: bool | None = None,
    decoder_use_sum_merge: bool | None = None,
    decoder_output_is_logits: bool | None = None,
    decoder_filters: int | None = None,
    fc6_kernel_size: int | None = None,
    fc_filters: int | None = None,
    last_block: int | None = None,
    image_pyramid: Sequence[float] = (),
    merge_method: str = "max",
    batch_norm_decay: float | None = None,
    in_channels: int = 3,
    upsample_logits: bool = True,
) -> keras.Model:
    """Builds a DeepLab, from RGB pixels to logits.

    What is left at None is the version's own: the default of the function that builds its head
    (`VERSIONS`), or what the backbone's paper fixes (MobileNetV3's lite R-ASPP).

    Args:
        version: One of `VERSIONS`.
        backbone: One of `deeplab_tf.backbones.BACKBONES`.
        num_classes: Channels of the logits.
        output_stride: Input size over the size of the backbone's features: 4, 8, 16 or 32. None for
            8 with v1 and v2, 32 with MobileNetV3, 16 with all others.
        atrous_rates: Of the ASPP branches; None for what the papers tie to the output stride, `()`
            for no such branch (MobileNet's light head). v1 has one.
        multi_grid: Multipliers of the atrous rates of the last block's three units; None for the
            paper's 1, 2, 4 with v3 and v3+ on a ResNet, 1, 1, 1 elsewhere.
        depth_multiplier: Scales the filters of a MobileNet.
        decoder_output_stride: Input size over decoder size of v3+, for every stage of the decoder.
        add_image_level_feature: Whether image pooling is part of the ASPP.
        image_pooling_crop_size: Height and width in pixels of the input whose features image
            pooling averages; None for those of the whole input.
        image_pooling_stride: Between image pooling's windows, down and across.
        image_se_uses_qsigmoid: Whether squeeze and excitation is piecewise linear.
        aspp_with_separable_conv: Whether the ASPP branches are atrous separable convolutions.
        aspp_with_concat_projection: Whether the ASPP branches are projected together.
        aspp_with_squeeze_and_excitation: Whether image pooling weighs the channels of the ASPP.
        aspp_convs_filters: Channels of every ASPP branch.
        dense_prediction_cell_json: Path of the JSON, or the JSON, of a dense prediction cell
            instead of the ASPP.
        decoder_use_separable_conv: Whether the decoder's 3x3 convolutions are separable.
        decoder_use_sum_merge: Whether the decoder adds the low-level features.
        decoder_output_is_logits: Whether the decoder ends in the logits.
        decoder_filters: Channels of the decoder's 3x3 convolutions.
        fc6_kernel_size: Of v1's fc6: its field of view.
        fc_filters: Channels of fc6 and fc7 of v1, and of v2 on VGG-16.
        last_block: 4 to 7 for v3's cascaded variant on a ResNet, whose copies of block 4 end there,
            and which has no ASPP.
        image_pyramid: Scales of the input that the network sees side by side, such as
            0.5, 0.75, 1; empty for the input alone.
        merge_method: "max" or "avg": how the logits of those scales are merged.
        batch_norm_decay: Decay of all moving statistics; None for the original's, part by part.
        in_channels: Channels of the images; 3 for RGB.
        upsample_logits: Whether logits are resized to the size of the input.

    Returns:
        A `keras.Model` that takes uint8 or float `[B, H, W, in_channels]` in 0..255 of any height
        and width, and returns float32 logits `[B, H, W, num_classes]`, or
        `[B, H/s, W/s, num_classes]` at the stride `s` of the head if `upsample_logits` is false.

    Raises:
        UserError: For an argument that names nothing, or does not go with another.
    """
    if version not in VERSIONS:
        raise UserError(f"version is {version!r}; it can be {', '.join(VERSIONS)}.")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(
            f"num_classes is {num_classes!r}; it must be a whole number of classes, 1 or more."
        )
    if atrous_rates and min(atrous_rates) < 1:
        raise UserError(f"atrous_rates is {tuple(atrous_rates)}; each must be 1 or more.")
    for name, pair in (
        ("image_pooling_crop_size", image_pooling_crop_size),
        ("image_pooling_stride", image_pooling_stride),
    ):
        if pair is not None and (len(pair) != 2 or min(pair) < 1):
            raise UserError(f"{name} is {tuple(pair)}; give height and width.")
    output_stride = output_stride or default_output_stride(version, backbone)
    check_output_stride(output_stride)
    head, settings = _head(
        version,
        backbone,
        last_block,
        {
            "atrous_rates": atrous_rates,
            "decoder_output_stride": decoder_output_stride,
            "add_image_level_feature": add_image_level_feature,
            "image_pooling_crop_size": image_pooling_crop_size,
            "image_pooling_stride": image_pooling_stride,
            "image_se_uses_qsigmoid": image_se_uses_qsigmoid,
            "aspp_with_separable_conv": aspp_with_separable_conv,
            "aspp_with_concat_projection": aspp_with_concat_projection,
            "aspp_with_squeeze_and_excitation": aspp_with_squeeze_and_excitation,
            "aspp_convs_filters": aspp_convs_filters,
            "dense_prediction_cell_json": dense_prediction_cell_json,
            "decoder_use_separable_conv": decoder_use_separable_conv,
            "decoder_use_sum_merge": decoder_use_sum_merge,
            "decoder_output_is_logits": decoder_output_is_logits,
            "decoder_filters": decoder_filters,
            "fc6_kernel_size": fc6_kernel_size,
            "fc_filters": fc_filters,
        },
    )
    has_pyramid = tuple(image_pyramid) not in ((), (1,))
    if has_pyramid:
        _check_pyramid(image_pyramid, merge_method, settings)
    if batch_norm_decay is not None and version in ("v3", "v3plus") and last_block is None:
        settings["batch_norm_decay"] = batch_norm_decay
    if multi_grid is None and version in ("v3", "v3plus") and backbone.startswith("resnet"):
        multi_grid = (1, 2, 4)

    image = keras.Input((None, None, in_channels), name="image")
    features = build_backbone(
        backbone,
        output_stride,
        multi_grid,
        depth_multiplier,
        batch_norm_decay,
        in_channels,
        4 if last_block is None else last_block,
    )(image)
    logits = head(features, num_classes, output_stride=output_stride, **settings)
    name = f"deeplab_{version}_{backbone}"
    if has_pyramid:
        one_scale = keras.Model(image, logits, name=name)
        logits = _merged_logits(one_scale, image, image_pyramid, merge_method)
        name = f"{name}_pyramid"
    if upsample_logits:
        logits = layers.ResizeLike(dtype="float32", name="upsampled_logits")(logits, image)
    return keras.Model(image, logits, name=name)


def default_output_stride(version: str, backbone: str) -> int:
    """The output stride that the papers give a version on a backbone."""
    if version in ("v1", "v2"):
        return 8
    return 32 if backbone.startswith("mobilenet_v3") else 16


def complete(config: ModelConfig, num_classes: int) -> ModelConfig:
    """Fills in what a run dir must say of its model, whatever becomes of files and defaults."""
    cell = config.dense_prediction_cell_json
    return dataclasses.replace(
        config,
        num_classes=num_classes,
        output_stride=config.output_stride
        or default_output_stride(config.version, config.backbone),
        dense_prediction_cell_json=cell and cell_to_text(cell),
    )


def backbone_of(model: keras.Model) -> keras.Model:
    """The backbone within a model of `build_model`: its innermost model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            return backbone_of(layer)
    return model


def with_logits_of_every_scale(model: keras.Model) -> keras.Model:
    """Makes a model with an `image_pyramid` return what a loss per scale needs.

    Args:
        model: Of `build_model`.

    Returns:
        A model on the same layers that returns a dict of logits at the size of the input: one for
        each scale, such as `logits_at_0.5`, and `merged_logits`. Without a pyramid, those alone.

    Reference: DeepLabv2, arXiv:1606.00915, section 4.1.2.
    """
    image, resize = model.input, layers.ResizeLike(dtype="float32", name="logits_of_scale")
    of_scales = {
        layer.name: resize(layer.output, image)
        for layer in model.layers
        if layer.name.startswith("logits_at_")
    }
    return keras.Model(image, {**of_scales, "merged_logits": model.output})


def _head(version: str, backbone: str, last_block: int | None, settings: dict):
    """The function that builds a head, and what it is to be called with beside the defaults.

    Raises:
        UserError: For a setting that the version does not have; it may be switched off.
    """
    head: Callable = VERSIONS[version]
    name = version
    if last_block is not None:
        if version != "v3":
            raise UserError(
                f"last_block is {last_block}, but {version} has no cascaded variant. Leave it out, "
                "or choose version v3."
            )
        head, name = v3.cascaded_head, "the cascade of v3"
    known = _settings_of(head)
    given = {key: value for key, value in settings.items() if value is not None}
    for key, value in given.items():
        if key not in known and value not in (False, ()):
            raise UserError(
                f"{key} is {value}, but {name} has nothing that it sets. Leave it out, or choose "
                "another version."
            )
    given = _settings_of_paper(backbone, version) | given
    return head, {key: value for key, value in given.items() if key in known}


def _settings_of(head: Callable) -> set[str]:
    """Names of the arguments that a head, and the encoder that it passes them to, can take."""
    names = set()
    for function in {
        v3.head: (v3.encode, aspp),
        v3plus.head: (v3plus.head, v3.encode, aspp),
    }.get(head, (head,)):
        parameters = inspect.signature(function).parameters.values()
        names |= {item.name for item in parameters if item.kind is item.KEYWORD_ONLY}
    return names - {"output_stride", "batch_norm_decay"}


def _settings_of_paper(backbone: str, version: str) -> dict:
    """What the paper of a backbone fixes in a head.

    Reference: MobileNetV3, arXiv:1905.02244, section 6.4, with the windows of the released models;
    VGG-16 with ASPP: DeepLabv2, arXiv:1606.00915, section 4.1.2.
    """
    if backbone.startswith("mobilenet_v3") and version in ("v3", "v3plus"):
        return {
            "atrous_rates": (),
            "image_pooling_crop_size": (769, 769),
            "image_pooling_stride": (4, 5),
            "image_se_uses_qsigmoid": True,
            "aspp_convs_filters": 128,
            "aspp_with_concat_projection": False,
            "aspp_with_squeeze_and_excitation": True,
            "decoder_output_stride": 8,
            "decoder_use_sum_merge": True,
            "decoder_output_is_logits": True,
        }
    if backbone == "vgg_16" and version == "v2":
        return {"fc_filters": 1024}
    return {}


_MERGES = {"max": keras.layers.Maximum, "avg": keras.layers.Average}


def _check_pyramid(image_pyramid: Sequence[float], merge_method: str, settings: dict) -> None:
    if settings.get("image_pooling_crop_size"):
        raise UserError(
            "image_pyramid does not go with image_pooling_crop_size, whose features have another "
            "size at every scale. Leave one of them out."
        )
    if min(image_pyramid) <= 0 or max(image_pyramid) < 1:
        raise UserError(
            f"image_pyramid is {tuple(image_pyramid)}; all scales must be above 0, and one 1 or "
            "more."
        )
    if len(set(image_pyramid)) != len(image_pyramid):
        raise UserError(f"image_pyramid is {tuple(image_pyramid)}; it has a scale twice.")
    if merge_method not in _MERGES:
        raise UserError(f"merge_method is {merge_method!r}; it can be {', '.join(_MERGES)}.")


def _merged_logits(
    one_scale: keras.Model, image, image_pyramid: Sequence[float], merge_method: str
):
    """Logits `[B, h, w, num_classes]` of a network that sees its input at several scales.

    All are brought to the size of the largest scale's before they are merged.
    """
    outputs = {}
    for scale in image_pyramid:
        scaled = image
        if scale != 1:
            scaled = layers.ScaleImage(scale, dtype="float32", name=f"image_at_{scale:g}")(image)
        outputs[scale] = one_scale(scaled)
    largest = outputs[max(outputs)]
    resized = [
        layers.ResizeLike(dtype="float32", name=f"logits_at_{scale:g}")(logits, largest)
        for scale, logits in outputs.items()
    ]
    if len(resized) == 1:
        return resized[0]
    return _MERGES[merge_method](dtype="float32", name="merged_logits")(resized)
