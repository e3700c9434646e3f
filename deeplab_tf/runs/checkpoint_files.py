"""The files of checkpoints: a checkpoint exists once its index does, and is whole from then on.

A checkpoint PREFIX consists of PREFIX.index and one or more PREFIX.data-M-of-N; PREFIX ends in
`ckpt-` and the step.
"""

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterator

from deeplab_tf.runs import run_files

FOLDERS = {"last": run_files.CHECKPOINTS, "best": run_files.BEST}

_DAMAGED = "damaged"


def folder_of(run_dir: str, kind: str) -> str:
    """Returns the folder of a run's "last" or "best" checkpoints."""
    return os.path.join(run_dir, FOLDERS[kind])


def step_of(prefix: str) -> int:
    """Returns the step of a checkpoint."""
    return int(prefix.rpartition("-")[2])


def find(folder: str) -> list[str]:
    """Returns the prefixes of a folder's checkpoints, the newest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    prefixes = [
        os.path.join(folder, name.removesuffix(".index"))
        for name in names
        if re.fullmatch(r"ckpt-\d+\.index", name)
    ]
    return sorted(prefixes, key=step_of, reverse=True)


def publish(written: str, prefix: str) -> None:
    """Moves a checkpoint that is completely written to its place.

    Args:
        written: Prefix of the checkpoint, on the same file system.
        prefix: Prefix to give it; a checkpoint of this prefix is replaced.

    Raises:
        OSError: The disk is full or fails.
    """
    files = _files(written)
    for path in files:
        _flush(path)
    remove(prefix)
    for path in files:
        os.replace(path, prefix + path.removeprefix(written))
    _flush(os.path.dirname(prefix))


def remove(prefix: str) -> None:
    """Deletes a checkpoint."""
    for path in reversed(_files(prefix)):  # the index first: data without one is nothing
        os.remove(path)


def set_aside(prefix: str) -> str:
    """Moves a checkpoint into the folder `damaged` beside it; returns its new prefix."""
    folder, name = os.path.split(prefix)
    aside = os.path.join(folder, _DAMAGED, name)
    os.makedirs(os.path.dirname(aside), exist_ok=True)
    for path in reversed(_files(prefix)):
        os.replace(path, aside + path.removeprefix(prefix))
    return aside


@contextlib.contextmanager
def temporary_folder(folder: str) -> Iterator[str]:
    """Makes an empty folder to write a checkpoint to, and deletes it after the context."""
    path = os.path.join(folder, "saving")
    shutil.rmtree(path, ignore_errors=True)
    try:
        os.makedirs(path)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def clean(folder: str) -> None:
    """Deletes what a killed save has left."""
    for path in glob.glob(os.path.join(glob.escape(folder), "saving*")):
        shutil.rmtree(path, ignore_errors=True)
    for path in glob.glob(os.path.join(glob.escape(folder), "ckpt-*.data-*")):
        if not os.path.exists(re.sub(r"\.data-\d+-of-\d+$", ".index", path)):
            os.remove(path)


def _files(prefix: str) -> list[str]:
    """The existing files of a checkpoint, its index last."""
    return sorted(glob.glob(glob.escape(prefix) + ".data-*")) + glob.glob(
        glob.escape(prefix) + ".index"
    )


def _flush(path: str) -> None:
    """Waits until a file's content, or a folder's entries, would survive a loss of power."""
    if os.path.isdir(path):
        if os.name == "nt":  # Windows flushes the entries of a folder itself
            return
        descriptor = os.open(path, os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR)  # Windows flushes only what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
