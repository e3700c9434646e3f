"""What a `TrainConfig` makes of a model: its optimizer, and steps from batches to new weights."""

from collections.abc import Callable

import keras
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoints
from deeplab_tf.training import losses
from deeplab_tf.training import optimizers
from deeplab_tf.training import schedules
from deeplab_tf.training import training_log

_SUM = tf.distribute.ReduceOp.SUM


def build(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    config: TrainConfig,
    ignore_label: int,
    average: optimizers.MovingAverage | None = None,
    loss_scale: optimizers.LossScale | None = None,
) -> Callable[..., dict[str, tf.Tensor]]:
    """Compiles several training steps into one call, after which the host first hears of them.

    Args:
        strategy: The devices.
        model: Of `deeplab_tf.build_model`, made in the strategy's scope.
        optimizer: Of `optimizers.build`, for the model's trainable variables.
        config: Its loss, accumulation, clipping and compilation count here.
        ignore_label: Label of pixels that do not count.
        average: Of `checkpoints.averaged_variables`, to be kept up to date.
        loss_scale: What float16 needs.

    Returns:
        A function of an iterator of distributed batches, `gradient_accumulation_steps` for each
        step, and of the number of steps, int32 []. It returns means over the steps, float32 []:
        `loss`; each term of `losses.weighted_terms`; `gradient_norm`; `input_seconds`, spent
        waiting for batches; and, counted and no mean, `finite_steps` before the first whose loss
        was not finite.

    Raises:
        UserError: There is not a class weight for each class; or XLA would have to compile what
            devices say to each other.
    """
    num_classes = model.output_shape[-1]
    if len(config.class_weights) not in (0, num_classes):
        raise UserError(
            f"--class_weights has {len(config.class_weights)} numbers for {num_classes} classes: "
            "give one for each, in their order."
        )
    if config.jit_compile and any(layer.synchronized for layer in layers.batch_norms(model)):
        raise UserError(
            f"--jit_compile does not go with a batch norm that the {strategy.num_replicas_in_sync} "
            f"devices of --strategy={config.strategy} share: leave it out, freeze the batch norm "
            "(--nofine_tune_batch_norm), or give --strategy=one_device."
        )
    variables = model.trainable_variables
    network = models.with_logits_of_every_scale(model)
    forward = tf.function(network, jit_compile=True) if config.jit_compile else network
    terms = [name for name in losses.TERMS if getattr(config, f"{name}_weight")]
    num_parts = config.gradient_accumulation_steps
    if num_parts > 1:
        with strategy.scope():
            accumulator = optimizers.GradientAccumulator(variables)

    def gradients_and_values(batch):
        """A replica's shares of the gradients, and of the loss and its terms, float32 [1 + T]."""
        with tf.GradientTape() as tape:
            shares = losses.weighted_terms(
                forward(batch["image"], training=True),
                batch["label"],
                ignore_label,
                optimizer.iterations.value,
                config.class_weights,
                config.top_k_percent_pixels,
                config.hard_example_mining_step,
                config.cross_entropy_weight,
                config.focal_weight,
                config.focal_gamma,
                config.dice_weight,
                config.lovasz_weight,
            )
            counts = _all_reduce({name: count for name, (_, count) in shares.items()})
            values = [
                tf.reduce_sum(tf.math.divide_no_nan(shares[name][0], counts[name]))
                for name in terms
            ]
            loss = tf.add_n(values)
            target = loss_scale.scaled(loss) if loss_scale else loss
        gradients = tape.gradient(target, variables)
        if loss_scale:
            gradients = loss_scale.unscaled(gradients)
        return gradients, tf.stack([loss, *values])

    def update(gradients):
        """Changes the weights; returns a replica's share of the gradients' norm, float32 []."""
        gradients, norm = optimizers.clip_by_global_norm(gradients, config.clip_gradient_norm)
        if loss_scale:
            gradients = loss_scale.without_overflow(gradients, norm)
        step = tf.identity(optimizer.iterations)
        optimizer.apply(gradients, variables)
        if average:
            average.update(checkpoints.averaged_variables(model), step)
        return norm / strategy.num_replicas_in_sync

    def whole_step(batch):
        gradients, values = gradients_and_values(batch)
        return tf.concat([values, [update(gradients)]], axis=0)

    def part_of_step(batch):
        gradients, values = gradients_and_values(batch)
        count = losses.number_of_pixels(batch["label"], ignore_label)
        total_count = _all_reduce(count)
        accumulator.add(gradients, total_count)
        return tf.concat([values * total_count, [count]], axis=0)

    def end_of_step():
        return update(accumulator.take())

    def summed(per_replica):
        return strategy.reduce(_SUM, per_replica, axis=None)

    def step_at_once(batches, previous):
        batch, seconds = training_log.next_batch(batches, previous)
        return tf.concat([summed(strategy.run(whole_step, args=(batch,))), [seconds]], axis=0)

    def step_in_parts(batches, previous):
        sums, seconds = tf.zeros([1 + len(terms) + 1]), tf.constant(0.0)
        for _ in tf.range(num_parts):
            batch, part_seconds = training_log.next_batch(batches, (previous, sums))
            sums += summed(strategy.run(part_of_step, args=(batch,)))
            seconds += part_seconds
        norm = summed(strategy.run(end_of_step))
        values = tf.math.divide_no_nan(sums[:-1], sums[-1])
        return tf.concat([values, [norm, seconds]], axis=0)

    @tf.function(reduce_retracing=True)
    def train_steps(batches, steps):
        totals = tf.zeros([1 + len(terms) + 2])
        finite_steps, is_finite = tf.constant(0.0), tf.constant(True)
        for _ in tf.range(steps):
            if num_parts > 1:
                values = step_in_parts(batches, totals)
            else:
                values = step_at_once(batches, totals)
            totals += values
            is_finite = is_finite and tf.math.is_finite(values[0])
            finite_steps += tf.cast(is_finite, tf.float32)
        means = tf.unstack(totals / tf.cast(steps, tf.float32))
        names = ["loss", *terms, "gradient_norm", "input_seconds"]
        return dict(zip(names, means), finite_steps=finite_steps)

    return train_steps


def build_optimizer(model: keras.Model, config: TrainConfig) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a config, with its schedule, for what a model trains."""
    schedule = schedules.build(
        config.learning_policy,
        config.base_learning_rate,
        config.training_number_of_steps,
        config.learning_power,
        config.end_learning_rate,
        config.decay_steps,
        config.learning_rate_decay_factor,
        config.learning_rate_decay_step,
        config.slow_start_step,
        config.slow_start_learning_rate,
        config.warmup_steps,
    )
    return optimizers.build(
        config.optimizer,
        schedule,
        model.trainable_variables,
        config.momentum,
        config.weight_decay,
        config.last_layer_gradient_multiplier,
        config.last_layers_contain_logits_only,
        config.backbone_gradient_multiplier,
    )


def build_others(model: keras.Model, config: TrainConfig) -> dict[str, tf.Module]:
    """Builds what a config keeps besides model and optimizer, by the names of `build`'s arguments.

    It is made in the scope of the strategy, and belongs into the checkpoints.
    """
    others: dict[str, tf.Module] = {}
    if config.moving_average_decay:
        others["average"] = optimizers.MovingAverage(
            checkpoints.averaged_variables(model), config.moving_average_decay
        )
    if config.mixed_precision == "float16":
        others["loss_scale"] = optimizers.LossScale()
    return others


def _all_reduce(values):
    """Sums over the replicas; to be called in each."""
    return tf.distribute.get_replica_context().all_reduce(_SUM, values)
