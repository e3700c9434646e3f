"""How a training run speaks: the terminal, TensorBoard, and `metrics.jsonl`.

    tensorboard/    curves, images, hyperparameters, profiles
    metrics.jsonl   the same scalars: a line of JSON per event, with its step and its time (Unix)

A run that goes on from a checkpoint repeats the steps since; what was written of them is cut off
first, so that every step is told once.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api

from deeplab_tf.drawing import confusion
from deeplab_tf.drawing import palettes
from deeplab_tf.errors import UserError

_EVENT_FILE = ".tfevents."  # is in the name of every file that TensorBoard reads


def next_batch(batches, previous) -> tuple[dict, tf.Tensor]:
    """Takes the next batch and tells how long it kept the training waiting; for a tf.function.

    The clock is read inside the graph and costs microseconds, so that every step can be timed
    without going back to Python. An accelerator that is handed steps ahead of time may still be
    busy while the host waits: there the figure is an upper bound.

    Args:
        batches: Iterator of a dataset, distributed or not.
        previous: Tensors, in any structure, that come out of the step before; waiting begins when
            they are there.

    Returns:
        The batch, and seconds, float32.
    """
    with tf.control_dependencies(tf.nest.flatten(previous)):
        start = tf.timestamp()
    with tf.control_dependencies([start]):
        batch = next(batches)
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
        return batch, tf.cast(tf.timestamp() - start, tf.float32)


class Stopwatch:
    """Tells speed and time left from the steps alone: no compiling, no validation.

    Args:
        steps_to_go: Steps until the end of the run.
        batch_size: Images per step.
    """

    def __init__(self, steps_to_go: int, batch_size: int):
        self._steps_to_go = steps_to_go
        self.batch_size = batch_size
        self._calls = 0
        self._steps = 0
        self._seconds = 0.0
        self._lap_steps = 0
        self._lap_seconds = 0.0

    @contextlib.contextmanager
    def time(self, steps: int):
        """Times a call that makes this many steps; the first call compiles and does not count."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._steps_to_go -= steps
        self._lap_steps += steps
        self._lap_seconds += seconds
        self._calls += 1
        if self._calls > 1:
            self._steps += steps
            self._seconds += seconds

    def lap(self) -> float:
        """Returns the seconds per step since this was last called, compiling included."""
        seconds_per_step = self._lap_seconds / self._lap_steps
        self._lap_steps, self._lap_seconds = 0, 0.0
        return seconds_per_step

    @property
    def time_left(self) -> str:
        """Time until the end of the run, as 1:23 or 2h05; `?` before it can be told."""
        if not self._steps:
            return "?"
        minutes, seconds = divmod(round(self._steps_to_go * self._seconds / self._steps), 60)
        if minutes < 60:
            return f"{minutes}:{seconds:02d}"
        return f"{minutes // 60}h{minutes % 60:02d}"


class TrainingLog:
    """Tells of a run in the terminal, and in the run dir's `tensorboard/` and `metrics.jsonl`.

    A terminal shows the steps in one line that is written over; elsewhere every event is a line.

    Args:
        run_dir: Folder of the run.
        total_steps: Steps of the whole run.
        class_names: Name per class.
        colors: RGB per class.
        hparams: Settings by name, for TensorBoard's table of hyperparameters.
        first_step: Step that the run goes on from; what was written of later ones is cut off.

    Raises:
        UserError: The run dir cannot be written.
    """

    def __init__(
        self,
        run_dir: str,
        total_steps: int,
        class_names: Sequence[str],
        colors: palettes.Colors,
        hparams: dict,
        first_step: int = 0,
    ):
        self._total_steps = total_steps
        self._class_names = class_names
        self._colors = colors
        self._folder = os.path.join(run_dir, "tensorboard")
        self._path = os.path.join(run_dir, "metrics.jsonl")
        self._progress = ProgressLine()
        self._is_profiling = False
        with _readable_errors(run_dir):
            os.makedirs(self._folder, exist_ok=True)
            _cut_lines(self._path, first_step)
            for name in os.listdir(self._folder):
                if _EVENT_FILE in name:
                    _cut_events(os.path.join(self._folder, name), first_step)
            self._lines = open(self._path, "ab", buffering=0)
            self._writer = tf.summary.create_file_writer(self._folder)
        with self._summaries(first_step):
            hparams_api.hparams({name: _hparam(value) for name, value in hparams.items()})

    def steps(
        self, step: int, values: dict[str, float], learning_rate: float, stopwatch: Stopwatch
    ) -> None:
        """Tells of the steps since the last call.

        Args:
            step: The last of them.
            values: Means over them: `loss`; `gradient_norm`; `input_seconds`, the seconds of
                `next_batch`; and all others are terms of the loss.
            learning_rate: Of the next step.
            stopwatch: Has timed them.
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
        parts = (
            f"step {step}/{self._total_steps}",
            f"loss {scalars['loss/total']:.4f}",
            f"{stopwatch.time_left} left",
            f"{scalars['images_per_second']:.1f} images/s",
            f"{scalars['input_wait_share']:.0%} waiting for input",
            f"learning rate {learning_rate:.5f}",
        )
        if not self._progress.show(parts):
            self._progress.print("  ".join(parts))

    def validating(self, done: int, total: int, seconds: float) -> None:
        """Tells a terminal how far a validation is; the `report` of `eval.evaluate`."""
        self._progress.show((f"validates: image {done}/{total}", f"{done / seconds:.1f} images/s"))

    def validation(self, step: int, result: dict, panels: list[np.ndarray], is_best: bool) -> None:
        """Tells of a validation.

        Args:
            step: When it was.
            result: The figures of `eval.evaluate`, with `confusion_matrix`, int64 [C, C], rows
                are labels.
            panels: The worst images, uint8 [H, W, 3] each; the worst first.
            is_best: Whether no validation of the run had a higher mIoU.
        """
        remark = result.get("note") or ("best so far" if is_best else "")
        self._progress.print(
            f"validation at step {step}: miou {result['miou']:.4f}  pixel_accuracy "
            f"{result['pixel_accuracy']:.4f}" + (f"  ({remark})" if remark else "")
        )
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
            tf.summary.image("confusion_matrix", matrix[np.newaxis])
            for number, panel in enumerate(panels):
                tf.summary.image(f"worst_images/{number}", panel[np.newaxis])

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        self._progress.print(text)

    def profile(self, step: int, first_step: int, last_step: int) -> None:
        """Profiles the steps between two; to be called before every call that makes steps."""
        if first_step <= step < last_step and not self._is_profiling:
            tf.profiler.experimental.start(self._folder)
            self._is_profiling = True
        elif step >= last_step:
            self._end_profile()

    def close(self) -> None:
        """Writes what is still in memory, and gives the terminal its line back."""
        self._end_profile()
        self._progress.close()
        self._lines.close()
        with _readable_errors(self._folder):
            self._writer.close()

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
                tf.summary.scalar(name, value)

    @contextlib.contextmanager
    def _summaries(self, step: int):
        """Summaries made in this context are of this step, and on the disk behind it."""
        with _readable_errors(self._folder), self._writer.as_default(step=step):
            yield
            self._writer.flush()


class Silence:
    """The log of a worker that is not the chief: takes what `TrainingLog` does and tells nobody."""

    def __getattr__(self, name):
        return lambda *_, **__: None


class ProgressLine:
    """The last line of a terminal, which is written over; there is none where no terminal is."""

    def __init__(self):
        self._is_terminal = sys.stdout.isatty()
        self._is_shown = False

    def show(self, parts: Sequence[str]) -> bool:
        """Shows as many parts as are whole in the width of the terminal; False without one."""
        if self._is_terminal:
            width = _terminal_width()
            line = parts[0][:width]
            for part in parts[1:]:
                if len(line) + 2 + len(part) > width:
                    break
                line += "  " + part
            sys.stdout.write(f"\r{line:<{width}}")
            sys.stdout.flush()
            self._is_shown = True
        return self._is_terminal

    def print(self, text: str) -> None:
        """Prints a line that stays, in the place of the progress line."""
        if self._is_shown:
            sys.stdout.write("\r" + " " * _terminal_width() + "\r")
            self._is_shown = False
        print(text, flush=True)

    def close(self) -> None:
        """Leaves the progress line as it is; what is printed next begins a new one."""
        if self._is_shown:
            print(flush=True)
            self._is_shown = False


def _terminal_width() -> int:
    return shutil.get_terminal_size().columns - 1  # in the last column some begin a new line


def _cut_lines(path: str, last_step: int) -> None:
    """Cuts lines of later steps off `metrics.jsonl`, and a last one that was not written out."""
    if not os.path.exists(path):
        return
    with open(path, "rb") as old, open(path + ".new", "wb") as new:
        for line in old:
            if line.endswith(b"\n") and json.loads(line)["step"] <= last_step:
                new.write(line)
    os.replace(path + ".new", path)


def _cut_events(path: str, last_step: int) -> None:
    """Cuts events of later steps off a file of TensorBoard, and what was not written out."""
    new_path = os.path.join(os.path.dirname(path), "cut.new")  # no name that TensorBoard reads
    with tf.io.TFRecordWriter(new_path) as writer:
        with contextlib.suppress(tf.errors.DataLossError):
            for event in tf.data.TFRecordDataset(path).as_numpy_iterator():
                if tf.compat.v1.Event.FromString(event).step <= last_step:
                    writer.write(event)
    os.replace(new_path, path)


def _hparam(value) -> bool | float | int | str:
    return value if isinstance(value, bool | float | int | str) else str(value)


@contextlib.contextmanager
def _readable_errors(path: str):
    """Turns what a disk complains of into a message to the user."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0].rpartition("}} ")[2]  # behind TensorFlow's own names
        raise UserError(
            f"{path} cannot be written: {reason}. Make room, or give another --run_dir; the same "
            "command goes on from the last checkpoint."
        ) from error
