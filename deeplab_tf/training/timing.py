"""How long steps take, and how long they wait for their batches."""

import contextlib
import time

import tensorflow as tf


def next_batch(batches, previous) -> tuple[dict, tf.Tensor]:
    """Takes the next batch, and measures how long the training waited for it; in a `tf.function`.

    The clock is read inside the graph and costs microseconds, so that every step can be timed
    without going back to Python. An accelerator that is handed steps ahead of time may still be
    busy while the host waits: there the figure is an upper bound.

    Args:
        batches: Iterator of a dataset, distributed or not.
        previous: Tensors, in any structure, that the step before returns; the waiting begins when
            they are computed.

    Returns:
        The batch, and the seconds, float32 [].
    """
    with tf.control_dependencies(tf.nest.flatten(previous)):
        start = tf.timestamp()
    with tf.control_dependencies([start]):
        batch = next(batches)
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
        end = tf.timestamp()
    # Where one thread starts all operations, it could run the whole step before it reads the clock.
    with tf.control_dependencies([end]):
        batch = tf.nest.map_structure(_as_it_is, batch, expand_composites=True)
    return batch, tf.cast(end - start, tf.float32)


def _as_it_is(tensor: tf.Tensor) -> tf.Tensor:
    """A tensor that is there when the control dependencies are, on the same device."""
    with tf.device(tensor.device):
        return tf.identity(tensor)


class Stopwatch:
    """Measures speed and time left from the steps alone, without compiling and validation.

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
        """Times a call that runs this many steps; the first call compiles and does not count."""
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

    def steps_within(self, seconds: float) -> int:
        """Returns how many steps take about this long, at least 1; 1 until a step was timed."""
        if not self._steps:
            return 1
        return max(1, int(seconds * self._steps / self._seconds))

    def lap(self) -> float:
        """Returns the seconds per step since this was last called, with compiling."""
        seconds_per_step = self._lap_seconds / self._lap_steps
        self._lap_steps, self._lap_seconds = 0, 0.0
        return seconds_per_step

    @property
    def time_left(self) -> str:
        """Time until the end of the run, such as 1:23 or 2h05; `?` until it can be estimated."""
        if not self._steps_to_go:
            return "0:00"
        if not self._steps:
            return "?"
        minutes, seconds = divmod(round(self._steps_to_go * self._seconds / self._steps), 60)
        if minutes < 60:
            return f"{minutes}:{seconds:02d}"
        return f"{minutes // 60}h{minutes % 60:02d}"
