"""The lock of a run dir: of several processes one trains in it."""

import errno
import os
import subprocess
import sys

import filelock
import pytest

from deeplab_tf.errors import UserError
from deeplab_tf.runs import run_lock

HOLD = """
import sys
from deeplab_tf.runs import run_lock
with run_lock.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_in_the_run_dir_is_refused_until_the_first_is_dead(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="Another process trains in --run_dir"):
            with run_lock.hold(str(tmp_path)):
                pass
    finally:
        holder.kill()
        holder.communicate()
    with run_lock.hold(str(tmp_path)):
        pass


def test_a_folder_made_for_the_lock_is_deleted_unless_something_was_written(tmp_path):
    with run_lock.hold(str(tmp_path / "a/b")):
        assert os.path.isdir(tmp_path / "a/b")
    assert not os.path.exists(tmp_path / "a/b")
    with run_lock.hold(str(tmp_path / "c")):
        (tmp_path / "c/flags.txt").touch()
    assert sorted(os.listdir(tmp_path / "c")) == ["flags.txt", "lock"]


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with run_lock.hold(str(tmp_path)):
        pass
    assert "has no locks" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--run_dir=.*file/run cannot be written"):
        with run_lock.hold(str(tmp_path / "file/run")):
            pass
