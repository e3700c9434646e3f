"""Batch normalization as in the original, and changes to all batch norms of a model."""

import keras
from keras import ops

from deeplab_tf.layers import tracing
from deeplab_tf.layers.names import register
from deeplab_tf.layers.nesting import all_layers

_ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
if _ON_TENSORFLOW:
    import tensorflow as tf

_FAST_MULTIPLE = 16  # channels of bfloat16, on a CPU


@register
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalization whose statistics follow the original's.

    The moving variance follows the unbiased variance of a batch: N / (N - 1) times the variance
    that normalizes it. `keras.layers.BatchNormalization` keeps the biased one.

    Args:
        momentum: Decay of the moving statistics: the weight of their old value in an update.
        epsilon: Added to the variance.
        frozen: Whether training also normalizes with the moving statistics and keeps them
            unchanged, while gamma and beta still train (`fine_tune_batch_norm=False` of the
            original).
        synchronized: Whether the replicas of a `tf.distribute` strategy share their statistics.
        **kwargs: The other arguments of `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: Float tensor such as `[B, H, W, C]`.
        training: Whether to normalize with the statistics of the batch and update the moving ones.

    Returns:
        Float tensor of the same shape.

    Reference: arXiv:1502.03167, algorithms 1 and 2.

    Example:

    >>> import numpy as np
    >>> from deeplab_tf import layers
    >>> images = np.array([0, 2, 4, 6], "float32").reshape(1, 2, 2, 1)
    >>> layer = layers.BatchNorm(momentum=0.9)
    >>> _ = layer(images, training=True)
    >>> round(float(layer.moving_variance[0]), 4)  # 0.9 * 1 + 0.1 * 20 / 3
    1.5667
    """

    def __init__(self, momentum=0.99, epsilon=1e-3, frozen=False, synchronized=False, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=synchronized, **kwargs)
        self.frozen = frozen

    def call(self, inputs, training=None):
        if not training or not self.trainable or self.frozen:
            return super().call(inputs, training=False)
        if self._has_kernel_for(inputs):
            outputs, mean, unbiased_variance = self._normalize_fused(inputs)
        else:
            outputs, mean, unbiased_variance = self._normalize(inputs)
        for statistic, of_batch in (
            (self.moving_mean, mean),
            (self.moving_variance, unbiased_variance),
        ):
            of_batch = ops.cast(of_batch, statistic.dtype)
            statistic.assign(statistic * self.momentum + of_batch * (1.0 - self.momentum))
        return outputs

    def _has_kernel_for(self, inputs) -> bool:
        return (
            _ON_TENSORFLOW
            and not self.synchronized
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and self.gamma.dtype == "float32"
            and inputs.dtype != tf.float64
        )

    def _normalize_fused(self, inputs):
        """Uses one kernel, which takes half the time of the separate steps on a CPU."""
        channels = inputs.shape[-1]
        more = _channels_to_add(inputs)
        outputs, mean, unbiased_variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=_with_more_channels(inputs, more),
            scale=_with_more_channels(self.gamma, more),
            offset=_with_more_channels(self.beta, more),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        results = (outputs, mean, unbiased_variance)
        return [_first_channels(result, channels) for result in results] if more else results

    def _normalize(self, inputs):
        inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        axis = self.axis % len(inputs.shape)
        axes = [other for other in range(len(inputs.shape)) if other != axis]
        sizes = ops.shape(inputs)
        count = ops.cast(ops.prod([sizes[other] for other in axes]), inputs.dtype)
        replica = _ON_TENSORFLOW and self.synchronized and tf.distribute.get_replica_context()
        if replica:
            count *= replica.num_replicas_in_sync  # Each has the same share of the batch.
            sums = tf.stack([tf.reduce_sum(x, axes) for x in (inputs, inputs**2)])
            mean, mean_square = tf.unstack(_sum_over_replicas(replica, sums) / count)
            variance = tf.maximum(mean_square - mean**2, 0)
        else:
            mean, variance = ops.moments(inputs, axes=axes)
        offset, scale = (
            parameter if parameter is None else ops.cast(parameter, inputs.dtype)
            for parameter in (self.beta, self.gamma)
        )
        outputs = ops.batch_normalization(inputs, mean, variance, axis, offset, scale, self.epsilon)
        unbiased_variance = variance * count / ops.maximum(count - 1, 1)
        return ops.cast(outputs, self.compute_dtype), mean, unbiased_variance

    def get_config(self):
        return {**super().get_config(), "frozen": self.frozen}


def _channels_to_add(inputs) -> int:
    """Returns how many channels of zeros the kernel needs to be fast.

    On a CPU in bfloat16 it takes 3 to 5 times as long unless the channels are a multiple of 16, as
    the 728 of Xception and the 24 of MobileNetV2 are not.
    """
    is_slow = inputs.dtype == tf.bfloat16 and tracing.has_cpus_only()
    return -inputs.shape[-1] % _FAST_MULTIPLE if is_slow else 0


def _with_more_channels(tensor, more: int):
    """Appends channels of zeros to `[..., C]`."""
    tensor = tf.convert_to_tensor(tensor)
    return tf.pad(tensor, [(0, 0)] * (len(tensor.shape) - 1) + [(0, more)]) if more else tensor


def _first_channels(tensor, channels: int):
    """Returns the first channels of `[..., C]`; the gradient of an index would take longer."""
    axes = len(tensor.shape)
    return tf.slice(tensor, [0] * axes, [-1] * (axes - 1) + [channels])


def _sum_over_replicas(replica, values):
    """Sums tensors over the replicas of a `tf.distribute` strategy, with the right gradient.

    TensorFlow would search the graphs of all other replicas for variables that the sum depends on,
    which takes minutes for a network; it does not search beyond `stop_gradient`.
    """

    @tf.custom_gradient
    def all_reduce(values):
        def gradient(upstream):
            return replica.all_reduce("SUM", tf.stop_gradient(upstream))

        return replica.all_reduce("SUM", tf.stop_gradient(values)), gradient

    return all_reduce(values)


def batch_norms(model: keras.Model) -> list[BatchNorm]:
    """Returns every `BatchNorm` of a model, at any depth."""
    return [layer for layer in all_layers(model) if isinstance(layer, BatchNorm)]


def freeze_batch_norm(model: keras.Model) -> None:
    """Makes every `BatchNorm` of a model use and keep its moving statistics in training, too.

    Call it before a training step is traced.
    """
    for layer in batch_norms(model):
        layer.frozen = True


def synchronize_batch_norm(model: keras.Model) -> None:
    """Makes every `BatchNorm` of a model share its statistics with the other replicas.

    Call it before a training step is traced.
    """
    for layer in batch_norms(model):
        layer.synchronized = True
