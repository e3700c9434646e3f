"""Finds out what an annotation file holds without reading all of it."""

import mmap
import pathlib

_EDGE = 2**16  # bytes at the beginning and the end of a file
_MAX_SEARCHED = 2**30


def holds_all(path: pathlib.Path, *words: bytes) -> bool:
    """Whether all words occur somewhere in a file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if not 0 < size <= _MAX_SEARCHED:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return all(content.find(word) >= 0 for word in words)
    except (OSError, ValueError):
        return False


def edges(path: pathlib.Path) -> bytes:
    """Returns the first and the last 64 KiB of a file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(_EDGE)
            size = file.seek(0, 2)
            file.seek(max(size - _EDGE, len(head)))
            return head + file.read(_EDGE)
    except OSError:
        return b""
