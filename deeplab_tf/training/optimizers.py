"""Optimizers that treat variables by their names; clipping, accumulation, moving averages.

Gradients come to `apply` as each replica's share of the sum. A training step calls:

    gradients, norm = clip_by_global_norm(gradients, clip_norm)
    optimizer.apply(gradients, variables)
    average.update(variables, step)
"""

import contextlib
from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError

# Scopes after the backbone, to which `last_layer_gradient_multiplier` applies.
_HEAD = ("logits", "image_pooling", "aspp", "concat_projection", "decoder", "meta_architecture")

_register = keras.saving.register_keras_serializable(package="deeplab_tf")


def build(
    config: TrainConfig,
    learning_rate: keras.optimizers.schedules.LearningRateSchedule | float,
    variables: Sequence[keras.Variable],
) -> keras.optimizers.Optimizer:
    """Builds an optimizer that treats each variable by its name.

    Its `apply` takes the gradients of the loss alone: it adds weight decay and multipliers itself.

    Args:
        config: Name and settings of the optimizer, and the multipliers of `gradient_multiplier`.
            Weight decay applies to what `is_regularized`: as an L2 loss with "momentum", decoupled
            with "adamw".
        learning_rate: The rate, or its schedule.
        variables: Those that are trained, under their official names.

    Returns:
        The optimizer, built.
    """
    names = [layers.official_name(variable) for variable in variables]
    decays = [config.weight_decay if is_regularized(name) else 0.0 for name in names]
    multipliers = [
        gradient_multiplier(
            name,
            last_layer_gradient_multiplier=config.last_layer_gradient_multiplier,
            last_layers_contain_logits_only=config.last_layers_contain_logits_only,
            backbone_gradient_multiplier=config.backbone_gradient_multiplier,
        )
        for name in names
    ]
    optimizers: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
        "momentum": lambda: MomentumSGD(learning_rate, config.momentum, decays, multipliers),
        "adamw": lambda: AdamW(learning_rate, decays, multipliers),
    }
    optimizer = optimizers[config.optimizer or "momentum"]()
    optimizer.build(variables)
    return optimizer


@_register
class MomentumSGD(keras.optimizers.SGD):
    """TensorFlow 1's momentum: a = momentum * a + gradient; variable -= learning_rate * a.

    Keras multiplies the gradient by the learning rate before it accumulates, which differs as
    soon as the rate changes from step to step.

    Args:
        learning_rate: The rate, or its schedule.
        momentum: Share of the accumulator that is kept; 0 for plain gradient descent.
        weight_decays: L2 factor of each variable, in the order in which the optimizer is built;
            empty for none.
        multipliers: Factor of each gradient, including the L2 part; empty for 1.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum: float = 0.9,
        weight_decays: Sequence[float] = (),
        multipliers: Sequence[float] = (),
        **kwargs,
    ):
        super().__init__(learning_rate, momentum, **kwargs)
        self.weight_decays = tuple(weight_decays)
        self.multipliers = tuple(multipliers)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        gradient = keras.ops.cast(gradient, variable.dtype)
        learning_rate = keras.ops.cast(learning_rate, variable.dtype)
        if self.weight_decays and self.weight_decays[index]:
            gradient += self.weight_decays[index] * variable
        if self.multipliers and self.multipliers[index] != 1:
            gradient *= self.multipliers[index]
        if not self.momentum:
            self.assign_sub(variable, learning_rate * gradient)
            return
        # One kernel, in place: separate steps make two copies of every variable.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self.momentums[index].value.handle,
            lr=learning_rate,
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
        )

    @property
    def slots(self) -> dict[str, list[keras.Variable]]:
        """Its state for each variable, by the original's name."""
        return {"Momentum": self.momentums} if self.momentum else {}

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decays": self.weight_decays,
            "multipliers": self.multipliers,
        }


@_register
class AdamW(keras.optimizers.Adam):
    """Adam with a weight decay that is decoupled from the gradient, for each variable.

    The multipliers scale the learning rate: a factor of the gradient has no effect on Adam.

    Args:
        learning_rate: The rate, or its schedule.
        weight_decays: Factor of each variable that is subtracted, times the learning rate, at every
            step, in the order in which the optimizer is built; empty for none.
        multipliers: Factor of each variable's learning rate, and so of its decay; empty for 1.

    Reference:
        Decoupled weight decay regularization, arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decays: Sequence[float] = (),
        multipliers: Sequence[float] = (),
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        self.weight_decays = tuple(weight_decays)
        self.multipliers = tuple(multipliers)

    def apply(self, grads, trainable_variables=None):
        # What is the same for all variables is traced once: a network has hundreds of them.
        step = tf.cast(self.iterations.value + 1, tf.float32)
        self._shared = {
            "beta1_power": self.beta_1**step,
            "beta2_power": self.beta_2**step,
            "beta1": tf.constant(self.beta_1, tf.float32),
            "beta2": tf.constant(self.beta_2, tf.float32),
            "epsilon": tf.constant(self.epsilon, tf.float32),
        }
        return super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        learning_rate = keras.ops.cast(learning_rate, variable.dtype)
        if self.multipliers and self.multipliers[index] != 1:
            learning_rate *= self.multipliers[index]
        if self.weight_decays and self.weight_decays[index]:
            self.assign_sub(variable, learning_rate * self.weight_decays[index] * variable)
        # One kernel, in place, with Keras' formula.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            lr=learning_rate,
            grad=tf.cast(gradient, variable.dtype),
            **{name: tf.cast(value, variable.dtype) for name, value in self._shared.items()},
        )

    @property
    def slots(self) -> dict[str, list[keras.Variable]]:
        """Its state for each variable, by TensorFlow 1's names."""
        return {"Adam": self._momentums, "Adam_1": self._velocities}

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decays": self.weight_decays,
            "multipliers": self.multipliers,
        }


def is_regularized(name: str) -> bool:
    """Whether weight decay applies to a variable, by its official name.

    It applies to dense kernels, but not to depthwise kernels, biases and batch norm.
    """
    return name.endswith("/weights")


def gradient_multiplier(
    name: str,
    *,
    last_layer_gradient_multiplier: float,
    last_layers_contain_logits_only: bool = False,
    backbone_gradient_multiplier: float = 1.0,
) -> float:
    """Returns the factor of a variable's gradient.

    The gradients of biases are always doubled.

    Args:
        name: Official name of the variable.
        last_layer_gradient_multiplier: Factor of everything after the backbone.
        last_layers_contain_logits_only: Whether this factor applies to the logits' layers only.
        backbone_gradient_multiplier: Factor of the backbone.

    Reference:
        `get_model_gradient_multipliers` of the original's `train_utils.py`.
    """
    last_layers = ("logits",) if last_layers_contain_logits_only else _HEAD
    factor = 2.0 if "biases" in name else 1.0
    if any(scope in name for scope in last_layers):
        return factor * last_layer_gradient_multiplier
    if any(scope in name for scope in _HEAD):
        return factor
    return factor * backbone_gradient_multiplier


def freeze(model: keras.Model, scopes: Sequence[str]) -> None:
    """Freezes scopes: no gradients, no weight decay, no new batch statistics.

    It must be called before the optimizer is built and a training step is traced. Frozen variables
    are no longer among the model's trainable ones, and their gradients are not computed.

    Args:
        model: The model.
        scopes: Official scopes such as `resnet_v1_50/block1`, which does not include
            `resnet_v1_50/block10`.

    Raises:
        UserError: The model has no layer with weights in a scope.
    """
    leaves = [layer for layer in layers.all_layers(model) if not layers.all_layers(layer)]
    for scope in scopes:
        prefix = layers.layer_name(scope.rstrip("/")) + "."
        frozen = [layer for layer in leaves if f"{layer.name}.".startswith(prefix)]
        if not any(layer.variables for layer in frozen):
            raise UserError(
                f"{model.name} has no scope {scope!r} to freeze. Its scopes are "
                f"{', '.join(_first_scopes(model))}."
            )
        for layer in frozen:
            layer.trainable = False


def _first_scopes(model: keras.Model) -> list[str]:
    """The scopes of a model's kernels, two names deep, in their order."""
    names = [layers.official_name(v).split("/") for v in model.weights if "kernel" in v.path]
    return list(dict.fromkeys("/".join(name[:-1][:2]) for name in names))


def clip_by_global_norm(
    gradients: Sequence[tf.Tensor], clip_norm: float
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Scales gradients down to a largest norm, that of their sum over the replicas.

    Keras' own clipping takes the norm of each replica's share, which depends on the number of
    replicas. This function sums the gradients for their norm, and `apply` sums them again.

    Args:
        gradients: float32, one for each variable: the share of a replica.
        clip_norm: The largest norm allowed; 0 for no clipping.

    Returns:
        The shares, all scaled by the same factor, and float32 [], the norm of the sum before. If
        the norm is not finite, neither are the shares.
    """
    replicas = tf.distribute.get_replica_context()
    norm = tf.linalg.global_norm(replicas.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients)))
    if not clip_norm:
        return list(gradients), norm
    scale = clip_norm / tf.maximum(norm, clip_norm)
    return [gradient * scale for gradient in gradients], norm


class GradientAccumulator:
    """Collects the gradients of several small batches into those of one large batch.

    Each replica collects its own share, without communication. It takes the memory of one more
    copy of the variables. A batch norm that is trained still sees the small batches.

    It must be made in the scope of the strategy. It is empty between steps and needs no checkpoint.

    Args:
        variables: The variables of the gradients.
    """

    def __init__(self, variables: Sequence[keras.Variable]):
        def local(shape):
            return tf.Variable(
                tf.zeros(shape),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )

        self._sums = [local(variable.shape) for variable in variables]
        self._count = local([])

    def add(self, gradients: Sequence[tf.Tensor], count: tf.Tensor) -> None:
        """Adds the gradients of a small batch; must be called in a replica.

        Args:
            gradients: Gradients of the loss of this small batch, which was divided by its counts
                over all replicas.
            count: float32 [], its weight: its `losses.number_of_pixels` over all replicas.
        """
        for total, gradient in zip(self._sums, gradients):
            total.assign_add(count * tf.cast(gradient, total.dtype))
        self._count.assign_add(count)

    def take(self) -> list[tf.Tensor]:
        """Returns the mean of the gradients, weighted by the counts, and empties itself.

        The mean is the gradient of the sum of all losses over the number of all pixels. Must be
        called in a replica.
        """
        count = self._count.read_value()
        means = [tf.math.divide_no_nan(total.read_value(), count) for total in self._sums]
        with tf.control_dependencies(means):
            for total in (*self._sums, self._count):
                total.assign(tf.zeros(total.shape))
        return means


class LossScale(tf.Module):
    """Keeps small gradients from vanishing in float16, by scaling the loss up.

    The scale is halved when it exceeds the range of float16, and doubled after 2000 steps in which
    it did not. A step whose gradients overflow counts as a step, with gradients of 0.

    It must be made in the scope of the strategy, and saved in the checkpoint.

    Args:
        initial_scale: Scale of the first step.

    Reference:
        Mixed precision training, arXiv:1710.03740, section 3.2.
    """

    def __init__(self, initial_scale: float = 2.0**15):
        super().__init__()
        self.scale, self.good_steps = (_local(tf.constant(value)) for value in (initial_scale, 0))

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The variables to save, by name."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def is_exhausted(self) -> tf.Tensor:
        """Whether gradients have overflowed even at a scale of 1, bool []."""
        return self.scale.read_value() < 1.0

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """Returns the loss to differentiate; this and what follows must be called in a replica."""
        return loss * self.scale.read_value()

    def unscaled(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the gradients of the loss itself, from those of `scaled`."""
        return [gradient / self.scale.read_value() for gradient in gradients]

    def without_overflow(self, gradients: Sequence[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
        """Adapts the scale, by whether the norm is finite.

        Args:
            gradients: The share of a replica.
            norm: float32 [], of the sum over the replicas.

        Returns:
            The gradients, or zeros where the norm is not finite.
        """
        is_finite = tf.math.is_finite(norm)
        good_steps = tf.where(is_finite, self.good_steps.read_value() + 1, 0)
        is_time_to_grow = good_steps == 2000
        factor = tf.where(is_finite, tf.where(is_time_to_grow, 2.0, 1.0), 0.5)
        self.scale.assign(self.scale.read_value() * factor)
        self.good_steps.assign(tf.where(is_time_to_grow, 0, good_steps))
        return [tf.where(is_finite, gradient, 0.0) for gradient in gradients]


class MovingAverage(tf.Module):
    """Exponential moving averages of variables, which are evaluated in their place.

    It must be made in the scope of the strategy, and saved in the checkpoint. If the variables are
    filled from elsewhere afterwards, call `reset`.

    Args:
        variables: What is averaged: all floating-point weights, including moving statistics.
        decay: Share of the average that is kept per step; less in the first steps, (1 + step) /
            (10 + step), so that the initial weights lose their influence soon.

    Reference:
        `tf.train.ExponentialMovingAverage` with `num_updates`.
    """

    def __init__(self, variables: Sequence[keras.Variable], decay: float):
        super().__init__()
        self.decay = decay
        self.averages = [_local(tf.convert_to_tensor(variable)) for variable in variables]

    def reset(self, variables: Sequence[keras.Variable]) -> None:
        """Sets the averages to the variables; must be called outside of replicas."""
        for average, variable in zip(self.averages, variables):
            average.assign(tf.convert_to_tensor(variable))

    def update(self, variables: Sequence[keras.Variable], step: tf.Tensor) -> None:
        """Updates the averages; must be called in a replica, after the optimizer.

        Args:
            variables: In the order of the constructor's.
            step: int [], the number of updates before.
        """
        step = tf.cast(step, tf.float32)
        # One minus the decay, without its cancellation.
        share = tf.maximum(1.0 - self.decay, 9.0 / (10.0 + step))
        for average, variable in zip(self.averages, variables):
            value = tf.convert_to_tensor(variable)
            # One kernel: average -= share * (average - value). There are hundreds of variables.
            tf.raw_ops.ResourceApplyGradientDescent(
                var=average.handle,
                alpha=tf.cast(share, value.dtype),
                delta=tf.convert_to_tensor(average) - value,
            )

    @contextlib.contextmanager
    def swapped(self, variables: Sequence[keras.Variable]):
        """Within the context the variables have the values of the averages.

        Afterwards they have their own values again, bit for bit.
        """
        self._swap(variables)
        try:
            yield
        finally:
            self._swap(variables)

    def _swap(self, variables: Sequence[keras.Variable]) -> None:
        for average, variable in zip(self.averages, variables):
            value = tf.identity(tf.convert_to_tensor(variable))
            variable.assign(average.read_value())
            average.assign(value)


def _local(value: tf.Tensor) -> tf.Variable:
    """Returns a variable with a copy on each replica, all with the same value."""
    return tf.Variable(
        value,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
