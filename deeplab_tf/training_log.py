"""How a training run speaks: lines in the terminal, curves and pictures in TensorBoard."""

import contextlib
import os
import time

import numpy as np
import tensorflow as tf


class Stopwatch:
    """Tells speed and time left from the steps alone: no compiling, no validation.

    Args:
        steps_to_go: Steps until the end of the run.
        batch_size: Pictures per step.
    """

    def __init__(self, steps_to_go: int, batch_size: int):
        self._steps_to_go = steps_to_go
        self._batch_size = batch_size
        self._calls = 0
        self._steps = 0
        self._seconds = 0.0
        self.pictures_per_second = 0.0

    @contextlib.contextmanager
    def time(self, steps: int):
        """Times a call that makes this many steps; the first call compiles and does not count."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.pictures_per_second = steps * self._batch_size / seconds
        self._steps_to_go -= steps
        self._calls += 1
        if self._calls > 1:
            self._steps += steps
            self._seconds += seconds

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
    """Prints, and writes to the run dir's `tensorboard/`.

    Args:
        run_dir: Folder of the run.
        total_steps: Steps of the whole run.
    """

    def __init__(self, run_dir: str, total_steps: int):
        self._writer = tf.summary.create_file_writer(os.path.join(run_dir, "tensorboard"))
        self._total_steps = total_steps

    def steps(self, step: int, loss: float, learning_rate: float, stopwatch: Stopwatch) -> None:
        """Tells of the steps since the last call."""
        print(
            f"step {step}/{self._total_steps}  loss {loss:.4f}  "
            f"learning rate {learning_rate:.5f}  "
            f"{stopwatch.pictures_per_second:.1f} pictures/s  {stopwatch.time_left} left",
            flush=True,
        )
        with self._writer.as_default(step=step):
            tf.summary.scalar("loss/cross_entropy", loss)
            tf.summary.scalar("learning_rate", learning_rate)
            tf.summary.scalar("pictures_per_second", stopwatch.pictures_per_second)

    def validation(
        self, step: int, result: dict, panels: list[np.ndarray], is_best: bool
    ) -> None:
        """Tells of a validation; `panels` are uint8 [H, W, 3]."""
        print(
            f"validation at step {step}: miou {result['miou']:.4f}  pixel_accuracy "
            f"{result['pixel_accuracy']:.4f}{'  (best so far)' if is_best else ''}",
            flush=True,
        )
        with self._writer.as_default(step=step):
            tf.summary.scalar("validation/miou", result["miou"])
            tf.summary.scalar("validation/pixel_accuracy", result["pixel_accuracy"])
            for name, iou in result["iou_per_class"].items():
                if iou is not None:
                    tf.summary.scalar(f"validation_iou/{name}", iou)
            for number, panel in enumerate(panels):
                tf.summary.image(f"image_label_prediction/{number}", panel[np.newaxis])
        self._writer.flush()

    def close(self) -> None:
        """Writes what is still in memory."""
        self._writer.close()
