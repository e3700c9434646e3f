"""A tf.data service that prepares training batches for other processes."""

import contextlib
import socket
from collections.abc import Iterator

import tensorflow as tf

from deeplab_tf.data import remote_data
from deeplab_tf.errors import UserError


@contextlib.contextmanager
def serve(
    port: int = 5050, workers: int = 1, dispatcher: str = "", host: str = "localhost"
) -> Iterator[str]:
    """Runs a dispatcher and its workers, or only workers, as long as the context lasts.

    Args:
        port: Of the dispatcher; 0 for any that is free.
        workers: How many workers; one already uses all cores.
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
