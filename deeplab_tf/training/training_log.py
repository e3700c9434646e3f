"""The reports of a training: in the terminal, in TensorBoard, and in `metrics.jsonl`.

    tensorboard/    curves, images, hyperparameters, profiles
    metrics.jsonl   the same scalars: one line of JSON per event, with its step and its Unix time

A run that resumes from a checkpoint repeats the steps since. Their old entries are removed first,
so that every step occurs once. In a remote run dir, they are uploaded with every checkpoint and
every half minute.
"""

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api

from deeplab_tf import files
from deeplab_tf.drawing import confusion
from deeplab_tf.drawing import palettes
from deeplab_tf.errors import UserError
from deeplab_tf.runs import run_files
from deeplab_tf.training import learning_signs
from deeplab_tf.training import log_files
from deeplab_tf.training.progress import Progress
from deeplab_tf.training.timing import Stopwatch

_SECONDS_BETWEEN_UPLOADS = 30.0  # to a remote run dir: object stores write whole files only


class TrainingLog:
    """Reports a run in the terminal, and in the `tensorboard` and `metrics.jsonl` of its folder.

    A terminal shows the steps as a progress bar; elsewhere every event is a line.

    Args:
        run_dir: Folder of the run.
        total_steps: Steps of the whole run.
        class_names: Name of each class.
        colors: RGB of each class.
        hparams: Settings by name, for TensorBoard's table of hyperparameters.
        first_step: Steps that were done before; what was written of later ones is removed.

    Raises:
        UserError: The run dir cannot be written.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        total_steps: int,
        class_names: Sequence[str],
        colors: palettes.Colors,
        hparams: dict,
        first_step: int = 0,
    ):
        self._total_steps = total_steps
        self._class_names = class_names
        self._colors = colors
        self._folder = os.path.join(run_dir, run_files.TENSORBOARD)
        self._path = os.path.join(run_dir, run_files.TRAINING_LOG)
        self._progress = Progress(total_steps, first_step)
        self._is_profiling = False
        with _readable_errors(run_dir):
            names = (run_files.TENSORBOARD, run_files.TRAINING_LOG)
            self._synced = files.SyncedFolder(run_dir, names)
            lines, self._events = (str(self._synced.path / name) for name in reversed(names))
            os.makedirs(self._events, exist_ok=True)
            log_files.cut_lines(lines, first_step)
            log_files.cut_events(self._events, first_step)
            self._lines = open(lines, "ab", buffering=0)
            self._writer = tf.summary.create_file_writer(self._events)
        with self._summaries(first_step):
            hparams_api.hparams({name: _hparam(value) for name, value in hparams.items()})

    def steps(
        self, step: int, values: dict[str, float], learning_rate: float, stopwatch: Stopwatch
    ) -> None:
        """Reports the steps since the last call.

        Args:
            step: The last of them.
            values: Means over them: `loss`; `gradient_norm`; `input_seconds`, the seconds of
                `timing.next_batch`; and all others are terms of the loss.
            learning_rate: Learning rate of the next step.
            stopwatch: The stopwatch that has timed them.
        """
        seconds_per_step = stopwatch.lap()
        terms = dict(values)
        scalars = {
            "loss/total": terms.pop("loss"),
            "gradient_norm": terms.pop("gradient_norm"),
            "learning_rate": learning_rate,
            "images_per_second": stopwatch.batch_size / seconds_per_step,
            "input_wait_share": min(1.0, terms.pop("input_seconds") / seconds_per_step),
        } | {f"loss/{name}": value for name, value in terms.items()}
        self._write(step, scalars)
        text = "  ".join(
            (
                f"loss {scalars['loss/total']:.4f}",
                f"{stopwatch.time_left} left",
                f"{scalars['images_per_second']:.1f} images/s",
                f"{scalars['input_wait_share']:.0%} waiting for input",
                f"learning rate {learning_rate:.5f}",
            )
        )
        if not self._progress.show_steps(step, text):
            self._progress.print(f"step {step}/{self._total_steps}  {text}")

    def validating(self, done: int, total: int, images_per_second: float) -> None:
        """Shows in a terminal how far a validation is; the `progress` of `evaluate`."""
        self._progress.show_images(done, total, f"{images_per_second:.1f} images/s")

    def validation(
        self,
        step: int,
        result: dict,
        panels: list[np.ndarray],
        *,
        is_best: bool,
        signs: Sequence[str] = (),
    ) -> None:
        """Reports a validation.

        Args:
            step: When it was.
            result: The figures of `evaluate`, with `confusion_matrix`, int64 [C, C], rows are
                labels.
            panels: The worst images, uint8 [H, W, 3] each; the worst first.
            is_best: Whether no validation of the run had a higher mIoU.
            signs: Sentences about what the model has not learned; from the middle of the run on
                they are shown.
        """
        is_constant = learning_signs.only_prediction(result["confusion_matrix"], self._class_names)
        remark = result.get("note") or ("best so far" if is_best and not is_constant else "")
        self._progress.print(
            f"validation at step {step}: miou {result['miou']:.4f}  pixel_accuracy "
            f"{result['pixel_accuracy']:.4f}" + (f"  ({remark})" if remark else "")
        )
        if is_constant or 2 * step >= self._total_steps:
            for sentence in signs:
                self._progress.print(f"  {sentence}")
        scalars = {
            f"validation/{name}": value
            for name, value in result.items()
            if isinstance(value, float)
        }
        for name, iou in result["iou_per_class"].items():
            if iou is not None:
                scalars[f"validation_iou/{name}"] = iou
        self._write(step, scalars)
        matrix = confusion.confusion_matrix_image(
            result["confusion_matrix"], self._class_names, self._colors
        )
        with self._summaries(step):
            tf.summary.image("validation/confusion_matrix", matrix[np.newaxis])
            for number, panel in enumerate(panels):
                tf.summary.image(f"worst_images/{number}", panel[np.newaxis])

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        self._progress.print(text)

    def profile(self, step: int, first_step: int, last_step: int) -> None:
        """Profiles the steps between two; to be called before every call that runs steps."""
        if first_step <= step < last_step and not self._is_profiling:
            tf.profiler.experimental.start(self._events)
            self._is_profiling = True
        elif step >= last_step:
            self._end_profile()

    def publish(self) -> None:
        """Uploads what was reported, if the run dir is remote; to be called before a checkpoint."""
        with _readable_errors(self._folder):
            self._synced.upload()

    def close(self) -> None:
        """Flushes all files, and ends the progress bar."""
        self._end_profile()
        self._progress.close()
        self._lines.close()
        with _readable_errors(self._folder):
            self._writer.close()
            self._synced.close()

    def _end_profile(self) -> None:
        if self._is_profiling:
            self._is_profiling = False
            tf.profiler.experimental.stop()
            self._progress.print(f"wrote a profile into {self._folder}/plugins/profile")

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes scalars to both places, and on to the disk."""
        record = {"step": step, "time": round(time.time(), 3)} | {
            # JSON has no word for infinity, which a norm may be while a loss scale is sought.
            name: float(value) if math.isfinite(value) else None
            for name, value in scalars.items()
        }
        line = json.dumps(record).encode() + b"\n"
        with _readable_errors(self._path):
            if self._lines.write(line) < len(line):  # unbuffered: past a kill, lines are whole
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with self._summaries(step):
            for name, value in scalars.items():
                tf.summary.scalar(_tensorboard_tag(name), value)

    @contextlib.contextmanager
    def _summaries(self, step: int):
        """Summaries made in this context belong to this step, and are on the disk after it."""
        with _readable_errors(self._folder), self._writer.as_default(step=step):
            yield
            self._writer.flush()
            self._synced.upload(at_most_every=_SECONDS_BETWEEN_UPLOADS)


class Silence:
    """The log of a worker that is not the chief: it takes every call and reports nothing."""

    def __getattr__(self, name):
        return lambda *_, **__: None


def _tensorboard_tag(name: str) -> str:
    """Names a scalar so that loss and mIoU come first: TensorBoard sorts its charts by name."""
    if name == "validation/miou":
        return "miou/validation"
    return name if "/" in name else f"training/{name}"


def _hparam(value) -> bool | float | int | str:
    return value if isinstance(value, bool | float | int | str) else str(value)


@contextlib.contextmanager
def _readable_errors(path: str):
    """Turns errors of the disk into a message to the user."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0].rpartition("}} ")[2]  # without TensorFlow's own names
        raise UserError(
            f"{path} cannot be written: {reason}. Make room, or give another --run_dir; the same "
            "command resumes from the last checkpoint."
        ) from error
