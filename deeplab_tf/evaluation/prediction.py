"""From an image of any size to logits, probabilities or class ids of the same size."""

import dataclasses
import functools
import typing
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import crf
from deeplab_tf import models
from deeplab_tf.config import ONE_VIEW
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.evaluation import views
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.evaluation.fitting import image_fitter
from deeplab_tf.evaluation.network import Network
from deeplab_tf.evaluation.network import as_network
from deeplab_tf.evaluation.network import finish_function
from deeplab_tf.evaluation.network import fit_function
from deeplab_tf.evaluation.strips import labels_of_logits

Model: typing.TypeAlias = "keras.Model | Network"


def predict_logits(
    model: keras.Model, images: tf.Tensor, model_config: ModelConfig, data_config: DataConfig
) -> tf.Tensor:
    """Returns the logits of images at the images' own size.

    The network sees the images at their own size, unless the run was trained on images resized to a
    range: then they are resized in the same way, and the logits (never labels) are resized back.
    The images are padded with the mean pixel, as in the original's evaluation; see
    `fitting.ImageFitter`.

    Args:
        model: A model of `deeplab_tf.build_model`.
        images: Pixels 0..255, uint8 or float, [N, H, W, channels].
        model_config: The model's; its `backbone`, `in_channels` and `output_stride` count.
        data_config: Its `min_resize_value`, `max_resize_value` and `resize_factor` count.

    Returns:
        float32 [N, H, W, num_classes].
    """
    fitter = image_fitter(model_config, data_config)
    padded, placement = fitter.fit(images)
    return fitter.undo(model(padded, training=False), placement)


def for_inference(
    model: keras.Model, model_config: ModelConfig, eval_config: EvalConfig = ONE_VIEW
) -> tuple[keras.Model, ModelConfig]:
    """Rebuilds a trained model as it is fastest in inference, see `models.fold_batch_norm`.

    Args:
        model: A model of `deeplab_tf.build_model`; it does not change.
        model_config: The model's.
        eval_config: Its `eval_output_stride` counts.

    Returns:
        The other model, at the output stride that `eval_config` asks for, and its config.

    Raises:
        UserError: The model cannot have this output stride.
    """
    rebuilt, model_config = _at_eval_output_stride(model, model_config, eval_config)
    assert isinstance(rebuilt, keras.Model)
    return models.fold_batch_norm(rebuilt), model_config


@dataclasses.dataclass(frozen=True)
class BatchFunction:
    """A function of an image that can also be called with several of one size at once.

    Attributes:
        of_batch: Function of images, uint8 [N, H, W, channels], that returns class ids, int32
            [N, H, W].
    """

    of_batch: Callable[[np.ndarray], np.ndarray]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.of_batch(image[np.newaxis])[0]


def label_function(
    model: Model,
    model_config: ModelConfig,
    data_config: DataConfig,
    *,
    eval_config: EvalConfig = ONE_VIEW,
    crf_parameters: dict | None = None,
    displayed: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a model into a function from one image to its class ids.

    It is traced once for all sizes. With a single view of the whole image and no CRF, the logits
    are resized in strips, see `strips`. With windows and no CRF, the probabilities of a band of the
    image are held at once, not those of all of it. Whether an image is seen in windows follows from
    `views.is_windowed`; a line on the screen announces the first one.

    Args:
        model: A model of `deeplab_tf.build_model`, or one that another engine runs.
        model_config: See `predict_logits`; another output stride needs all of it.
        data_config: See `predict_logits`; its `train_crop_size` is the default size of windows.
        eval_config: Scales, mirror images, windows and output stride, see `probability_function`.
        crf_parameters: Arguments of `dense_crf`; None for no CRF.
        displayed: Returns an image as RGB for the CRF, uint8 [H, W, 3].

    Returns:
        A function of an image, uint8 [H, W, channels], that returns its class ids, int32 [H, W].

    Raises:
        UserError: The model cannot have this output stride; or, when the function is called, the
            CRF cannot have these parameters.
    """
    if crf_parameters is not None:
        return _most_probable(
            probability_function(
                model,
                model_config,
                data_config,
                eval_config=eval_config,
                crf_parameters=crf_parameters,
                displayed=displayed,
            )
        )
    settings = (*_at_eval_output_stride(model, model_config, eval_config), data_config, eval_config)
    if views.is_one_view(eval_config):
        of_whole_image = _labels_of_one_view(*settings)
    else:
        of_whole_image = _most_probable(_over_whole_image(*settings))
    return _where_windowed(
        _labels_over_windows(*settings), of_whole_image, data_config, eval_config
    )


def _most_probable(
    probabilities_of: Callable[[np.ndarray], np.ndarray],
) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: np.argmax(probabilities_of(image), axis=-1).astype(np.int32)


def _where_windowed(
    in_windows: Callable[[np.ndarray], np.ndarray],
    as_a_whole: Callable[[np.ndarray], np.ndarray],
    data_config: DataConfig,
    eval_config: EvalConfig,
) -> Callable[[np.ndarray], np.ndarray]:
    """Chooses between two functions by the size of an image, and says when the choice is new."""
    is_said = eval_config.window_size is not None  # what was asked for needs no word

    def choose(image):
        nonlocal is_said
        if not views.is_windowed(eval_config, data_config, image.shape):
            return as_a_whole(image)
        if not is_said:
            is_said = True
            print(views.describe_windows(eval_config, data_config), flush=True)
        return in_windows(image)

    if not isinstance(as_a_whole, BatchFunction):
        return choose

    def of_batch(images):
        if len(images) > 1 and not views.is_windowed(eval_config, data_config, images.shape[1:]):
            return as_a_whole.of_batch(images)
        return np.stack([choose(image) for image in images])

    return BatchFunction(of_batch)


def _labels_of_one_view(
    model: Model, model_config: ModelConfig, data_config: DataConfig, _: EvalConfig
) -> Callable[[np.ndarray], np.ndarray]:
    """`label_function` with a single view of the whole image and no CRF."""
    fitter = image_fitter(model_config, data_config)
    network, fit = as_network(model), fit_function(fitter)
    finish = finish_function(functools.partial(labels_of_logits, fitter=fitter))

    def labels_of(images):
        padded, placement = fit(tf.cast(images, tf.float32))
        return finish(network.logits_of(padded), tf.shape(padded)[1:3], placement).numpy()

    return BatchFunction(labels_of)


def probability_function(
    model: Model,
    model_config: ModelConfig,
    data_config: DataConfig,
    *,
    eval_config: EvalConfig = ONE_VIEW,
    crf_parameters: dict | None = None,
    displayed: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a model into a function from one image to the probabilities of its classes.

    With several scales or mirror images, the probabilities are the mean of the softmaxes, as in the
    original (without its second softmax over that mean). MobileNetV3 keeps its pooling windows at
    all scales; the original scales them. With windows, each pixel gets the mean over the windows
    that it lies in. The network holds one window at a time; the result takes 4 bytes for every
    pixel and class.

    Args:
        model: A model of `deeplab_tf.build_model`, or one that another engine runs.
        model_config: See `predict_logits`; another output stride needs all of it.
        data_config: See `predict_logits`.
        eval_config: Scales, mirror images, windows and output stride; by default the network sees
            the whole image once.
        crf_parameters: Arguments of `dense_crf`, which refines the probabilities; None for no CRF.
        displayed: Returns an image as RGB for the CRF, uint8 [H, W, 3].

    Returns:
        A function of an image, uint8 [H, W, channels], that returns float32 [H, W, num_classes].

    Raises:
        UserError: The model cannot have this output stride; or, when the function is called, the
            CRF cannot have these parameters.

    Reference: `predict_labels_multi_scale` of the original's `model.py`; DeepLab v3,
    arXiv:1706.05587, section 4.1.
    """
    settings = (*_at_eval_output_stride(model, model_config, eval_config), data_config, eval_config)
    probabilities_of = _where_windowed(
        _over_windows(*settings), _over_whole_image(*settings), data_config, eval_config
    )
    if crf_parameters is None:
        return probabilities_of
    return lambda image: crf.dense_crf(displayed(image), probabilities_of(image), **crf_parameters)


def _over_whole_image(
    model: Model, model_config: ModelConfig, data_config: DataConfig, eval_config: EvalConfig
) -> Callable[[np.ndarray], np.ndarray]:
    """`probability_function` with views of the whole image and no CRF."""
    mean_of = views.mean_over_scales(model, image_fitter(model_config, data_config), eval_config)
    return lambda image: mean_of(tf.cast(image, tf.float32)).numpy()


def _over_windows(
    model: Model, model_config: ModelConfig, data_config: DataConfig, eval_config: EvalConfig
) -> Callable[[np.ndarray], np.ndarray]:
    """`probability_function` with windows, which slide over the image as the network sees it."""
    eval_config = views.with_windows(eval_config, data_config)
    fitter = image_fitter(model_config, data_config)
    of_image = dataclasses.replace(fitter, output_stride=None)
    of_window = dataclasses.replace(fitter, resize_range=None)
    mean_of = views.mean_over_scales(model, of_window, eval_config)

    def probabilities_of(image):
        placement = None
        if of_image.resize_range is not None:
            resized, placement = of_image.fit(image[np.newaxis])
            image = resized[0].numpy()
        mean = np.zeros(0, np.float32)
        for rows, band in views.mean_over_windows(mean_of, image, eval_config):
            if not mean.size:
                mean = np.empty((*image.shape[:2], band.shape[-1]), np.float32)
            mean[rows] = band
        if placement is None:
            return mean  # not copied: that of a large image takes gigabytes
        return of_image.undo(mean[np.newaxis], placement)[0].numpy()

    return probabilities_of


def _labels_over_windows(
    model: Model, model_config: ModelConfig, data_config: DataConfig, eval_config: EvalConfig
) -> Callable[[np.ndarray], np.ndarray]:
    """`label_function` with windows and no CRF."""
    fitter = image_fitter(model_config, data_config)
    if fitter.resize_range is not None:  # probabilities, never labels, are resized back
        return _most_probable(_over_windows(model, model_config, data_config, eval_config))
    rows_of = _label_rows(model, fitter, views.with_windows(eval_config, data_config))

    def label_of(image):
        label = np.empty(image.shape[:2], np.int32)
        for rows, labels in rows_of(image):
            label[rows] = labels
        return label

    return label_of


def label_rows_function(
    model: Model, model_config: ModelConfig, data_config: DataConfig, eval_config: EvalConfig
) -> Callable[..., Iterator[tuple[slice, np.ndarray]]]:
    """Compiles a model into a function that labels an image of any size in bounded memory.

    Args:
        model: A model of `deeplab_tf.build_model`.
        model_config: See `predict_logits`.
        data_config: Its `train_crop_size` is the default size of windows; it must not resize
            images.
        eval_config: Scales, mirror images, output stride, and windows.

    Returns:
        A function of an image, uint8 [H, W, channels], or what reads the windows that it is indexed
        by, see `views.mean_over_windows`. It yields rows of the image, from top to bottom, and
        their class ids, int32 [rows, W].
    """
    model, model_config = _at_eval_output_stride(model, model_config, eval_config)
    eval_config = views.with_windows(eval_config, data_config)
    return _label_rows(model, image_fitter(model_config, data_config), eval_config)


def _label_rows(
    model: Model, fitter: ImageFitter, eval_config: EvalConfig
) -> Callable[..., Iterator[tuple[slice, np.ndarray]]]:
    mean_of = views.mean_over_scales(model, fitter, eval_config)

    def rows_of(image):
        for rows, band in views.mean_over_windows(mean_of, image, eval_config):
            yield rows, np.argmax(band, axis=-1).astype(np.int32)

    return rows_of


def _at_eval_output_stride(
    model: Model, model_config: ModelConfig, eval_config: EvalConfig
) -> tuple[Model, ModelConfig]:
    if eval_config.eval_output_stride in (None, model_config.output_stride):
        return model, model_config
    assert isinstance(model, keras.Model)  # a network of another engine has the stride already
    return views.at_output_stride(model, model_config, eval_config.eval_output_stride)
