"""Work that is spread over threads."""

import collections
import concurrent.futures
import contextlib
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields the results in the order of the items; decoders release Python's lock."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(function, items)


def one_ahead(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[concurrent.futures.Future[Result]]:
    """Yields the results in the order of the items, and computes the next one meanwhile.

    Yields:
        Futures, so that the error of one item does not end the others.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        futures: collections.deque = collections.deque()
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > 1:
                yield futures.popleft()
        yield from futures


@contextlib.contextmanager
def one_behind() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Runs functions beside the block, in the order in which they are handed over.

    Yields:
        A function that hands one over. It waits until the function before has ended, so that the
        work cannot pile up, and raises that one's error. At its end, the block waits for the last.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        last: list[concurrent.futures.Future[None]] = []

        def hand_over(function: Callable[[], None]) -> None:
            while last:
                last.pop().result()
            last.append(pool.submit(function))

        yield hand_over
        while last:
            last.pop().result()
