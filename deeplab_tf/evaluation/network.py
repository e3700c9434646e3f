"""A network between two compiled steps: images are fitted to it, and its logits finished.

The network itself is a Keras model that TensorFlow runs, or one that another engine runs. The steps
before and after it are the same for all.
"""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.evaluation.fitting import Placement

_SIZE = tf.TensorSpec([2], tf.int32)
_LOGITS = tf.TensorSpec([None] * 4, tf.float32)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network up to the logits before its last resize.

    Attributes:
        logits_of: Function of images as the network takes them, pixels 0..255, float32
            [N, H, W, channels], that returns logits, float32 [N, h, w, num_classes].
        stride: Size of the image over that of the logits.
    """

    logits_of: Callable[[tf.Tensor], tf.Tensor]
    stride: float


def as_network(model: "keras.Model | Network") -> Network:
    """Compiles a Keras model; returns anything else as it is."""
    if isinstance(model, Network):
        return model
    head, stride = without_last_resize(model)
    spec = tf.TensorSpec([None, None, None, model.input_shape[-1]], tf.float32)

    @tf.function(input_signature=[spec], autograph=False)
    def logits_of(images):
        with layers.local_graphs():
            return tf.cast(head(images, training=False), tf.float32)

    return Network(logits_of, stride)


def without_last_resize(model: keras.Model) -> tuple[keras.Model, float]:
    """Returns the network up to the logits before the last resize, and the stride of these."""
    last = model.layers[-1]
    if isinstance(last, layers.ResizeLike):
        model = keras.Model(model.input, last.input[0])
    side = 16 * 32  # a multiple of every stride
    input_shape = (1, side + 1, side + 1, model.input_shape[-1])
    return model, side / (model.compute_output_shape(input_shape)[1] - 1)


def fit_function(fitter: ImageFitter) -> Callable[[tf.Tensor], tuple[tf.Tensor, Placement]]:
    """Compiles `fitter.fit` for images of any size, float32 [N, H, W, channels]."""
    spec = tf.TensorSpec([None, None, None, len(fitter.pad_pixel)], tf.float32)
    return tf.function(fitter.fit, input_signature=[spec], autograph=False)


def finish_function(
    finish: Callable[[tf.Tensor, tf.Tensor, Placement], tf.Tensor],
) -> Callable[[tf.Tensor, tf.Tensor, Placement], tf.Tensor]:
    """Compiles what is done with logits.

    Args:
        finish: Function of logits [N, h, w, C] of any size, the size of the image that the network
            saw, int32 [2], and its placement.
    """
    signature = [_LOGITS, _SIZE, Placement(_SIZE, _SIZE)]
    return tf.function(finish, input_signature=signature, autograph=False)
