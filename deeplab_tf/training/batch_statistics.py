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
import tensorflow as tf

from deeplab_tf import layers


class BatchStatistics:
    """Measures the statistics that the batch norms of a model have on given images.

    Each batch is normalized by its own statistics, as in training, but without dropout. Mean and
    variance are those of all batches together; each batch has the same weight.

    Args:
        model: A model of `deeplab_tf.build_model`, in float32 and on one device.
        norms: The batch norms of the model to measure.

    Reference:
        Rethinking "Batch" in BatchNorm, arXiv:2105.07576, section 3: precise batch norm.
    """

    def __init__(self, model: keras.Model, norms: Sequence[layers.BatchNorm]):
        self._norms = norms
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
        with self._keeping_the_last_batch_only():
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
    def _keeping_the_last_batch_only(self) -> Iterator[None]:
        """Within the context, moving statistics become those of each batch; dropout is off."""
        before = [(norm, "momentum", norm.momentum) for norm in self._norms]
        before += [(dropout, "rate", dropout.rate) for dropout in self._dropouts]
        for layer, attribute, _ in before:
            setattr(layer, attribute, 0.0)
        try:
            yield
        finally:
            for layer, attribute, value in before:
                setattr(layer, attribute, value)


def is_trained(norm: layers.BatchNorm) -> bool:
    """Whether training changes the moving statistics of a batch norm."""
    return norm.trainable and not norm.frozen
