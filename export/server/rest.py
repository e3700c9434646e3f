"""TF Serving's REST API.

Reference: https://www.tensorflow.org/tfx/serving/api_rest; the rules for tensors are those of
tensorflow_serving/util/json_tensor.cc.
"""

import base64
import contextlib
import http.server
import json
import re
import urllib.parse

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format

from deeplab_tf.errors import shortened
from deeplab_tf.export.server.servable import ModelSpec
from deeplab_tf.export.server.servable import Servable
from deeplab_tf.export.server.servable import ServingError
from deeplab_tf.export.server.servable import invalid

HEALTH = "/healthz"  # not one of TF Serving's

# What TF Serving writes as JSON; uint16 and float16 are not among them.
_JSON_TYPES = (
    tf.float32, tf.float64, tf.int8, tf.int16, tf.int32, tf.int64,
    tf.uint8, tf.uint32, tf.uint64, tf.bool, tf.string,
)  # fmt: skip
# As in tensorflow_serving/model_servers/http_server.cc; any other is 500.
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_PATH = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/(\d{1,18})|/labels/([^/:]+))?(:predict|/metadata)?"
)
_SECONDS_TO_SEND = 60
_SECONDS_TO_GIVE_UP = 2


def handler(servable: Servable, max_request_bytes: int) -> type[http.server.BaseHTTPRequestHandler]:
    """Returns the class that answers HTTP requests for a model.

    Args:
        servable: The model.
        max_request_bytes: Larger bodies are refused.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SECONDS_TO_SEND

        def do_POST(self):
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                self._refuse_body(411, "Content-Length is missing")
            elif int(length) > max_request_bytes:
                limit = f"{max_request_bytes / 2**20:g} MiB"
                self._refuse_body(413, f"the request has {length} bytes, more than {limit}")
            else:
                self._answer("POST", self.rfile.read(int(length)))

        def do_GET(self):
            self._answer("GET", b"")

        def handle_expect_100(self):
            # The body is not asked for before its size is known to be allowed.
            length = self.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) > max_request_bytes:
                return True
            return super().handle_expect_100()

        def log_message(self, *_):
            """Keeps quiet."""

        def _refuse_body(self, status: int, message: str):
            self.close_connection = True
            self._send(status, {"error": message})
            # A client that is still sending would lose the answer if the connection closed now.
            self.connection.settimeout(_SECONDS_TO_GIVE_UP)
            with contextlib.suppress(OSError):
                while self.rfile.read1(2**16):
                    pass

        def _answer(self, method: str, content: bytes):
            try:
                self._send(*_answer(servable, method, self.path, content))
            except ServingError as error:
                self._send(_HTTP_STATUS.get(error.status, 500), {"error": str(error)})

        def _send(self, status: int, answer: dict):
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _answer(servable: Servable, method: str, path: str, content: bytes) -> tuple[int, dict]:
    """Returns the HTTP status of an answer, and its JSON."""
    if method == "GET" and path == HEALTH:
        versions = sorted(servable.available)
        return 200 if versions else 503, {"model": servable.name, "versions": versions}
    match = _PATH.fullmatch(urllib.parse.unquote(path))
    if not match or (method == "POST") != (match[4] == ":predict"):
        raise invalid(f"Malformed request: {method} {path}")
    spec = ModelSpec(match[1], int(match[2] or 0) or None, match[3] or "")
    if method == "POST":
        return 200, _predict(servable, spec, content)
    if not match[4]:
        return 200, _message_to_json(servable.status(spec))
    answer = _message_to_json(servable.metadata(spec))
    # Without the name of the message, which MessageToDict adds.
    answer["metadata"]["signature_def"].pop("@type")
    return 200, answer


def _predict(servable: Servable, spec: ModelSpec, content: bytes) -> dict:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(body, dict):
        raise invalid("the request must be a JSON object")
    version = servable.find(spec)
    signature_name = body.get("signature_name", "serving_default")
    if not isinstance(signature_name, str):
        raise invalid("'signature_name' must be a string")
    infos = servable.signature_def(version, signature_name).inputs
    outputs = servable.predict(version, signature_name, _tensors(body, infos))
    columns = {name: _to_json(name, tensor) for name, tensor in outputs.items()}
    if "inputs" in body:
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    if len({len(column) if isinstance(column, list) else -1 for column in columns.values()}) > 1:
        raise invalid("an output has inconsistent batch size")
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _tensors(body: dict, infos) -> dict[str, tf.Tensor]:
    """Reads the inputs of a request, in row or columnar format."""
    if ("instances" in body) == ("inputs" in body):
        raise invalid("Not formatted correctly expecting only one of 'inputs' or 'instances'")
    by_row = "instances" in body
    columns = _rows(body["instances"], infos) if by_row else _columns(body["inputs"], infos)
    tensors = {}
    for name, info in infos.items():
        dtype = tf.as_dtype(info.dtype)
        try:
            tensors[name] = _tensor(_parsed(columns[name], dtype), dtype)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise invalid(f"Failed to process {name}: {error}") from error
    return tensors


def _rows(rows, infos) -> dict:
    if not isinstance(rows, list) or not rows:
        raise invalid("Expecting 'instances' to be a list with values")
    if isinstance(rows[0], dict) and not _is_base64(rows[0]):
        if any(not isinstance(row, dict) or set(row) != set(infos) for row in rows):
            raise invalid(f"keys must be equal to: {','.join(infos)}")
        return {name: [row[name] for row in rows] for name in infos}
    if len(infos) > 1:
        raise invalid("instances is a plain list, but expecting list of objects")
    return {next(iter(infos)): rows}


def _columns(columns, infos) -> dict:
    if not isinstance(columns, dict) or _is_base64(columns):
        if len(infos) > 1:
            raise invalid("inputs is a plain value/list, but expecting an object")
        return {next(iter(infos)): columns}
    missing = sorted(set(infos) - set(columns))
    if missing:
        raise invalid(f"Missing named input: {missing[0]} in 'inputs' object.")
    return columns


def _is_base64(value) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]


def _parsed(value, dtype: tf.DType):
    """Returns a JSON value with its base64 decoded."""
    if isinstance(value, list):
        return [_parsed(item, dtype) for item in value]
    if _is_base64(value) and dtype == tf.string:
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str) == (dtype == tf.string) and not isinstance(value, dict):
        return value
    shown = shortened(json.dumps(value), 100)
    raise invalid(f"JSON Value: {shown} is not of expected type: {dtype.name}")


def _tensor(values, dtype: tf.DType) -> tf.Tensor:
    if dtype.is_integer:  # TensorFlow would wrap around
        array = np.asarray(values)
        is_whole = array.dtype.kind in "iu" or not array.size
        if not is_whole or ((array < dtype.min) | (array > dtype.max)).any():
            raise ValueError(f"not all are whole numbers between {dtype.min} and {dtype.max}")
    return tf.constant(values, dtype)


def _to_json(name: str, tensor: tf.Tensor):
    """Returns an output for JSON; bytes as base64 where its name says that it holds bytes."""
    if tensor.dtype not in _JSON_TYPES:
        raise invalid(f"Failed to write JSON value for tensor type: {tensor.dtype.name}")

    def text(value):
        if isinstance(value, list):
            return [text(item) for item in value]
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(value).decode()}
        return value.decode("utf-8", errors="replace")

    values = np.asarray(tensor).tolist()
    return text(values) if tensor.dtype == tf.string else values


def _message_to_json(message) -> dict:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
