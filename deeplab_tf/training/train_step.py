"""Steps from batches to new weights, several in one call."""

from collections.abc import Sequence

import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf import start_up
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.models import recomputation
from deeplab_tf.runs import checkpoints
from deeplab_tf.training import losses
from deeplab_tf.training import optimizers
from deeplab_tf.training import timing
from deeplab_tf.training.training_state import TrainingState

_SUM = tf.distribute.ReduceOp.SUM


def check(state: TrainingState, config: TrainConfig, strategy: tf.distribute.Strategy) -> None:
    """Checks that a config fits the model and the devices.

    Raises:
        UserError: There is not one class weight for each class; or XLA would have to compile the
            communication between devices.
    """
    num_classes = state.model.output_shape[-1]
    if len(config.class_weights) not in (0, num_classes):
        raise UserError(
            f"--class_weights has {len(config.class_weights)} numbers for {num_classes} classes. "
            "Give one for each class, in the order of the classes."
        )
    if config.jit_compile and any(layer.synchronized for layer in layers.batch_norms(state.model)):
        raise UserError(
            f"--jit_compile cannot be used with a batch norm that the "
            f"{strategy.num_replicas_in_sync} devices of --strategy={config.strategy} share: leave "
            "it out, freeze the batch norm (--nofine_tune_batch_norm), or give "
            "--strategy=one_device."
        )


class TrainSteps:
    """Runs several training steps in one call, which returns means over them.

    Args:
        state: What is trained, made in the scope of the strategy.
        config: The losses, accumulation, clipping and compilation.
        strategy: The devices.
        ignore_label: Label of pixels that do not count.
    """

    def __init__(
        self,
        state: TrainingState,
        config: TrainConfig,
        *,
        strategy: tf.distribute.Strategy,
        ignore_label: int,
    ):
        self._state = state
        self._config = config
        self._strategy = strategy
        self._ignore_label = ignore_label
        self._variables = state.model.trainable_variables
        self._terms = losses.used_terms(config)
        self._network = models.with_logits_of_every_scale(state.model)
        if config.recompute_activations:
            self._network = recomputation.RecomputingNetwork(self._network)
        self._num_parts = config.gradient_accumulation_steps
        if self._num_parts > 1:
            with strategy.scope():
                self._accumulator = optimizers.GradientAccumulator(self._variables)
        # Loops are written as loops of TensorFlow: AutoGraph would take seconds to convert all that
        # a step calls.
        self._steps = tf.function(self._trace_steps, reduce_retracing=True, autograph=False)

    def __call__(self, batches, num_steps: int) -> dict[str, tf.Tensor]:
        """Trains.

        Args:
            batches: Iterator of distributed batches: `gradient_accumulation_steps` for each step.
            num_steps: How many steps to run.

        Returns:
            Means over the steps, float64 []: `loss`; each term of `losses.weighted_terms`;
            `gradient_norm`; and `input_seconds`, spent waiting for batches. `finite_steps` is a
            count: the steps before the first whose loss or gradients were not finite.
        """
        is_delayed = self._state.step < self._config.quantize_delay_step
        return self._steps(batches, tf.constant(num_steps), "none" if is_delayed else "all")

    def _trace_steps(
        self, batches, num_steps: tf.Tensor, fake_quantization: str
    ) -> dict[str, tf.Tensor]:
        with layers.fake_quantization(fake_quantization), start_up.no_garbage_collection():
            return self._trace_loop(batches, num_steps)

    def _trace_loop(self, batches, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        run_step = self._step_in_parts if self._num_parts > 1 else self._step_at_once

        def step(number, totals, finite_steps, is_finite):
            values = run_step(batches, totals)
            is_finite = tf.logical_and(is_finite, self._is_finite(values))
            return (
                number + 1,
                totals + tf.cast(values, tf.float64),
                finite_steps + tf.cast(is_finite, tf.float32),
                is_finite,
            )

        # In float64, sums of losses do not depend on how the steps are grouped into calls.
        totals = tf.zeros([1 + len(self._terms) + 2], tf.float64)
        start = (tf.constant(0), totals, tf.constant(0.0), tf.constant(True))
        _, totals, finite_steps, _ = tf.while_loop(
            lambda number, *_: number < num_steps, step, start
        )
        means = tf.unstack(totals / tf.cast(num_steps, tf.float64))
        names = ["loss", *self._terms, "gradient_norm", "input_seconds"]
        return dict(zip(names, means), finite_steps=finite_steps)

    def _is_finite(self, values: tf.Tensor) -> tf.Tensor:
        """Whether a step has a finite loss and gradients; ReLU6 makes numbers of NaN again.

        While a loss scale is sought, gradients may be infinite.
        """
        loss, norm = values[0], values[-2]
        if not self._state.loss_scale:
            return tf.math.is_finite(loss + norm)
        return tf.math.is_finite(loss) & ~self._state.loss_scale.is_exhausted()

    def _step_at_once(self, batches, previous: tf.Tensor) -> tf.Tensor:
        """Loss and terms, gradient norm, seconds of waiting: float32 [1 + T + 2]."""
        batch, seconds = timing.next_batch(batches, previous)
        return tf.concat([self._sum_over_replicas(self._whole_step, batch), [seconds]], axis=0)

    def _step_in_parts(self, batches, previous: tf.Tensor) -> tf.Tensor:
        """As `_step_at_once`, from several batches, one after the other."""

        def part(number, sums, seconds):
            batch, part_seconds = timing.next_batch(batches, (previous, sums))
            sums += self._sum_over_replicas(self._part_of_step, batch)
            return number + 1, sums, seconds + part_seconds

        start = (tf.constant(0), tf.zeros([1 + len(self._terms) + 1]), tf.constant(0.0))
        _, sums, seconds = tf.while_loop(lambda number, *_: number < self._num_parts, part, start)
        norm = self._sum_over_replicas(self._end_of_step)
        values = tf.math.divide_no_nan(sums[:-1], sums[-1])
        return tf.concat([values, [norm, seconds]], axis=0)

    def _sum_over_replicas(self, function, *arguments) -> tf.Tensor:
        return self._strategy.reduce(_SUM, self._strategy.run(function, args=arguments), axis=None)

    # What follows runs in each replica.

    def _whole_step(self, batch: dict) -> tf.Tensor:
        gradients, values = self._gradients_and_values(batch)
        return tf.concat([values, [self._update(gradients)]], axis=0)

    def _part_of_step(self, batch: dict) -> tf.Tensor:
        gradients, values = self._gradients_and_values(batch)
        count = losses.number_of_pixels(batch["label"], self._ignore_label)
        total_count = _all_reduce(count)
        self._accumulator.add(gradients, total_count)
        return tf.concat([values * total_count, [count]], axis=0)

    def _end_of_step(self) -> tf.Tensor:
        return self._update(self._accumulator.take())

    def _gradients_and_values(self, batch: dict) -> tuple[list[tf.Tensor], tf.Tensor]:
        """A replica's shares of the gradients, and of the loss and its terms, float32 [1 + T]."""
        loss_scale = self._state.loss_scale
        with tf.GradientTape() as tape:
            shares = losses.weighted_terms(
                self._logits(batch["image"]),
                batch["label"],
                ignore_label=self._ignore_label,
                step=self._state.optimizer.iterations.value,
                config=self._config,
            )
            counts = _all_reduce({name: count for name, (_, count) in shares.items()})
            values = [
                tf.reduce_sum(tf.math.divide_no_nan(shares[name][0], counts[name]))
                for name in self._terms
            ]
            loss = tf.add_n(values)
            target = loss_scale.scaled(loss) if loss_scale else loss
        gradients = tape.gradient(target, self._variables)
        if loss_scale:
            gradients = loss_scale.unscaled(gradients)
        return gradients, tf.stack([loss, *values])

    def _logits(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The logits of every scale, float32 [B, H, W, num_classes] each."""
        network = self._network
        if self._config.jit_compile:
            # A new function for every trace: it keeps the rounding that it was traced with.
            network = tf.function(network, jit_compile=True)
        return network(images, training=True)

    def _update(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Changes the weights; returns a replica's share of the gradients' norm, float32 []."""
        state = self._state
        gradients, norm = optimizers.clip_by_global_norm(gradients, self._config.clip_gradient_norm)
        if state.loss_scale:
            gradients = state.loss_scale.without_overflow(gradients, norm)
        step = tf.identity(state.optimizer.iterations)
        state.optimizer.apply(gradients, self._variables)
        if state.average:
            state.average.update(checkpoints.averaged_variables(state.model), step)
        return norm / self._strategy.num_replicas_in_sync


def _all_reduce(values):
    """Sums over the replicas."""
    return tf.distribute.get_replica_context().all_reduce(_SUM, values)
