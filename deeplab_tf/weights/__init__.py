"""Trained weights from checkpoints: reading them by name, and matching them with a model.

tf1_checkpoint.py      fills a model from a checkpoint of the original
checkpoint_paths.py    finds the checkpoint that a name, a folder or an archive stands for
checkpoint_values.py   the values of a checkpoint by the original's names, whatever wrote it
keras_applications.py  the values of Keras Applications by the original's names
fully_connected.py     VGG-16's fully connected layers as fc6 and fc7 of v1 and v2
object_graph.py        the names in checkpoints of deeplab_tf 0.1
"""

import os

import keras

from deeplab_tf import zoo
from deeplab_tf.config import IMAGENET
from deeplab_tf.errors import UserError

Weights = str | os.PathLike | None


def load_weights(model: keras.Model, weights: Weights, backbone: str = "") -> None:
    """Fills a new model with trained weights.

    Args:
        model: A whole model or a backbone.
        weights: Name of released weights (`python -m deeplab_tf.zoo list`), which are downloaded if
            necessary; path of a TensorFlow 1 checkpoint of the original; or "imagenet". None
            changes nothing.
        backbone: Official name of the backbone that the model is, for "imagenet".

    Raises:
        UserError: If there are no such weights, or they do not fit the model.
    """
    if weights is None:
        return
    if weights == IMAGENET:
        weights = zoo.imagenet_name(backbone)
        if weights is None:
            raise UserError(
                f"The list of released weights has none of {backbone} on ImageNet. "
                "Leave out weights."
            )
    # Needs TensorFlow, which is not loaded with Keras' other backends.
    from deeplab_tf.weights import tf1_checkpoint

    tf1_checkpoint.load_tf1_checkpoint(model, weights)
