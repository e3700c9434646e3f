"""Saved and exported models of a run, as functions from an image to its class ids.

SavedModels, `.keras` and `.tflite` files. What they return is checked, so that a damaged artefact,
or one of another run, ends in one message and not in a wrong figure.
"""

import dataclasses
import itertools
import os
import typing
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from deeplab_tf import files
from deeplab_tf.config import ONE_VIEW
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts import answers
from deeplab_tf.evaluation.artefacts import keras_file
from deeplab_tf.evaluation.artefacts import saved_model
from deeplab_tf.evaluation.artefacts import tflite
from deeplab_tf.evaluation.fitting import image_fitter
from deeplab_tf.evaluation.prediction import for_inference
from deeplab_tf.evaluation.prediction import label_function


def load_artefact(
    path: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    *,
    class_names: Sequence[str] = (),
    eval_config: EvalConfig = ONE_VIEW,
    crf_parameters: dict | None = None,
    displayed: Callable[[np.ndarray], np.ndarray] = lambda image: image,
    tell: Callable[[str], None] = print,
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a saved or exported model as a function from one image to its class ids.

    A SavedModel is a program that does whatever its graph says: load only those that you trust.
    `.keras` files with code in them are refused; `.tflite` files hold no code.

    Args:
        path: Folder of a SavedModel of `deeplab_tf.export`, or of its versions, of which the
            highest is taken; a `.keras` file of a model of `deeplab_tf.build_model`; or a
            `.tflite` file, see `tflite.TFLiteModel`. One in remote storage is copied first.
        model_config: The run's. A SavedModel has its own, but must have as many classes.
        data_config: The run's. A SavedModel has its own.
        class_names: The run's, in the order of the ids. Where the artefact names others, a line
            warns of it. Empty for no comparison.
        eval_config: Scales, mirror images, windows and output stride for a `.keras` file; the
            other artefacts have one view of an image.
        crf_parameters: Arguments of `dense_crf`; None for no CRF.
        displayed: Returns an image as RGB for the CRF, uint8 [H, W, 3].
        tell: Called with a description of the artefact.

    Returns:
        A function of an image, uint8 [H, W, channels], that returns its class ids, int32 [H, W]. It
        raises a `UserError` if the artefact fails or returns something else.

    Raises:
        UserError: The artefact is missing, damaged or something else; its weights are NaN or
            infinite; or it cannot do what `eval_config` or `crf_parameters` ask for.
    """
    path = _local(path)
    num_classes = typing.cast(int, model_config.num_classes)  # a run's config has it
    in_channels = model_config.in_channels or 3
    if path.endswith(".keras"):
        tell(keras_file.describe(path))
        model = keras_file.load(path, num_classes, in_channels)
        label_of = label_function(
            *for_inference(model, model_config, eval_config),
            data_config,
            eval_config=eval_config,
            crf_parameters=crf_parameters,
            displayed=displayed,
        )
        return answers.checked(label_of, path, num_classes)
    if dataclasses.replace(eval_config, window_size=eval_config.window_size or None) != ONE_VIEW:
        raise UserError(
            f"{path} has one inference mode, fixed when it was exported: leave out "
            "--eval_scales, --add_flipped_images, --window_size and --eval_output_stride, or use "
            "the run or its .keras file."
        )
    if path.endswith(".tflite"):
        tflite.probe(path)
        model = tflite.TFLiteModel(path, in_channels)
        tell(model.description)
        _warn_of_other_classes(tflite.class_names(path), class_names, path, tell)
        fitter = image_fitter(model_config, data_config, model.size)
        label_of = tflite.label_function(
            model, fitter, num_classes, crf_parameters, displayed=displayed
        )
    else:
        path = saved_model.newest_version(path)
        tell(saved_model.describe(path))
        _warn_of_other_classes(saved_model.class_names(path), class_names, path, tell)
        label_of = saved_model.label_function(
            path, num_classes, crf_parameters, in_channels=in_channels, displayed=displayed
        )
    return answers.checked(label_of, path, num_classes)


def _warn_of_other_classes(
    theirs: Sequence[str], ours: Sequence[str], path: str, tell: Callable[[str], None]
) -> None:
    """Warns if an artefact and a run name their classes differently; nothing if one names none."""
    if not theirs or not ours:
        return
    pairs = itertools.zip_longest(theirs, ours, fillvalue="missing")
    for class_id, (their, our) in enumerate(pairs):
        if their != our:
            tell(
                f"warning: the class {class_id} of {path} is {answers.printable(their)}, and "
                f"that of the run is {our}: give an artefact that was exported from this run."
            )
            return


def _local(path: str) -> str:
    try:
        return os.fspath(files.cached_copy(path)) if files.is_remote(path) else path
    except OSError as error:
        raise UserError(f"--model={path} cannot be read: {error.strerror}.") from error
