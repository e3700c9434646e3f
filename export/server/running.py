"""Runs the server: REST and gRPC on two ports, and a look for new versions every second."""

import concurrent.futures
import contextlib
import http.server
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from collections.abc import Mapping

import grpc

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts import saved_model
from deeplab_tf.export import asset_files
from deeplab_tf.export.server import rest
from deeplab_tf.export.server import rpc
from deeplab_tf.export.server.servable import Servable

_SECONDS_BETWEEN_LOOKS = 1.0  # as TF Serving's file_system_poll_wait_seconds
_THREADS = 4  # of gRPC

NOTICE = (
    "For development only: no batching, no TLS, no metrics, one process. In production, run TF "
    "Serving on the same folder (docs/guides/serving.md)."
)


def run(
    export_dir: str,
    *,
    model_name: str,
    labels: Mapping[str, int],
    host: str,
    rest_port: int,
    port: int,
    max_request_mib: float,
) -> None:
    """Serves a model until the process is asked to stop.

    Args:
        export_dir: The folder of all versions.
        model_name: Name of the model in requests.
        labels: Versions by label.
        host: Name or address to listen at.
        rest_port: Port of REST; 0 for a free one.
        port: Port of gRPC; 0 for a free one.
        max_request_mib: Largest request, in MiB.

    Raises:
        UserError: The folder has no version, or is one; a label is of none; or a port is taken.
    """
    if not files.as_path(export_dir).is_dir():
        raise UserError(f"--export_dir={export_dir} is not a folder.")
    if files.as_path(export_dir, asset_files.SAVED_MODEL).is_file():
        raise UserError(
            f"--export_dir={export_dir} is a SavedModel, not a folder of versions: give the folder "
            "that it lies in."
        )
    print(saved_model.describe(saved_model.newest_version(str(files.cached_copy(export_dir)))))
    servable = Servable(model_name, export_dir, labels)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    max_bytes = int(max_request_mib * 2**20)
    with serve(servable, host, rest_port=rest_port, port=port, max_bytes=max_bytes) as addresses:
        _check_labels(labels, servable)
        print(NOTICE)
        print(f"REST: http://{addresses['rest']}/v1/models/{model_name}")
        print(f"gRPC: {addresses['grpc']}")
        print(f"Health: http://{addresses['rest']}{rest.HEALTH}. Stop with Ctrl-C.", flush=True)
        while not stop.wait(_SECONDS_BETWEEN_LOOKS):
            for change in servable.refresh():
                print(change, flush=True)


@contextlib.contextmanager
def serve(
    servable: Servable,
    host: str = "localhost",
    *,
    rest_port: int = 0,
    port: int = 0,
    max_bytes: int = 64 * 2**20,
) -> Iterator[dict[str, str]]:
    """Loads a model and serves it over REST and gRPC; yields the address of each, by protocol.

    Raises:
        UserError: A port is taken, or the host is not one of this machine.
    """
    for change in servable.refresh():
        print(change, flush=True)
    with contextlib.ExitStack() as stack:
        address = _address(host)
        over_rest = _rest_server(servable, address, rest_port, max_bytes)
        stack.callback(over_rest.server_close)
        over_grpc, grpc_port = _grpc_server(servable, address, port, max_bytes, stack)
        over_grpc.start()
        stack.callback(lambda: over_grpc.stop(grace=None).wait())
        thread = threading.Thread(target=over_rest.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        stack.callback(thread.join)
        stack.callback(over_rest.shutdown)
        ports = {"rest": over_rest.server_port, "grpc": grpc_port}
        yield {protocol: f"{_shown(host)}:{number}" for protocol, number in ports.items()}


def _address(host: str) -> str:
    """Returns the IP address of a host: one, since gRPC would be content with some of several."""
    try:
        return host if ":" in host else socket.gethostbyname(host)
    except OSError as error:
        raise UserError(f"--host={host} is not the name or address of a host ({error}).") from error


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host  # an address of IPv6


def _rest_server(servable: Servable, address: str, port: int, max_bytes: int):
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def handle_error(self, request, client_address):
            """Keeps quiet about clients that hang up."""
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    try:
        return Server((address, port), rest.handler(servable, max_bytes))
    except OSError as error:
        raise _taken("rest_port", address, port, error) from error


def _grpc_server(
    servable: Servable, address: str, port: int, max_bytes: int, stack: contextlib.ExitStack
) -> tuple[grpc.Server, int]:
    executor = stack.enter_context(concurrent.futures.ThreadPoolExecutor(_THREADS))
    options = [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # else two servers share a port without an error
    ]
    server = grpc.server(executor, options=options)
    rpc.add_services(servable, server)
    try:
        return server, server.add_insecure_port(f"{_shown(address)}:{port}")
    except RuntimeError as error:
        raise _taken("port", address, port, error) from error


def _taken(flag: str, host: str, port: int, error: Exception) -> UserError:
    return UserError(
        f"--{flag}={port} cannot be listened at on {host} ({error}): give another port, or "
        "0 for a free one."
    )


def _check_labels(labels: Mapping[str, int], servable: Servable) -> None:
    for label, version in labels.items():
        if version not in servable.available:
            served = ", ".join(map(str, sorted(servable.available)))
            raise UserError(
                f"--version_labels gives {label} to version {version}, which is not served: the "
                f"versions are {served}."
            )
