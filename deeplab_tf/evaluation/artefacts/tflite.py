"""`.tflite` files."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from deeplab_tf import crf
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
from deeplab_tf.evaluation.artefacts import answers
from deeplab_tf.evaluation.artefacts.answers import printable
from deeplab_tf.evaluation.artefacts.answers import reason
from deeplab_tf.evaluation.fitting import ImageFitter

_MAX_NAMES_BYTES = 2**24  # more than the names of 65536 classes have
_PIXEL_TYPES = (np.float32, np.uint8, np.int8, np.int16)
_SCORE_TYPES = (np.float32, np.uint8, np.int8, np.int16)

# Errors that the interpreter raises are reported by the parent, which gets them again.
_PROBE = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

try:
    interpreter = Interpreter(model_path=sys.argv[1])
    interpreter.allocate_tensors()
    for takes in interpreter.get_input_details():
        interpreter.set_tensor(takes["index"], np.zeros(takes["shape"], takes["dtype"]))
    interpreter.invoke()
except Exception:
    pass
"""


def probe(path: str) -> None:
    """Runs a file once in another process, since a damaged one can crash the interpreter.

    It takes about a second.

    Raises:
        UserError: It crashes.
    """
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}: give a .tflite file.")
    _interpreter_class()
    result = subprocess.run([sys.executable, "-c", _PROBE, path], capture_output=True)
    if result.returncode:
        raise UserError(
            f"{path} cannot be used: it is damaged (LiteRT crashes on it, exit code "
            f"{result.returncode})."
        )


def class_names(path: str) -> list[str]:
    """Returns the class names in the metadata of a file; empty if there are none to be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(answers.LABELS).file_size > _MAX_NAMES_BYTES:
                return []
            return archive.read(answers.LABELS).decode().removesuffix("\n").split("\n")
    except Exception:  # a damaged archive raises errors of many kinds
        return []


class TFLiteModel:
    """A `.tflite` file as a function from an image to its class ids or scores.

    It takes one image of its own fixed size, or of any size, with pixels 0..255 as the models of
    `deeplab_tf` take them, in float32 or quantised. It returns class ids [1, h, w], or scores such
    as logits [1, h, w, num_classes], of any size.

    Attributes:
        path: The file.
        size: Height and width in pixels of the images that it takes; None for any size.
        has_scores: Whether it returns scores, not class ids.
        description: What it takes and returns, for messages.
    """

    def __init__(self, path: str, in_channels: int = 3):
        """Loads the file.

        Args:
            path: The file.
            in_channels: Channels of the images that it must take.

        Raises:
            UserError: It is missing or damaged, takes or returns something else, or holds weights
                that are NaN or infinite.
        """
        self.path = path
        self._interpreter = _interpreter(path)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        self.description = (
            f"{path}: a TFLite file that takes {_describe(inputs)} and returns {_describe(outputs)}"
        )
        if not (_takes_one_image(inputs, in_channels) and _returns_labels_or_scores(outputs)):
            raise UserError(
                f"{self.description}; it must take one image [1, h, w, {in_channels}] and return "
                "class ids [1, h, w] or scores [1, h, w, num_classes] alone."
            )
        (self._takes,), (self._returns,) = inputs, outputs
        self._size = tuple(self._takes["shape"][1:3].tolist())  # that tensors are allocated for
        self.size = None if self._takes["shape_signature"][1] < 0 else self._size
        self.has_scores = len(self._returns["shape"]) == 4
        _check_weights(path)

    def __call__(self, image: np.ndarray) -> tf.Tensor:
        """Runs the file.

        Args:
            image: Pixels 0..255, uint8 or float32 [H, W, in_channels].

        Returns:
            Class ids, int32 [H, W], or scores, float32 [H, W, num_classes]. Where the file returns
            fewer than pixels, class ids are repeated and scores interpolated.
        """
        takes, returns = self._takes, self._returns
        if self._size != image.shape[:2]:
            self._interpreter.resize_tensor_input(takes["index"], [1, *image.shape])
            self._interpreter.allocate_tensors()
            self._size = image.shape[:2]
        values = to_input_values(image.astype(np.float32), takes)
        self._interpreter.set_tensor(takes["index"], values[np.newaxis])
        self._interpreter.invoke()
        result = self._interpreter.get_tensor(returns["index"])
        if not self.has_scores:
            return transforms.resize_nearest(result.astype(np.int32), self._size)[0]
        scores = result.astype(np.float32)
        scale, zero_point = returns["quantization"]
        scores = (scores - zero_point) * scale if scale else scores
        return transforms.resize_bilinear(scores, self._size)[0]


def label_function(
    model: TFLiteModel,
    fitter: ImageFitter,
    num_classes: int,
    crf_parameters: dict | None = None,
    *,
    displayed: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> Callable[[np.ndarray], np.ndarray]:
    """Makes a `.tflite` file a function from an image of any size to its class ids.

    Images are fitted to the file's size. Scores are interpolated back to the image's own size,
    class ids are not.

    Args:
        model: The file.
        fitter: The run's, for the file's size.
        num_classes: Number of classes of the scores.
        crf_parameters: Arguments of `dense_crf`, which then refines the softmax of the scores;
            None for no CRF.
        displayed: Returns an image as RGB for the CRF, uint8 [H, W, 3].

    Returns:
        A function of an image, uint8 [H, W, channels], that returns its class ids, int32 [H, W].

    Raises:
        UserError: The file does not return the scores that the CRF refines; or, when the function
            is called, the scores are not finite or of another number of classes.
    """
    if crf_parameters is not None and not model.has_scores:
        raise UserError(
            f"{model.path} returns labels, but --crf refines scores: export it with "
            "--result=scores."
        )
    if model.size is None:
        fitter = dataclasses.replace(fitter, output_stride=None)

    def predict_labels(image):
        padded, placement = fitter.fit(image[np.newaxis])
        result = fitter.undo(model(padded[0].numpy())[tf.newaxis], placement)[0].numpy()
        if not model.has_scores:
            return result
        answers.check_scores(result, image.shape[:2], model.path, num_classes)
        if crf_parameters is not None:
            result = crf.dense_crf(
                displayed(image), tf.nn.softmax(result).numpy(), **crf_parameters
            )
        return np.argmax(result, axis=-1)

    return predict_labels


def to_input_values(images: np.ndarray, takes: dict) -> np.ndarray:
    """Converts pixels to what the input of a `.tflite` file stands for.

    Args:
        images: Pixels 0..255, float32.
        takes: LiteRT's details of the input.

    Returns:
        Values of the input's dtype.
    """
    if takes["dtype"] == np.float32:
        return images
    scale, zero_point = takes["quantization"]
    limits = np.iinfo(takes["dtype"])
    values = np.round(images / (scale or 1.0)) + zero_point
    return np.clip(values, limits.min, limits.max).astype(takes["dtype"])


def _interpreter_class() -> type:
    with extra_for("Running a .tflite file", extra="litert"):
        from ai_edge_litert.interpreter import Interpreter  # not at the start of every command

    return Interpreter


def _interpreter(path: str):
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}: give a .tflite file.")
    interpreter_class = _interpreter_class()
    try:
        interpreter = interpreter_class(model_path=path, num_threads=crf.num_cores())
        interpreter.allocate_tensors()
        interpreter.get_input_details(), interpreter.get_output_details()
    except Exception as error:  # a damaged file raises errors of many kinds
        raise UserError(
            f"{path} cannot be used: it is damaged, or needs what this interpreter does not have "
            f"({reason(error)})."
        ) from error
    return interpreter


def _describe(tensors: list[dict]) -> str:
    return " and ".join(
        f"{printable(one['name'])}, {np.dtype(one['dtype'])} {one['shape_signature'].tolist()}"
        for one in tensors
    )


def _takes_one_image(inputs: list[dict], in_channels: int) -> bool:
    if len(inputs) != 1 or inputs[0]["dtype"] not in _PIXEL_TYPES:
        return False
    shape = inputs[0]["shape_signature"].tolist()
    return len(shape) == 4 and abs(shape[0]) == 1 and 0 not in shape and shape[3] == in_channels


def _returns_labels_or_scores(outputs: list[dict]) -> bool:
    if len(outputs) != 1:
        return False
    rank, dtype = len(outputs[0]["shape"]), np.dtype(outputs[0]["dtype"])
    return (rank == 3 and dtype.kind in "iu") or (rank == 4 and dtype in _SCORE_TYPES)


def _check_weights(path: str) -> None:
    """Refuses constants that are NaN or infinite, with which every pixel gets the class 0."""
    from ai_edge_litert import schema_py_generated as schema

    types = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}
    model = schema.Model.GetRootAs(pathlib.Path(path).read_bytes())
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            content = model.Buffers(tensor.Buffer())
            if tensor.Type() not in types or tensor.ShapeLength() == 0 or content.DataIsNone():
                continue
            values = content.DataAsNumpy().view(types[tensor.Type()])
            if not np.isfinite(values).all():
                raise UserError(
                    f"{path} has weights that are NaN or infinite, in "
                    f"{printable(tensor.Name().decode(errors='replace'))}: export an earlier "
                    "checkpoint of the run."
                )
