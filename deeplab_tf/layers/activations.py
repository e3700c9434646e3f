"""The activations of MobileNetV3, rounded as in the original."""

from keras import ops

from deeplab_tf.layers.names import register


@register
def h_swish(x):
    """Computes `x * relu6(x + 3) / 6`, in the original's order of operations.

    Its name differs from `hard_swish` because Keras would save that as its own function, which
    rounds differently.

    Args:
        x: Float tensor of any shape.

    Returns:
        Float tensor of the same shape.

    Reference: MobileNetV3, arXiv:1905.02244, section 5.2.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> layers.h_swish(np.array([-3, 0, 3], "float32")).numpy()
    array([-0.,  0.,  3.], dtype=float32)
    """
    return x * ops.relu6(x + 3) * (1 / 6)


@register
def q_sigmoid(x):
    """Computes `relu6(x + 3) * 0.16667`, a piecewise linear sigmoid.

    The original has five digits of 1 / 6, so that the largest value is 1.00002.

    Args:
        x: Float tensor of any shape.

    Returns:
        Float tensor of the same shape.

    Reference: MobileNetV3, arXiv:1905.02244, section 5.2.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> layers.q_sigmoid(np.array([-3, 0, 3], "float32")).numpy()
    array([0.     , 0.50001, 1.00002], dtype=float32)
    """
    return ops.relu6(x + 3) * 0.16667
