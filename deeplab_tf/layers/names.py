"""Names: the original's scopes, Keras layer names and the names in saved files.

A layer that owns variables is named after its scope in the original code, with "." in place of "/",
which Keras reserves. `official_name` inverts this, so that weights are found by name.
"""

import keras

# Saved models refer to classes by "deeplab_tf>NAME", wherever the class is defined.
register = keras.saving.register_keras_serializable(package="deeplab_tf")


def layer_name(scope: str) -> str:
    """Returns the Keras layer name for a scope of the original code."""
    return scope.replace("/", ".")


def official_name(variable: keras.Variable) -> str:
    """Returns the name of a model variable in the original code.

    Args:
        variable: A variable of a DeepLab model, backbone or layer. In a model with two layers of
            the same scope, such as two `ASPP`, the names are not unique.

    Returns:
        A name such as `xception_65/entry_flow/conv1_1/weights`.

    Example:

    >>> from deeplab_tf import layers
    >>> aspp = layers.ASPP(rates=(6,))
    >>> aspp.build((None, 33, 33, 320))
    >>> layers.official_name(aspp.trainable_variables[0])
    'image_pooling/weights'
    """
    layer, kind = f"/{variable.path}".split("/")[-2:]
    if kind == "kernel":
        kind = "depthwise_weights" if layer.endswith("depthwise") else "weights"
    elif kind == "bias":
        kind = "biases"
    return f"{layer}/{kind}".replace(".", "/")
