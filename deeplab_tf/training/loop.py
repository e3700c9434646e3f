"""The training of a run, from its configs to its last step."""

import contextlib
import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.data.damaged_records import readable_errors
from deeplab_tf.errors import EXIT_INTERRUPTED
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files
from deeplab_tf.runs import run_lock
from deeplab_tf.training import automatic
from deeplab_tf.training import batches
from deeplab_tf.training import early_stopping
from deeplab_tf.training import failures
from deeplab_tf.training import initial_weights
from deeplab_tf.training import preemption
from deeplab_tf.training import timing
from deeplab_tf.training import train_step
from deeplab_tf.training import training_log
from deeplab_tf.training import training_state
from deeplab_tf.training import validation

_SECONDS_PER_CALL = 5.0


def train(
    model_config: ModelConfig, data_config: DataConfig, train_config: TrainConfig, run_dir: str
) -> dict:
    """Trains a model, or resumes a run that was stopped.

    A start that is refused, or that has nothing left to train, changes nothing in the run dir.

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
        SystemExit: The process was asked to stop, and has saved its state.
    """
    strategy = distribution.get_strategy(train_config.strategy)
    sources = training_data.find_training_records(
        data_config, model_config.num_classes, model_config.in_channels
    )
    train_config = initial_weights.choose(train_config, model_config, run_dir)
    configs, choices = automatic.choose(
        automatic.Configs(model_config, data_config, train_config),
        sources,
        strategy.num_replicas_in_sync,
        run_dir,
    )
    train_config = configs.train
    run = run_dirs.describe(run_dir, configs.model, configs.data, train_config, sources[0].info)
    batches.check_batch_size(train_config, strategy)
    keras.utils.set_random_seed(train_config.seed)
    state = training_state.build(run.model_config, train_config, strategy)
    train_step.check(state, train_config, strategy)
    with run_lock.hold(run_dir) if distribution.is_chief() else contextlib.nullcontext():
        saved = checkpoints.TrainingCheckpoints(run_dir, **vars(state))
        run = _resume_or_initialize(saved, state, run)
        early = early_stopping.EarlyStopping(
            run_dir, state.step, train_config.early_stopping_patience
        )
        done = _why_nothing_is_left(state.step, train_config, early)
        if done:
            print(f"Nothing is left to train in {run_dir}: {done}.")
            return {}
        # Before anything is written: this finds what is still wrong.
        training = _Training(run, sources, state=state, saved=saved, strategy=strategy, early=early)
        run_dirs.write(run)
        saved.clean_up()
        if choices and distribution.is_chief():
            print("\n".join(choices))
        return training.run_to_the_end()


def _why_nothing_is_left(
    step: int, config: TrainConfig, early: early_stopping.EarlyStopping
) -> str:
    if step >= config.training_number_of_steps:
        return (
            f"it is at step {step} of {config.training_number_of_steps}. To train further, raise "
            "--training_number_of_steps"
        )
    if early.reason:
        return f"{early.reason}. To train further, raise the patience, or set it to 0"
    return ""


def _resume_or_initialize(
    saved: checkpoints.TrainingCheckpoints,
    state: training_state.TrainingState,
    run: run_dirs.Run,
) -> run_dirs.Run:
    """Gives the state the values of the last checkpoint, or those that a new run starts from.

    Returns:
        The run, with the weights that it was or is started from.
    """
    if saved.resume(run_dirs.changed_flags(run)):
        print(f"resumes from step {state.step} of {run.folder}")
        if saved.is_of_other_order:
            print(
                "The run was started by a version of deeplab_tf that read the records in another "
                "order: from here on, the order of the images is that of this version."
            )
        return initial_weights.as_recorded(run)
    _check_that_it_is_not_imported(run.folder)
    initial_weights.fill(state, run)
    if state.average:
        state.average.reset(checkpoints.averaged_variables(state.model))
    return run


def _check_that_it_is_not_imported(run_dir: str) -> None:
    """Refuses imported weights: they would stay the best of a training without validation."""
    has_weights = checkpoint_files.find(checkpoint_files.folder_of(run_dir, "best"))
    if has_weights and not files.as_path(run_dir, run_files.TRAINING_LOG).exists():
        raise UserError(
            f"--run_dir={run_dir} holds imported weights. To train from them, give another "
            f"--run_dir and --tf_initial_checkpoint={run_dir}."
        )


class _Training:
    """The loop over the steps of a run: train, report, validate, save.

    Args:
        run: The run.
        sources: The records to train on; the first are validated on.
        state: What is trained.
        saved: Its checkpoints.
        strategy: The devices.
        early: Ends the run before its last step.
    """

    def __init__(
        self,
        run: run_dirs.Run,
        sources: Sequence[records.Records],
        *,
        state: training_state.TrainingState,
        saved: checkpoints.TrainingCheckpoints,
        strategy: tf.distribute.Strategy,
        early: early_stopping.EarlyStopping,
    ):
        self._run, self._sources, self._state, self._saved = run, sources, state, saved
        self._early = early
        self._config = config = run.train_config
        self._step = state.step
        self._batches = batches.distributed(strategy, sources, run, self._step)
        self._train_steps = train_step.TrainSteps(
            state, config, strategy=strategy, ignore_label=run.dataset.ignore_label
        )
        self._validate = validation.Validation(
            state, run, sources[0], saved=saved, strategy=strategy
        )
        steps_to_go = config.training_number_of_steps - self._step
        self._stopwatch = timing.Stopwatch(steps_to_go, config.train_batch_size)
        self._means = _Means()

    def run_to_the_end(self) -> dict:
        """Runs all steps that are left; returns the metrics of the last validation."""
        config, log, result = self._config, _start_log(self._run, self._step), {}
        loss, is_over = None, False
        log.message(
            f"trains {self._state.model.name} for {config.training_number_of_steps} steps of "
            f"{config.train_batch_size} images"
        )
        with preemption.StopSignal() as stop, contextlib.closing(log):
            while self._step < config.training_number_of_steps:
                if config.profile_steps:
                    log.profile(self._step, *config.profile_steps)
                self._run_steps(self._steps_of_next_call())
                if self._is_due(config.log_every_steps):
                    rate = float(self._state.optimizer.learning_rate)
                    values = self._means.take()
                    loss = values["loss"]
                    log.steps(self._step, values, rate, self._stopwatch)
                if self._is_due(config.eval_every_steps):
                    result = self._validate(log, self._step, loss)
                    is_over = self._is_over(result)
                if self._is_due(config.save_every_steps) or is_over:
                    self._save(log)
                if is_over:
                    log.message(f"The run ends at step {self._step}: {self._early.reason}.")
                    break
                if self._step < config.training_number_of_steps and stop.is_requested:
                    self._save(log)
                    log.message(
                        f"stopped at step {self._step}; run the same command again to resume"
                    )
                    raise SystemExit(EXIT_INTERRUPTED)
        return result

    def _steps_of_next_call(self) -> int:
        """Calls last seconds: a process that is asked to stop has often half a minute to do so."""
        steps = steps_to_next_event(self._step, self._config)
        if self._config.steps_per_execution or distribution.num_workers() > 1:
            return steps  # workers stop together, after the same step
        return min(steps, self._stopwatch.steps_within(_SECONDS_PER_CALL))

    def _save(self, log) -> None:
        log.publish()  # first: whoever resumes from the checkpoint finds the log up to it
        self._saved.save()

    def _run_steps(self, num_steps: int) -> None:
        with (
            self._stopwatch.time(num_steps),
            readable_errors(),
            failures.readable_shortage(self._run),
        ):
            values = self._train_steps(self._batches, num_steps)
            values = {name: float(value) for name, value in values.items()}
        finite_steps = int(values.pop("finite_steps"))
        if finite_steps < num_steps:
            step = self._step + finite_steps
            raise failures.not_finite(values["loss"], step, self._sources, self._run)
        self._means.add(values, num_steps)
        self._step += num_steps

    def _is_over(self, result: dict) -> bool:
        """Counts a validation in; returns whether the run ends with it."""
        if result:
            self._early.add(self._step, result["miou"])
        if self._step == self._config.training_number_of_steps:
            return False
        return bool(self._early.reason)

    def _is_due(self, period: int) -> bool:
        return self._step % period == 0 or self._step == self._config.training_number_of_steps


def steps_to_next_event(step: int, config: TrainConfig) -> int:
    """Returns how many steps can run before something has to be reported, validated or saved."""
    periods = (config.log_every_steps, config.eval_every_steps, config.save_every_steps)
    ends = [config.training_number_of_steps, *config.profile_steps, config.quantize_delay_step]
    if config.steps_per_execution:
        ends.append(step + config.steps_per_execution)
    ends += [step + period - step % period for period in periods]
    return min(end - step for end in ends if end > step)


def _start_log(run: run_dirs.Run, first_step: int):
    if not distribution.is_chief():
        return training_log.Silence()
    return training_log.TrainingLog(
        run.folder,
        total_steps=run.train_config.training_number_of_steps,
        class_names=run.dataset.class_names,
        colors=run.dataset.colors,
        hparams=dataclasses.asdict(run.model_config) | dataclasses.asdict(run.train_config),
        first_step=first_step,
    )


class _Means:
    """Means of named values over several groups of steps."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, values: dict[str, float], steps: int) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * steps
        self._steps += steps

    def take(self) -> dict[str, float]:
        """Returns the means since the last call."""
        # Rounded, so that they do not depend on how the steps were grouped into calls.
        means = {name: float(np.float32(value / self._steps)) for name, value in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means
