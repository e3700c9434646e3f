"""Saving and restoring the state of a training run.

A checkpoint holds everything that the next step depends on: weights, state of the optimizer, the
step, the state of dropout's random numbers. The input pipeline is a function of the step, so it
needs no state. A process that is killed at any moment leaves whole checkpoints only
(`checkpoint_files`).
"""

import os
import sys
from collections.abc import Mapping
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf.data import record_order
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.runs import distribution
from deeplab_tf.weights import checkpoint_values
from deeplab_tf.weights.checkpoint_values import CheckpointValues
from deeplab_tf.weights.checkpoint_values import few
from deeplab_tf.weights.checkpoint_values import first_line

_KEPT = {"last": 2, "best": 1}


class TrainingCheckpoints:
    """The last and the best checkpoints of a run.

    With several workers, all of them have to make the same calls; the chief alone writes.

    Args:
        run_dir: Folder of the run, which all workers share.
        model: The model in training.
        optimizer: Built optimizer of `deeplab_tf.training.optimizers`; its `iterations` are the
            training step.
        average: Moving average of `averaged_variables(model)`, if there is one. `restore_weights`
            prefers the averages to the weights.
        loss_scale: The loss scale, if there is one.

    Attributes:
        best_miou: The highest mIoU of a validation so far.
        is_of_other_order: Whether the restored checkpoint was written by a version of this package
            that read the records in another order.
    """

    def __init__(
        self,
        run_dir: str,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        average=None,
        loss_scale=None,
    ):
        self.best_miou = tf.Variable(-1.0, trainable=False)
        weights = _weights(model)
        state = weights | _optimizer_state(optimizer, model) | _dropout_seeds(model)
        state[checkpoint_values.BEST_MIOU] = self.best_miou
        self._record_order = tf.Variable(record_order.VERSION, trainable=False)
        state[checkpoint_values.RECORD_ORDER] = self._record_order
        if average:
            for name, variable in zip(weights, average.averages, strict=True):
                state[f"{name}/{checkpoint_values.AVERAGE}"] = variable
        if loss_scale:
            for name, variable in loss_scale.state.items():
                state[f"{checkpoint_values.LOSS_SCALE}/{name}"] = variable
        # The best are validated with the averages, if any, in place of the weights.
        self._variables = {"last": state, "best": weights}
        self._step = optimizer.iterations
        self._run_dir = run_dir
        self._damages: dict[str, str] = {}  # by prefix, of checkpoints newer than the restored one
        self.is_of_other_order = False

    def resume(self, changed_flags: Sequence[str] = ()) -> bool:
        """Restores the last checkpoint that is whole; returns whether there was one.

        No file is changed.

        Args:
            changed_flags: How the flags differ from those that the run was started with, for the
                message where they do not fit the checkpoint.

        Raises:
            UserError: None is whole, it belongs to another training, it holds values that are NaN
                or infinite, or the workers do not find the same.
        """
        folder = checkpoint_files.folder_of(self._run_dir, "last")
        self._damages = {}
        whole = None
        for prefix in checkpoint_files.find(folder):
            problem = _damage(prefix)
            if not problem:
                whole = prefix
                break
            self._damages[prefix] = problem
        if self._damages and not whole:
            listed = "; ".join(f"{prefix}: {problem}" for prefix, problem in self._damages.items())
            raise UserError(
                f"No checkpoint in {folder} is whole ({listed}). Give another --run_dir, or delete "
                "that folder to start from the beginning."
            )
        if whole:
            self._restore(whole, changed_flags)
        self._check_that_workers_agree()
        return bool(whole)

    def clean_up(self) -> None:
        """Removes what killed saves have left, and moves damaged checkpoints aside.

        What `resume` found to be damaged goes into the folder `damaged` beside it, and is
        reported.
        """
        if not distribution.is_chief():
            return
        for prefix, problem in self._damages.items():
            aside = checkpoint_files.set_aside(prefix)
            print(
                f"warning: the checkpoint {prefix} is damaged ({problem}); it is kept as {aside}, "
                f"and the run resumes from step {int(self._step.numpy())}",
                file=sys.stderr,
                flush=True,
            )
        for kind in checkpoint_files.FOLDERS:
            checkpoint_files.clean(checkpoint_files.folder_of(self._run_dir, kind))

    def save(self) -> None:
        """Saves the state to resume from.

        Raises:
            UserError: It cannot be written; the checkpoints before it are kept.
        """
        self._save("last")

    def save_if_best(self, miou: float) -> bool:
        """Saves the weights if no validation was better before; returns whether it did.

        Raises:
            UserError: They cannot be written; the best ones before are kept.
        """
        # In float32, as the best one is kept: otherwise rounding decides between equals.
        if not np.float32(miou) > self.best_miou.numpy():
            return False
        self.best_miou.assign(miou)
        self._save("best")
        return True

    def _restore(self, prefix: str, changed_flags: Sequence[str]) -> None:
        values, variables = CheckpointValues(prefix), dict(self._variables["last"])
        if checkpoint_values.RECORD_ORDER not in values.shapes:  # of an earlier version
            del variables[checkpoint_values.RECORD_ORDER]
            self.is_of_other_order = True
        differences = checkpoint_values.misfits(values.shapes, variables) | {
            name: "in the checkpoint, not in this training"
            for name in values.shapes
            if name not in variables
        }
        if differences:
            named = few(f"{name}: {how}" for name, how in differences.items())
            changes = f" Changed flags: {'; '.join(changed_flags)}." if changed_flags else ""
            raise UserError(
                f"{prefix} is whole, but belongs to another training than the flags describe "
                f"({named}).{changes} Give the flags that the run was started with, or another "
                "--run_dir."
            )
        checkpoint_values.restore(values, variables)
        self.is_of_other_order |= bool(self._record_order != record_order.VERSION)
        self._record_order.assign(record_order.VERSION)
        _check_finite(variables, prefix)

    def _check_that_workers_agree(self) -> None:
        steps = distribution.of_all_workers(int(self._step.numpy()))
        if len(set(steps)) > 1:
            raise UserError(
                f"The workers found checkpoints of different steps ({', '.join(map(str, steps))}) "
                f"in --run_dir={self._run_dir}: it must be a folder that all of them share."
            )

    def _save(self, kind: str) -> None:
        if distribution.is_chief():
            _publish(self._variables[kind], self._run_dir, kind, int(self._step.numpy()))
        distribution.of_all_workers(0)  # none continues, or ends, before the chief has published


def averaged_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables that a moving average covers: weights and moving statistics."""
    return list(model.weights)


def find(run_dir: str, checkpoint: str) -> str:
    """Returns the prefix of a run's "best" or "last" checkpoint.

    Raises:
        UserError: There is none, or the name is neither.
    """
    if checkpoint not in checkpoint_files.FOLDERS:
        raise UserError(
            f"checkpoint is {checkpoint!r}; it must be one of "
            f"{', '.join(checkpoint_files.FOLDERS)}."
        )
    for kind in dict.fromkeys((checkpoint, "last")):
        found = checkpoint_files.find(checkpoint_files.folder_of(run_dir, kind))
        if found:
            return found[0]
    raise UserError(f"{run_dir} has no checkpoint yet: train it first.")


def save_weights(model: keras.Model, run_dir: str) -> None:
    """Saves a model's weights as the best of a run that was not trained here.

    Raises:
        UserError: They cannot be written.
    """
    _publish(_weights(model), run_dir, "best", step=0)


def restore_weights(model: keras.Model, prefix: str) -> None:
    """Restores a model's weights, and nothing else, from a checkpoint: the averaged ones, if any.

    Args:
        model: The model.
        prefix: Prefix of a checkpoint of a run.

    Raises:
        UserError: The checkpoint is damaged, or of another model; or a value is not finite.
    """
    values, weights = CheckpointValues(prefix), _weights(model)
    averages = {f"{name}/{checkpoint_values.AVERAGE}": weights[name] for name in weights}
    variables = averages if averages.keys() <= values.shapes.keys() else weights
    differences = checkpoint_values.misfits(values.shapes, variables)
    if differences:
        named = few(f"{name}: {how}" for name, how in differences.items())
        raise UserError(
            f"{prefix} is a checkpoint of another model than flags.txt describes: {named}."
        )
    checkpoint_values.restore(values, variables)
    check_finite(model, prefix)


def check_finite(model: keras.Model, origin: str) -> None:
    """Refuses a model whose weights are not all finite: it would give every pixel the class 0.

    Args:
        model: The model.
        origin: Where its weights come from, for the message.

    Raises:
        UserError: A weight is NaN or infinite.
    """
    _check_finite(_weights(model), origin)


def _check_finite(variables: Mapping, origin: str) -> None:
    values = ((name, tf.convert_to_tensor(value).numpy()) for name, value in variables.items())
    checkpoint_values.check_finite(values, origin)


def _weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Weights and moving statistics by official name, in the order of `averaged_variables`."""
    return {layers.official_name(variable): variable for variable in averaged_variables(model)}


def _optimizer_state(optimizer, model: keras.Model) -> dict[str, keras.Variable]:
    state = {checkpoint_values.STEP: optimizer.iterations}
    for slot, variables in optimizer.slots.items():
        for weight, variable in zip(model.trainable_variables, variables, strict=True):
            state[f"{layers.official_name(weight)}/{slot}"] = variable
    return state


def _dropout_seeds(model: keras.Model) -> dict[str, keras.Variable]:
    seeds = [variable for variable in model.non_trainable_variables if "seed" in variable.path]
    return {f"{checkpoint_values.DROPOUT_SEED}/{index}": seed for index, seed in enumerate(seeds)}


def _publish(variables: dict, run_dir: str, kind: str, step: int) -> None:
    """Writes a checkpoint, and deletes the oldest of its folder."""
    folder = checkpoint_files.folder_of(run_dir, kind)
    prefix = os.path.join(folder, f"ckpt-{step}")
    try:
        with checkpoint_files.temporary_folder(folder) as new:
            written = os.path.join(new, "ckpt")
            checkpoint_values.write(written, variables)
            checkpoint_files.publish(written, prefix)
            others = [path for path in checkpoint_files.find(folder) if path != prefix]
            for old in others[_KEPT[kind] - 1 :]:
                checkpoint_files.remove(old)
    except (OSError, tf.errors.OpError) as error:
        kept = [path for path in checkpoint_files.find(folder) if path != prefix]
        raise UserError(
            f"The checkpoint {prefix} could not be written: {first_line(error)}. "
            + (f"The last good one, {kept[0]}, is kept. " if kept else "There is none before it. ")
            + f"Make room in {run_dir}, or make it writable, and run the same command again to "
            "resume from there."
        ) from error


def _damage(prefix: str) -> str:
    """Reads a checkpoint, whose values carry checksums; returns what is wrong, or an empty text."""
    try:
        values = CheckpointValues(prefix)
        for name in values.shapes:
            values.read(name)
    except UserError as error:
        return first_line(error)
    return ""
