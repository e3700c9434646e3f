"""Prepares training batches for other processes: python -m deeplab_tf.data_service --port=5050

Runs a tf.data service: a dispatcher and workers that decode and augment for `deeplab_tf.train
--data_service=grpc://HOST:5050`. The machine needs the records under the same path as the trainer.
Workers of further machines join with --dispatcher=HOST:5050. Ends on Ctrl-C.

Whoever reaches the ports can run computations here: keep them inside a trusted network.
"""

import contextlib
import dataclasses
import signal
import socket
import threading
from collections.abc import Iterator

import tensorflow as tf

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.data import remote_data
from deeplab_tf.errors import UserError
from deeplab_tf.settings import setting


@contextlib.contextmanager
def serve(
    port: int = 5050, workers: int = 1, dispatcher: str = "", host: str = "localhost"
) -> Iterator[str]:
    """Runs a dispatcher and its workers, or only workers, as long as the context lasts.

    Args:
        port: Of the dispatcher; 0 for any that is free.
        workers: How many workers; one already uses all cores. With one, training repeats with its
            seed.
        dispatcher: `host:port` of a dispatcher that the workers join; empty to start one here.
        host: Name or address under which the trainer reaches this machine.

    Yields:
        `host:port` of the dispatcher.

    Raises:
        UserError: The port is taken, or nothing answers at the dispatcher's address.
    """
    service = tf.data.experimental.service
    if workers < 1:
        raise UserError(f"--workers={workers}; it must be 1 or more.")
    if dispatcher:
        remote_data.check_answers(dispatcher, "dispatcher")
        dispatcher = dispatcher.removeprefix("grpc://")
    servers = []
    try:
        if not dispatcher:
            servers.append(_start_dispatcher(port))
            dispatcher = f"{host}:{servers[0].target.rpartition(':')[2]}"
        for _ in range(workers):
            servers.append(
                service.WorkerServer(
                    service.WorkerConfig(
                        dispatcher_address=dispatcher, worker_address=f"{host}:%port%"
                    )
                )
            )
        yield dispatcher
    finally:
        for server in reversed(servers):
            server.stop()


def _start_dispatcher(port: int) -> tf.data.experimental.service.DispatchServer:
    try:
        # gRPC would share a port that is taken, and half of the requests would go astray.
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--port={port} cannot be used ({error}). Give another, or 0 for any that is free."
        ) from error
    service = tf.data.experimental.service
    return service.DispatchServer(service.DispatcherConfig(port=port))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    port: int = setting(
        5050,
        "Port of the dispatcher; 0 for any free one.",
        at_least=0,
        at_most=65535,
        is_common=True,
    )
    workers: int = setting(
        1, "Number of workers in this process. One already uses all cores.", at_least=1
    )
    dispatcher: str = setting(
        "",
        "HOST:PORT of a dispatcher that the workers join.",
        default_help="a dispatcher is started here",
        is_common=True,
    )
    host: str = setting(
        "localhost",
        "Name or address under which the trainer reaches this machine.",
        may_be_empty=False,
        is_common=True,
    )


def main(arguments: Arguments) -> None:
    tf.config.set_visible_devices([], "GPU")  # a trainer on this machine wants them whole
    stopped = threading.Event()
    with serve(**dataclasses.asdict(arguments)) as address:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        print(f"{arguments.workers} worker(s) serve {address}")
        print(f"train with --data_service=grpc://{address}", flush=True)
        stopped.wait()
    print("stopped")


if __name__ == "__main__":
    command_line.run(main)
