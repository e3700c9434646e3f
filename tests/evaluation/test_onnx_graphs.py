"""ONNX graphs that every runtime understands in the same way."""

import pytest
import tensorflow as tf

from deeplab_tf.evaluation.engines import onnx_graphs


def test_a_resize_to_a_known_size_gives_the_size_itself():
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")

    @tf.function(input_signature=[tf.TensorSpec([1, 129, 33, 2])], autograph=False)
    def enlarge(images):
        for size in ([513, 129], [1025, 257]):
            images = tf.compat.v1.image.resize(images, size, align_corners=True)
        return images

    graph = onnx_graphs.from_function(enlarge).graph
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    sizes = [constants[node.input[3]].tolist() for node in resizes]
    assert sizes == [[1, 2, 513, 129], [1, 2, 1025, 257]]
