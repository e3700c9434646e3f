"""DeepLab v1, v2, v3 and v3+ for TensorFlow and Keras 3.

Models, from pixels 0..255 to logits:

    DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus   a constructor for each version
    build_model(version, backbone, num_classes)      any version, by name
    load_model(path)                                 a trained model: run dir, .keras file, hf://...
    load_run(run_dir)                                a trained run: labels images, shows the labels

Their parts:

    backbones                                        Xception65, ResNetV1_50, MobileNetV2, ...
    build_backbone(name)                             any backbone, by its official name
    layers                                           ASPP, AtrousSeparableConv2D, AtrousConv2D, ...
    models                                           the settings that versions share

Weights of the original:

    load_tf1_checkpoint(model, path)                 fills a model from a TensorFlow 1 checkpoint

The fully-connected CRF:

    dense_crf(image, probabilities)                  refines the scores of an image
    unary_from_labels(labels, num_classes)           scores of a label map, to refine it

Errors:

    UserError                                        says what was wrong and what to do about it

Commands: `python -m deeplab_tf` lists them.
"""

import importlib
import os
import typing

from deeplab_tf.keras_registration import register_with_keras

if typing.TYPE_CHECKING:  # for editors and type checkers, which do not follow `__getattr__`
    from deeplab_tf import backbones
    from deeplab_tf import layers
    from deeplab_tf import models
    from deeplab_tf.backbones import build_backbone
    from deeplab_tf.crf import dense_crf
    from deeplab_tf.crf import unary_from_labels
    from deeplab_tf.errors import UserError
    from deeplab_tf.models import DeepLabV1
    from deeplab_tf.models import DeepLabV2
    from deeplab_tf.models import DeepLabV3
    from deeplab_tf.models import DeepLabV3Plus
    from deeplab_tf.models import build_model
    from deeplab_tf.notebook import load_run
    from deeplab_tf.runs.saved_models import load_model
    from deeplab_tf.weights.tf1_checkpoint import load_tf1_checkpoint

__version__ = "0.2.0"
__all__ = [
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UserError",
    "__version__",
    "backbones",
    "build_backbone",
    "build_model",
    "dense_crf",
    "layers",
    "load_model",
    "load_run",
    "load_tf1_checkpoint",
    "models",
    "unary_from_labels",
]

# Name -> module that defines it. Loaded on first use, so that importing the package is free.
_PUBLIC = {
    "DeepLabV1": "deeplab_tf.models",
    "DeepLabV2": "deeplab_tf.models",
    "DeepLabV3": "deeplab_tf.models",
    "DeepLabV3Plus": "deeplab_tf.models",
    "UserError": "deeplab_tf.errors",
    "build_backbone": "deeplab_tf.backbones",
    "build_model": "deeplab_tf.models",
    "dense_crf": "deeplab_tf.crf",
    "load_model": "deeplab_tf.runs.saved_models",
    "load_run": "deeplab_tf.notebook",
    "load_tf1_checkpoint": "deeplab_tf.weights.tf1_checkpoint",
    "unary_from_labels": "deeplab_tf.crf",
}
_MODULES = ("backbones", "layers", "models")

# TensorFlow's start-up messages about the machine hide what a command has to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
register_with_keras()


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"deeplab_tf.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'deeplab_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted(__all__)
