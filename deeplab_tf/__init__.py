"""DeepLab v1, v2, v3 and v3+ for TensorFlow and Keras 3."""

import importlib
import os

__version__ = "0.1.0"

# TensorFlow's start-up notes about the machine hide what a command has to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Public name -> module that defines it. Loaded on first use, so that importing the package is free.
_PUBLIC = {
    "build_model": "deeplab_tf.models",
    "build_backbone": "deeplab_tf.backbones",
    "load_tf1_checkpoint": "deeplab_tf.weights.tf1_checkpoint",
    "dense_crf": "deeplab_tf.crf",
    "unary_from_labels": "deeplab_tf.crf",
    "UserError": "deeplab_tf.errors",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'deeplab_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted(__all__)
