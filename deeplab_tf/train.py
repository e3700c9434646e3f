"""Trains a model: python -m deeplab_tf.train --flagfile=configs/X.flagfile --run_dir=DIR

The same command again goes on from the last checkpoint. Watch it with
`tensorboard --logdir=DIR`.
"""

import dataclasses
import math

from absl import flags
import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf import checkpoints
from deeplab_tf import command_line
from deeplab_tf import distribution
from deeplab_tf import eval as evaluation
from deeplab_tf import inference
from deeplab_tf import input_pipeline
from deeplab_tf import layers
from deeplab_tf import losses
from deeplab_tf import models
from deeplab_tf import optimizers
from deeplab_tf import records
from deeplab_tf import run_dir as run_dirs
from deeplab_tf import schedules
from deeplab_tf import tf1_checkpoint
from deeplab_tf import training_data
from deeplab_tf import training_log
from deeplab_tf import visualize
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError

_NUM_PANELS = 4


def train(
    model_config: ModelConfig, data_config: DataConfig, train_config: TrainConfig, run_dir: str
) -> dict:
    """Trains a model, or goes on with a run that was stopped.

    Args:
        model_config: The model.
        data_config: The records and their augmentation.
        train_config: The training.
        run_dir: Folder of the run.

    Returns:
        The metrics of the last validation; empty without one.

    Raises:
        UserError: The records, flags, checkpoint or run dir do not fit; or the loss is no longer
            finite.
    """
    sources = training_data.find_records(data_config, model_config.num_classes)
    source = sources[0]
    model_config = dataclasses.replace(model_config, num_classes=source.info.num_classes)
    run = run_dirs.create(run_dir, model_config, data_config, train_config, source.info)

    keras.utils.set_random_seed(train_config.seed)
    strategy = distribution.get_strategy(train_config.strategy)
    with strategy.scope():
        model = _build_model(run, strategy)
        optimizer = _build_optimizer(model, train_config)
    state = checkpoints.TrainingCheckpoints(run_dir, model, optimizer)
    if state.resume():
        print(f"goes on from step {int(optimizer.iterations.numpy())} of {run_dir}")
    elif train_config.tf_initial_checkpoint:
        print(load_initial_checkpoint(model, run))

    train_steps = _make_train_steps(strategy, model, optimizer, run)
    batches = _distribute_batches(strategy, sources, run, int(optimizer.iterations.numpy()))
    validate = _make_validation(model, source, run)
    print(
        f"trains {model.name} for {train_config.training_number_of_steps} steps of "
        f"{train_config.train_batch_size} pictures",
        flush=True,
    )
    return _loop(train_steps, batches, validate, optimizer, state, run)


def load_initial_checkpoint(model: keras.Model, run: run_dirs.Run) -> tf1_checkpoint.ImportReport:
    """Starts a model from official weights: a whole model's, or an ImageNet backbone's."""
    path = run.train_config.tf_initial_checkpoint
    if tf1_checkpoint.is_backbone_checkpoint(path):
        model = models.backbone_of(model)
    return tf1_checkpoint.load_tf1_checkpoint(model, path, run.train_config.skip_mismatched)


def _build_model(run: run_dirs.Run, strategy: tf.distribute.Strategy) -> keras.Model:
    model = models.build_model(**dataclasses.asdict(run.model_config))
    if not run.train_config.fine_tune_batch_norm:
        layers.freeze_batch_norm(model)
    elif strategy.num_replicas_in_sync > 1:
        layers.synchronize_batch_norm(model)
    return model


def _build_optimizer(model: keras.Model, config: TrainConfig) -> keras.optimizers.Optimizer:
    schedule = schedules.PolySchedule(
        config.base_learning_rate,
        config.training_number_of_steps,
        config.learning_power,
        config.slow_start_step,
        config.slow_start_learning_rate,
    )
    optimizer = optimizers.MomentumSGD(schedule, momentum=config.momentum)
    optimizer.build(model.trainable_variables)
    return optimizer


def _distribute_batches(
    strategy: tf.distribute.Strategy,
    sources: list[records.Records],
    run: run_dirs.Run,
    start_step: int,
):
    """Returns an endless iterator of distributed batches."""
    data, config = run.data_config, run.train_config
    if config.train_batch_size % strategy.num_replicas_in_sync:
        raise UserError(
            f"--train_batch_size={config.train_batch_size} does not divide over the "
            f"{strategy.num_replicas_in_sync} devices of --strategy={config.strategy}."
        )
    batches = training_data.training_batches(
        sources,
        data,
        config.train_batch_size,
        backbones.pad_pixel(run.model_config.backbone),
        config.seed,
        start_step,
    )
    return iter(strategy.experimental_distribute_dataset(batches))


def _make_train_steps(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    run: run_dirs.Run,
):
    """Compiles several training steps into one call: (batches, steps) -> mean loss of the steps."""
    config = run.train_config
    model = models.with_logits_of_every_scale(model)
    variables = model.trainable_variables
    names = [layers.official_name(variable) for variable in variables]
    # Every replica adds its share: gradients are summed over the replicas.
    decay = config.weight_decay / strategy.num_replicas_in_sync
    weight_decays = [decay if optimizers.is_regularized(name) else 0.0 for name in names]
    multipliers = [
        optimizers.gradient_multiplier(name, config.last_layer_gradient_multiplier)
        for name in names
    ]

    def replica_step(batch):
        with tf.GradientTape() as tape:
            loss_sum, count = losses.cross_entropy_of_scales(
                model(batch["image"], training=True), batch["label"], run.dataset.ignore_label
            )
            replicas = tf.distribute.get_replica_context()
            count = replicas.all_reduce(tf.distribute.ReduceOp.SUM, count)
            loss = tf.math.divide_no_nan(loss_sum, count)
        gradients = [
            (gradient + weight_decay * variable) * multiplier
            for gradient, variable, weight_decay, multiplier in zip(
                tape.gradient(loss, variables), variables, weight_decays, multipliers
            )
        ]
        optimizer.apply(gradients, variables)
        return loss

    @tf.function(reduce_retracing=True)
    def train_steps(batches, steps):
        total = tf.constant(0.0)
        for _ in tf.range(steps):
            per_replica = strategy.run(replica_step, args=(next(batches),))
            total += strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
        return total / tf.cast(steps, tf.float32)

    return train_steps


def _make_validation(model: keras.Model, source: records.Records, run: run_dirs.Run):
    """Returns a function that evaluates the model as it is, or None without a split for it."""
    split = run.data_config.val_split
    if not split:
        return None
    label_of = inference.label_function(model, run.model_config, run.data_config)
    examples = input_pipeline.evaluation_examples(source, split).take(_NUM_PANELS)

    def validate() -> tuple[dict, list[np.ndarray]]:
        panels = [
            visualize.panel(
                example["image"],
                example["label"],
                label_of(example["image"]),
                source.info.colors,
                source.info.ignore_label,
            )
            for example in examples.as_numpy_iterator()
        ]
        return evaluation.evaluate(label_of, source, split), panels

    return validate


def _loop(train_steps, batches, validate, optimizer, state, run: run_dirs.Run) -> dict:
    """Trains to the last step: log, validate, save; returns the last validation's metrics."""
    config, result = run.train_config, {}
    total = config.training_number_of_steps
    step = int(optimizer.iterations.numpy())
    log = training_log.TrainingLog(run.folder, total)
    stopwatch = training_log.Stopwatch(total - step, config.train_batch_size)

    def is_due(period: int) -> bool:
        return step % period == 0 or step == total

    while step < total:
        steps = _steps_to_next_event(step, config)
        with stopwatch.time(steps), input_pipeline.readable_errors():
            loss = float(train_steps(batches, tf.constant(steps)))
        step += steps
        _check_finite(loss, step - steps, step, run.folder)
        if is_due(config.log_every_steps):
            log.steps(step, loss, float(optimizer.learning_rate), stopwatch)
        if validate and is_due(config.eval_every_steps):
            result, panels = validate()
            log.validation(step, result, panels, is_best=state.save_if_best(result["miou"]))
        if is_due(config.save_every_steps):
            state.save()
    log.close()
    return result


def _check_finite(loss: float, first_step: int, last_step: int, run_dir: str) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"The loss is {loss} between steps {first_step} and {last_step}. The checkpoints in "
            f"{run_dir} are from before. Likely causes: a learning rate too high for the batch "
            "(lower --base_learning_rate), or batch norm on a small batch "
            "(--nofine_tune_batch_norm)."
        )


def _steps_to_next_event(step: int, config: TrainConfig) -> int:
    """Returns how many steps can run before something has to be logged, validated or saved."""
    periods = (config.log_every_steps, config.eval_every_steps, config.save_every_steps)
    return min(
        config.training_number_of_steps - step, *(period - step % period for period in periods)
    )


def main(_) -> None:
    result = train(
        command_line.read_flags(ModelConfig),
        command_line.read_flags(DataConfig),
        command_line.read_flags(TrainConfig),
        flags.FLAGS.run_dir,
    )
    if result:
        evaluation.print_metrics(result)
    print(f"the run is in {flags.FLAGS.run_dir}")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    for config_class in (ModelConfig, DataConfig, TrainConfig):
        command_line.define_flags(config_class)
    command_line.run(main)
