"""A stand-in for TF Serving: its gRPC stubs and REST rules, over sockets, on SavedModels.

TF Serving itself is in no package registry. This serves what it would: the numbered folders below
a model's base folder, loaded without deeplab_tf or Keras, through the published
`tensorflow_serving.apis`. The REST rules are those of tensorflow_serving/util/json_tensor.cc.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import pathlib
import re
import threading

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

# What TF Serving writes as JSON; uint16 and float16 are not among them.
_JSON_TYPES = (
    tf.float32, tf.float64, tf.int8, tf.int16, tf.int32, tf.int64,
    tf.uint8, tf.uint32, tf.uint64, tf.bool, tf.string,
)  # fmt: skip
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INTERNAL: 500,
}
_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(:predict|/metadata)?")


class ServingError(Exception):
    """Has a status and a message for the client."""

    def __init__(self, status: grpc.StatusCode, message: str):
        super().__init__(message)
        self.status = status


def invalid(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


class Servable:
    """The versions of one model."""

    def __init__(self, name: str, base_folder: pathlib.Path):
        self.name = name
        self.loaded, self.signature_defs = {}, {}
        for folder in base_folder.iterdir():
            if not folder.name.isdigit():  # as TF Serving, which polls for numbers only
                continue
            version = int(folder.name)
            self.loaded[version] = tf.saved_model.load(str(folder))
            graph = saved_model_pb2.SavedModel.FromString(
                (folder / "saved_model.pb").read_bytes()
            ).meta_graphs[0]
            self.signature_defs[version] = graph.signature_def

    def find(self, name: str, version: int | None) -> int:
        """Returns the version that is asked for, or the highest."""
        if name != self.name or (version is not None and version not in self.loaded):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            message = f"Servable not found for request: {wanted}"
            raise ServingError(grpc.StatusCode.NOT_FOUND, message)
        return max(self.loaded) if version is None else version

    def signature_def(self, version: int, name: str):
        if name not in self.signature_defs[version]:  # protobuf's map would make it
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        return self.signature_defs[version][name]

    def predict(
        self, version: int, signature_name: str, inputs: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Runs a signature; refuses inputs of other names or types than its own."""
        expected = self.signature_def(version, signature_name).inputs
        if set(inputs) != set(expected):
            raise invalid(f"input size does not match signature: {set(inputs)} {set(expected)}")
        for name, tensor in inputs.items():
            if tensor.dtype.as_datatype_enum != expected[name].dtype:
                raise invalid(f"{name} is expected to be of another type than {tensor.dtype.name}")
        try:
            return self.loaded[version].signatures[signature_name](**inputs)
        except tf.errors.OpError as error:
            raise invalid(error.message) from error

    def status(self, name: str, version: int | None) -> get_model_status_pb2.GetModelStatusResponse:
        self.find(name, version)
        response = get_model_status_pb2.GetModelStatusResponse()
        for number in sorted(self.loaded) if version is None else [version]:
            available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
            response.model_version_status.add(version=number, state=available)
        return response

    def metadata(
        self, name: str, version: int | None
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        found = self.find(name, version)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = name
        response.model_spec.version.value = found
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for signature_name, signature in self.signature_defs[found].items():
            signatures.signature_def[signature_name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response


def _version_of(model_spec: model_pb2.ModelSpec) -> int | None:
    return model_spec.version.value if model_spec.HasField("version") else None


def _aborting(method):
    """Lets a gRPC method answer a `ServingError` with its status."""

    def answer(self, request, context):
        try:
            return method(self, request)
        except ServingError as error:
            context.abort(error.status, str(error))

    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, servable: Servable):
        self._servable = servable

    @_aborting
    def Predict(self, request):
        spec = request.model_spec
        version = self._servable.find(spec.name, _version_of(spec))
        signature_name = spec.signature_name or "serving_default"
        inputs = {name: tf.constant(tf.make_ndarray(p)) for name, p in request.inputs.items()}
        outputs = self._servable.predict(version, signature_name, inputs)
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.version.value = spec.name, version
        response.model_spec.signature_name = signature_name
        for name in request.output_filter or outputs:
            if name not in outputs:
                raise invalid(f"output tensor alias not found in signature: {name}")
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response

    @_aborting
    def GetModelMetadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid(f"Metadata field {request.metadata_field} is not supported")
        return self._servable.metadata(request.model_spec.name, _version_of(request.model_spec))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, servable: Servable):
        self._servable = servable

    @_aborting
    def GetModelStatus(self, request):
        return self._servable.status(request.model_spec.name, _version_of(request.model_spec))


def _is_base64(value) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]


def _parse(value, dtype: tf.DType):
    """Returns a JSON value with its base64 decoded."""
    if isinstance(value, list):
        return [_parse(item, dtype) for item in value]
    if _is_base64(value) and dtype == tf.string:
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str) == (dtype == tf.string) and not isinstance(value, dict):
        return value
    raise invalid(f"JSON Value: {value} Type: Object is not of expected type: {dtype.name}")


def _tensors(body: dict, infos) -> dict[str, tf.Tensor]:
    """Reads the inputs of a request, in row or columnar format."""
    if ("instances" in body) == ("inputs" in body):
        raise invalid("Not formatted correctly expecting only one of 'inputs' or 'instances'")
    if "instances" in body:
        rows = body["instances"]
        if not isinstance(rows, list) or not rows:
            raise invalid("Expecting 'instances' to be a list with values")
        if isinstance(rows[0], dict) and not _is_base64(rows[0]):
            if any(not isinstance(row, dict) or set(row) != set(infos) for row in rows):
                raise invalid(f"keys must be equal to: {','.join(infos)}")
            columns = {name: [row[name] for row in rows] for name in infos}
        elif len(infos) > 1:
            raise invalid("instances is a plain list, but expecting list of objects")
        else:
            columns = {next(iter(infos)): rows}
    else:
        columns = body["inputs"]
        if not isinstance(columns, dict) or _is_base64(columns):
            if len(infos) > 1:
                raise invalid("inputs is a plain value/list, but expecting an object")
            columns = {next(iter(infos)): columns}
        missing = sorted(set(infos) - set(columns))
        if missing:
            raise invalid(f"Missing named input: {missing[0]} in 'inputs' object.")
    tensors = {}
    for name, info in infos.items():
        dtype = tf.as_dtype(info.dtype)
        try:
            tensors[name] = tf.constant(_parse(columns[name], dtype), dtype)
        except (TypeError, ValueError) as error:
            raise invalid(f"Failed to process {name}: {error}") from error
    return tensors


def _to_json(name: str, tensor: tf.Tensor):
    """Writes an output; bytes as base64 where its name says that it holds bytes."""
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


def _predict_json(servable: Servable, name: str, version: int | None, content: bytes) -> dict:
    try:
        body = json.loads(content)
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from error
    found = servable.find(name, version)
    signature_name = body.get("signature_name", "serving_default")
    infos = servable.signature_def(found, signature_name).inputs
    outputs = servable.predict(found, signature_name, _tensors(body, infos))
    columns = {name: _to_json(name, tensor) for name, tensor in outputs.items()}
    if "inputs" in body:
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    if len({len(column) if isinstance(column, list) else -1 for column in columns.values()}) > 1:
        raise invalid("an output has inconsistent batch size")
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _message_to_json(message) -> dict:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _rest_handler(servable: Servable) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self._answer("POST")

        def do_GET(self):
            self._answer("GET")

        def log_message(self, *_):
            """Keeps quiet."""

        def _answer(self, method: str):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                answer, status = self._find_answer(method, content), 200
            except ServingError as error:
                answer, status = {"error": str(error)}, _HTTP_STATUS[error.status]
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _find_answer(self, method: str, content: bytes) -> dict:
            match = _PATH.fullmatch(self.path)
            if not match or (method == "POST") != (match[3] == ":predict"):
                raise invalid(f"Malformed request: {method} {self.path}")
            name, version = match[1], int(match[2]) if match[2] else None
            if method == "POST":
                return _predict_json(servable, name, version, content)
            if match[3]:
                answer = _message_to_json(servable.metadata(name, version))
                # Without the name of the message, which MessageToDict adds.
                answer["metadata"]["signature_def"].pop("@type")
                return answer
            return _message_to_json(servable.status(name, version))

    return Handler


@contextlib.contextmanager
def serve(base_folder: pathlib.Path, name: str = "deeplab"):
    """Serves a model over REST and gRPC; yields the address of each, by protocol."""
    servable = Servable(name, base_folder)
    rest = http.server.ThreadingHTTPServer(("localhost", 0), _rest_handler(servable))
    thread = threading.Thread(target=rest.serve_forever, kwargs={"poll_interval": 0.05})
    executor = concurrent.futures.ThreadPoolExecutor(4)
    rpc = grpc.server(executor, options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(servable), rpc
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(servable), rpc)
    rpc_port = rpc.add_insecure_port("localhost:0")
    rpc.start()
    thread.start()
    try:
        yield {"rest": f"localhost:{rest.server_port}", "grpc": f"localhost:{rpc_port}"}
    finally:
        rest.shutdown()
        thread.join()
        rest.server_close()
        rpc.stop(grace=None).wait()
        executor.shutdown()
