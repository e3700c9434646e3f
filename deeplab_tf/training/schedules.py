"""Learning-rate schedules: how a run starts, and by what policy its rate then decays."""

import abc
import math

import keras
import tensorflow as tf

from deeplab_tf.errors import UserError

_register = keras.saving.register_keras_serializable(package="deeplab_tf")


def build(
    policy: str,
    base_learning_rate: float,
    training_number_of_steps: int,
    learning_power: float = 0.9,
    end_learning_rate: float = 0.0,
    decay_steps: int = 0,
    learning_rate_decay_factor: float = 0.1,
    learning_rate_decay_step: int = 2000,
    slow_start_step: int = 0,
    slow_start_learning_rate: float = 1e-4,
    warmup_steps: int = 0,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Builds the learning-rate schedule of a policy.

    Args:
        policy: "poly", "step" or "cosine".
        base_learning_rate: Learning rate as the policy begins.
        training_number_of_steps: Steps of the whole run, those of the start among them.
        learning_power: Power of poly.
        end_learning_rate: What poly and cosine decay to, and stay at.
        decay_steps: Steps they take to it from the start's end; 0 for the rest of the run.
        learning_rate_decay_factor: What step multiplies the rate with ...
        learning_rate_decay_step: ... every so many steps.
        slow_start_step: Steps at `slow_start_learning_rate` before the policy begins.
        slow_start_learning_rate: The rate of those steps, or the one that the warm-up climbs from.
        warmup_steps: Steps in which the rate climbs linearly to the base before the policy begins;
            the original's slow start with `slow_start_burnin_type=linear`.

    Returns:
        The schedule: step, int [], to learning rate, float32 [].

    Raises:
        UserError: There is no such policy; there are two starts, or a start that does not end
            before the run does.

    Reference:
        `get_model_learning_rate` of the original's `train_utils.py`.
    """
    if slow_start_step and warmup_steps:
        raise UserError(
            f"slow_start_step={slow_start_step} and warmup_steps={warmup_steps} are two starts of "
            "one run: give the first for a constant low rate, the second for a climbing one."
        )
    start = {
        "slow_start_step": slow_start_step or warmup_steps,
        "slow_start_learning_rate": slow_start_learning_rate,
        "is_warmup": bool(warmup_steps),
    }
    start_steps = start["slow_start_step"]
    if start_steps >= training_number_of_steps:
        raise UserError(
            f"{'warmup_steps' if warmup_steps else 'slow_start_step'}={start_steps} is all of "
            f"training_number_of_steps={training_number_of_steps}: give a smaller number."
        )
    last_step = start_steps + decay_steps if decay_steps else training_number_of_steps
    policies = {
        "poly": lambda: PolySchedule(
            base_learning_rate,
            last_step,
            learning_power,
            end_learning_rate=end_learning_rate,
            **start,
        ),
        "step": lambda: StepSchedule(
            base_learning_rate, learning_rate_decay_step, learning_rate_decay_factor, **start
        ),
        "cosine": lambda: CosineSchedule(base_learning_rate, last_step, end_learning_rate, **start),
    }
    if policy not in policies:
        raise UserError(f"learning_policy is {policy!r}; it can be {', '.join(policies)}.")
    return policies[policy]()


class _Schedule(keras.optimizers.schedules.LearningRateSchedule, abc.ABC):
    """The start that all policies share.

    Args:
        base_learning_rate: Learning rate as the policy begins.
        slow_start_step: Steps before the policy begins.
        slow_start_learning_rate: The rate of those steps.
        is_warmup: Whether they climb from it to the base, instead of staying at it.
    """

    def __init__(
        self,
        base_learning_rate: float,
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
        """The policy: the rate, float32 [], at a step, float32 [], counted from its beginning."""

    def get_config(self):
        return dict(vars(self))


@_register
class PolySchedule(_Schedule):
    """Decays the learning rate as (1 - step/steps)^power.

    Args:
        base_learning_rate: Learning rate at step 0.
        training_number_of_steps: Steps until the rate is at its end, those of the start included.
        power: 0.9 in all DeepLab papers.
        slow_start_step: Steps, counted before the schedule, at the slow-start rate.
        slow_start_learning_rate: The rate of those steps.
        is_warmup: Whether the rate climbs from that to the base in those steps.
        end_learning_rate: The rate in the end.

    Reference:
        DeepLab v2 (arXiv 1606.00915), section 4.1; `get_model_learning_rate` of the original.
    """

    def __init__(
        self,
        base_learning_rate: float,
        training_number_of_steps: int,
        power: float = 0.9,
        slow_start_step: int = 0,
        slow_start_learning_rate: float = 1e-4,
        is_warmup: bool = False,
        end_learning_rate: float = 0.0,
    ):
        super().__init__(base_learning_rate, slow_start_step, slow_start_learning_rate, is_warmup)
        self.training_number_of_steps = training_number_of_steps
        self.power = power
        self.end_learning_rate = end_learning_rate

    def decayed(self, step):
        done = tf.minimum(step / (self.training_number_of_steps - self.slow_start_step), 1.0)
        height = self.base_learning_rate - self.end_learning_rate
        return height * (1.0 - done) ** self.power + self.end_learning_rate


@_register
class StepSchedule(_Schedule):
    """Multiplies the learning rate with a factor every so many steps.

    Args:
        base_learning_rate: Learning rate at step 0.
        decay_step: Steps between two decays.
        decay_factor: What the rate is multiplied with.
        **start: As of `_Schedule`.
    """

    def __init__(
        self, base_learning_rate: float, decay_step: int, decay_factor: float = 0.1, **start
    ):
        super().__init__(base_learning_rate, **start)
        self.decay_step = decay_step
        self.decay_factor = decay_factor

    def decayed(self, step):
        return self.base_learning_rate * self.decay_factor ** tf.floor(step / self.decay_step)


@_register
class CosineSchedule(_Schedule):
    """Decays the learning rate along half a wave of the cosine.

    Args:
        base_learning_rate: Learning rate at step 0.
        training_number_of_steps: As of `PolySchedule`.
        end_learning_rate: The rate in the end.
        **start: As of `_Schedule`.

    Reference:
        SGDR (arXiv 1608.03983), equation 5, without restarts.
    """

    def __init__(
        self,
        base_learning_rate: float,
        training_number_of_steps: int,
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
