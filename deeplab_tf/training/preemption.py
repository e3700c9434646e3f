"""Ending a training that is told to stop: on SIGTERM, and on the first Ctrl-C."""

import os
import signal
import threading

from deeplab_tf.runs import distribution

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command, later, goes on

_NOTICE = b"\nstops behind the steps under way and saves; Ctrl-C stops at once\n"


class StopSignal:
    """Remembers, as long as its context lasts, that the process was asked to stop.

    Python tells of a signal between two calls of TensorFlow: a stop waits for the steps under way.
    Outside of the main thread there are no signals, and so nothing is ever requested.
    """

    def __init__(self):
        self._is_set = False
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def is_requested(self) -> bool:
        """Whether any worker was asked to stop; with several, all have to look at the same step."""
        return any(distribution.of_all_workers(self._is_set))

    def _set(self, *_):
        self._is_set = True
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
        os.write(2, _NOTICE)  # print() may be interrupted in the middle of itself
