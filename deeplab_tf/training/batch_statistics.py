"""The statistics of batch norm, measured again on training images as evaluation sees them.

The moving statistics of a short training are close to their initial values. Those of a training on
crops belong to features whose atrous taps fall on padding more often than in whole images. Both
make a network worse in evaluation than it was in training.
"""

import contextlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf.config import ONE_VIEW
from deeplab_tf.config import DataConfig
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.data.damaged_records import readable_errors
from deeplab_tf.evaluation import fitting
from deeplab_tf.evaluation import views
from deeplab_tf.runs import run_dir as run_dirs

_BATCH_SIZE = 8  # of one image alone, the features of image pooling would have no variance
_ENOUGH_PIXELS = 128 * 513**2  # for batch statistics, from this many images of a batch on


class BatchStatistics:
    """Measures the statistics that the batch norms of a model have on given images.

    Each batch is normalized by its own statistics, as in training, but without dropout. Mean and
    variance are those of all batches together; each batch has the same weight.

    Args:
        model: A model of `deeplab_tf.build_model`, in float32 and on one device.
        norms: The batch norms of the model to measure. All others normalize with their moving
            statistics, and keep them.

    Reference:
        Rethinking "Batch" in BatchNorm, arXiv:2105.07576, section 3: precise batch norm.
    """

    def __init__(self, model: keras.Model, norms: Sequence[layers.BatchNorm]):
        self._norms = norms
        self._others = [norm for norm in layers.batch_norms(model) if norm not in norms]
        self._dropouts = [
            layer for layer in layers.all_layers(model) if isinstance(layer, keras.layers.Dropout)
        ]
        # Traced once, for images of any size.
        self._see = tf.function(
            lambda images: model(images, training=True),
            input_signature=[tf.TensorSpec(model.input_shape, tf.float32)],
            autograph=False,
        )

    def measure(self, batches: Iterable[tf.Tensor]) -> int:
        """Replaces the moving statistics by those of some images.

        Args:
            batches: Images as the network takes them in evaluation, float32 [B, H, W, C] each;
                batches may differ in size.

        Returns:
            The number of batches. If it is 0, the model is unchanged.
        """
        count, means, squares = 0, [0.0] * len(self._norms), [0.0] * len(self._norms)
        with self._measuring():
            for batch in batches:
                self._see(batch)
                count += 1
                for index, norm in enumerate(self._norms):
                    mean = norm.moving_mean.numpy().astype("float64")
                    means[index] += mean
                    squares[index] += norm.moving_variance.numpy() + mean**2
        for norm, mean, square in zip(self._norms, means, squares, strict=True):
            if count:
                norm.moving_mean.assign(mean / count)
                norm.moving_variance.assign(square / count - (mean / count) ** 2)
        return count

    @contextlib.contextmanager
    def _measuring(self) -> Iterator[None]:
        """Within the context, moving statistics become those of each batch; dropout is off."""
        settings = [(norm, "momentum", 0.0) for norm in self._norms]
        settings += [(norm, "frozen", True) for norm in self._others]
        settings += [(dropout, "rate", 0.0) for dropout in self._dropouts]
        before = [(layer, attribute, getattr(layer, attribute)) for layer, attribute, _ in settings]
        for layer, attribute, value in settings:
            setattr(layer, attribute, value)
        try:
            yield
        finally:
            for layer, attribute, value in before:
                setattr(layer, attribute, value)


def is_trained(norm: layers.BatchNorm) -> bool:
    """Whether training changes the moving statistics of a batch norm."""
    return norm.trainable and not norm.frozen


def images_as_evaluated(
    run: run_dirs.Run, source: records.Records, step: int
) -> Iterator[tf.Tensor]:
    """Yields some training images as evaluation sees them, in batches for `BatchStatistics`.

    Args:
        run: The run; its seed and the step determine the images.
        source: Records with its training split.
        step: Step of the training.

    Yields:
        Batches, float32 [B, H, W, C], of at most 8 images.
    """
    split = run.data_config.train_split
    num_records = source.num_examples[split]
    count = min(run.train_config.batch_statistics_images, num_records)
    if not count:
        return
    generator = np.random.default_rng([run.train_config.seed, step])
    # Not sorted: where fewer are enough, they come from the whole split.
    numbers = generator.choice(num_records, count, replace=False).tolist()
    fitter = fitting.image_fitter(run.model_config, run.data_config)
    examples = input_pipeline.evaluation_examples(source, split, numbers=numbers)
    images, num_pixels = [], 0
    with readable_errors():
        for example in examples.take(count):
            images.append(_as_evaluated(example["image"], run.data_config, generator))
            num_pixels += images[-1].shape[0] * images[-1].shape[1]
            if len(images) >= _BATCH_SIZE and num_pixels >= _ENOUGH_PIXELS:
                break
    # Images of similar sizes share a batch, so that little is cut off; no batch is much smaller
    # than the others.
    images.sort(key=lambda image: tuple(image.shape[:2]))
    num_batches = -(-len(images) // _BATCH_SIZE)
    for batch in range(num_batches):
        first, end = (len(images) * edge // num_batches for edge in (batch, batch + 1))
        yield _batch_of_one_size([fitter.fit(image[tf.newaxis])[0] for image in images[first:end]])


def _as_evaluated(
    image: tf.Tensor, data_config: DataConfig, generator: np.random.Generator
) -> tf.Tensor:
    """Returns an image, [H, W, C], or a random window of it where evaluation has windows."""
    if not views.is_windowed(ONE_VIEW, data_config, image.shape):
        return image
    size = views.window_size(ONE_VIEW, data_config)
    rows, columns = (
        slice(start := generator.integers(max(1, side - window + 1)), start + window)
        for side, window in zip(image.shape, size)
    )
    return image[rows, columns]


def _batch_of_one_size(images: Sequence[tf.Tensor]) -> tf.Tensor:
    """Cuts images, float32 [1, H, W, C] each, at the bottom and right to one size [B, H', W', C].

    Padding instead would be counted: batch norm and image pooling would see much of one colour.
    """
    height, width = np.min([image.shape[1:3] for image in images], axis=0)
    return tf.concat([image[:, :height, :width] for image in images], axis=0)
