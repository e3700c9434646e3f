"""TF Serving's REST API.

Reference: https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import binascii
import contextlib
import http.client
import io
import json
import socket
import ssl
import time
import urllib.parse

from deeplab_tf.errors import UserError
from deeplab_tf.export.connection import INPUT
from deeplab_tf.export.connection import OUTPUT
from deeplab_tf.export.connection import SIGNATURE
from deeplab_tf.export.connection import Connection
from deeplab_tf.export.connection import NotFoundError

# Parsed, each takes 56 bytes or more. Probabilities have a list for every pixel.
_MAX_LISTS_AND_OBJECTS = 2**22
_BYTES_AT_A_TIME = 2**16


class Rest:
    """A model behind TF Serving's REST API. Each request has its own connection, for threads."""

    def __init__(self, connection: Connection):
        """Connects to nothing yet.

        Raises:
            UserError: The certificates cannot be used.
        """
        self._connection = connection
        self._model = f"/v1/models/{urllib.parse.quote(connection.model_name, safe='')}"
        self._versioned = self._model
        if connection.model_version is not None:
            self._versioned += f"/versions/{connection.model_version}"
        if connection.version_label:
            self._versioned += f"/labels/{urllib.parse.quote(connection.version_label, safe='')}"
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if connection.auth_token is not None:
            self._headers["Authorization"] = f"Bearer {connection.auth_token}"
        self._tls = _tls_context(connection) if connection.tls else None

    def close(self) -> None:
        """Does nothing: no connection is held open."""

    def predict(self, image_bytes: list[bytes]) -> list[bytes]:
        """Returns the masks of images, as PNGs."""
        encoded = [{"b64": base64.b64encode(content).decode()} for content in image_bytes]
        # By column: all images in one list, and one list per output.
        body = {"signature_name": SIGNATURE, "inputs": {INPUT: encoded}}
        answer = self._request("POST", f"{self._versioned}:predict", body)
        try:
            outputs = answer["outputs"]
            # A single output comes without its name.
            masks = outputs[OUTPUT] if isinstance(outputs, dict) else outputs
            return [base64.b64decode(mask["b64"], validate=True) for mask in masks]
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise self._connection.misfit_error(
                f"without a base64 {OUTPUT} for each image"
            ) from error

    def signatures(self) -> dict[str, tuple[list[str], list[str]]]:
        """Returns the names of inputs and outputs of the model's signatures."""
        answer = self._request("GET", f"{self._versioned}/metadata")
        try:
            signatures = answer["metadata"]["signature_def"]["signature_def"]
            return {
                name: (list(signature.get("inputs", ())), list(signature.get("outputs", ())))
                for name, signature in signatures.items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise self._connection.misfit_error("without a description of its model") from error

    def versions(self) -> list[int]:
        """Returns the versions of the model that are served."""
        statuses = self._request("GET", self._model).get("model_version_status", [])
        try:
            return sorted(
                int(status["version"]) for status in statuses if status["state"] == "AVAILABLE"
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._connection.misfit_error("without the versions of its model") from error

    def _request(self, method: str, path: str, body: dict | None = None) -> dict:
        """Returns the JSON object that comes back."""
        text = None if body is None else json.dumps(body)
        status, content = self._exchange(method, path, text)
        answer = _parse(content)
        if status == 200 and isinstance(answer, dict):
            return answer
        # TF Serving escapes its messages as C does, and then they may not be JSON.
        error = answer.get("error") if isinstance(answer, dict) else None
        error = error or content[:1000].decode(errors="replace")
        if status == 404 and content.lstrip().startswith(b"{"):  # not another web server's
            raise NotFoundError(str(error))
        if status == 400:
            raise self._connection.refused_error(error)
        if status in (401, 403):
            raise self._connection.unauthorised_error(error)
        raise self._connection.status_error(status, error)

    def _exchange(self, method: str, path: str, text: str | None) -> tuple[int, bytes]:
        """Sends a request; returns the status and the content of the answer."""
        connection = self._connection
        deadline = time.monotonic() + connection.timeout
        try:
            with contextlib.closing(self._connect(deadline)) as sock:
                exchange = http.client.HTTPConnection(connection.host, connection.port)
                exchange.sock = _BoundedSocket(sock, deadline, connection.max_answer_bytes)
                exchange.request(method, path, text, self._headers)
                response = exchange.getresponse()
                return response.status, self._read(response)
        except TimeoutError as error:
            raise connection.timeout_error() from error
        except ssl.SSLCertVerificationError as error:
            raise connection.certificate_error(error.verify_message) from error
        except _TooLargeError as error:
            raise connection.too_large_error() from error
        except http.client.IncompleteRead as error:
            raise connection.misfit_error("with less than it announced") from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # of a host's name too
            raise connection.unreachable_error("REST", error) from error

    def _connect(self, deadline: float) -> socket.socket:
        host, port = self._connection.host, self._connection.port
        errors = [OSError("the host has no address")]
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_remaining(deadline))
                sock.connect(address)
                if self._tls is not None:
                    sock.settimeout(_remaining(deadline))  # of the whole handshake
                    sock = self._tls.wrap_socket(sock, server_hostname=host)
                return sock
            except ssl.SSLError:
                sock.close()
                raise
            except OSError as error:
                sock.close()
                errors.append(error)
        raise errors[-1]

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        announced = response.length
        if announced is not None and announced > self._connection.max_answer_bytes:
            raise _TooLargeError
        content = b"".join(iter(lambda: response.read(_BYTES_AT_A_TIME), b""))
        if announced is not None and len(content) < announced:
            raise http.client.IncompleteRead(b"", announced - len(content))
        return content


class _TooLargeError(Exception):
    """A server sends more than it may."""


class _BoundedSocket:
    """A socket for `http.client` that bounds the time of all it does, and what it receives."""

    def __init__(self, sock: socket.socket, deadline: float, max_bytes: int):
        self._sock, self._deadline, self._max_bytes = sock, deadline, max_bytes

    def sendall(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            self._sock.settimeout(_remaining(self._deadline))
            rest = rest[self._sock.send(rest[:_BYTES_AT_A_TIME]) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._sock, self._deadline, self._max_bytes))

    def close(self) -> None:
        """Does nothing: `http.client` closes the socket before the answer is read."""


class _BoundedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float, max_bytes: int):
        super().__init__()
        self._sock, self._deadline = sock, deadline
        self._left = max_bytes + _BYTES_AT_A_TIME  # for the headers

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        self._sock.settimeout(_remaining(self._deadline))
        count = self._sock.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise _TooLargeError
        return count


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _parse(content: bytes):
    """Returns what JSON holds; None if it is not JSON, or would take far more memory than its text.

    Honest answers have a list or an object for each image, or for each pixel.
    """
    if content.count(b"[") + content.count(b"{") > _MAX_LISTS_AND_OBJECTS:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _tls_context(connection: Connection) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=connection.read_ca_certificates())
    except (ssl.SSLError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"--ca_certificates={connection.ca_certificates} holds no certificates in PEM format "
            f"({error})."
        ) from error
