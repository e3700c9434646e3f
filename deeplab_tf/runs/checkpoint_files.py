"""The files of checkpoints: a checkpoint exists once its index does, and is whole from then on.

A checkpoint PREFIX consists of PREFIX.index and one or more PREFIX.data-M-of-N; PREFIX ends in
`ckpt-` and the step.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from deeplab_tf import files
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
    path = files.as_path(folder)
    names = [file.name for file in path.iterdir()] if path.is_dir() else []
    prefixes = [
        os.path.join(folder, name.removesuffix(".index"))
        for name in names
        if re.fullmatch(r"ckpt-\d+\.index", name)
    ]
    return sorted(prefixes, key=step_of, reverse=True)


def publish(written: str, prefix: str) -> None:
    """Moves a checkpoint that is completely written to its place.

    Args:
        written: Prefix of the checkpoint, in a `temporary_folder` for the place.
        prefix: Prefix to give it; a checkpoint of this prefix is replaced.

    Raises:
        OSError: The disk is full or fails.
    """
    paths = _files(written)
    for path in paths:
        _flush(path)
    remove(prefix)
    for path in paths:
        files.publish(path, prefix + str(path).removeprefix(written))
    if not files.is_remote(prefix):
        _flush(pathlib.Path(prefix).parent)


def remove(prefix: str) -> None:
    """Deletes a checkpoint."""
    for path in reversed(_files(prefix)):  # the index first: data without one is nothing
        path.unlink()


def set_aside(prefix: str) -> str:
    """Moves a checkpoint into the folder `damaged` beside it; returns its new prefix."""
    folder, name = os.path.split(prefix)
    aside = os.path.join(folder, _DAMAGED, name)
    files.as_path(folder, _DAMAGED).mkdir(parents=True, exist_ok=True)
    for path in reversed(_files(prefix)):
        path.replace(aside + str(path).removeprefix(prefix))
    return aside


@contextlib.contextmanager
def temporary_folder(folder: str) -> Iterator[str]:
    """Makes an empty folder to write a checkpoint to, and deletes it after the context.

    It lies in `folder`, or on the local disk if that is in remote storage.
    """
    if files.is_remote(folder):
        with files.draft_folder(folder) as draft:
            yield str(draft)
        return
    path = os.path.join(folder, "saving")
    shutil.rmtree(path, ignore_errors=True)
    try:
        os.makedirs(path)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def clean(folder: str) -> None:
    """Deletes what a killed save has left."""
    path = files.as_path(folder)
    if not path.is_dir():
        return
    paths = {file.name: file for file in path.iterdir()}
    for name, file in paths.items():
        if name.startswith("saving") and not files.is_remote(file):
            shutil.rmtree(file, ignore_errors=True)
        match = re.fullmatch(r"(ckpt-.*)\.data-\d+-of-\d+", name)
        if match and f"{match[1]}.index" not in paths:
            file.unlink()


def _files(prefix: str) -> list[pathlib.Path]:
    """The existing files of a checkpoint, its index last."""
    path = files.as_path(prefix)
    if not path.parent.is_dir():
        return []
    found = {file.name: file for file in path.parent.iterdir()}
    data = sorted(name for name in found if name.startswith(f"{path.name}.data-"))
    index = [name for name in (f"{path.name}.index",) if name in found]
    return [found[name] for name in (*data, *index)]


def _flush(path: pathlib.Path) -> None:
    """Waits until a file's content, or a folder's entries, would survive a loss of power."""
    if path.is_dir():
        if os.name == "nt":  # Windows flushes the entries of a folder itself
            return
        descriptor = os.open(path, os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR)  # Windows flushes only what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
