"""Views of an image: scales, mirror images, windows, and the network at another output stride."""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.config import ORIGINAL_CROP_SIZE
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.evaluation.fitting import Placement
from deeplab_tf.evaluation.network import Network
from deeplab_tf.evaluation.network import as_network
from deeplab_tf.evaluation.network import finish_function
from deeplab_tf.evaluation.network import fit_function

MAX_WHOLE_PIXELS = 2**21  # of images that are seen as a whole by default


def at_output_stride(
    model: keras.Model, model_config: ModelConfig, output_stride: int
) -> tuple[keras.Model, ModelConfig]:
    """Rebuilds a model at another output stride, with the same weights.

    Atrous rates that were given, rather than left to the papers' default, change with the output
    stride: they double from 16 to 8.

    Args:
        model: A model of `deeplab_tf.build_model`.
        model_config: The model's.
        output_stride: Ratio of input size to feature size, such as 8 for a model of 16.

    Returns:
        The other model, and its config.

    Raises:
        UserError: There is no such model.
    """
    config = config_at_output_stride(model_config, output_stride)
    rebuilt = models.quantize_like(models.build_model(**dataclasses.asdict(config)), model)
    rebuilt.set_weights(model.get_weights())
    return rebuilt, config


def config_at_output_stride(model_config: ModelConfig, output_stride: int) -> ModelConfig:
    """Returns the config of the model of `at_output_stride`.

    Raises:
        UserError: There is no such model.
    """
    rates = model_config.atrous_rates
    if rates:
        assert model_config.output_stride is not None  # a run's config has it
        scaled = [rate * model_config.output_stride / output_stride for rate in rates]
        rates = tuple(map(int, scaled))
        if min(rates) < 1 or list(rates) != scaled:
            raise UserError(
                f"--eval_output_stride={output_stride} would change the atrous rates "
                f"{','.join(map(str, model_config.atrous_rates or ()))} of the output stride "
                f"{model_config.output_stride} to {','.join(f'{rate:g}' for rate in scaled)}, "
                "which are not whole numbers: give a smaller output stride."
            )
    return dataclasses.replace(model_config, output_stride=output_stride, atrous_rates=rates)


def is_one_view(config: EvalConfig) -> bool:
    """Whether each image, or each window of it, passes through the network once."""
    return tuple(config.eval_scales) == (1,) and not config.add_flipped_images


def is_windowed(config: EvalConfig, data_config: DataConfig, size: Sequence[int]) -> bool:
    """Whether an image is seen in windows: by default if it is large, as the run saw its images.

    The features of a network depend on how much of an image it sees. One that was trained on crops
    sees crops of images that are much larger, in predictions, evaluations and validations alike.

    Args:
        config: Its `window_size` counts.
        data_config: Where it resizes images, these are seen as a whole, unless `config` asks for
            windows.
        size: Height and width of the image, or its whole shape.
    """
    if config.window_size is not None:
        return bool(config.window_size)
    return not data_config.min_resize_value and size[0] * size[1] > MAX_WHOLE_PIXELS


def describe_windows(config: EvalConfig, data_config: DataConfig) -> str:
    """Says which images are seen in windows by default, and how to change this."""
    height, width = window_size(config, data_config)
    return (
        f"Images of more than {MAX_WHOLE_PIXELS} pixels are seen in windows of {width}x{height} "
        "pixels, the size of the training crops. --window_size sets another size, or with an empty "
        "value whole images."
    )


def window_size(config: EvalConfig, data_config: DataConfig) -> tuple[int, ...]:
    """Returns height and width of windows in pixels: by default those of the training crops."""
    return config.window_size or data_config.train_crop_size or ORIGINAL_CROP_SIZE


def with_windows(config: EvalConfig, data_config: DataConfig) -> EvalConfig:
    """Returns a config with the size of its windows."""
    return dataclasses.replace(config, window_size=window_size(config, data_config))


def mean_over_scales(
    model: keras.Model | Network, fitter: ImageFitter, eval_config: EvalConfig
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from an image to its mean probabilities over scales and mirror images.

    The padded image is scaled and mirrored, and is not padded again, as in the original.

    Args:
        model: A model of `deeplab_tf.build_model`, or one that another engine runs.
        fitter: Fits images to it.
        eval_config: Its `eval_scales` and `add_flipped_images` count.

    Returns:
        A function of pixels 0..255, float32 [H, W, C], that returns float32 [H, W, num_classes].
        The network is traced once for all scales and sizes.
    """
    if is_one_view(eval_config):
        whole_view = _whole_view(model, fitter)
        return lambda image: whole_view(image[tf.newaxis])[0]
    scaled_view = _scaled_view(model, fitter)
    views = [
        (scale, is_flipped)
        for scale in eval_config.eval_scales
        for is_flipped in ((False, True) if eval_config.add_flipped_images else (False,))
    ]

    def mean_of(image):
        sums = sum(
            scaled_view(image[tf.newaxis], tf.constant(scale, tf.float64), is_flipped)[0]
            for scale, is_flipped in views
        )
        return sums / len(views)

    return mean_of


def mean_over_windows(
    probabilities_of: Callable[[tf.Tensor], tf.Tensor], image: np.ndarray, config: EvalConfig
) -> Iterator[tuple[slice, np.ndarray]]:
    """Averages the probabilities of an image over the windows that each pixel lies in.

    They come in bands of rows, so that those of a whole image need not fit into memory: the rows of
    one window are held at once.

    Args:
        probabilities_of: Function of a window, float32 [h, w, channels], that returns float32
            [h, w, C].
        image: Pixels 0..255, uint8 or float, [H, W, channels]: an array, or what has the shape of
            one and reads the rows and columns that it is indexed by.
        config: Its `window_size`, which must be given, and `window_overlap` count.

    Yields:
        Rows of the image, from top to bottom, and their probabilities, float32 [rows, W, C], which
        are overwritten afterwards.
    """
    height, width = image.shape[:2]
    assert config.window_size is not None  # see `with_windows`
    size = [min(pair) for pair in zip((height, width), config.window_size)]
    tops, lefts = (
        transforms.window_starts(side, window, config.window_overlap)
        for side, window in zip((height, width), size)
    )
    total, count = np.zeros(0, np.float32), np.zeros((size[0], width, 1), np.float32)
    for top, next_top in zip(tops, [*tops[1:], height]):
        for left in lefts:
            columns = slice(left, left + size[1])
            window = tf.cast(image[top : top + size[0], columns], tf.float32)
            probabilities = probabilities_of(window).numpy()
            if not total.size:
                total = np.zeros((size[0], width, probabilities.shape[-1]), np.float32)
            total[:, columns] += probabilities
            count[:, columns] += 1
        num_done = next_top - top  # rows that no further window covers
        total[:num_done] /= count[:num_done]
        yield slice(top, next_top), total[:num_done]
        for sums in (total, count):
            sums[: size[0] - num_done] = sums[num_done:]
            sums[size[0] - num_done :] = 0


def _whole_view(model: keras.Model | Network, fitter: ImageFitter) -> Callable[..., tf.Tensor]:
    """A function of images, float32 [1, H, W, channels], to probabilities [1, H, W, C]."""
    net, fit = as_network(model), fit_function(fitter)
    finish = finish_function(functools.partial(_probabilities, fitter=fitter))

    def probabilities_of(images):
        padded, placement = fit(images)
        return finish(net.logits_of(padded), tf.shape(padded)[1:3], placement)

    return probabilities_of


def _scaled_view(model: keras.Model | Network, fitter: ImageFitter) -> Callable[..., tf.Tensor]:
    """A function of images, float32 [1, H, W, channels], a scale, and whether they are mirrored.

    It returns probabilities, [1, H, W, C].
    """
    net, fit = as_network(model), fit_function(fitter)
    finish = finish_function(functools.partial(_probabilities, fitter=fitter))
    scale_spec = tf.TensorSpec([], tf.float64)  # sizes are products of Python's floats there
    flip_spec = tf.TensorSpec([], tf.bool)
    images_spec = tf.TensorSpec([1, None, None, len(fitter.pad_pixel)], tf.float32)
    logits_spec = tf.TensorSpec([1, None, None, None], tf.float32)
    size_spec = tf.TensorSpec([2], tf.int32)

    @tf.function(input_signature=[images_spec, scale_spec, flip_spec], autograph=False)
    def transform(padded, scale, is_flipped):
        scaled = transforms.resize_bilinear(padded, _scaled_size(tf.shape(padded)[1:3], scale))
        return _flipped_if(is_flipped, scaled)

    @tf.function(input_signature=[logits_spec, size_spec, scale_spec, flip_spec], autograph=False)
    def transform_back(logits, padded_size, scale, is_flipped):
        # As in the original, the logits of a small scale first grow to the features of scale 1.
        grid = _scaled_size(padded_size, tf.maximum(scale, 1) / net.stride)
        return _flipped_if(is_flipped, transforms.resize_bilinear(logits, grid))

    def probabilities_of(images, scale, is_flipped):
        padded, placement = fit(images)
        padded_size = tf.shape(padded)[1:3]
        logits = net.logits_of(transform(padded, scale, is_flipped))
        logits = transform_back(logits, padded_size, scale, is_flipped)
        return finish(logits, padded_size, placement)

    return probabilities_of


def _probabilities(
    logits: tf.Tensor, padded_size: tf.Tensor, placement: Placement, *, fitter: ImageFitter
) -> tf.Tensor:
    """Probabilities at the image's own size from logits at any size, [1, H, W, C]."""
    logits = transforms.resize_bilinear(logits, padded_size)
    return tf.nn.softmax(fitter.undo(logits, placement))


def _scaled_size(size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """The original's `scale_dimension`, which keeps the first and the last pixels aligned."""
    return tf.cast(tf.cast(size - 1, tf.float64) * scale + 1, tf.int32)


def _flipped_if(is_flipped: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    return tf.cond(is_flipped, lambda: tf.reverse(images, [2]), lambda: images)
