"""From images of any size to labels of the same size: what eval, predict and export share."""

import dataclasses
import math
import os
import re
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf import crf
from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.config import WHOLE_IMAGES
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError


def predict_logits(
    model: keras.Model, images: tf.Tensor, model_config: ModelConfig, data_config: DataConfig
) -> tf.Tensor:
    """Returns the logits of images at the images' own size.

    The network sees them at their own size too, unless the run was trained on images resized to
    a range: then they are resized in the same way first, and the logits, never labels, are brought
    back. In both cases they are padded at the bottom and right, with the mean pixel as in the
    original's evaluation, to a multiple of the output stride plus 1. Only at such sizes do the
    first and the last features lie on the first and the last pixels, as the resizes with aligned
    corners take it; at an even size a MobileNet's labels come out up to half an output stride too
    far up and left.

    Args:
        model: A model of `deeplab_tf.build_model`.
        images: RGB pixels 0..255, uint8 or float, [N, H, W, 3].
        model_config: The model's; its `backbone` and `output_stride` count.
        data_config: Its `min_resize_value`, `max_resize_value` and `resize_factor` count.

    Returns:
        float32 [N, H, W, num_classes].
    """
    own_size = tf.shape(images)[1:3]
    padded, seen_size = _padded(images, model_config, data_config)
    logits = model(padded, training=False)
    return _at_own_size(logits, seen_size, own_size, data_config)


def label_function(
    model: keras.Model,
    model_config: ModelConfig,
    data_config: DataConfig,
    crf_parameters: dict | None = None,
    eval_config: EvalConfig = WHOLE_IMAGES,
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a model into a function from one image to its labels.

    It is traced once for all sizes. With a single look at the whole image and no CRF the argmax
    lies inside, so that of the large logits nothing leaves the graph.

    Args:
        model: A model of `deeplab_tf.build_model`.
        model_config: As of `predict_logits`; all of it counts for another output stride.
        data_config: As of `predict_logits`.
        crf_parameters: Arguments of `dense_crf`; None for no CRF.
        eval_config: How the network looks at the image, see `probability_function`.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: For an output stride that the model cannot have; from the function, for
            parameters that a CRF cannot have.
    """
    if crf_parameters is not None or _looks_more_than_once(eval_config):
        probabilities_of = probability_function(
            model, model_config, data_config, eval_config, crf_parameters
        )
        return lambda image: np.argmax(probabilities_of(image), axis=-1).astype(np.int32)
    model, model_config = _at_eval_output_stride(model, model_config, eval_config)

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)], autograph=False)
    def predict_labels(images):
        logits = predict_logits(model, images, model_config, data_config)
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    return lambda image: predict_labels(image[np.newaxis])[0].numpy()


def probability_function(
    model: keras.Model,
    model_config: ModelConfig,
    data_config: DataConfig,
    eval_config: EvalConfig = WHOLE_IMAGES,
    crf_parameters: dict | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a model into a function from one image to the probabilities of its classes.

    With several scales or mirrored images they are the mean of the softmaxes, as in the original
    (whose second softmax, over that mean, is left out). The padded image is scaled and mirrored,
    and is not padded again; the network of MobileNetV3 keeps its pooling windows, which the
    original scales. With windows they are the mean of those of the windows that a pixel lies in;
    the network holds one window at a time, and the result 4 bytes for every pixel and class.

    Args:
        model: A model of `deeplab_tf.build_model`.
        model_config: As of `predict_logits`; all of it counts for another output stride.
        data_config: As of `predict_logits`.
        eval_config: How the network looks at the image; by default once, as a whole.
        crf_parameters: Arguments of `dense_crf`, which refines them; None for no CRF.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns float32 [H, W, num_classes].

    Raises:
        UserError: For an output stride that the model cannot have; from the function, for
            parameters that a CRF cannot have.

    Reference: `predict_labels_multi_scale` of the original's `model.py`; DeepLab v3,
    arXiv:1706.05587, section 4.1.
    """
    model, model_config = _at_eval_output_stride(model, model_config, eval_config)
    if not eval_config.window_size:
        mean_of = _mean_over_scales(model, model_config, data_config, eval_config)
        probabilities_of = lambda image: mean_of(tf.cast(image, tf.float32)).numpy()
    else:
        # Windows slide over the image as the network sees it, so they are not resized again.
        in_window = dataclasses.replace(
            data_config, min_resize_value=None, max_resize_value=None, resize_factor=None
        )
        mean_of = _mean_over_scales(model, model_config, in_window, eval_config)

        def probabilities_of(image):
            resized = _resized_to_range(tf.cast(image, tf.float32)[tf.newaxis], data_config)[0]
            mean = _mean_over_windows(mean_of, resized.numpy(), eval_config)
            if mean.shape[:2] != image.shape[:2]:
                mean = transforms.resize_bilinear(mean[np.newaxis], image.shape[:2])[0].numpy()
            return mean

    if crf_parameters is None:
        return probabilities_of
    return lambda image: crf.dense_crf(image, probabilities_of(image), **crf_parameters)


def at_output_stride(
    model: keras.Model, model_config: ModelConfig, output_stride: int
) -> tuple[keras.Model, ModelConfig]:
    """Rebuilds a model at another output stride, with the same weights.

    Atrous rates that were given, and not left to what the papers tie to the output stride, change
    with it: they double from 16 to 8.

    Args:
        model: A model of `deeplab_tf.build_model`.
        model_config: The model's.
        output_stride: Input size over feature size, such as 8 for a model of 16.

    Returns:
        The other model, and its config.

    Raises:
        UserError: There is no such model.
    """
    rates = model_config.atrous_rates
    if rates:
        scaled = [rate * model_config.output_stride / output_stride for rate in rates]
        rates = tuple(map(int, scaled))
        if min(rates) < 1 or list(rates) != scaled:
            raise UserError(
                f"--eval_output_stride={output_stride} would make the atrous rates "
                f"{','.join(map(str, model_config.atrous_rates))} of the output stride "
                f"{model_config.output_stride} {','.join(f'{rate:g}' for rate in scaled)}, which "
                "are not whole: give a smaller output stride."
            )
    config = dataclasses.replace(model_config, output_stride=output_stride, atrous_rates=rates)
    rebuilt = models.build_model(**dataclasses.asdict(config))
    rebuilt.set_weights(model.get_weights())
    return rebuilt, config


def without_last_resize(model: keras.Model) -> tuple[keras.Model, float]:
    """Returns the network up to its logits before the last resize, and input size over theirs."""
    last = model.layers[-1]
    if isinstance(last, layers.ResizeLike):
        model = keras.Model(model.input, last.input[0])
    side = 16 * 32  # a multiple of every stride
    return model, side / (model.compute_output_shape((1, side + 1, side + 1, 3))[1] - 1)


def fitted_size(own_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Returns an image's own height and width, or the largest alike that fit into `size`."""
    scale = min(1.0, *(side / own for own, side in zip(own_size, size)))
    return tuple(max(1, int(own * scale)) for own in own_size)


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Returns where windows begin along one side of an image.

    They are spread evenly: the first begins at 0, the last ends with the image.

    Args:
        size: Of the image, pixels.
        window: Of a window, pixels; one as large as the image is enough.
        overlap: Share of a window, at least, that the next one covers again.
    """
    if window >= size:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((size - window) / step) + 1
    return [round(index * (size - window) / (count - 1)) for index in range(count)]


def load_artefact(
    path: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    crf_parameters: dict | None = None,
    eval_config: EvalConfig = WHOLE_IMAGES,
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads what was made of a run as a function from one image to its labels.

    Args:
        path: Folder of a SavedModel of `deeplab_tf.export`; a `.keras` file that a model of
            `deeplab_tf.build_model` was saved in; or a `.tflite` file, see
            `tflite_label_function`.
        model_config: The run's; a SavedModel has its own.
        data_config: The run's; likewise.
        crf_parameters: Arguments of `dense_crf`; None for no CRF.
        eval_config: How the network of a `.keras` file looks at the image; the others look as
            they were exported to.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: The file is not there, damaged or no such thing, or it cannot do what
            `eval_config` or `crf_parameters` ask for.
    """
    if path.endswith(".keras"):
        model = _load_keras_file(path, model_config)
        return label_function(model, model_config, data_config, crf_parameters, eval_config)
    if eval_config != WHOLE_IMAGES:
        raise UserError(
            f"{path} looks at images as it was exported to: leave out --eval_scales, "
            "--add_flipped_images, --window_size and --eval_output_stride, or evaluate the run or "
            "its .keras file."
        )
    if path.endswith(".tflite"):
        return tflite_label_function(path, model_config, data_config, crf_parameters)
    return saved_model_label_function(path, crf_parameters)


def saved_model_label_function(
    path: str, crf_parameters: dict | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a SavedModel of `deeplab_tf.export` as a function from one image to its labels.

    Args:
        path: Folder that holds saved_model.pb; or that of all versions, of which the highest is
            taken.
        crf_parameters: Arguments of `dense_crf`, which then refines the SavedModel's logits; None
            for the labels that it serves.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: There is no SavedModel, it is damaged, or it is not one of these.
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
            f"{path} cannot be used: it is damaged, or no export of deeplab_tf "
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

    It takes one image of its own fixed size, or of any, whose pixels are 0..255 as for the models
    of `deeplab_tf`, in float32 or quantised; and returns class ids [1, h, w], or scores such as
    logits [1, h, w, num_classes], of any size.

    Attributes:
        size: Height and width in pixels of the images that it takes; None for any.
        has_scores: Whether it returns scores, and not class ids.
    """

    def __init__(self, path: str):
        """Loads the file.

        Raises:
            UserError: It is not there, damaged, or takes and returns something else.
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
        self._size = tuple(self._takes["shape"][1:3].tolist())  # that it is prepared for
        self.size = None if wanted[1] < 0 else self._size
        self.has_scores = len(returned) == 4

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Pixels 0..255, [H, W, 3] -> class ids, int32 [h, w], or scores, float32 [h, w, C]."""
        takes, returns = self._takes, self._returns
        if self._size != image.shape[:2]:
            self._interpreter.resize_tensor_input(takes["index"], [1, *image.shape])
            self._interpreter.allocate_tensors()
            self._size = image.shape[:2]
        values = _quantised(image.astype(np.float32), takes)
        self._interpreter.set_tensor(takes["index"], values[np.newaxis])
        self._interpreter.invoke()
        result = self._interpreter.get_tensor(returns["index"])[0]
        if not self.has_scores:
            return result.astype(np.int32)
        result = result.astype(np.float32)
        scale, zero_point = returns["quantization"]
        return (result - zero_point) * scale if scale else result


def tflite_label_function(
    path: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    crf_parameters: dict | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a `.tflite` file, see `TFLiteModel`, as a function from one image to its labels.

    An image is resized to the range of sizes that the run was trained on, if it was. One that is
    larger than the file's is shrunk to fit in, a smaller one is padded at the bottom and right with
    the mean pixel; scores are interpolated back to the image, class ids are not.

    Args:
        path: The file.
        model_config: The run's; its `backbone` counts.
        data_config: As of `predict_logits`.
        crf_parameters: Arguments of `dense_crf`, which then refines the softmax of the scores;
            None for no CRF.

    Returns:
        A function of an image, uint8 [H, W, 3], that returns its class ids, int32 [H, W].

    Raises:
        UserError: The file is not there, damaged, or takes and returns something else.
    """
    model, pad_pixel = TFLiteModel(path), backbones.pad_pixel(model_config.backbone)
    if crf_parameters is not None and not model.has_scores:
        raise UserError(
            f"{path} returns labels, but --crf refines scores: export it with --result=scores."
        )
    resize = transforms.resize_bilinear if model.has_scores else transforms.resize_nearest

    def predict_labels(image):
        images = _resized_to_range(tf.cast(image[np.newaxis], tf.float32), data_config)
        seen_size = images.shape[1:3]
        size = model.size or seen_size
        fitted = fitted_size(seen_size, size)
        images = transforms.resize_bilinear(images, fitted)
        padding = [[0, 0], [0, size[0] - fitted[0]], [0, size[1] - fitted[1]], [0, 0]]
        padded = tf.pad(images - pad_pixel, padding) + pad_pixel
        result = resize(model(padded[0].numpy())[np.newaxis], size)
        result = resize(result[:, : fitted[0], : fitted[1]], image.shape[:2])[0]
        if crf_parameters is not None:
            result = crf.dense_crf(image, tf.nn.softmax(result).numpy(), **crf_parameters)
        labels = np.argmax(result, axis=-1) if model.has_scores else result.numpy()
        return labels.astype(np.int32)

    return predict_labels


def _resized_to_range(images: tf.Tensor, data_config: DataConfig) -> tf.Tensor:
    """Images as the network was trained to see them: resized to a range, or as they are."""
    if data_config.min_resize_value is None:
        return images
    size = transforms.resize_to_range_size(
        tf.shape(images)[1],
        tf.shape(images)[2],
        data_config.min_resize_value,
        data_config.max_resize_value,
        data_config.resize_factor,
    )
    return transforms.resize_bilinear(images, size)


def _padded(
    images: tf.Tensor, model_config: ModelConfig, data_config: DataConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images for the network, float32, and their height and width without the padding."""
    images = _resized_to_range(tf.cast(images, tf.float32), data_config)
    height, width = tf.unstack(tf.shape(images)[1:3])
    rows, columns = ((1 - side) % model_config.output_stride for side in (height, width))
    pad_pixel = backbones.pad_pixel(model_config.backbone)
    padded = tf.pad(images - pad_pixel, [[0, 0], [0, rows], [0, columns], [0, 0]]) + pad_pixel
    return padded, tf.stack([height, width])


def _at_own_size(
    logits: tf.Tensor, seen_size: tf.Tensor, own_size: tf.Tensor, data_config: DataConfig
) -> tf.Tensor:
    """Logits without the padding, brought back from the size of resized images."""
    logits = logits[:, : seen_size[0], : seen_size[1]]
    if data_config.min_resize_value is None:
        return logits
    return transforms.resize_bilinear(logits, own_size)


def _looks_more_than_once(config: EvalConfig) -> bool:
    return bool(
        tuple(config.eval_scales) != (1,) or config.add_flipped_images or config.window_size
    )


def _at_eval_output_stride(
    model: keras.Model, model_config: ModelConfig, eval_config: EvalConfig
) -> tuple[keras.Model, ModelConfig]:
    if eval_config.eval_output_stride in (None, model_config.output_stride):
        return model, model_config
    return at_output_stride(model, model_config, eval_config.eval_output_stride)


def _mean_over_scales(
    model: keras.Model,
    model_config: ModelConfig,
    data_config: DataConfig,
    eval_config: EvalConfig,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from an image, float32 [H, W, 3], to its mean probabilities [H, W, C].

    The network is traced once, and called for one scale after the other.
    """
    spec = tf.TensorSpec([1, None, None, 3], tf.float32)
    if tuple(eval_config.eval_scales) == (1,) and not eval_config.add_flipped_images:

        @tf.function(input_signature=[spec], autograph=False)
        def predict(images):
            return tf.nn.softmax(predict_logits(model, images, model_config, data_config))

        return lambda image: predict(image[tf.newaxis])[0]

    head, head_stride = without_last_resize(model)

    # Float64, as sizes are products of Python's numbers in the original.
    @tf.function(
        input_signature=[spec, tf.TensorSpec([], tf.float64), tf.TensorSpec([], tf.bool)],
        autograph=False,
    )
    def predict_scaled(images, scale, is_flipped):
        padded, seen_size = _padded(images, model_config, data_config)
        padded_size = tf.shape(padded)[1:3]
        scaled = transforms.resize_bilinear(padded, _scaled_size(padded_size, scale))
        logits = head(_flipped_if(is_flipped, scaled), training=False)
        # As in the original: those of a small scale first grow to the features of scale 1.
        grid = _scaled_size(padded_size, tf.maximum(scale, 1) / head_stride)
        logits = _flipped_if(is_flipped, transforms.resize_bilinear(logits, grid))
        logits = transforms.resize_bilinear(logits, padded_size)
        own_size = tf.shape(images)[1:3]
        return tf.nn.softmax(_at_own_size(logits, seen_size, own_size, data_config))

    looks = [
        (scale, is_flipped)
        for scale in eval_config.eval_scales
        for is_flipped in ((False, True) if eval_config.add_flipped_images else (False,))
    ]

    def mean_of(image):
        total = 0.0
        for scale, is_flipped in looks:
            total += predict_scaled(image[tf.newaxis], tf.constant(scale, tf.float64), is_flipped)
        return total[0] / len(looks)

    return mean_of


def _mean_over_windows(
    mean_of: Callable[[tf.Tensor], tf.Tensor], image: np.ndarray, config: EvalConfig
) -> np.ndarray:
    """Mean probabilities of an image, float32 [H, W, 3], over the windows of every pixel."""
    size = [min(pair) for pair in zip(image.shape[:2], config.window_size)]
    rows, columns = (
        window_starts(side, window, config.window_overlap)
        for side, window in zip(image.shape[:2], size)
    )
    total, count = None, np.zeros((*image.shape[:2], 1), np.float32)
    for top in rows:
        for left in columns:
            window = (slice(top, top + size[0]), slice(left, left + size[1]))
            probabilities = mean_of(tf.constant(image[window])).numpy()
            if total is None:
                total = np.zeros((*image.shape[:2], probabilities.shape[-1]), np.float32)
            total[window] += probabilities
            count[window] += 1
    total /= count
    return total


def _scaled_size(size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """The original's `scale_dimension`, which keeps first and last pixels aligned."""
    return tf.cast(tf.cast(size - 1, tf.float64) * scale + 1, tf.int32)


def _flipped_if(is_flipped: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    return tf.cond(is_flipped, lambda: tf.reverse(images, [2]), lambda: images)


def _load_keras_file(path: str, model_config: ModelConfig) -> keras.Model:
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}: give the .keras file that a model was saved in.")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # of many kinds, for all the ways in which a zip file can be damaged
        raise UserError(
            f"{path} cannot be used: it is damaged, or no model of deeplab_tf "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
        ) from error
    wanted = ((None, None, None, 3), model_config.num_classes)
    if (model.input_shape, model.output_shape[-1]) != wanted:
        raise UserError(
            f"{path} takes {model.input_shape} and returns {model.output_shape}, but a model of "
            f"this run takes images of any size and returns {model_config.num_classes} classes: "
            "save model.save(...) of its own model."
        )
    return model


def _newest_version(path: str) -> str:
    """The folder of a SavedModel itself: the given one, or that of the highest number in it.

    Raises:
        UserError: There is none.
    """
    if tf.saved_model.contains_saved_model(path):
        return path
    names = os.listdir(path) if os.path.isdir(path) else []
    versions = sorted((name for name in names if re.fullmatch("[0-9]+", name)), key=int)
    if not versions or not tf.saved_model.contains_saved_model(os.path.join(path, versions[-1])):
        raise UserError(
            f"{path} is no SavedModel: it holds no saved_model.pb, nor do versions in it. Give the "
            "--output_dir of deeplab_tf.export.savedmodel, or one of its versions."
        )
    return os.path.join(path, versions[-1])


def _tflite_interpreter(path: str):
    if not os.path.isfile(path):
        raise UserError(f"There is no file {path}: give a .tflite file.")
    from ai_edge_litert.interpreter import Interpreter  # not at the start of every command

    try:
        interpreter = Interpreter(model_path=path, num_threads=crf.num_cores())
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be used: it is damaged, or needs what this interpreter has not "
            f"({str(error).splitlines()[0]})."
        ) from error
    return interpreter


def _quantised(images: np.ndarray, takes: dict) -> np.ndarray:
    """Pixels 0..255, float32, as the values that the input of a `.tflite` file stands for."""
    if takes["dtype"] == np.float32:
        return images
    scale, zero_point = takes["quantization"]
    limits = np.iinfo(takes["dtype"])
    values = np.round(images / (scale or 1.0)) + zero_point
    return np.clip(values, limits.min, limits.max).astype(takes["dtype"])
