"""The lock of a run dir: one process writes to it at a time."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

import filelock

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.runs import run_files

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # what file systems without locks answer


@contextlib.contextmanager
def hold(run_dir: str) -> Iterator[None]:
    """Holds a run dir within the context; a process that dies releases it.

    A folder that was made for the lock, and in which nothing else was written, is deleted again.
    Remote storage has no locks: a warning says so.

    Args:
        run_dir: Folder of the run; it is made if it is missing.

    Raises:
        UserError: Another process holds the run dir, or it cannot be written.
    """
    if files.is_remote(run_dir):
        _warn_that_there_is_no_lock(f"{run_dir} is in remote storage, which")
        yield
        return
    is_new = not os.path.isdir(run_dir)
    path = os.path.join(run_dir, run_files.LOCK)
    lock = filelock.FileLock(path, timeout=0)
    try:
        os.makedirs(run_dir, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(
            f"Another process trains in --run_dir={run_dir}: wait until it has ended, or give "
            "another folder."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"--run_dir={run_dir} cannot be written: {error}.") from error
        _warn_that_there_is_no_lock(f"the file system of {run_dir}")
    try:
        yield
    finally:
        if is_new and os.listdir(run_dir) == [run_files.LOCK]:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                os.remove(path)
                os.rmdir(run_dir)
        lock.release()


def _warn_that_there_is_no_lock(where: str) -> None:
    print(
        f"warning: {where} has no locks. Make sure that no other process trains in the same "
        "folder.",
        file=sys.stderr,
        flush=True,
    )
