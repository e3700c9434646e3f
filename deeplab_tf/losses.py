"""Training losses."""

import tensorflow as tf


def cross_entropy(
    logits: tf.Tensor, label: tf.Tensor, ignore_label: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the softmax cross-entropy of the pixels that count.

    Sum and count are returned apart, so that a batch can be spread over devices and still be
    divided once, by the pixels of all of it.

    Args:
        logits: float32 [B, H, W, num_classes].
        label: int32 [B, H, W], class ids or the ignore label.
        ignore_label: Pixels of this label count nowhere.

    Returns:
        float32 [], the sum of the losses in nats, and float32 [], the number of pixels summed.

    Reference:
        `add_softmax_cross_entropy_loss_for_each_scale` of the original's `train_utils.py`.
    """
    counts = label != ignore_label
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(counts, label, 0), logits)
    counts = tf.cast(counts, tf.float32)
    return tf.reduce_sum(losses * counts), tf.reduce_sum(counts)
