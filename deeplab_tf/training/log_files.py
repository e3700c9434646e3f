"""Cleans logs of a resumed run: of steps that it repeats, and of lines that a power cut damaged."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError

from deeplab_tf import files

_EVENT_FILE = ".tfevents."  # is in the name of every file that TensorBoard reads
_MAX_LINE_BYTES = 2**20


def cut_lines(path: str, last_step: int) -> None:
    """Removes lines of later steps, and damaged ones, from a file with one JSON object a line.

    Damaged lines are reported.

    Args:
        path: The file, which need not exist.
        last_step: Lines of later steps are removed.

    Raises:
        OSError: The file cannot be read or written.
    """
    if not os.path.exists(path):
        return
    num_damaged = 0
    with open(path, "rb") as old, files.replacing(path) as draft, open(draft, "wb") as new:
        for line in _lines(old):
            step = _step_of(line)
            if step is None:
                num_damaged += 1
            elif step <= last_step:
                new.write(line)
    if num_damaged:
        print(
            f"warning: {num_damaged} damaged line{'s' * (num_damaged > 1)} left out of {path}",
            file=sys.stderr,
            flush=True,
        )


def cut_events(folder: str, last_step: int) -> None:
    """Removes events of later steps, and what follows damage, from the files of TensorBoard.

    Args:
        folder: Folder of the files.
        last_step: Events of later steps are removed.

    Raises:
        OSError: A file cannot be read or written.
    """
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if _EVENT_FILE in name and os.path.isfile(path):
            _cut_event_file(path, last_step)


def _cut_event_file(path: str, last_step: int) -> None:
    # Not `files.replacing`: TensorBoard would find a draft of the same name.
    with files.draft_folder(os.path.dirname(path)) as drafts:
        draft = os.path.join(drafts, "events")
        with tf.io.TFRecordWriter(draft) as writer:
            for step, event in _whole_events(path):
                if step <= last_step:
                    writer.write(event)
        os.replace(draft, path)


def _lines(file) -> Iterator[bytes]:
    """Lines of bounded length; longer ones come in parts, which are not JSON."""
    while line := file.readline(_MAX_LINE_BYTES):
        yield line


def _step_of(line: bytes) -> int | None:
    """The step of a line; None if the line is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, RecursionError, TypeError, LookupError):
        return None
    is_whole = line.endswith(b"\n") and isinstance(step, int) and not isinstance(step, bool)
    return step if is_whole else None


def _whole_events(path: str) -> Iterator[tuple[int, bytes]]:
    """The events of a file, with their steps, up to the first that is damaged."""
    with contextlib.suppress(tf.errors.OpError, DecodeError):
        for event in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield tf.compat.v1.Event.FromString(event).step, event
