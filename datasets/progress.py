"""Tells how far a build is."""

import datetime
import sys
import time
from collections.abc import Iterable
from collections.abc import Iterator

_SECONDS_PER_UPDATE = 0.5
_SECONDS_PER_LINE = 60.0  # where the output is not a terminal


class Progress:
    """Prints a line that is kept up to date on a terminal, or one a minute in a log file.

    Args:
        total: Images of the dataset.
        kept: Images in shards of an earlier build.
    """

    def __init__(self, total: int, kept: int):
        self._total = total
        self._kept = kept
        self._done = kept
        self._start = time.monotonic()
        self._is_terminal = sys.stdout.isatty()
        self._period = _SECONDS_PER_UPDATE if self._is_terminal else _SECONDS_PER_LINE
        self._next_line = self._start + self._period

    def count(self, examples: Iterable) -> Iterator:
        """Passes examples on and counts them."""
        for example in examples:
            yield example
            self._done += 1
            if time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + self._period
                self._print()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        if self._is_terminal:  # what is printed next, be it an error, gets a line of its own
            self._print()
            print()

    def _print(self) -> None:
        rate = (self._done - self._kept) / max(time.monotonic() - self._start, 1e-9)
        left = datetime.timedelta(seconds=round((self._total - self._done) / max(rate, 1e-9)))
        line = f"{self._done}/{self._total} images  {rate:.0f}/s  {left} left"
        if self._is_terminal:
            print(f"\r{line:<60}", end="", flush=True)
        else:
            print(line, flush=True)
