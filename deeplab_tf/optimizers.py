"""The original's optimizer, and what it does to gradients by the name of their variable."""

import keras

# Scopes behind the backbone, trained with `last_layer_gradient_multiplier`.
_HEAD = ("logits", "image_pooling", "aspp", "concat_projection", "decoder", "meta_architecture")


@keras.saving.register_keras_serializable(package="deeplab_tf")
class MomentumSGD(keras.optimizers.SGD):
    """TensorFlow 1's momentum: a = momentum * a + gradient; variable -= learning_rate * a.

    Keras multiplies the gradient by the learning rate before it accumulates, which differs as
    soon as the rate changes from step to step.
    """

    def update_step(self, gradient, variable, learning_rate):
        accumulator = self.momentums[self._get_variable_index(variable)]
        gradient = keras.ops.cast(gradient, variable.dtype)
        momentum = keras.ops.cast(self.momentum, variable.dtype)
        learning_rate = keras.ops.cast(learning_rate, variable.dtype)
        self.assign(accumulator, momentum * accumulator + gradient)
        self.assign_sub(variable, learning_rate * accumulator)


def is_regularized(name: str) -> bool:
    """Whether weight decay applies to the variable of this official name.

    It does to dense kernels; never to depthwise kernels, biases or batch norm.
    """
    return name.endswith("/weights")


def gradient_multiplier(name: str, last_layer_gradient_multiplier: float) -> float:
    """Returns the factor of a variable's gradient.

    Biases always train at twice the rate.

    Args:
        name: Official name of the variable.
        last_layer_gradient_multiplier: Factor of everything behind the backbone.

    Reference:
        `get_model_gradient_multipliers` of the original's `train_utils.py`.
    """
    in_head = any(scope in name for scope in _HEAD)
    return (2.0 if "biases" in name else 1.0) * (last_layer_gradient_multiplier if in_head else 1.0)
