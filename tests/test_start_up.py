"""Which lines of stderr reach the user of a command while TensorFlow starts."""

import gc
import signal
import subprocess
import sys
import time

import pytest

from deeplab_tf import start_up

HEADER = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
ONEDNN = (
    "I0000 00:00:1796018454.127051    9101 port.cc:153] oneDNN custom operations are on. You may "
    "see slightly different numerical results."
)
NO_GPU = (
    "E0000 00:00:1796011180.853110   19073 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
    "CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)"
)
FACTORY = (
    "E0000 00:00:1796011180.853110   19073 cuda_dnn.cc:8579] Unable to register cuDNN factory: "
    "Attempting to register factory for plugin cuDNN when one has already been registered"
)
WARNING = "W0000 00:00:1796011180.853110   19073 gpu_device.cc:2433] Cannot dlopen some libraries."
OLD_DRIVER = (
    "E0000 00:00:1796011180.853110   19073 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
    "CUDA error: Failed call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"
)
FATAL = "F0000 00:00:1796011180.853110   19073 tensor.cc:1] Check failed: 1 == 2"


@pytest.mark.parametrize(
    "line, hidden_at",
    [
        (HEADER, (1, 2, 3)),
        (ONEDNN, (1, 2, 3)),
        (NO_GPU, (1, 2, 3)),
        (FACTORY, (1, 2, 3)),
        (WARNING, (2, 3)),
        (OLD_DRIVER, (3,)),
        (FATAL, ()),
        ("Traceback (most recent call last):", ()),
        ("I0000 is how a class is called", ()),
        ("", ()),
    ],
)
def test_known_lines_are_noise_and_all_others_are_not(line, hidden_at):
    noise = tuple(level for level in (1, 2, 3) if start_up.is_noise(line.encode(), level))
    assert noise == hidden_at


def start(code: str, level: str = "2") -> subprocess.Popen:
    """Starts Python on code that has `write`, which writes to file descriptor 2."""
    begin = "import faulthandler, os, signal, sys, time\nfrom deeplab_tf import start_up\n"
    begin += "write = lambda text: os.write(2, text.encode())\n"
    return subprocess.Popen(
        [sys.executable, "-c", begin + code],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"TF_CPP_MIN_LOG_LEVEL": level, "PYTHONPATH": ":".join(filter(None, sys.path))},
        start_new_session=True,
    )


def stderr_of(code: str, level: str = "2") -> tuple[str, int]:
    process = start(code, level)
    _, stderr = process.communicate(timeout=120)
    return stderr, process.returncode


NOISY = f"write({HEADER + chr(10) + ONEDNN + chr(10)!r})\n"
IN_BETWEEN = (
    f"with start_up.filtered_stderr():\n    {NOISY}    write('real\\n')\n    {NOISY}"
    f"    write('no end')\n    {{ending}}\nwrite('after\\n')\n{NOISY}"
)


def test_what_is_not_noise_arrives_in_order_and_afterwards_everything():
    stderr, exit_code = stderr_of(IN_BETWEEN.format(ending="pass"))
    assert (stderr, exit_code) == (f"real\nno endafter\n{HEADER}\n{ONEDNN}\n", 0)


def test_level_0_shows_everything():
    stderr, _ = stderr_of(IN_BETWEEN.format(ending="pass"), level="0")
    assert stderr.count(ONEDNN) == 3


@pytest.mark.parametrize(
    "ending, expected, exit_code",
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "real\nno end", -signal.SIGKILL),
        ("os.abort()", "real\nno end", -signal.SIGABRT),
        ("os._exit(3)", "real\nno end", 3),
        ("raise ValueError('this')", "ValueError: this\n", 1),
        ("faulthandler.enable(); faulthandler._sigsegv()", "Segmentation fault", -signal.SIGSEGV),
        ("sys.exit('error: wrong')", "error: wrong\n", 1),
        (f"write({FATAL!r}); os.abort()", FATAL, -signal.SIGABRT),
    ],
)
def test_last_words_arrive_however_a_process_ends(ending, expected, exit_code):
    stderr, code = stderr_of(IN_BETWEEN.format(ending=ending))
    assert code == exit_code
    assert stderr.startswith("real\nno end") and expected in stderr and "after" not in stderr
    assert ONEDNN not in stderr


def test_a_line_arrives_at_once():
    process = start("with start_up.filtered_stderr():\n    write('now'); time.sleep(60)\n")
    try:
        started = time.monotonic()
        assert process.stderr.read(3) == "now"
        assert time.monotonic() - started < 30
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_is_for_the_command_and_not_for_the_filter():
    code = (
        # Background jobs of a shell ignore it, and so do their children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with start_up.filtered_stderr():\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        write('interrupted\\n')\n"
    )
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert (stderr, process.returncode) == ("interrupted\n", 0)


def test_garbage_is_searched_for_again_after_a_pause_unless_it_was_not_before():
    assert gc.isenabled()
    with start_up.no_garbage_collection():
        assert not gc.isenabled()
        with start_up.no_garbage_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
