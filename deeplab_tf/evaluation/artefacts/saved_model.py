"""SavedModels of `deeplab_tf.export`."""

import os
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from deeplab_tf import crf
from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts import answers
from deeplab_tf.evaluation.artefacts.answers import printable
from deeplab_tf.evaluation.artefacts.answers import reason

# Operations that read or write files, or call Python. (Those that restore the weights are in every
# SavedModel.)
_REACHES_OUT = re.compile(
    "ReadFile|WriteFile|MatchingFiles|DeleteFile|.*PyFunc.*|.*FileReader.*|.*RecordReader.*|"
    "TextLineDataset|TFRecordDataset.*|FixedLengthRecordDataset.*|(Save|Load)Dataset.*|.*Rpc.*"
)


def newest_version(path: str) -> str:
    """Returns the folder of a SavedModel: the given one, or the highest version in it.

    Raises:
        UserError: There is none.
    """
    if tf.saved_model.contains_saved_model(path):
        return path
    if os.path.isfile(path):
        raise UserError(
            f"{path} cannot be used: give a .tflite or .keras file, or the folder of a SavedModel."
        )
    names = os.listdir(path) if os.path.isdir(path) else []
    versions = sorted((name for name in names if re.fullmatch("[0-9]+", name)), key=int)
    if not versions or not tf.saved_model.contains_saved_model(os.path.join(path, versions[-1])):
        raise UserError(
            f"{path} is not a SavedModel: neither it nor its highest version has a "
            "saved_model.pb. Give the --output_dir of deeplab_tf.export.savedmodel, or one of its "
            "versions."
        )
    return os.path.join(path, versions[-1])


def describe(path: str) -> str:
    """Describes a SavedModel without loading or running it.

    Args:
        path: Folder that holds saved_model.pb.

    Raises:
        UserError: It is damaged.
    """
    try:
        with open(os.path.join(path, "saved_model.pb"), "rb") as file:
            (graph, *_) = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    except Exception as error:  # OSError, DecodeError, ValueError
        raise _damaged(path, error) from error
    signatures = ", ".join(
        f"{name}({', '.join(sorted(signature.inputs))})"
        for name, signature in sorted(graph.signature_def.items())
        if not name.startswith("__")
    )
    bodies = [graph.graph_def.node, *(one.node_def for one in graph.graph_def.library.function)]
    operations = {node.op for body in bodies for node in body}
    reaches_out = sorted(filter(_REACHES_OUT.fullmatch, operations))
    lines = [
        f"{path}: a SavedModel of TensorFlow "
        f"{printable(graph.meta_info_def.tensorflow_version)} with the signatures "
        f"{printable(signatures)}. It runs whatever its graph says: use only those that you trust."
    ]
    if reaches_out:
        lines.append(
            "warning: its graph can read or write files or run Python code: "
            f"{printable(', '.join(reaches_out))}"
        )
    return "\n".join(lines)


def class_names(path: str) -> list[str]:
    """Returns the class names that an export states; empty for a SavedModel of something else.

    Raises:
        UserError: Its list of names is not a text.
    """
    labels = os.path.join(path, "assets", answers.LABELS)
    if not os.path.isfile(labels):
        return []
    return files.read_text(labels, "list of class names").removesuffix("\n").split("\n")


def label_function(
    path: str,
    num_classes: int,
    crf_parameters: dict | None = None,
    *,
    in_channels: int = 3,
    displayed: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a SavedModel of `deeplab_tf.export` as a function from one image to its class ids.

    Args:
        path: Folder that holds saved_model.pb.
        num_classes: Number of classes of its logits.
        crf_parameters: Arguments of `dense_crf`, which then refines the SavedModel's logits; None
            for the labels that it serves.
        in_channels: Channels of the run's images.
        displayed: Returns an image as RGB for the CRF, uint8 [H, W, 3].

    Returns:
        A function of an image, uint8 [H, W, in_channels], that returns its class ids, int32 [H, W].

    Raises:
        UserError: The SavedModel is damaged, its weights are NaN or infinite, or it is not an
            export of `deeplab_tf`.
    """
    _check_weights(path)
    try:
        loaded = tf.saved_model.load(path)
        serve = loaded.signatures["serving_default"]
        takes, returns = serve.structured_input_signature[1], serve.structured_outputs
        logits_of = loaded.logits if crf_parameters is not None else None
        is_export = (
            list(takes) == ["images"]
            and takes["images"].is_compatible_with(
                tf.TensorSpec([1, None, None, in_channels], tf.uint8)
            )
            and returns["labels"].dtype.is_integer
            and returns["labels"].shape.rank in (3, None)
        )
    except Exception as error:  # a damaged graph raises errors of many kinds
        raise _damaged(path, error) from error
    if not is_export:
        raise UserError(
            f"{path} is not an export of deeplab_tf for this run: its signature serving_default "
            f"must take images, uint8 [N, H, W, {in_channels}], and return labels, integer "
            "[N, H, W]."
        )

    def predict_labels(image):
        # `loaded` is named to keep it alive: the signature's variables live as long as it does.
        labels = loaded.signatures["serving_default"](images=tf.constant(image[np.newaxis]))
        return labels["labels"].numpy()[0]

    def predict_refined_labels(image):
        assert logits_of is not None and crf_parameters is not None
        logits = np.asarray(logits_of(tf.constant(image[np.newaxis])))[0]
        answers.check_scores(logits, image.shape[:2], path, num_classes)
        refined = crf.dense_crf(displayed(image), tf.nn.softmax(logits).numpy(), **crf_parameters)
        return np.argmax(refined, axis=-1)

    return predict_labels if crf_parameters is None else predict_refined_labels


def _check_weights(path: str) -> None:
    """Refuses weights that are NaN or infinite, with which every pixel gets the class 0."""
    try:
        reader = tf.train.load_checkpoint(os.path.join(path, "variables", "variables"))
        types = reader.get_variable_to_dtype_map()
        names = [name for name, dtype in types.items() if dtype.is_floating]
        broken = [name for name in names if not _is_finite(reader.get_tensor(name))]
    except Exception as error:
        raise _damaged(path, error) from error
    if broken:
        raise UserError(
            f"{path} has weights that are NaN or infinite in {len(broken)} of {len(names)} "
            "variables: export an earlier checkpoint of the run."
        )


def _is_finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values.astype(np.float32)).all())


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be used: it is damaged, or not an export of deeplab_tf "
        f"({reason(error)}). Export the run again."
    )
