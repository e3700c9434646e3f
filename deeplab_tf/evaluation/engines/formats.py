"""The files that engines read, of a network up to the logits before its last resize."""

import keras
import tensorflow as tf

from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts.answers import reason
from deeplab_tf.evaluation.engines import onnx_graphs
from deeplab_tf.evaluation.network import without_last_resize


def write_tflite(model: keras.Model, path: str) -> None:
    """Writes a network as a `.tflite` file that takes one image of any size.

    Raises:
        UserError: It cannot be converted.
    """
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]  # keeps them alive
    function = _logits_function(model).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    try:
        content = converter.convert()
    except Exception as error:  # the converter raises errors of many kinds
        raise UserError(f"The network cannot be converted for LiteRT: {reason(error)}") from error
    with open(path, "wb") as file:
        file.write(content)


def write_onnx(model: keras.Model, path: str) -> None:
    """Writes a network as an ONNX file that takes one image of any size.

    Raises:
        UserError: It cannot be converted.
    """
    with open(path, "wb") as file:
        file.write(onnx_graphs.from_function(_logits_function(model)).SerializeToString())


def _logits_function(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    head, _ = without_last_resize(model)
    spec = tf.TensorSpec([1, None, None, model.input_shape[-1]], tf.float32, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def logits_of(images):
        return tf.cast(head(images, training=False), tf.float32)

    return logits_of
