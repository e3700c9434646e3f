"""Trains a model: python -m deeplab_tf.train --flagfile=configs/X.flagfile --run_dir=DIR

The same command again goes on from the last checkpoint. Watch it with
`tensorboard --logdir=DIR`.
"""

import contextlib
import dataclasses
import sys

import keras
import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.data.damaged_records import readable_errors
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.evaluate import print_metrics
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import optimizers
from deeplab_tf.training import preemption
from deeplab_tf.training import train_step
from deeplab_tf.training import training_log
from deeplab_tf.training import validation
from deeplab_tf.weights import tf1_checkpoint


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
        UserError: The records, flags, checkpoint or run dir do not fit; the loss is no longer
            finite; or the memory is too small.
        SystemExit: It was asked to stop, and has saved what it had.
    """
    strategy = distribution.get_strategy(train_config.strategy)
    sources = training_data.find_training_records(data_config, model_config.num_classes)
    info = sources[0].info
    model_config = dataclasses.replace(model_config, num_classes=info.num_classes)
    run = run_dirs.create(run_dir, model_config, data_config, train_config, info)

    keras.utils.set_random_seed(train_config.seed)
    with strategy.scope():
        model = _build_model(run, strategy)
        optimizer = train_step.build_optimizer(model, train_config)
        others = train_step.build_others(model, train_config)
    state = checkpoints.TrainingCheckpoints(run_dir, model, optimizer, **others)
    if state.resume():
        print(f"goes on from step {int(optimizer.iterations.numpy())} of {run_dir}")
    elif train_config.tf_initial_checkpoint:
        print(load_initial_checkpoint(model, run))
        if "average" in others:
            others["average"].reset(checkpoints.averaged_variables(model))

    train_steps = train_step.build(
        strategy, model, optimizer, train_config, info.ignore_label, **others
    )
    batches = _distribute_batches(strategy, sources, run, int(optimizer.iterations.numpy()))
    validate = validation.build(model, others.get("average"), sources[0], run, state)
    print(
        f"trains {model.name} for {train_config.training_number_of_steps} steps of "
        f"{train_config.train_batch_size} images",
        flush=True,
    )
    with preemption.StopSignal() as stop:
        return _loop(train_steps, batches, validate, optimizer, state, stop, sources, run)


def load_initial_checkpoint(model: keras.Model, run: run_dirs.Run) -> tf1_checkpoint.ImportReport:
    """Starts a model from official weights (whole, or an ImageNet backbone's) or from a run's."""
    path = run.train_config.tf_initial_checkpoint
    if run_dirs.is_run_dir(path):
        trained = run_dirs.load_model(run_dirs.read(path))
        return tf1_checkpoint.copy_weights(model, trained, path, run.train_config.skip_mismatched)
    if tf1_checkpoint.is_backbone_checkpoint(path):
        model = models.backbone_of(model)
    return tf1_checkpoint.load_tf1_checkpoint(model, path, run.train_config.skip_mismatched)


def _build_model(run: run_dirs.Run, strategy: tf.distribute.Strategy) -> keras.Model:
    config = run.train_config
    with layers.mixed_precision(config.mixed_precision):
        model = models.build_model(**dataclasses.asdict(run.model_config))
    optimizers.freeze(model, config.frozen_scopes)
    batch_size = config.train_batch_size // config.gradient_accumulation_steps
    if not config.fine_tune_batch_norm:
        layers.freeze_batch_norm(model)
    elif strategy.num_replicas_in_sync > 1:
        layers.synchronize_batch_norm(model)
    if config.fine_tune_batch_norm and batch_size < 12 and layers.batch_norms(model):
        print(
            f"warning: batch norm trains on {batch_size} images at a time; below 12 it is better "
            "frozen: --nofine_tune_batch_norm, from weights that it was trained in",
            file=sys.stderr,
            flush=True,
        )
    return model


def _training_batches(
    sources: list[records.Records], run: run_dirs.Run, start_step: int
) -> tf.data.Dataset:
    """The batches from a step on: one for each of the parts that a step accumulates."""
    config = run.train_config
    parts = config.gradient_accumulation_steps
    return training_data.make_batches(
        sources,
        run.data_config,
        batch_size=config.train_batch_size // parts,
        pad_pixel=backbones.pad_pixel(run.model_config.backbone),
        seed=config.seed,
        start_step=start_step * parts,
    )


def _distribute_batches(
    strategy: tf.distribute.Strategy,
    sources: list[records.Records],
    run: run_dirs.Run,
    start_step: int,
):
    """Returns an endless iterator of distributed batches of `image` and `label`."""
    config, replicas = run.train_config, strategy.num_replicas_in_sync
    if config.train_batch_size // config.gradient_accumulation_steps % replicas:
        raise UserError(
            f"--train_batch_size={config.train_batch_size} does not divide over the {replicas} "
            f"devices of --strategy={config.strategy} and "
            f"--gradient_accumulation_steps={config.gradient_accumulation_steps}."
        )
    batches = _training_batches(sources, run, start_step)
    # Names are no numbers, which some accelerators want; `_image_names` finds them again.
    batches = batches.map(lambda batch: {key: batch[key] for key in ("image", "label")})
    return distribution.distribute_batches(strategy, batches)


def _loop(train_steps, batches, validate, optimizer, state, stop, sources, run) -> dict:
    """Trains to the last step: log, validate, save; returns the last validation's metrics."""
    config, info, result = run.train_config, run.dataset, {}
    total = config.training_number_of_steps
    step = int(optimizer.iterations.numpy())
    hparams = dataclasses.asdict(run.model_config) | dataclasses.asdict(config)
    log = training_log.Silence()
    if distribution.is_chief():
        log = training_log.TrainingLog(
            run.folder, total, info.class_names, info.colors, hparams, first_step=step
        )
    stopwatch = training_log.Stopwatch(total - step, config.train_batch_size)
    means = _Means()

    def is_due(period: int) -> bool:
        return step % period == 0 or step == total

    while step < total:
        steps = _steps_to_next_event(step, config)
        if config.profile_steps:
            log.profile(step, *config.profile_steps)
        with stopwatch.time(steps), readable_errors(), _readable_shortage(run):
            values = train_steps(batches, tf.constant(steps))
            values = {name: float(value) for name, value in values.items()}
        _check_finite(values, step, steps, sources, run)
        means.add(values, steps)
        step += steps
        if is_due(config.log_every_steps):
            log.steps(step, means.take(), float(optimizer.learning_rate), stopwatch)
        if validate and is_due(config.eval_every_steps):
            result = validate(log, step)
        if is_due(config.save_every_steps):
            state.save()
        if step < total and stop.is_requested:
            state.save()
            log.message(f"stopped at step {step}; the same command goes on from there")
            log.close()
            raise SystemExit(preemption.EXIT_INTERRUPTED)
    log.close()
    return result


class _Means:
    """Means of named values over steps that come in portions."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, values: dict[str, float], steps: int) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * steps
        self._steps += steps

    def take(self) -> dict[str, float]:
        """Returns the means since the last call."""
        means = {name: value / self._steps for name, value in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means


def _steps_to_next_event(step: int, config: TrainConfig) -> int:
    """Returns how many steps can run before something has to be logged, validated or saved."""
    periods = (config.log_every_steps, config.eval_every_steps, config.save_every_steps)
    ends = [config.training_number_of_steps, *config.profile_steps]
    if config.steps_per_execution:
        ends.append(step + config.steps_per_execution)
    ends += [step + period - step % period for period in periods]
    return min(end - step for end in ends if end > step)


def _check_finite(
    values: dict[str, float],
    first_step: int,
    steps: int,
    sources: list[records.Records],
    run: run_dirs.Run,
) -> None:
    """Stops at a loss that is not finite; takes `finite_steps` from the values."""
    finite_steps = int(values.pop("finite_steps"))
    if finite_steps == steps:
        return
    step = first_step + finite_steps
    try:
        last = f"The last checkpoint, {checkpoints.find(run.folder, 'last')}, is from before."
    except UserError:
        last = "There is no checkpoint from before."
    raise UserError(
        f"The loss is {values['loss']} from step {step + 1} on, whose images are "
        f"{', '.join(_image_names(sources, run, step))}. {last} Likely causes: a learning rate "
        "too high for the batch (lower --base_learning_rate, or give --warmup_steps or "
        "--clip_gradient_norm), batch norm on a small batch (--nofine_tune_batch_norm), or labels "
        "that are wrong (see python -m deeplab_tf.check_data)."
    )


def _image_names(sources: list[records.Records], run: run_dirs.Run, step: int) -> list[str]:
    """Names of a step's images: batches are a function of the step."""
    batches = _training_batches(sources, run, step).take(
        run.train_config.gradient_accumulation_steps
    )
    return [name.decode() for batch in batches.as_numpy_iterator() for name in batch["name"]]


@contextlib.contextmanager
def _readable_shortage(run: run_dirs.Run):
    """Turns what TensorFlow raises when memory runs out into a `UserError` with a way out."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        config, crop = run.train_config, run.data_config.train_crop_size
        ways = [
            f"--gradient_accumulation_steps above {config.gradient_accumulation_steps}, or "
            f"--train_batch_size below {config.train_batch_size}",
            f"--train_crop_size below {','.join(map(str, crop))}",
            f"--output_stride above {run.model_config.output_stride}",
        ]
        if not config.mixed_precision:
            ways.append("--mixed_precision=bfloat16")
        raise UserError(
            f"The memory is too small for this training ({error.message.splitlines()[0]}). Give "
            f"one of: {'; '.join(ways)}. deeplab_tf.describe tells the peak before a run starts."
        ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    run_dir: str = config.run_dir()


def main(
    arguments: Arguments,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
) -> None:
    result = train(model_config, data_config, train_config, arguments.run_dir)
    if result:
        print_metrics(result)
    print(f"the run is in {arguments.run_dir}")


if __name__ == "__main__":
    command_line.run(main)
