"""From pictures of any size to labels of the same size: what eval, predict and export share."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf import crf
from deeplab_tf import images
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError


def predict_logits(
    model: keras.Model, pictures: tf.Tensor, model_config: ModelConfig, data_config: DataConfig
) -> tf.Tensor:
    """Returns the logits of pictures at the pictures' own size.

    The network sees them at their own size too, unless the run was trained on pictures resized to
    a range: then they are resized in the same way first, and the logits, never labels, are brought
    back. In both cases they are padded at the bottom and right, with the mean pixel as in the
    original's evaluation, to a multiple of the output stride plus 1. Only at such sizes do the
    first and the last features lie on the first and the last pixels, as the resizes with aligned
    corners take it; at an even size a MobileNet's labels come out up to half an output stride too
    far up and left.

    Args:
        model: A model of `deeplab_tf.build_model`.
        pictures: RGB pixels 0..255, uint8 or float, [N, H, W, 3].
        model_config: The model's; its `backbone` and `output_stride` count.
        data_config: Its `min_resize_value`, `max_resize_value` and `resize_factor` count.

    Returns:
        float32 [N, H, W, num_classes].
    """
    own_size = tf.shape(pictures)[1:3]
    pictures = tf.cast(pictures, tf.float32)
    if data_config.min_resize_value is not None:
        size = images.resize_to_range_size(
            own_size[0],
            own_size[1],
            data_config.min_resize_value,
            data_config.max_resize_value,
            data_config.resize_factor,
        )
        pictures = images.resize_bilinear(pictures, size)
    height, width = tf.unstack(tf.shape(pictures)[1:3])
    rows, columns = ((1 - side) % model_config.output_stride for side in (height, width))
    pad_pixel = backbones.pad_pixel(model_config.backbone)
    padded = tf.pad(pictures - pad_pixel, [[0, 0], [0, rows], [0, columns], [0, 0]]) + pad_pixel
    logits = model(padded, training=False)[:, :height, :width]
    if data_config.min_resize_value is not None:
        logits = images.resize_bilinear(logits, own_size)
    return logits


def label_function(
    model: keras.Model,
    model_config: ModelConfig,
    data_config: DataConfig,
    crf_parameters: dict | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a model into a function from one picture to its labels.

    It is traced once for all sizes. Without a CRF the argmax lies inside, so that of the large
    logits nothing leaves the graph.

    Args:
        model: A model of `deeplab_tf.build_model`.
        model_config: As of `predict_logits`.
        data_config: As of `predict_logits`.
        crf_parameters: Arguments of `dense_crf`; None for no CRF.

    Returns:
        A function of a picture, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: For parameters that a CRF cannot have; from the function.
    """
    if crf_parameters is not None:
        return _with_crf(
            probability_function(model, model_config, data_config), crf_parameters
        )

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)], autograph=False)
    def predict_labels(pictures):
        logits = predict_logits(model, pictures, model_config, data_config)
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    return lambda picture: predict_labels(picture[np.newaxis])[0].numpy()


def probability_function(
    model: keras.Model, model_config: ModelConfig, data_config: DataConfig
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a model into a function from one picture to the probabilities of its classes.

    Args:
        model: A model of `deeplab_tf.build_model`.
        model_config: As of `predict_logits`.
        data_config: As of `predict_logits`.

    Returns:
        A function of a picture, uint8 [H, W, 3], that returns float32 [H, W, num_classes].
    """

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)], autograph=False)
    def predict_probabilities(pictures):
        return tf.nn.softmax(predict_logits(model, pictures, model_config, data_config))

    return lambda picture: predict_probabilities(picture[np.newaxis])[0].numpy()


def _with_crf(
    probabilities_of: Callable[[np.ndarray], np.ndarray], crf_parameters: dict
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from picture to labels, out of one from picture to probabilities."""

    def predict_labels(picture):
        refined = crf.dense_crf(picture, probabilities_of(picture), **crf_parameters)
        return np.argmax(refined, axis=-1).astype(np.int32)

    return predict_labels


def saved_model_label_function(
    path: str, crf_parameters: dict | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a SavedModel of `deeplab_tf.export` as a function from one picture to its labels.

    Args:
        path: Folder that holds saved_model.pb.
        crf_parameters: Arguments of `dense_crf`, which then refines the SavedModel's logits; None
            for the labels that it serves.

    Returns:
        A function of a picture, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: There is no SavedModel, it is damaged, or it is not one of these.
    """
    if not tf.saved_model.contains_saved_model(path):
        raise UserError(
            f"{path} is no SavedModel: it holds no saved_model.pb. Give the --output_dir of "
            "deeplab_tf.export.savedmodel."
        )
    try:
        loaded = tf.saved_model.load(path)
        serve = loaded.signatures["serving_default"]
        takes, returns = serve.structured_input_signature[1], serve.structured_outputs
        if takes["images"].dtype != tf.uint8 or not returns["labels"].dtype.is_integer:
            raise KeyError("uint8 images in, integer labels out")
    except (KeyError, OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"{path} cannot be used: it is damaged, or no export of deeplab_tf "
            f"({str(error).splitlines()[0]}). Export the run again."
        ) from error

    if crf_parameters is not None:
        return _with_crf(
            lambda picture: tf.nn.softmax(loaded.logits(picture[np.newaxis]))[0].numpy(),
            crf_parameters,
        )

    def predict_labels(picture):
        # `loaded` is named to keep it alive: the signature's variables live as long as it does.
        labels = loaded.signatures["serving_default"](images=tf.constant(picture[np.newaxis]))
        return labels["labels"][0].numpy().astype(np.int32)

    return predict_labels
