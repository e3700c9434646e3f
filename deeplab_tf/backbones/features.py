"""The features that a backbone returns."""

import keras

from deeplab_tf import layers
from deeplab_tf.weights import Weights
from deeplab_tf.weights import load_weights


class Features:
    """Collects the features that a backbone returns, by name.

    Args:
        output_stride: Output stride of the backbone; a decoder gets no features at a larger one.
    """

    def __init__(self, output_stride: int):
        self._output_stride = output_stride
        self._by_name = {}

    def offer(self, x, stride: int | None) -> None:
        """Keeps features for a decoder.

        Args:
            x: `[B, H/stride, W/stride, C]`.
            stride: Stride at which a decoder wants them; None if it does not.
        """
        if stride is not None and stride <= self._output_stride:
            self._by_name[f"stride_{stride}"] = x

    def to_model(self, image, features, scope: str, weights: Weights, backbone: str) -> keras.Model:
        """Makes the backbone.

        Args:
            image: The input.
            features: The last features, at the output stride.
            scope: Name of the model.
            weights: As for `load_weights`.
            backbone: Its official name.
        """
        model = keras.Model(image, {**self._by_name, "features": features}, name=scope)
        load_weights(model, weights, backbone)
        return layers.made_exportable(model)
