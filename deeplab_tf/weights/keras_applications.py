"""Weights of Keras Applications, under the names of the original.

Of its networks, two compute what the backbones here compute:

VGG16         the same convolutions, on the same pixels to within 0.001 of 255 levels; the poolings
              are those of DeepLab (`backbones.vgg`), so features differ as DeepLab's do
MobileNetV2   the same function, with alpha=1

ResNet50 and ResNet101 have the stride in another unit and another convolution of every block.
Xception is not the modified aligned Xception.
"""

import os
import re
import warnings

import h5py
import keras
import numpy as np

from deeplab_tf.errors import UserError

SUFFIXES = (".h5", ".hdf5")
_NETWORKS = "VGG16, or of MobileNetV2 with alpha=1"

_VGG16_LAYER = re.compile(r"block(\d)_conv(\d)")
_MOBILENET_V2_LAYER = re.compile(
    r"(?:bn_)?(?P<stem>Conv1)|(?P<last>Conv_1)(?:_bn)?"
    r"|(?:block_(?P<index>\d+)|expanded_conv)_(?P<part>expand|depthwise|project)(?:_BN)?"
)
_KINDS = {"kernel": "weights", "bias": "biases"}


def is_weights(path: str | os.PathLike) -> bool:
    """Whether a file is an HDF5 file with the layers of one of these networks."""
    try:
        names = _names(path)
    except UserError:
        return False
    return any("conv" in name.lower() for name in names)


class KerasApplicationsValues:
    """The weights in a file of Keras Applications, with the interface of `CheckpointValues`.

    Args:
        path: File that Keras published, or that `save_weights` wrote.

    Attributes:
        origin: What to call it in messages.
        shapes: Shape of each value, by the original's name.

    Raises:
        UserError: It is damaged, or of another network.
    """

    def __init__(self, path: str | os.PathLike):
        self.origin = os.fspath(path)
        model = _empty_model(self.origin)
        _fill(model, self.origin)
        self._values = {
            name: value
            for layer in model.layers
            for weight in layer.weights
            for name, value in [_named(layer.name, weight.name, weight.numpy())]
        }
        self.shapes = {name: list(value.shape) for name, value in self._values.items()}

    def read(self, name: str) -> np.ndarray:
        """Returns a value."""
        return self._values[name]


def _empty_model(path: str) -> keras.Model:
    """Returns the network that a file has the weights of, without them."""
    has_depthwise = any("depthwise" in name for name in _names(path))
    application = keras.applications.MobileNetV2 if has_depthwise else keras.applications.VGG16
    with keras.device("cpu"):
        return application(weights=None, include_top=False, input_shape=(None, None, 3))


def _names(path: str | os.PathLike) -> list[str]:
    """Returns the names of all groups and arrays in a file."""
    names: list[str] = []
    try:
        with h5py.File(path) as file:
            file.visit(names.append)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be read as an HDF5 file of Keras: {error}. Fetch it again."
        ) from error
    return names


def _fill(model: keras.Model, path: str) -> None:
    # Files of Keras 2 may have the layers of the classifier too; those of Keras 3 name their
    # weights by position, so that these are found without them.
    is_of_keras_2 = not path.endswith(".weights.h5")
    try:
        if is_of_keras_2:
            _check_layers(model, path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of layers that stay as they are
            model.load_weights(path, **({"by_name": True} if is_of_keras_2 else {}))
    except Exception as error:  # of many kinds, for all the ways in which a file can be of another
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} does not have the weights of {_NETWORKS}, of Keras Applications: {lines[0]} "
            "The other networks there are not the same functions as the backbones here."
        ) from error


def _check_layers(model: keras.Model, path: str) -> None:
    """Refuses a file without some layer of a model, which Keras would leave unchanged."""
    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        present = set(group)
    missing = [layer.name for layer in model.layers if layer.weights and layer.name not in present]
    if missing:
        raise ValueError(f"it has no layer {missing[0]}.")


def _named(layer: str, kind: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns the original's name of a weight, and its value for images in RGB."""
    match = _VGG16_LAYER.fullmatch(layer)
    if match:
        if layer == "block1_conv1" and kind == "kernel":
            value = value[:, :, ::-1]  # Keras' sees BGR
        return f"vgg_16/conv{match[1]}/conv{match[1]}_{match[2]}/{_KINDS[kind]}", value
    match = _MOBILENET_V2_LAYER.fullmatch(layer)
    assert match, layer
    if match["stem"] or match["last"]:
        scope = "MobilenetV2/Conv" if match["stem"] else "MobilenetV2/Conv_1"
    else:
        index = f"_{match['index']}" if match["index"] else ""
        scope = f"MobilenetV2/expanded_conv{index}/{match['part']}"
    if kind == "kernel":
        is_depthwise = scope.endswith("depthwise")
        return f"{scope}/{'depthwise_weights' if is_depthwise else 'weights'}", value
    return f"{scope}/BatchNorm/{kind}", value
