"""Stopping a training on request: on SIGTERM, and on the first Ctrl-C."""

import os
import signal
import threading

from deeplab_tf.runs import distribution

# Windows has no SIGTERM from outside, but Ctrl-Break.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)

_NOTICE = b"\nstops after the current steps and saves; press Ctrl-C to stop at once\n"


class StopSignal:
    """Remembers, within its context, that the process was asked to stop.

    Python handles a signal between two calls of TensorFlow: a stop waits for the current steps.
    Threads other than the main one get no signals, and are never asked to stop.
    """

    def __init__(self):
        self._is_set = False
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def is_requested(self) -> bool:
        """Whether any worker was asked to stop; all workers have to ask at the same step."""
        return any(distribution.of_all_workers(self._is_set))

    def _set(self, *_):
        self._is_set = True
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
        os.write(2, _NOTICE)  # print() may be interrupted in the middle of itself
