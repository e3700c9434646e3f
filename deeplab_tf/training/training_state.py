"""The state of a training: a model, its optimizer, and everything else that the next step needs."""

import dataclasses
import sys

import keras
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.runs import checkpoints
from deeplab_tf.training import optimizers
from deeplab_tf.training import schedules

# Images below which batch norm should be frozen: in DeepLabv3, section 4.1, and where its
# statistics are measured before each validation, so that only the noise of small batches is left.
_SMALL_BATCH, _SMALL_BATCH_WHEN_MEASURED = 12, 4


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """Everything that a training step changes, and that a checkpoint of the training holds.

    Attributes:
        model: The model.
        optimizer: The optimizer, built for the model's trainable variables.
        average: Moving average of the model's weights; None for none.
        loss_scale: The scale of float16's loss; None with another precision.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    average: optimizers.MovingAverage | None = None
    loss_scale: optimizers.LossScale | None = None

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return int(self.optimizer.iterations.numpy())


def build(
    model_config: ModelConfig, train_config: TrainConfig, strategy: tf.distribute.Strategy
) -> TrainingState:
    """Builds a model and what is needed to train it, on the devices of a strategy.

    Raises:
        UserError: A setting does not fit the model.
    """
    with strategy.scope():
        model = build_model(model_config, train_config, strategy)
        return for_model(model, train_config)


def for_model(model: keras.Model, config: TrainConfig) -> TrainingState:
    """Builds what is needed to train a model; in the scope of the strategy that it was made in.

    Raises:
        UserError: The settings of the learning rate contradict each other.
    """
    average = loss_scale = None
    if config.moving_average_decay:
        average = optimizers.MovingAverage(
            checkpoints.averaged_variables(model), config.moving_average_decay
        )
    if config.mixed_precision == "float16":
        loss_scale = optimizers.LossScale()
    optimizer = optimizers.build(config, schedules.build(config), model.trainable_variables)
    return TrainingState(model, optimizer, average, loss_scale)


def build_model(
    model_config: ModelConfig, train_config: TrainConfig, strategy: tf.distribute.Strategy
) -> keras.Model:
    """Builds a model in its training precision, with its frozen scopes frozen.

    Raises:
        UserError: A setting does not fit the model, or a frozen scope does not exist.
    """
    with layers.mixed_precision(train_config.mixed_precision):
        model = models.build_model(**dataclasses.asdict(model_config))
    scopes = train_config.frozen_scopes
    optimizers.freeze(model, scopes)
    if train_config.is_quantized:
        model = models.quantize(model)
    if train_config.is_quantized or not train_config.fine_tune_batch_norm:
        layers.freeze_batch_norm(model)
        return model
    if strategy.num_replicas_in_sync > 1:
        layers.synchronize_batch_norm(model)
    batch_size = train_config.train_batch_size // train_config.gradient_accumulation_steps
    is_measured = train_config.batch_statistics_images > 0
    small_batch = _SMALL_BATCH_WHEN_MEASURED if is_measured else _SMALL_BATCH
    if batch_size < small_batch and layers.batch_norms(model):
        print(
            f"warning: batch norm trains on {batch_size} images at a time. Below {small_batch}, "
            "freeze it with --nofine_tune_batch_norm, and start from weights that were trained "
            "with it.",
            file=sys.stderr,
            flush=True,
        )
    return model
