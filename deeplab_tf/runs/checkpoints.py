"""Saving and restoring the state of a training run.

A checkpoint holds all that the next step depends on: weights, optimizer slots and step, the state
of dropout's random numbers. The input pipeline is a function of the step, so it needs no state.
A process that is killed at any moment leaves whole checkpoints only (`checkpoint_files`).
"""

import fcntl
import os
import re
import sys

import keras
import tensorflow as tf

from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.runs import distribution

_KEPT = {"last": 2, "best": 1}

# What TensorFlow raises on files that are cut off, missing, or of another model.
_UNREADABLE = (AssertionError, LookupError, RuntimeError, ValueError, tf.errors.OpError)


class TrainingCheckpoints:
    """The last and the best checkpoints of a run.

    With several workers all have to do the same; only the chief's files stay.

    Args:
        run_dir: Folder of the run, which all workers share.
        model: The model; its weights are both saved and restored.
        optimizer: Built optimizer; its `iterations` are the training step.
        others: What else the next step depends on. `average` is an `optimizers.MovingAverage` of
            `averaged_variables`, which `restore_weights` then prefers.

    Raises:
        UserError: Another process trains in the run dir, or it cannot be written.
    """

    def __init__(
        self,
        run_dir: str,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        **others: tf.Module,
    ):
        self.best_miou = tf.Variable(-1.0, trainable=False, name="best_miou")
        state = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            best_miou=self.best_miou,
            # Keras leaves the state of dropout's random numbers out of tf.train.Checkpoint.
            seeds=[v.value for v in model.non_trainable_variables if "seed" in v.path],
            **others,
        )
        # The best are validated with the averages, if any, in the place of the weights.
        self._checkpoints = {"last": state, "best": tf.train.Checkpoint(model=model)}
        self._step = optimizer.iterations
        self._run_dir = run_dir
        if distribution.is_chief():
            _lock(run_dir)

    def resume(self) -> bool:
        """Restores the last checkpoint that is whole; returns whether there was one.

        Newer ones that are damaged are told of and moved into the folder `damaged` beside it.

        Raises:
            UserError: None is whole, it is of another training, or the workers do not find the
                same.
        """
        folder = checkpoint_files.folder_of(self._run_dir, "last")
        found = checkpoint_files.find(folder)
        damages = {}
        for prefix in found:
            problem = _damage(prefix)
            if not problem:
                break
            damages[prefix] = problem
        if found and len(damages) == len(found):
            listed = "; ".join(f"{prefix}: {problem}" for prefix, problem in damages.items())
            raise UserError(
                f"No checkpoint in {folder} is whole ({listed}). Give another --run_dir, or delete "
                "that folder to start from the beginning."
            )
        whole = found[len(damages)] if found else None
        if whole:
            self._restore(whole)
        self._check_that_workers_agree()
        if distribution.is_chief():
            for prefix, problem in damages.items():
                aside = checkpoint_files.set_aside(prefix)
                print(
                    f"warning: the checkpoint {prefix} is damaged ({problem}); it is kept as "
                    f"{aside}, and the run goes on from {whole}",
                    file=sys.stderr,
                    flush=True,
                )
            for kind in checkpoint_files.FOLDERS:
                checkpoint_files.clean(checkpoint_files.folder_of(self._run_dir, kind))
        return bool(whole)

    def save(self) -> None:
        """Saves the state to go on from.

        Raises:
            UserError: It cannot be written; the checkpoints before it are kept.
        """
        self._save("last")

    def save_if_best(self, miou: float) -> bool:
        """Saves the weights if no validation was better before; returns whether it did.

        Raises:
            UserError: They cannot be written; the best ones before are kept.
        """
        is_better = miou > float(self.best_miou)
        if not distribution.of_all_workers(is_better)[0]:  # they may differ in the last digit
            return False
        self.best_miou.assign(miou)
        self._save("best")
        return True

    def _restore(self, prefix: str) -> None:
        try:
            self._checkpoints["last"].read(prefix).assert_consumed()
        except _UNREADABLE as error:
            raise UserError(
                f"{prefix} is whole, but of another training than the flags describe (model, "
                f"optimizer, moving average): {_first_line(error)}. Give the flags that the run "
                "was started with, or another --run_dir."
            ) from error

    def _check_that_workers_agree(self) -> None:
        steps = distribution.of_all_workers(self._step.numpy())
        if len(set(steps)) > 1:
            raise UserError(
                f"The workers found checkpoints of different steps ({', '.join(map(str, steps))}) "
                f"in --run_dir={self._run_dir}: it must be a folder that all of them share."
            )

    def _save(self, kind: str) -> None:
        folder = checkpoint_files.folder_of(self._run_dir, kind)
        prefix = os.path.join(folder, f"ckpt-{int(self._step.numpy())}")
        try:
            with checkpoint_files.temporary_folder(folder, distribution.worker_index()) as new:
                # All workers take part: what each replica has of its own is brought together.
                written = self._checkpoints[kind].write(os.path.join(new, "ckpt"))
                if distribution.is_chief():
                    checkpoint_files.publish(written, prefix)
                    for old in checkpoint_files.find(folder)[_KEPT[kind] :]:
                        checkpoint_files.remove(old)
        except (OSError, tf.errors.OpError) as error:
            raise self._not_written(prefix, error) from error
        distribution.of_all_workers(0)  # none goes on, or ends, before the chief has published

    def _not_written(self, prefix: str, error: Exception) -> UserError:
        folder = os.path.dirname(prefix)
        kept = [path for path in checkpoint_files.find(folder) if path != prefix]
        return UserError(
            f"The checkpoint {prefix} could not be written: {_first_line(error)}. "
            + (f"The last good one, {kept[0]}, is kept. " if kept else "There is none before it. ")
            + f"Make room in {self._run_dir}, or make it writable, and start the same command "
            "again to go on from there."
        )


def averaged_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables that a moving average covers: weights and moving statistics."""
    return list(model.weights)


def find(run_dir: str, checkpoint: str) -> str:
    """Returns the path of a run's "best" or "last" checkpoint.

    Raises:
        UserError: There is none, or the name is neither.
    """
    if checkpoint not in checkpoint_files.FOLDERS:
        raise UserError(
            f"--checkpoint={checkpoint!r} is neither of {', '.join(checkpoint_files.FOLDERS)}."
        )
    for kind in dict.fromkeys((checkpoint, "last")):
        found = checkpoint_files.find(checkpoint_files.folder_of(run_dir, kind))
        if found:
            return found[0]
    raise UserError(f"{run_dir} has no checkpoint yet: train it first.")


def save_weights(model: keras.Model, run_dir: str) -> str:
    """Saves a model's weights as the best of a run that was not trained here."""
    folder = checkpoint_files.folder_of(run_dir, "best")
    return tf.train.Checkpoint(model=model).save(os.path.join(folder, "ckpt"))


def restore_weights(model: keras.Model, path: str) -> None:
    """Restores a model's weights, and nothing else, from a checkpoint: the averaged ones, if any.

    Raises:
        UserError: The checkpoint is of another model, or damaged.
    """
    variables = [variable.value for variable in averaged_variables(model)]
    averages = tf.train.Checkpoint(average=tf.train.Checkpoint(averages=variables))
    try:
        has_averages = any(name.startswith("average/") for name, _ in tf.train.list_variables(path))
        for checkpoint in (tf.train.Checkpoint(model=model), averages)[: 1 + has_averages]:
            status = checkpoint.read(path)
            status.assert_existing_objects_matched().expect_partial()
    except _UNREADABLE as error:
        raise UserError(
            f"{path} cannot be restored; it is damaged, or of another model than flags.txt "
            f"describes: {_first_line(error)}"
        ) from error


def _damage(prefix: str) -> str:
    """Reads a checkpoint, whose values carry checksums; returns what is wrong, or nothing."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except _UNREADABLE as error:
        return _first_line(error)
    return ""


def _lock(run_dir: str) -> None:
    """Holds a run dir until the process ends, in whatever way."""
    path = os.path.join(run_dir, "lock")
    try:
        os.makedirs(run_dir, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"--run_dir={run_dir} cannot be written: {error}.") from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise UserError(
            f"Another process trains in --run_dir={run_dir}: wait for its end, or give another."
        ) from error
    except OSError:
        os.close(descriptor)  # a file system without locks


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"\{\{.*?\}\} | \[Op:\w+\]", "", line)  # what only TensorFlow understands
