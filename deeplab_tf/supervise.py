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

from absl import flags

from deeplab_tf import command_line
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files

_CONFIGS = (ModelConfig, DataConfig, TrainConfig)
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BEFORE_RESTART = 1.0  # twice as many after every restart without a new checkpoint


def supervise(
    command: Sequence[str],
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


def train_command() -> list[str]:
    """Returns the command that trains with the flags that were given to this one."""
    names = ["run_dir"]
    for config_class in _CONFIGS:
        command_line.read_flags(config_class)  # says at once what is wrong with them
        names += [field.name for field in dataclasses.fields(config_class)]
    given = [flags.FLAGS[name] for name in names if flags.FLAGS[name].present]
    return [sys.executable, "-m", "deeplab_tf.train", *(flag.serialize() for flag in given)]


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


def main(_) -> None:
    sys.exit(
        supervise(
            train_command(),
            flags.FLAGS.run_dir,
            flags.FLAGS.workers,
            flags.FLAGS.hosts.split(",") if flags.FLAGS.hosts else (),
            flags.FLAGS.index,
            flags.FLAGS.port,
            flags.FLAGS.max_restarts,
        )
    )


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_integer("workers", 1, "Processes that train together on this machine.")
    flags.DEFINE_string(
        "hosts", "", "host:port of every worker, with commas, where they are on several machines."
    )
    flags.DEFINE_integer("index", 0, "Which of --hosts is this machine, 0 first.")
    flags.DEFINE_integer("port", 0, "Port of the first process; 0 for any that are free.")
    flags.DEFINE_integer(
        "max_restarts", 3, "Restarts without a new checkpoint in between before it gives up."
    )
    for config_class in _CONFIGS:
        command_line.define_flags(config_class)
    command_line.run(main)
