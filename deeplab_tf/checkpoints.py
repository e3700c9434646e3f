"""Saving and restoring the state of a training run.

A checkpoint holds all that the next step depends on: weights, optimizer slots and step, the state
of dropout's random numbers. The input pipeline is a function of the step, so it needs no state.
"""

import os

import keras
import tensorflow as tf

from deeplab_tf.errors import UserError

FOLDERS = {"last": "checkpoints", "best": "best"}

# What TensorFlow raises on files that are cut off, missing, or of another model.
_UNREADABLE = (AssertionError, LookupError, ValueError, tf.errors.OpError)


class TrainingCheckpoints:
    """The last and the best checkpoints of a run.

    Args:
        run_dir: Folder of the run.
        model: The model; its weights are both saved and restored.
        optimizer: Built optimizer; its `iterations` are the training step.
    """

    def __init__(self, run_dir: str, model: keras.Model, optimizer: keras.optimizers.Optimizer):
        self.best_miou = tf.Variable(-1.0, trainable=False, name="best_miou")
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            best_miou=self.best_miou,
            # Keras leaves the state of dropout's random numbers out of tf.train.Checkpoint.
            seeds=[v.value for v in model.non_trainable_variables if "seed" in v.path],
        )
        self._step = optimizer.iterations
        self._last, self._best = (
            tf.train.CheckpointManager(
                checkpoint, os.path.join(run_dir, FOLDERS[kind]), max_to_keep=keep
            )
            for kind, keep in (("last", 2), ("best", 1))
        )

    def resume(self) -> bool:
        """Restores the last checkpoint; returns whether there was one."""
        if not self._last.latest_checkpoint:
            return False
        try:
            self._last.checkpoint.restore(self._last.latest_checkpoint).assert_consumed()
        except _UNREADABLE as error:
            raise _unreadable(self._last.latest_checkpoint, error) from error
        return True

    def save(self) -> None:
        """Saves the state to go on from."""
        self._save(self._last)

    def save_if_best(self, miou: float) -> bool:
        """Saves the weights if no validation was better before; returns whether it did."""
        if miou <= float(self.best_miou):
            return False
        self.best_miou.assign(miou)
        self._save(self._best)
        return True

    def _save(self, manager: tf.train.CheckpointManager) -> None:
        try:
            manager.save(checkpoint_number=int(self._step.numpy()))
        except tf.errors.OpError as error:
            raise UserError(
                f"The checkpoint of step {int(self._step.numpy())} could not be written to "
                f"{manager.directory}: {error.message}. The checkpoints before it are intact: make "
                "room and start the same command again to go on from there."
            ) from error


def find(run_dir: str, checkpoint: str) -> str:
    """Returns the path of a run's "best" or "last" checkpoint.

    Raises:
        UserError: There is none, or the name is neither.
    """
    if checkpoint not in FOLDERS:
        raise UserError(f"--checkpoint={checkpoint!r} is neither of {', '.join(FOLDERS)}.")
    path = tf.train.latest_checkpoint(os.path.join(run_dir, FOLDERS[checkpoint]))
    if not path and checkpoint == "best":
        path = tf.train.latest_checkpoint(os.path.join(run_dir, FOLDERS["last"]))
    if not path:
        raise UserError(f"{run_dir} has no checkpoint yet: train it first.")
    return path


def save_weights(model: keras.Model, run_dir: str) -> str:
    """Saves a model's weights as the best of a run that was not trained here."""
    return tf.train.Checkpoint(model=model).save(os.path.join(run_dir, FOLDERS["best"], "ckpt"))


def restore_weights(model: keras.Model, path: str) -> None:
    """Restores a model's weights, and nothing else, from a training checkpoint.

    Raises:
        UserError: The checkpoint is of another model, or damaged.
    """
    try:
        status = tf.train.Checkpoint(model=model).restore(path)
        status.assert_existing_objects_matched().expect_partial()
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be restored; it is damaged, or of another model than flags.txt describes: "
        f"{str(error).splitlines()[0]}"
    )
