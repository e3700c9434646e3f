"""Functions that run the files of engines: from an image, float32 [1, H, W, C], to logits."""

import importlib
from collections.abc import Callable

import numpy as np

from deeplab_tf import crf

LogitsOf = Callable[[np.ndarray], np.ndarray]


def open_litert(path: str) -> LogitsOf:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=crf.num_cores())
    takes, returns = (
        details[0]["index"]
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    size = None

    def logits_of(images):
        nonlocal size
        if images.shape != size:
            interpreter.resize_tensor_input(takes, images.shape)
            interpreter.allocate_tensors()
            size = images.shape
        interpreter.set_tensor(takes, images)
        interpreter.invoke()
        return interpreter.get_tensor(returns)

    return logits_of


def open_onnxruntime(path: str) -> LogitsOf:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = crf.num_cores()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (takes,) = session.get_inputs()
    return lambda images: session.run(None, {takes.name: images})[0]


def open_openvino(path: str) -> LogitsOf:
    openvino = importlib.import_module("openvino")

    # float32 as in TensorFlow: on CPUs with AMX, OpenVINO would choose bfloat16 by itself.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": crf.num_cores()}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def logits_of(images):
        (logits,) = request.infer({0: images}).values()
        return logits.copy()  # the next call overwrites it

    return logits_of
