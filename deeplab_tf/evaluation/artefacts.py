"""Loads what a run was saved or exported to: SavedModels, `.keras` and `.tflite` files."""

import dataclasses
import os
import re
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import crf
from deeplab_tf.config import WHOLE_IMAGES
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
from deeplab_tf.evaluation.fitting import image_fitter
from deeplab_tf.evaluation.prediction import label_function


def load_artefact(
    path: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    *,
    eval_config: EvalConfig = WHOLE_IMAGES,
    crf_parameters: dict | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a saved or exported model as a function from one image to its class ids.

    Args:
        path: Folder of a SavedModel of `deeplab_tf.export`; a `.keras` file of a model of
            `deeplab_tf.build_model`; or a `.tflite` file, see `tflite_label_function`.
        model_config: The run's; a SavedModel has its own.
        data_config: The run's; a SavedModel has its own.
        eval_config: Scales, mirror images, windows and output stride of a `.keras` file; the other
            artefacts have a single view of the image.
        crf_parameters: Arguments of `dense_crf`; None for no CRF.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: The artefact is missing, damaged or something else, or it cannot do what
            `eval_config` or `crf_parameters` ask for.
    """
    if path.endswith(".keras"):
        model = _load_keras_file(path, model_config)
        return label_function(
            model,
            model_config,
            data_config,
            eval_config=eval_config,
            crf_parameters=crf_parameters,
        )
    if eval_config != WHOLE_IMAGES:
        raise UserError(
            f"{path} has one view of an image, fixed when it was exported: leave out "
            "--eval_scales, --add_flipped_images, --window_size and --eval_output_stride, or use "
            "the run or its .keras file."
        )
    if path.endswith(".tflite"):
        return tflite_label_function(path, model_config, data_config, crf_parameters)
    return saved_model_label_function(path, crf_parameters)


def saved_model_label_function(
    path: str, crf_parameters: dict | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a SavedModel of `deeplab_tf.export` as a function from one image to its class ids.

    Args:
        path: Folder that holds saved_model.pb; or the folder of all versions, of which the highest
            is taken.
        crf_parameters: Arguments of `dense_crf`, which then refines the SavedModel's logits; None
            for the labels that it serves.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: There is no SavedModel, it is damaged, or it is not an export of `deeplab_tf`.
    """
    path = _newest_version(path)
    try:
        loaded = tf.saved_model.load(path)
        serve = loaded.signatures["serving_default"]
        takes, returns = serve.structured_input_signature[1], serve.structured_outputs
        if takes["images"].dtype != tf.uint8 or not returns["labels"].dtype.is_integer:
            raise KeyError("uint8 images in, integer labels out")
    except (KeyError, OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"{path} cannot be used: it is damaged, or not an export of deeplab_tf "
            f"({str(error).splitlines()[0]}). Export the run again."
        ) from error

    if crf_parameters is not None:

        def predict_refined_labels(image):
            probabilities = tf.nn.softmax(loaded.logits(image[np.newaxis]))[0].numpy()
            refined = crf.dense_crf(image, probabilities, **crf_parameters)
            return np.argmax(refined, axis=-1).astype(np.int32)

        return predict_refined_labels

    def predict_labels(image):
        # `loaded` is named to keep it alive: the signature's variables live as long as it does.
        labels = loaded.signatures["serving_default"](images=tf.constant(image[np.newaxis]))
        return labels["labels"][0].numpy().astype(np.int32)

    return predict_labels


class TFLiteModel:
    """A `.tflite` file as a function from an image to its class ids or scores.

    It takes one image of its own fixed size, or of any size, with pixels 0..255 as the models of
    `deeplab_tf` take them, in float32 or quantised. It returns class ids [1, h, w], or scores such
    as logits [1, h, w, num_classes], of any size.

    Attributes:
        size: Height and width in pixels of the images that it takes; None for any size.
        has_scores: Whether it returns scores, not class ids.
    """

    def __init__(self, path: str):
        """Loads the file.

        Raises:
            UserError: It is missing, damaged, or takes or returns something else.
        """
        self._interpreter = _tflite_interpreter(path)
        (self._takes,) = self._interpreter.get_input_details()
        self._returns, *others = self._interpreter.get_output_details()
        wanted, returned = self._takes["shape_signature"], self._returns["shape"]
        if others or len(wanted) != 4 or wanted[3] != 3 or len(returned) not in (3, 4):
            raise UserError(
                f"{path} takes {wanted.tolist()} and returns {returned.tolist()}"
                f"{' and more' if others else ''}: it must take one image [1, h, w, 3] and "
                "return class ids [1, h, w] or scores [1, h, w, num_classes] alone."
            )
        self._size = tuple(self._takes["shape"][1:3].tolist())  # that tensors are allocated for
        self.size = None if wanted[1] < 0 else self._size
        self.has_scores = len(returned) == 4

    def __call__(self, image: np.ndarray) -> tf.Tensor:
        """Runs the file.

        Args:
            image: Pixels 0..255, uint8 or float32 [H, W, 3].

        Returns:
            Class ids, int32 [H, W], or scores, float32 [H, W, num_classes]. Where the file returns
            fewer than pixels, class ids are repeated and scores interpolated.
        """
        takes, returns = self._takes, self._returns
        if self._size != image.shape[:2]:
            self._interpreter.resize_tensor_input(takes["index"], [1, *image.shape])
            self._interpreter.allocate_tensors()
            self._size = image.shape[:2]
        values = _quantised(image.astype(np.float32), takes)
        self._interpreter.set_tensor(takes["index"], values[np.newaxis])
        self._interpreter.invoke()
        result = self._interpreter.get_tensor(returns["index"])
        if not self.has_scores:
            return transforms.resize_nearest(result.astype(np.int32), self._size)[0]
        scores = result.astype(np.float32)
        scale, zero_point = returns["quantization"]
        scores = (scores - zero_point) * scale if scale else scores
        return transforms.resize_bilinear(scores, self._size)[0]


def tflite_label_function(
    path: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    crf_parameters: dict | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a `.tflite` file, see `TFLiteModel`, as a function from one image to its class ids.

    Images are fitted to the file's size, see `fitting.ImageFitter`. Scores are interpolated back to
    the image's own size, class ids are not.

    Args:
        path: The file.
        model_config: The run's; its `backbone` counts.
        data_config: See `predict_logits`.
        crf_parameters: Arguments of `dense_crf`, which then refines the softmax of the scores;
            None for no CRF.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: The file is missing, damaged, or takes or returns something else.
    """
    model = TFLiteModel(path)
    if crf_parameters is not None and not model.has_scores:
        raise UserError(
            f"{path} returns labels, but --crf refines scores: export it with --result=scores."
        )
    fitter = dataclasses.replace(
        image_fitter(model_config, data_config, model.size), output_stride=None
    )

    def predict_labels(image):
        padded, placement = fitter.fit(image[np.newaxis])
        result = fitter.undo(model(padded[0].numpy())[tf.newaxis], placement)[0].numpy()
        if crf_parameters is not None:
            result = crf.dense_crf(image, tf.nn.softmax(result).numpy(), **crf_parameters)
        labels = np.argmax(result, axis=-1) if model.has_scores else result
        return labels.astype(np.int32)

    return predict_labels


def _load_keras_file(path: str, model_config: ModelConfig) -> keras.Model:
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}: give a .keras file.")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # of many kinds, for all the ways in which a zip file can be damaged
        raise UserError(
            f"{path} cannot be used: it is damaged, or not a model of deeplab_tf "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
        ) from error
    wanted = ((None, None, None, 3), model_config.num_classes)
    if (model.input_shape, model.output_shape[-1]) != wanted:
        raise UserError(
            f"{path} takes {model.input_shape} and returns {model.output_shape}, but a model of "
            f"this run takes images of any size and returns {model_config.num_classes} classes: "
            "give a file that a model of this run was saved in."
        )
    return model


def _newest_version(path: str) -> str:
    """Returns the folder of a SavedModel: the given one, or the highest version in it.

    Raises:
        UserError: There is none.
    """
    if tf.saved_model.contains_saved_model(path):
        return path
    names = os.listdir(path) if os.path.isdir(path) else []
    versions = sorted((name for name in names if re.fullmatch("[0-9]+", name)), key=int)
    if not versions or not tf.saved_model.contains_saved_model(os.path.join(path, versions[-1])):
        raise UserError(
            f"{path} is not a SavedModel: neither it nor its highest version has a "
            "saved_model.pb. Give the --output_dir of deeplab_tf.export.savedmodel, or one of its "
            "versions."
        )
    return os.path.join(path, versions[-1])


def _tflite_interpreter(path: str):
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}: give a .tflite file.")
    with extra_for("Running a .tflite file", extra="litert"):
        from ai_edge_litert.interpreter import Interpreter  # not at the start of every command

    try:
        interpreter = Interpreter(model_path=path, num_threads=crf.num_cores())
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be used: it is damaged, or needs what this interpreter does not have "
            f"({str(error).splitlines()[0]})."
        ) from error
    return interpreter


def _quantised(images: np.ndarray, takes: dict) -> np.ndarray:
    """Converts pixels 0..255, float32, to what the input of a `.tflite` file stands for."""
    if takes["dtype"] == np.float32:
        return images
    scale, zero_point = takes["quantization"]
    limits = np.iinfo(takes["dtype"])
    values = np.round(images / (scale or 1.0)) + zero_point
    return np.clip(values, limits.min, limits.max).astype(takes["dtype"])
