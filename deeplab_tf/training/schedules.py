"""Learning-rate schedules: a slow start or a warm-up, and then the decay of a policy."""

import abc
import math
import typing

import keras
import tensorflow as tf

from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError

_register = keras.saving.register_keras_serializable(package="deeplab_tf")


def build(config: TrainConfig) -> keras.optimizers.schedules.LearningRateSchedule:
    """Builds the learning-rate schedule of a config.

    Args:
        config: `training_number_of_steps`, the policy's settings, and those of the slow start or
            the warm-up before it. `warmup_steps` is the original's slow start with
            `slow_start_burnin_type=linear`.

    Returns:
        The schedule: step, int [], to learning rate, float32 [].

    Raises:
        UserError: Slow start and warm-up are both given; or the start does not end before the run
            does.

    Reference:
        `get_model_learning_rate` of the original's `train_utils.py`.
    """
    start_steps = _steps_before_the_policy(config)
    start: dict[str, typing.Any] = {
        "slow_start_step": start_steps,
        "slow_start_learning_rate": config.slow_start_learning_rate,
        "is_warmup": bool(config.warmup_steps),
    }
    last_step = config.training_number_of_steps
    if config.decay_steps:
        last_step = start_steps + config.decay_steps
    policies = {
        "poly": lambda: PolySchedule(
            config.base_learning_rate,
            last_step,
            power=config.learning_power,
            end_learning_rate=config.end_learning_rate,
            **start,
        ),
        "step": lambda: StepSchedule(
            config.base_learning_rate,
            config.learning_rate_decay_step,
            decay_factor=config.learning_rate_decay_factor,
            **start,
        ),
        "cosine": lambda: CosineSchedule(
            config.base_learning_rate,
            last_step,
            end_learning_rate=config.end_learning_rate,
            **start,
        ),
    }
    return policies[config.learning_policy]()


def _steps_before_the_policy(config: TrainConfig) -> int:
    if config.slow_start_step and config.warmup_steps:
        raise UserError(
            f"--slow_start_step={config.slow_start_step} and --warmup_steps={config.warmup_steps} "
            "exclude each other: give the first for a constant low rate, the second for a rate "
            "that climbs."
        )
    name = "warmup_steps" if config.warmup_steps else "slow_start_step"
    steps = getattr(config, name)
    if steps >= config.training_number_of_steps:
        raise UserError(
            f"--{name}={steps} must be less than --training_number_of_steps="
            f"{config.training_number_of_steps}."
        )
    return steps


class _Schedule(keras.optimizers.schedules.LearningRateSchedule, abc.ABC):
    """What all policies share: the start before them.

    Args:
        base_learning_rate: Learning rate when the policy begins.
        slow_start_step: Steps before the policy begins.
        slow_start_learning_rate: The rate of those steps.
        is_warmup: Whether the rate climbs from there to the base in those steps, instead of
            staying constant.
    """

    def __init__(
        self,
        base_learning_rate: float,
        *,
        slow_start_step: int = 0,
        slow_start_learning_rate: float = 1e-4,
        is_warmup: bool = False,
    ):
        self.base_learning_rate = base_learning_rate
        self.slow_start_step = slow_start_step
        self.slow_start_learning_rate = slow_start_learning_rate
        self.is_warmup = is_warmup

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        rate = self.decayed(tf.maximum(step - self.slow_start_step, 0.0))
        if not self.slow_start_step:
            return rate
        slow_rate = self.slow_start_learning_rate
        if self.is_warmup:
            slow_rate += (self.base_learning_rate - slow_rate) * step / self.slow_start_step
        return tf.where(step < self.slow_start_step, slow_rate, rate)

    @abc.abstractmethod
    def decayed(self, step: tf.Tensor) -> tf.Tensor:
        """The policy: the rate, float32 [], at a step, float32 [], counted from its first."""

    def get_config(self):
        return dict(vars(self))


@_register
class PolySchedule(_Schedule):
    """Decays the learning rate as (1 - step/steps)^power.

    Args:
        base_learning_rate: Learning rate when the policy begins.
        training_number_of_steps: Steps until the final rate, including those of the start.
        power: 0.9 in all DeepLab papers.
        end_learning_rate: The final rate.
        **start: Slow start or warm-up, see `_Schedule`.

    Reference:
        DeepLab v2 (arXiv 1606.00915), section 4.1; `get_model_learning_rate` of the original.
    """

    def __init__(
        self,
        base_learning_rate: float,
        training_number_of_steps: int,
        *,
        power: float = 0.9,
        end_learning_rate: float = 0.0,
        **start,
    ):
        super().__init__(base_learning_rate, **start)
        self.training_number_of_steps = training_number_of_steps
        self.power = power
        self.end_learning_rate = end_learning_rate

    def decayed(self, step):
        done = tf.minimum(step / (self.training_number_of_steps - self.slow_start_step), 1.0)
        height = self.base_learning_rate - self.end_learning_rate
        return height * (1.0 - done) ** self.power + self.end_learning_rate


@_register
class StepSchedule(_Schedule):
    """Multiplies the learning rate by a factor at regular steps.

    Args:
        base_learning_rate: Learning rate when the policy begins.
        decay_step: Steps between two decays.
        decay_factor: The factor.
        **start: Slow start or warm-up, see `_Schedule`.
    """

    def __init__(
        self, base_learning_rate: float, decay_step: int, *, decay_factor: float = 0.1, **start
    ):
        super().__init__(base_learning_rate, **start)
        self.decay_step = decay_step
        self.decay_factor = decay_factor

    def decayed(self, step):
        return self.base_learning_rate * self.decay_factor ** tf.floor(step / self.decay_step)


@_register
class CosineSchedule(_Schedule):
    """Decays the learning rate along half a period of the cosine.

    Args:
        base_learning_rate: Learning rate when the policy begins.
        training_number_of_steps: See `PolySchedule`.
        end_learning_rate: The final rate.
        **start: Slow start or warm-up, see `_Schedule`.

    Reference:
        SGDR (arXiv 1608.03983), equation 5, without restarts.
    """

    def __init__(
        self,
        base_learning_rate: float,
        training_number_of_steps: int,
        *,
        end_learning_rate: float = 0.0,
        **start,
    ):
        super().__init__(base_learning_rate, **start)
        self.training_number_of_steps = training_number_of_steps
        self.end_learning_rate = end_learning_rate

    def decayed(self, step):
        done = tf.minimum(step / (self.training_number_of_steps - self.slow_start_step), 1.0)
        height = self.base_learning_rate - self.end_learning_rate
        return height * 0.5 * (1.0 + tf.cos(math.pi * done)) + self.end_learning_rate
