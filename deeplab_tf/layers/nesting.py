"""Finding the layers inside of layers.

Whatever walks the layers of a model has to look inside nested models, and inside layers such as
`ASPP`.
"""

import keras


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns every layer inside a model or layer, at any depth, each once.

    `model.layers` lists only the outermost ones.
    """
    found: dict[keras.layers.Layer, None] = {}
    # Keras has no public attribute for the layers inside a layer.
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        found |= dict.fromkeys([inner, *all_layers(inner)])
    return list(found)


def made_exportable(model: keras.Model) -> keras.Model:
    """Lets `export` take a model that was never called, and returns it.

    Keras refuses such models for some formats, although a functional model knows its inputs.
    """
    model._called = True
    return model


def as_model(layer: keras.layers.Layer, tensor: keras.KerasTensor) -> keras.Model:
    """Returns a functional model of the layers inside a layer, as its `call` connects them.

    Args:
        layer: Layer with one input.
        tensor: Its input, for shape and dtype.
    """
    inputs = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
    return keras.Model(inputs, layer.call(inputs), name=layer.name)
