"""Trains, and starts the training again whenever it dies:

    python -m deeplab_tf.supervise --flagfile=configs/X.flagfile --run_dir=DIR [--workers=2]

Takes all flags of `deeplab_tf.train` besides its own. With --workers=N it starts N processes here
that train together (for several GPUs of one machine --strategy=mirrored is simpler and faster).
For several machines, start it on each with the same --hosts, and --index=0, 1, ...; the run dir is
then a folder that all of them share. When one worker dies, all start again from the last
checkpoint. SIGTERM and Ctrl-C are passed on: the training saves and ends with exit code 75.
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
from collections.abc import Sequence

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.settings import setting

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BEFORE_RESTART = 1.0  # twice as many after every restart without a new checkpoint


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
        run_dir: Its run dir, whose checkpoints tell whether it gets on.
        workers: Processes to start here.
        hosts: `host:port` of every worker, of which only one is started here; empty for none else.
        index: Which of `hosts` that one is.
        port: Of the first process here, the others have those that follow; 0 for any free ones.
        max_restarts: Restarts without a new checkpoint in between before it gives up.

    Returns:
        The exit code: 0, or that of a training that was told to stop or had a message for the user.

    Raises:
        UserError: It dies again and again; or the arguments do not fit.
    """
    if workers < 1 or (hosts and workers > 1):
        raise UserError(
            f"--workers={workers}: give 1 or more, or --hosts and --index, which start one here."
        )
    if hosts and not 0 <= index < len(hosts):
        raise UserError(f"--index={index} is none of the {len(hosts)} --hosts, 0 first.")
    stop = threading.Event()

    def on_signal(*_):
        stop.set()
        signal.signal(signal.SIGINT, previous[signal.SIGINT])  # the next Ctrl-C ends all at once

    previous = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        restarts = 0
        while True:
            step = _last_step(run_dir)
            addresses = hosts or [f"localhost:{free}" for free in _ports(workers, port)]
            here = [index] if hosts else range(workers)
            group = _Group([_Worker(command, addresses, number) for number in here])
            exit_code = group.wait(stop)
            if exit_code == 0 or stop.is_set() or group.has_message:
                return exit_code if exit_code >= 0 else 128 - exit_code  # as shells put signals
            restarts = 1 if _last_step(run_dir) > step else restarts + 1
            if restarts > max_restarts:
                raise UserError(
                    f"The training died {restarts} times without a new checkpoint, at last with "
                    f"{_described(exit_code)}. What it wrote before that, above, says why."
                )
            print(
                f"the training died with {_described(exit_code)}: starts again from "
                f"{f'step {_last_step(run_dir)}' if _last_step(run_dir) else 'the beginning'} "
                f"({restarts} of {max_restarts} restarts without a new checkpoint)",
                file=sys.stderr,
                flush=True,
            )
            stop.wait(_SECONDS_BEFORE_RESTART * 2 ** (restarts - 1))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Worker:
    """One process of the training, whose lines are passed on."""

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
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which passes it on
        )
        self.reader = threading.Thread(target=self._pass_lines_on, daemon=True)
        self.reader.start()

    def _pass_lines_on(self) -> None:
        assert self.process.stdout is not None  # it is piped
        for line in self.process.stdout:
            # So begins what a command has to say to its user, who alone can change it.
            self.has_message |= line.startswith(b"error: ")
            sys.stdout.buffer.write(self._prefix + line)
            sys.stdout.buffer.flush()


class _Group:
    """The workers here, of which none goes on without the others."""

    def __init__(self, workers: Sequence[_Worker]):
        self._workers = workers

    @property
    def has_message(self) -> bool:
        """Whether one ended with a message to the user."""
        return any(worker.has_message for worker in self._workers)

    def wait(self, stop: threading.Event) -> int:
        """Waits until all have ended, or one has died; returns its exit code.

        A process that dies without saving takes the others with it, which would wait for it.
        """
        told = False
        try:
            while True:
                exit_codes = [worker.process.poll() for worker in self._workers]
                died = [code for code in exit_codes if code]
                if (died and not told) or None not in exit_codes:
                    return died[0] if died else 0
                if stop.is_set() and not told:
                    for worker in self._workers:
                        worker.process.terminate()
                    told = True
                time.sleep(_SECONDS_BETWEEN_LOOKS)
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
    found = checkpoint_files.find(checkpoint_files.folder_of(run_dir, "last"))
    return checkpoint_files.step_of(found[0]) if found else 0


def _ports(count: int, first: int) -> list[int]:
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


def _described(exit_code: int) -> str:
    if exit_code < 0:
        return f"{signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"


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
    index: int = setting(0, "Which of --hosts this machine is; 0 is the first.", at_least=0)
    port: int = setting(
        0, "Port of the first process; 0 for any free ones.", at_least=0, at_most=65535
    )
    max_restarts: int = setting(
        3, "Restarts without a new checkpoint in between before giving up.", at_least=0
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
