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


def cross_entropy_of_scales(
    logits_of_scales: dict[str, tf.Tensor], label: tf.Tensor, ignore_label: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the cross-entropies of a network that was shown its input at several scales.

    Each scale learns for itself, and so does what they are merged to.

    Args:
        logits_of_scales: float32 [B, H, W, num_classes] each.
        label: As of `cross_entropy`.
        ignore_label: As of `cross_entropy`.

    Returns:
        The sum over the scales, and the number of pixels of one of them.

    Reference:
        DeepLabv2, arXiv:1606.00915, section 4.1.2, and the original's `train_utils.py`.
    """
    sums, counts = zip(
        *(cross_entropy(logits, label, ignore_label) for logits in logits_of_scales.values())
    )
    return tf.add_n(sums), counts[0]
