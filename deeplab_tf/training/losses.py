"""Training losses.

Each returns a sum and a count, never a mean: a batch that is spread over devices is divided once,
by the count of all of it. Pixels of the ignore label, whichever it is, do not count in any loss; a
batch of ignored pixels only gives a sum and a count of 0.
"""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

from deeplab_tf.config import LOSS_TERMS
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError

Weights: TypeAlias = Sequence[float] | tf.Tensor  # of the classes


def used_terms(config: TrainConfig) -> list[str]:
    """Returns those of `LOSS_TERMS` that have a weight in a config."""
    return [name for name in LOSS_TERMS if getattr(config, f"{name}_weight")]


def weighted_terms(
    logits_of_scales: dict[str, tf.Tensor],
    label: tf.Tensor,
    *,
    ignore_label: int,
    step: tf.Tensor,
    config: TrainConfig,
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Returns the terms of the training loss, by name.

    A term's value is the sum over the scales of `sum / count`, 0 where the count is 0, with both
    summed over the replicas before they are divided; the loss is the sum of the terms' values. So
    a network that sees its input at several scales learns at each of them, and from the merged
    logits.

    Args:
        logits_of_scales: float [B, H, W, num_classes] each.
        label: int32 [B, H, W], class ids or the ignore label.
        ignore_label: Pixels of this label do not count; any number, which may be a class id.
        step: int [], the training step, on which the share of hard pixels depends.
        config: Weights and settings of the losses.

    Returns:
        For each of `used_terms`: float32 [S], its weighted sums, and float32 [S], its counts, one
        for each of the S scales.

    Raises:
        UserError: There is not one class weight for each class.

    Reference:
        DeepLabv2, arXiv:1606.00915, section 4.1.2, for the scales, and the original's
        `train_utils.py`.
    """
    result = {}
    for name in used_terms(config):
        parts = [
            _term(name, logits, label, ignore_label=ignore_label, step=step, config=config)
            for logits in logits_of_scales.values()
        ]
        sums, counts = zip(*parts)
        result[name] = getattr(config, f"{name}_weight") * tf.stack(sums), tf.stack(counts)
    return result


def class_weights_at(step: int | tf.Tensor, config: TrainConfig) -> tf.Tensor:
    """Returns the weights of the classes in a step, float32 [num_classes]; [0] for 1 each."""
    weights = tf.constant(config.class_weights or (), tf.float32)
    if not config.class_weights_steps:
        return weights
    return tf.where(step < config.class_weights_steps, weights, tf.ones_like(weights))


def _term(
    name: str,
    logits: tf.Tensor,
    label: tf.Tensor,
    *,
    ignore_label: int,
    step: tf.Tensor,
    config: TrainConfig,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum and the count of one of `LOSS_TERMS` for one scale."""
    class_weights = class_weights_at(step, config)
    if name == "focal":
        return focal(
            logits,
            label,
            ignore_label,
            gamma=config.focal_gamma,
            class_weights=class_weights,
        )
    if name == "dice":
        return dice(logits, label, ignore_label)
    if name == "lovasz":
        return lovasz_softmax(logits, label, ignore_label)
    if config.top_k_percent_pixels == 1:
        return cross_entropy(logits, label, ignore_label, class_weights)
    share = hard_pixel_share(step, config.top_k_percent_pixels, config.hard_example_mining_step)
    return hard_pixel_cross_entropy(logits, label, ignore_label, share, class_weights)


def cross_entropy(
    logits: tf.Tensor, label: tf.Tensor, ignore_label: int, class_weights: Weights = ()
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the softmax cross-entropy of the pixels that count.

    Args:
        logits: float [B, H, W, num_classes].
        label: int32 [B, H, W], class ids or the ignore label.
        ignore_label: Pixels of this label do not count.
        class_weights: Factor of the pixels of each class; empty for 1. As in the original, the
            weights change the sum but not the count, which includes pixels of weight 0.

    Returns:
        float32 [], the sum of the losses in nats, and float32 [], the number of pixels summed.

    Raises:
        UserError: The number of weights is not that of the classes.

    Reference:
        `add_softmax_cross_entropy_loss_for_each_scale` of the original's `train_utils.py`.
    """
    losses, weights = _pixel_losses(logits, label, ignore_label, class_weights)
    return tf.reduce_sum(losses * weights), number_of_pixels(label, ignore_label)


def number_of_pixels(label: tf.Tensor, ignore_label: int) -> tf.Tensor:
    """Counts the pixels that are not ignored: float32 []."""
    return tf.reduce_sum(tf.cast(label != ignore_label, tf.float32))


def hard_pixel_share(
    step: tf.Tensor, top_k_percent_pixels: float, hard_example_mining_step: int
) -> tf.Tensor:
    """Returns the share of pixels, the hardest ones, that a step is trained on.

    Args:
        step: int [], the training step.
        top_k_percent_pixels: The final share, between 0 and 1 despite the original's name.
        hard_example_mining_step: Steps over which the share falls from 1 to the final one; 0 for
            the final share from the beginning.

    Returns:
        float32 [].
    """
    if not hard_example_mining_step:
        return tf.constant(top_k_percent_pixels, tf.float32)
    done = tf.minimum(1.0, tf.cast(step, tf.float32) / hard_example_mining_step)
    return done * top_k_percent_pixels + (1.0 - done)


def hard_pixel_cross_entropy(
    logits: tf.Tensor,
    label: tf.Tensor,
    ignore_label: int,
    share: tf.Tensor,
    class_weights: Weights = (),
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the cross-entropy of the hardest pixels, those with the largest losses.

    They are chosen among all pixels of the logits, and so within a replica, after the class weights
    are applied.

    Args:
        logits: See `cross_entropy`.
        label: See `cross_entropy`.
        ignore_label: See `cross_entropy`.
        share: float32 [], the share of all pixels, including ignored ones, that is chosen.
        class_weights: See `cross_entropy`.

    Returns:
        float32 [], the sum, and float32 [], the number of chosen losses that are not 0. Those of
        ignored pixels are 0.

    Reference:
        `add_softmax_cross_entropy_loss_for_each_scale` of the original's `train_utils.py`.
    """
    losses, weights = _pixel_losses(logits, label, ignore_label, class_weights)
    losses = tf.reshape(losses * weights, [-1])
    num_pixels = tf.size(losses)
    # Sorting all takes no longer than finding the largest, and keeps shapes static.
    losses = tf.nn.top_k(losses, num_pixels).values
    num_chosen = tf.cast(share * tf.cast(num_pixels, tf.float32), tf.int32)
    chosen = tf.cast(tf.range(num_pixels) < num_chosen, tf.float32)
    return tf.reduce_sum(losses * chosen), tf.reduce_sum(tf.cast(losses != 0, tf.float32) * chosen)


def focal(
    logits: tf.Tensor,
    label: tf.Tensor,
    ignore_label: int,
    *,
    gamma: float = 2.0,
    class_weights: Weights = (),
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the focal loss, -(1 - p)^gamma log(p), of the pixels that count.

    Args:
        logits: See `cross_entropy`.
        label: See `cross_entropy`.
        ignore_label: See `cross_entropy`.
        gamma: How strongly well classified pixels are weighted down; 0 for the cross-entropy.
        class_weights: See `cross_entropy`; the paper's alpha.

    Returns:
        float32 [], the sum, and float32 [], the number of pixels summed.

    Reference:
        Focal loss for dense object detection, arXiv:1708.02002, section 3.
    """
    losses, weights = _pixel_losses(logits, label, ignore_label, class_weights)
    # At 0, the power has no finite derivative for a gamma below 1.
    missing = tf.maximum(-tf.math.expm1(-losses), 1e-7)
    return tf.reduce_sum(missing**gamma * losses * weights), number_of_pixels(label, ignore_label)


def dice(logits: tf.Tensor, label: tf.Tensor, ignore_label: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums 1 - (soft Dice coefficient) over the classes present in the labels.

    A coefficient takes all pixels of a class in the batch of one replica. Adding sums and counts
    over replicas gives the mean over the classes present in each.

    Args:
        logits: See `cross_entropy`.
        label: See `cross_entropy`.
        ignore_label: See `cross_entropy`.

    Returns:
        float32 [], the sum, and float32 [], the number of classes present.

    Reference:
        V-Net, arXiv:1606.04797, section 3, with squares in the denominator.
    """
    probabilities, truth, _ = _pixels_of_classes(logits, label, ignore_label)
    overlap = tf.reduce_sum(probabilities * truth, axis=1)
    sizes = tf.reduce_sum(probabilities**2 + truth, axis=1)
    return _sum_over_present(1.0 - tf.math.divide_no_nan(2.0 * overlap, sizes), truth)


def lovasz_softmax(
    logits: tf.Tensor, label: tf.Tensor, ignore_label: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the Lovász extension of 1 - IoU over the classes present in the labels.

    All pixels of the batch of one replica are sorted for each class; sums and counts add up as
    those of `dice`. On a CPU, sorting takes about 0.1 s per class and 500,000 pixels.

    Args:
        logits: See `cross_entropy`.
        label: See `cross_entropy`.
        ignore_label: See `cross_entropy`.

    Returns:
        float32 [], the sum, and float32 [], the number of classes present.

    Reference:
        The Lovász-softmax loss, arXiv:1705.08790, section 3 and algorithm 1.
    """
    probabilities, truth, counts = _pixels_of_classes(logits, label, ignore_label)
    errors = tf.abs(truth - probabilities)
    # The extension is linear in the errors while their order does not change, so its slopes are
    # constants for the gradient. One class at a time keeps only one sorted copy in memory.
    slopes = tf.map_fn(
        _lovasz_slopes,
        (tf.stop_gradient(tf.where(counts, errors, -1.0)), truth),
        fn_output_signature=tf.TensorSpec(truth.shape[1:], tf.float32),
    )
    return _sum_over_present(tf.reduce_sum(errors * tf.stop_gradient(slopes), axis=1), truth)


def _lovasz_slopes(errors_and_truth: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Returns how much 1 - IoU of a class grows with each further wrong pixel, worst first.

    Args:
        errors_and_truth: float32 [P] each; ignored pixels have an error below all others.

    Returns:
        float32 [P], in the order of the pixels.
    """
    errors, truth = errors_and_truth
    order = tf.argsort(errors, direction="DESCENDING")
    truth = tf.gather(truth, order)
    size = tf.reduce_sum(truth)
    intersection = size - tf.cumsum(truth)
    union = size + tf.cumsum(1.0 - truth)
    # The differences of successive 1 - intersection / union, in a form without cancellation: they
    # are as small as one over the number of pixels, and so as float32's rounding errors.
    slopes = tf.where(
        truth > 0, 1.0 / union, tf.math.divide_no_nan(intersection, union * (union - 1.0))
    )
    return tf.gather(slopes, tf.math.invert_permutation(order))


def _sum_over_present(losses: tf.Tensor, truth: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    present = tf.reduce_max(truth, axis=1)
    return tf.reduce_sum(losses * present), tf.reduce_sum(present)


def _pixel_losses(
    logits: tf.Tensor, label: tf.Tensor, ignore_label: int, class_weights: Weights
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropies and weights, float32 [B, H, W]; the weight of ignored pixels is 0."""
    counts = label != ignore_label
    label = tf.where(counts, label, 0)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label, tf.cast(logits, tf.float32))
    weights = tf.cast(counts, tf.float32)
    factors = tf.convert_to_tensor(class_weights, tf.float32)
    (num_weights,) = factors.shape
    if num_weights:
        if num_weights != logits.shape[-1]:
            raise UserError(
                f"class_weights has {num_weights} numbers, but there are {logits.shape[-1]} "
                "classes: give one for each, in their order."
            )
        weights *= tf.gather(factors, label)
    return losses, weights


def _pixels_of_classes(
    logits: tf.Tensor, label: tf.Tensor, ignore_label: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Arranges pixels by class.

    Returns:
        Probabilities and one-hot labels, float32 [num_classes, P], which are 0 where a pixel is
        ignored; and whether it is not, bool [P].
    """
    num_classes = logits.shape[-1]
    counts = tf.reshape(label != ignore_label, [-1])
    logits = tf.cast(tf.reshape(logits, [-1, num_classes]), tf.float32)
    probabilities = tf.where(counts, tf.transpose(tf.nn.softmax(logits)), 0.0)
    truth = tf.one_hot(tf.reshape(label, [-1]), num_classes, axis=0)
    return probabilities, tf.where(counts, truth, 0.0), counts
