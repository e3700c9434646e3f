"""Trains, and restarts the training whenever it dies.

    python -m deeplab_tf.supervise --flagfile=configs/X.flagfile --run_dir=DIR [--workers=2]

It takes all flags of `deeplab_tf.train` besides its own. With --workers=N it starts N processes on
this machine that train together; for several GPUs of one machine, --strategy=mirrored is simpler
and faster. To use several machines, start it on each of them with the same --hosts and with
--index=0, 1, ..., and give a run dir that all of them share. When a worker dies, all restart from
the last checkpoint. SIGTERM and Ctrl-C are passed on: the training saves and ends with exit code
75.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import EXIT_INTERRUPTED
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.settings import setting

_SECONDS_BETWEEN_POLLS = 0.1
_SECONDS_BEFORE_RESTART = 1.0  # twice as many after every restart without a new checkpoint
if sys.platform == "win32":
    _OWN_GROUP = subprocess.CREATE_NEW_PROCESS_GROUP
    _STOP_SIGNAL = signal.CTRL_BREAK_EVENT
else:
    _OWN_GROUP = 0  # start_new_session makes one
    _STOP_SIGNAL = signal.SIGTERM


def supervise(
    command: Sequence[str],
    *,
    run_dir: str,
    workers: int = 1,
    hosts: Sequence[str] = (),
    index: int = 0,
    port: int = 0,
    max_restarts: int = 3,
) -> int:
    """Runs a training until it ends, however often it dies.

    Args:
        command: The training.
        run_dir: Its run dir, whose checkpoints tell whether it makes progress.
        workers: Processes to start on this machine.
        hosts: `host:port` of every worker. One of them is started here; empty if all are.
        index: Which of `hosts` is started here.
        port: Port of the first process here; the others have the ports after it. 0 for any free
            ones.
        max_restarts: Restarts without a new checkpoint in between before it gives up.

    Returns:
        The exit code: 0, or that of a training that was asked to stop or had a message for the
        user.

    Raises:
        UserError: The training dies again and again; or the arguments do not fit together.
    """
    if workers < 1 or (hosts and workers > 1):
        raise UserError(
            f"--workers={workers} must be 1 or more, and cannot be given with --hosts, which start "
            "one process on each machine."
        )
    if hosts and not 0 <= index < len(hosts):
        raise UserError(
            f"--index={index} must be between 0 and {len(hosts) - 1}, the last of --hosts."
        )

    def start() -> _Group:
        addresses = hosts or [f"localhost:{free}" for free in _ports(workers, port)]
        here = [index] if hosts else range(workers)
        return _Group([_Worker(command, addresses, number) for number in here])

    with _StopRequest() as stop:
        return _restart_until_it_ends(start, run_dir, max_restarts, stop)


def _restart_until_it_ends(
    start: Callable[[], "_Group"], run_dir: str, max_restarts: int, stop: threading.Event
) -> int:
    """Starts a group of workers again and again; returns the exit code of the last one."""
    restarts = 0
    while True:
        step_before = _last_step(run_dir)
        group = start()
        exit_code = group.wait(stop)
        if exit_code == 0 or stop.is_set() or group.has_message:
            return exit_code if exit_code >= 0 else 128 - exit_code  # as shells report signals
        step = _last_step(run_dir)
        restarts = 1 if step > step_before else restarts + 1
        if restarts > max_restarts:
            raise UserError(
                f"The training {_how_it_ended(exit_code)}. It is not restarted: "
                f"--max_restarts={max_restarts} limits the restarts without a new checkpoint. Its "
                "own output, above, says why."
            )
        print(
            f"the training {_how_it_ended(exit_code)}: restarts from "
            f"{f'step {step}' if step else 'the beginning'} ({restarts} of {max_restarts} restarts "
            "without a new checkpoint)",
            file=sys.stderr,
            flush=True,
        )
        if stop.wait(_SECONDS_BEFORE_RESTART * 2 ** (restarts - 1)):
            return EXIT_INTERRUPTED


class _StopRequest:
    """An event that SIGTERM and the first Ctrl-C set, within the context."""

    def __init__(self):
        self._event = threading.Event()
        self._previous = {}

    def __enter__(self) -> threading.Event:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._set)
        return self._event

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _set(self, *_) -> None:
        self._event.set()
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])  # the next Ctrl-C ends at once


class _Worker:
    """One process of the training, whose output is passed on."""

    def __init__(self, command: Sequence[str], addresses: Sequence[str], index: int):
        environment = dict(os.environ)
        if len(addresses) > 1:
            environment["TF_CONFIG"] = json.dumps(
                {
                    "cluster": {"worker": list(addresses)},
                    "task": {"type": "worker", "index": index},
                }
            )
        self._prefix = f"[worker {index}] ".encode() if len(addresses) > 1 else b""
        self.has_message = False
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches the supervisor alone, which passes it on.
            start_new_session=True,
            creationflags=_OWN_GROUP,
        )
        self.reader = threading.Thread(target=self._pass_output_on, daemon=True)
        self.reader.start()

    def ask_to_stop(self) -> None:
        """Asks the training to save and to end."""
        self.process.send_signal(_STOP_SIGNAL)

    def _pass_output_on(self) -> None:
        assert self.process.stdout is not None  # it is piped
        for line in self.process.stdout:
            # A message to the user begins like this. Restarting does not help then.
            self.has_message |= line.startswith(b"error: ")
            sys.stdout.buffer.write(self._prefix + line)
            sys.stdout.buffer.flush()


class _Group:
    """The workers on this machine, which live and die together."""

    def __init__(self, workers: Sequence[_Worker]):
        self._workers = workers

    @property
    def has_message(self) -> bool:
        """Whether a worker ended with a message to the user."""
        return any(worker.has_message for worker in self._workers)

    def wait(self, stop: threading.Event) -> int:
        """Waits until all have ended, or one has died; returns its exit code.

        When a worker dies without saving, the others are ended, since they would wait for it.
        """
        is_asked = False
        try:
            while True:
                exit_codes = [worker.process.poll() for worker in self._workers]
                died = [code for code in exit_codes if code]
                if (died and not is_asked) or None not in exit_codes:
                    return died[0] if died else 0
                if stop.is_set() and not is_asked:
                    for worker in self._workers:
                        worker.ask_to_stop()
                    is_asked = True
                time.sleep(_SECONDS_BETWEEN_POLLS)
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.wait()
                worker.reader.join()


def train_command(run_dir: str, *configs: config.Config) -> list[str]:
    """Returns the command that trains with these configs."""
    flags = [f"--run_dir={run_dir}", *command_line.to_arguments(*configs)]
    return [sys.executable, "-m", "deeplab_tf.train", *flags]


def _last_step(run_dir: str) -> int:
    """The step of the last checkpoint; 0 if there is none."""
    found = checkpoint_files.find(checkpoint_files.folder_of(run_dir, "last"))
    return checkpoint_files.step_of(found[0]) if found else 0


def _ports(count: int, first: int) -> list[int]:
    """The ports of the processes on this machine, from the first one on; 0 for any free ones."""
    if first:
        return list(range(first, first + count))
    sockets = [socket.socket() for _ in range(count)]
    try:
        for unbound in sockets:
            unbound.bind(("", 0))
        return [bound.getsockname()[1] for bound in sockets]
    finally:
        for one in sockets:
            one.close()


def _how_it_ended(exit_code: int) -> str:
    if exit_code == EXIT_INTERRUPTED:
        return "saved and stopped, as one of its processes was asked to"
    name = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    return f"died with {name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    run_dir: str = config.run_dir()
    workers: int = setting(
        1, "Processes that train together on this machine.", at_least=1, is_common=True
    )
    hosts: tuple[str, ...] = setting(
        (),
        "HOST:PORT of every worker, in the same order on every machine, if they run on several.",
        default_help="this machine only",
        example="a:2222,b:2222",
    )
    index: int = setting(0, "Position of this machine in --hosts; 0 is the first.", at_least=0)
    port: int = setting(
        0,
        "Port of the first process; the others have the ports after it. 0: any free ports.",
        at_least=0,
        at_most=65535,
    )
    max_restarts: int = setting(
        3, "Number of restarts in a row without a new checkpoint before it gives up.", at_least=0
    )


def main(
    arguments: Arguments,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
) -> None:
    command = train_command(arguments.run_dir, model_config, data_config, train_config)
    sys.exit(supervise(command, **dataclasses.asdict(arguments)))


if __name__ == "__main__":
    command_line.run(main, starts_tensorflow=False)
