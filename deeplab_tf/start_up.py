"""Starts TensorFlow without the messages that it prints to stderr at any log level.

While TensorFlow is imported and looks for devices, file descriptor 2 leads to another process,
which runs this file: it drops the lines that are known to be of no use, and passes everything else
on at once. As a separate process, it also passes on the last words of a process that crashes or is
killed.
"""

import contextlib
import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator

LEVEL = "TF_CPP_MIN_LOG_LEVEL"

# A line of a log: severity, date and time, thread, source file and line, message.
_LOG_LINE = re.compile(rb"([IWEF])\d{4} [\d:.]+ +\d+ ([\w.]+):\d+\] (.*)")
_SEVERITIES = b"IWEF"
_HEADER = b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
# Harmless errors, by source file.
_HARMLESS_ERRORS = (
    (b"cuda_platform.cc", re.compile(rb"failed call to cuInit: .*\b303\b")),  # no driver, no GPU
    (b"cuda_dnn.cc", re.compile(rb"Unable to register cuDNN factory")),
    (b"cuda_fft.cc", re.compile(rb"Unable to register cuFFT factory")),
    (b"cuda_blas.cc", re.compile(rb"Unable to register cuBLAS factory")),
)
_LONGEST_WAIT = 5.0  # for the last lines, seconds


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices; TF_CPP_MIN_LOG_LEVEL=0 shows all that it prints."""
    with filtered_stderr(), no_garbage_collection():
        import tensorflow as tf

        tf.config.list_physical_devices()
        gc.freeze()  # modules stay: no search goes through them


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Within the context, Python does not search for garbage.

    Where many objects are made that stay, as by imports and traces, the search takes up to a
    quarter of the time, and finds next to nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def filtered_stderr() -> Iterator[None]:
    """Drops useless lines from what this process and its libraries write to stderr."""
    level = os.environ.get(LEVEL, "0")
    if level == "0":
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, level],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,  # Ctrl-C is for the command
    )
    assert process.stdin is not None  # it is piped
    try:
        with process.stdin:
            os.dup2(process.stdin.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LONGEST_WAIT)


def is_noise(line: bytes, level: int) -> bool:
    """Whether a line of TensorFlow's start is of no use.

    Args:
        line: The line.
        level: TF_CPP_MIN_LOG_LEVEL: 1 hides infos, 2 warnings too, 3 errors too. TensorFlow itself
            looks at it too late for some lines.
    """
    if line.startswith(_HEADER):
        return True
    match = _LOG_LINE.match(line)
    if not match:
        return False
    severity, file, message = match.groups()
    return _SEVERITIES.index(severity) < level or any(
        file == source and pattern.match(message) for source, pattern in _HARMLESS_ERRORS
    )


def _filter(source: int, target: int, level: int) -> None:
    """Copies lines that are not noise; the beginning of a line at once, unless it may be noise."""
    begun = b""
    while chunk := os.read(source, 2**16):
        *lines, begun = (begun + chunk).split(b"\n")
        passed = b"".join(line + b"\n" for line in lines if not is_noise(line, level))
        if not _may_become_noise(begun):
            passed, begun = passed + begun, b""
        _write(target, passed)
    _write(target, begun if not is_noise(begun, level) else b"")


def _may_become_noise(begun: bytes) -> bool:
    return (
        begun[: len(_HEADER)] == _HEADER[: len(begun)]
        or re.match(rb"[IWEF]\d{0,3}$|[IWEF]\d{4}( |$)", begun) is not None
    )


def _write(target: int, content: bytes) -> None:
    while content:
        content = content[os.write(target, content) :]


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # nobody reads stderr
        _filter(0, 2, int(sys.argv[1]) if sys.argv[1].isdecimal() else 0)
