"""Learning-rate schedules."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="deeplab_tf")
class PolySchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Decays the learning rate as (1 - step/steps)^power.

    Args:
        base_learning_rate: Learning rate at step 0.
        training_number_of_steps: Steps until the rate is 0.
        power: 0.9 in all DeepLab papers.
        slow_start_step: Steps, counted before the schedule, at the slow-start rate.
        slow_start_learning_rate: The rate of those steps.

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
    ):
        self.base_learning_rate = base_learning_rate
        self.training_number_of_steps = training_number_of_steps
        self.power = power
        self.slow_start_step = slow_start_step
        self.slow_start_learning_rate = slow_start_learning_rate

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        decay_steps = self.training_number_of_steps - self.slow_start_step
        done = tf.clip_by_value((step - self.slow_start_step) / decay_steps, 0.0, 1.0)
        rate = self.base_learning_rate * (1.0 - done) ** self.power
        return tf.where(step < self.slow_start_step, self.slow_start_learning_rate, rate)

    def get_config(self):
        return {
            "base_learning_rate": self.base_learning_rate,
            "training_number_of_steps": self.training_number_of_steps,
            "power": self.power,
            "slow_start_step": self.slow_start_step,
            "slow_start_learning_rate": self.slow_start_learning_rate,
        }
