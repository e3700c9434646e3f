"""Parts of all versions: a backbone before the head, and the path from logits to the output."""

import dataclasses

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import build_backbone
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.config import IMAGENET
from deeplab_tf.errors import UserError
from deeplab_tf.models import pyramid
from deeplab_tf.models.settings import OutputSettings
from deeplab_tf.models.settings import default_output_stride
from deeplab_tf.weights import Weights
from deeplab_tf.weights import load_weights


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A backbone on an image.

    Attributes:
        name: Name of the whole model.
        backbone_name: Official name of the backbone; empty for a model that was given.
        image: The input, `[B, H, W, in_channels]`.
        backbone: The backbone.
        features: Its outputs by name: `features`, `[B, H/output_stride, W/output_stride, C]`, and
            `stride_4`, `stride_8`, `stride_16` for decoders.
        output_stride: Size of the image over that of the features.
    """

    name: str
    backbone_name: str
    image: keras.KerasTensor
    backbone: keras.Model
    features: dict[str, keras.KerasTensor]
    output_stride: int


def start(
    version: str, backbone: str | keras.Model, output_stride: int | None, backbone_settings: dict
) -> Trunk:
    """Applies a backbone to an input image.

    Args:
        version: The version, for its defaults.
        backbone: A model of `deeplab_tf.backbones`, or an official name.
        output_stride: Output stride; None for the papers', or that of the given model.
        backbone_settings: Settings of a backbone that is given by name.

    Raises:
        UserError: If the output stride is not one of the backbone's, or a setting is wrong.
    """
    backbone_name = backbone if isinstance(backbone, str) else ""
    if isinstance(backbone, str):
        name = backbone
        output_stride = output_stride or default_output_stride(version, name)
        check_output_stride(output_stride)
        if version in ("v3", "v3plus") and name.startswith("resnet"):
            # arXiv:1706.05587, section 4.1
            backbone_settings = {"multi_grid": (1, 2, 4)} | backbone_settings
        backbone = build_backbone(name, output_stride, **backbone_settings)
    else:
        name = backbone.name
        output_stride = _output_stride_of(backbone, output_stride)
    image = keras.Input(backbone.input_shape[1:], name="image")
    model_name = f"deeplab_{version}_{name}"
    return Trunk(model_name, backbone_name, image, backbone, backbone(image), output_stride)


def finish(trunk: Trunk, logits, output: OutputSettings, weights: Weights) -> keras.Model:
    """Makes the model from an image to its logits.

    Args:
        trunk: The backbone on the image.
        logits: float32 `[B, h, w, num_classes]`.
        output: What follows the logits.
        weights: As for `load_weights`; "imagenet" fills the backbone.

    Raises:
        UserError: If there are no such weights, or they do not fit the model.
    """
    name = trunk.name
    if output.has_pyramid:
        one_scale = keras.Model(trunk.image, logits, name=name)
        logits = pyramid.merged_logits(one_scale, trunk.image, output)
        name = f"{name}_pyramid"
    if output.upsample_logits:
        logits = layers.ResizeLike(dtype="float32", name="upsampled_logits")(logits, trunk.image)
    model = keras.Model(trunk.image, logits, name=name)
    if weights == IMAGENET:
        if not trunk.backbone_name:
            raise UserError(
                f"weights is {IMAGENET!r}, but the backbone is built already. Give weights to the "
                "function that builds it."
            )
        load_weights(trunk.backbone, weights, trunk.backbone_name)
    else:
        load_weights(model, weights)
    return layers.made_exportable(model)


def backbone_of(model: keras.Model) -> keras.Model:
    """Returns the backbone of a DeepLab model: its innermost model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            return backbone_of(layer)
    return model


def _output_stride_of(backbone: keras.Model, expected: int | None) -> int:
    """Returns the output stride of a backbone, which must be the expected one if there is one."""
    side = 256
    shapes = backbone.compute_output_shape((1, side, side, backbone.input_shape[-1]))
    if not isinstance(shapes, dict) or "features" not in shapes:
        raise UserError(
            f"The backbone {backbone.name} does not return a dict with `features`. Build it with "
            "a function of deeplab_tf.backbones."
        )
    output_stride = side // shapes["features"][1]
    if expected not in (None, output_stride):
        raise UserError(
            f"output_stride is {expected}, but the backbone {backbone.name} has {output_stride}. "
            "Leave it out, or give it to the function that builds the backbone."
        )
    return output_stride
