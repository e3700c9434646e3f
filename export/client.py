r"""Asks TF Serving for the labels of images, over REST or gRPC.

    python -m deeplab_tf.export.client --server=localhost:8501 --protocol=rest \
        --images='photos/*.jpg' --output_dir=DIR --palette=EXPORT/1/assets/palette.json

Files are sent as they are to the signature `serving_bytes`; only what is no JPEG or PNG, and photos
that are stored lying on their side, become an upright PNG first. For every image NAME the command
writes what `deeplab_tf.predict` writes: NAME.png, the class ids under a palette, and
NAME_overlay.png. It prints how long the answer took. What cannot be read, or is refused by the
server, is named and skipped, and then the exit code is 1.

In Python:

    with client.Client("localhost:8501", "rest", "deeplab") as server:
        labels = server.predict([image_bytes, other_image_bytes])

`Client` needs no TensorFlow over REST. Over gRPC it does, since `tensorflow_serving.apis` imports
it.
"""

import base64
import contextlib
import dataclasses
import http.client
import io
import json
import os
import statistics
import time
import typing
import urllib.parse
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import ExifTags
from PIL import Image

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.data import image_files
from deeplab_tf.drawing import predictions
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import setting

if typing.TYPE_CHECKING:
    from deeplab_tf.data.records import DatasetInfo  # imports TensorFlow

# Of `deeplab_tf.export.serving`.
SIGNATURE, INPUT, OUTPUT = "serving_bytes", "image_bytes", "mask_png_bytes"
_LONGEST_TIMEOUT = 86400  # seconds; sockets cannot count very far
_PORTS = "TF Serving answers REST at port 8501 and gRPC at 8500 if not told otherwise"
_NO_EXPORT = "serve a model that today's `python -m deeplab_tf.export.savedmodel` has written."


class RefusedError(UserError):
    """The server got the request and does not accept what is in it."""


class _NotFoundError(UserError):
    """The server has no such model, or no such version of it."""


class Client:
    """A model behind TF Serving; threads may share it.

    Attributes:
        name: Model, version and address in words, for messages.
    """

    def __init__(
        self,
        server: str,
        protocol: str = "rest",
        model_name: str = "deeplab",
        model_version: int | None = None,
        timeout: float = 60.0,
    ):
        """Connects to nothing yet.

        Args:
            server: HOST:PORT.
            protocol: "rest" or "grpc".
            model_name: The name that the server gives to the model.
            model_version: The version to ask; None for the highest that is served.
            timeout: Of one request, in seconds.

        Raises:
            UserError: One of them makes no sense.
        """
        host, _, port = server.rpartition(":")
        if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(f"--server={server} is no address such as localhost:8501; {_PORTS}.")
        if protocol not in PROTOCOLS:
            raise UserError(f"--protocol={protocol}; there is {' and '.join(PROTOCOLS)}.")
        if not 0 < timeout <= _LONGEST_TIMEOUT:
            raise UserError(
                f"--timeout={timeout}; it must be more than 0, at most {_LONGEST_TIMEOUT} seconds."
            )
        version = "" if model_version is None else f", version {model_version}"
        self.name = f"model {model_name}{version} at {server} ({protocol})"
        self._transport = PROTOCOLS[protocol](server, model_name, model_version, timeout)
        self._model_name, self._server, self._version = model_name, server, model_version

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._transport.close()

    def predict(self, image_bytes: Sequence[bytes]) -> list[np.ndarray]:
        """Returns the labels of images, in one request.

        Args:
            image_bytes: JPEG or PNG files, of any sizes.

        Returns:
            Class ids at each image's own size, int32 [H, W].

        Raises:
            RefusedError: The server does not accept the images: one of them is broken, or they
                are too many.
            UserError: There is no server, no such model or version, no answer in time, or none
                that makes sense.
        """
        if not image_bytes:
            return []
        masks = self._ask(lambda: self._transport.predict(list(image_bytes)))
        if len(masks) != len(image_bytes):
            raise UserError(
                f"{self.name} answers {len(image_bytes)} images with {len(masks)} masks; "
                f"{_NO_EXPORT}"
            )
        return [self._decode(mask) for mask in masks]

    def check(self) -> None:
        """Makes sure, before any work, that there is a model and that it takes encoded images.

        Raises:
            UserError: It is not so.
        """
        signatures = self._ask(self._transport.signatures)
        inputs, outputs = signatures.get(SIGNATURE, ((), ()))
        if list(inputs) != [INPUT] or OUTPUT not in outputs:
            raise UserError(
                f"{self.name} has no signature {SIGNATURE} from {INPUT} to {OUTPUT}, among "
                f"{', '.join(sorted(signatures))}; {_NO_EXPORT}"
            )

    def _ask(self, request: Callable[[], typing.Any]) -> typing.Any:
        """Calls a request; where the model is not found, tells what is there instead."""
        try:
            return request()
        except _NotFoundError as error:
            found = error
        try:
            versions = self._transport.versions()
        except _NotFoundError:
            versions = []
        if versions and self._version is not None:
            raise UserError(
                f"{self._server} has no version {self._version} of the model {self._model_name}: "
                f"give --model_version={' or '.join(map(str, versions))}, or none for the highest."
            ) from found
        raise UserError(
            f"{self._server} serves no model {self._model_name} ({found}): give the --model_name "
            "that the server was started with, or wait until it has loaded."
        ) from found

    def _decode(self, mask: bytes) -> np.ndarray:
        pixels = np.frombuffer(mask, np.uint8)
        label = cv2.imdecode(pixels, cv2.IMREAD_UNCHANGED) if pixels.size else None
        if label is None or label.ndim != 2:
            raise UserError(
                f"{self.name} answers with a {OUTPUT} that is no grey PNG; {_NO_EXPORT}"
            )
        return label.astype(np.int32)


class _Rest:
    """TF Serving's REST API; a connection per request, so that threads do not meet.

    Reference: https://www.tensorflow.org/tfx/serving/api_rest
    """

    def __init__(self, server: str, model_name: str, model_version: int | None, timeout: float):
        self._server, self._timeout = server, timeout
        self._model = f"/v1/models/{urllib.parse.quote(model_name, safe='')}"
        self._versioned = self._model
        if model_version is not None:
            self._versioned += f"/versions/{model_version}"

    def close(self) -> None:
        """Nothing is held open."""

    def predict(self, image_bytes: list[bytes]) -> list[bytes]:
        encoded = [{"b64": base64.b64encode(content).decode()} for content in image_bytes]
        # By column: all images in one list, and one list per output.
        body = {"signature_name": SIGNATURE, "inputs": {INPUT: encoded}}
        answer = self._request("POST", f"{self._versioned}:predict", body)
        try:
            outputs = answer["outputs"]
            # A single output comes without its name.
            masks = outputs[OUTPUT] if isinstance(outputs, dict) else outputs
            return [base64.b64decode(mask["b64"], validate=True) for mask in masks]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._server} answers without a base64 {OUTPUT} per image; {_NO_EXPORT}"
            ) from error

    def signatures(self) -> dict[str, tuple[list[str], list[str]]]:
        answer = self._request("GET", f"{self._versioned}/metadata")
        try:
            signatures = answer["metadata"]["signature_def"]["signature_def"]
            return {
                name: (list(signature.get("inputs", ())), list(signature.get("outputs", ())))
                for name, signature in signatures.items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self._server} does not describe its model as TF Serving does. {_PORTS}."
            ) from error

    def versions(self) -> list[int]:
        statuses = self._request("GET", self._model).get("model_version_status", [])
        return sorted(
            int(status["version"]) for status in statuses if status["state"] == "AVAILABLE"
        )

    def _request(self, method: str, path: str, body: dict | None = None) -> dict:
        """Returns the JSON object that comes back."""
        text = None if body is None else json.dumps(body)
        try:
            with contextlib.closing(
                http.client.HTTPConnection(self._server, timeout=self._timeout)
            ) as connection:
                connection.request(method, path, text, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
        except TimeoutError as error:
            raise _timeout_error(self._server, self._timeout) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # of a host's name
            raise _no_answer_error(self._server, "REST", error) from error
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if response.status == 200 and isinstance(answer, dict):
            return answer
        # TF Serving escapes its messages as C does, and then they may be no JSON.
        message = answer.get("error") if isinstance(answer, dict) else None
        message = message or content[:300].decode(errors="replace").strip()
        if response.status == 404 and content.lstrip().startswith(b"{"):  # no other web server's
            raise _NotFoundError(message)
        if response.status == 400:
            raise RefusedError(f"{self._server} refuses the request: {message}")
        raise UserError(
            f"{self._server} answers with status {response.status}: {message!r}. {_PORTS}; "
            "if it is TF Serving, its log tells more."
        )


class _Grpc:
    """TF Serving's gRPC services; imports them where they are used, since they import TensorFlow.

    Reference: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis
    """

    def __init__(self, server: str, model_name: str, model_version: int | None, timeout: float):
        with extra_for("Asking TF Serving over gRPC", extra="serving"):
            import grpc
            from tensorflow_serving.apis import model_service_pb2_grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._server, self._timeout = server, timeout
        self._model_name, self._model_version = model_name, model_version
        # gRPC takes answers of up to 4 MB if not told otherwise.
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(server, options=options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def predict(self, image_bytes: list[bytes]) -> list[bytes]:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(output_filter=[OUTPUT])
        self._describe_model(request.model_spec)
        request.model_spec.signature_name = SIGNATURE
        request.inputs[INPUT].CopyFrom(
            tf.make_tensor_proto(image_bytes, tf.string, shape=[len(image_bytes)])
        )
        response = self._call(self._prediction.Predict, request)
        if OUTPUT not in response.outputs:
            raise UserError(f"{self._server} answers without {OUTPUT}; {_NO_EXPORT}")
        masks = tf.make_ndarray(response.outputs[OUTPUT]).ravel().tolist()
        if not all(isinstance(mask, bytes) for mask in masks):
            raise UserError(
                f"{self._server} answers with a {OUTPUT} that is no string; {_NO_EXPORT}"
            )
        return masks

    def signatures(self) -> dict[str, tuple[list[str], list[str]]]:
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._describe_model(request.model_spec)
        response = self._call(self._prediction.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            name: (list(signature.inputs), list(signature.outputs))
            for name, signature in signatures.signature_def.items()
        }

    def versions(self) -> list[int]:
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._model_name
        response = self._call(self._model.GetModelStatus, request)
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return sorted(
            status.version for status in response.model_version_status if status.state == available
        )

    def _describe_model(self, model_spec) -> None:
        model_spec.name = self._model_name
        if self._model_version is not None:
            model_spec.version.value = self._model_version

    def _call(self, method, request):
        import grpc

        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code == grpc.StatusCode.NOT_FOUND:
                raise _NotFoundError(details) from error
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise _timeout_error(self._server, self._timeout) from error
            if code == grpc.StatusCode.UNAVAILABLE:
                raise _no_answer_error(self._server, "gRPC", details) from error
            if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
                raise RefusedError(f"{self._server} refuses the request: {details}") from error
            raise UserError(
                f"{self._server} answers {code.name}: {details}. {_PORTS}; if it is TF "
                "Serving, its log tells more."
            ) from error


PROTOCOLS: dict[str, type[_Rest] | type[_Grpc]] = {"rest": _Rest, "grpc": _Grpc}


def _timeout_error(server: str, timeout: float) -> UserError:
    return UserError(
        f"{server} gives no answer within {timeout:g} seconds: raise --timeout, or lower "
        "--batch_size; the first request after a start takes longest where a model has no warm-up."
    )


def _no_answer_error(server: str, protocol: str, error) -> UserError:
    return UserError(
        f"nothing at --server={server} talks {protocol} ({error}): start the server, or correct "
        f"address or --protocol. {_PORTS}."
    )


@dataclasses.dataclass(frozen=True)
class _Image:
    pixels: np.ndarray  # as a viewer shows them, uint8 [H, W, 3]
    image_bytes: bytes  # the same as JPEG or PNG


@dataclasses.dataclass(frozen=True)
class _Answer:
    image: _Image
    label: np.ndarray  # int32 [H, W]
    milliseconds: float  # from request to labels, by the number of images in the request


def label_images(
    client: Client,
    images: str | Sequence[str],
    output_dir: str,
    palette: str | None = None,
    batch_size: int = 1,
) -> list[str]:
    """Writes the label PNG and the overlay of every image, with labels from a server.

    Args:
        client: The server.
        images: A file, a folder or a glob, or several of them.
        output_dir: Folder to write to, other than those of the images; made if missing.
        palette: `palette.json` of the export, which names the classes if `labels.txt` lies beside
            it; by default classes have numbers and VOC's colours.
        batch_size: Images per request.

    Returns:
        The label PNGs written, in the order of the sorted images.

    Raises:
        UserError: There is no image, or no server that answers as it should; or some images
            were unreadable or refused, after all others were labelled.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size={batch_size}; it must be 1 or more.")
    client.check()
    paths = image_files.find_images(images)
    names = predictions.output_names(paths)
    if os.path.realpath(output_dir) in {os.path.dirname(os.path.realpath(path)) for path in paths}:
        raise UserError(
            f"--output_dir={output_dir} holds some of the images: give another, so that none of "
            "them is overwritten."
        )
    dataset = _read_palette(palette)
    writer = predictions.PredictionWriter(output_dir, dataset.class_names, dataset.colors)
    written, failures, latencies = [], [], []
    for number, answer in enumerate(_answers(client, paths, batch_size), start=1):
        path, name = paths[number - 1], names[number - 1]
        if isinstance(answer, Exception):
            failures.append(f"{path}: {answer}")
            print(f"{number} of {len(paths)}  {path}: skipped, {answer}", flush=True)
            continue
        _check_label(client, path, answer, dataset)
        prediction = predictions.Prediction(answer.label)
        try:
            output = writer.write(name, answer.image.pixels, prediction)
        except OSError as error:
            raise UserError(f"{path}: its label cannot be written: {error}.") from error
        written.append(output)
        latencies.append(answer.milliseconds)
        height, width = answer.label.shape
        print(
            f"{number} of {len(paths)}  {path} ({width}x{height}) -> {output}  "
            f"{answer.milliseconds:.0f} ms",
            flush=True,
        )
    if latencies:
        print(
            f"{client.name}: {statistics.median(latencies):.0f} ms per image in the median, "
            f"{max(latencies):.0f} ms at most, with {batch_size} per request"
        )
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} images could not be labelled; the others are in "
            f"{output_dir}. Repair or remove:\n  " + "\n  ".join(failures)
        )
    return written


def _answers(
    client: Client, paths: Sequence[str], batch_size: int
) -> Iterator[_Answer | Exception]:
    """What comes back for every image, or why nothing does, in order."""
    for start in range(0, len(paths), batch_size):
        images = [_read_or_error(path) for path in paths[start : start + batch_size]]
        readable = [image for image in images if isinstance(image, _Image)]
        answers = iter(_request(client, readable))
        for image in images:
            yield next(answers) if isinstance(image, _Image) else image


def _request(client: Client, images: list[_Image]) -> list[_Answer | RefusedError]:
    """Labels images in one request; or each in its own, if they are refused together."""
    if not images:
        return []
    started = time.perf_counter()
    try:
        labels = client.predict([image.image_bytes for image in images])
    except RefusedError as error:
        if len(images) == 1:
            return [error]
        return [answer for image in images for answer in _request(client, [image])]
    milliseconds = 1000 * (time.perf_counter() - started) / len(images)
    return [
        _Answer(image, label, milliseconds) for image, label in zip(images, labels, strict=True)
    ]


def _read_or_error(path: str) -> _Image | Exception:
    """Reads an image before it is sent, since a broken one would spoil the whole request."""
    try:
        pixels = image_files.read_image(path)
        with open(path, "rb") as file:
            image_bytes = file.read()
        with image_files.open_image(image_bytes) as file:
            orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
            is_sent_as_it_is = file.format in ("JPEG", "PNG") and orientation == 1
    except (OSError, image_files.ImageFileError) as error:
        return error
    if not is_sent_as_it_is:  # the server would not decode it, or not turn it upright
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        image_bytes = buffer.getvalue()
    return _Image(pixels, image_bytes)


def _check_label(client: Client, path: str, answer: _Answer, dataset: "DatasetInfo") -> None:
    """Raises a `UserError` unless a label fits its image and its classes."""
    size, label = answer.image.pixels.shape[:2], answer.label
    if label.shape != size:
        raise UserError(
            f"{client.name} answers {path}, {size[1]}x{size[0]} pixels, with a mask of "
            f"{label.shape[1]}x{label.shape[0]}; {_NO_EXPORT}"
        )
    if label.max() >= dataset.num_classes:
        raise UserError(
            f"{client.name} finds class {label.max()} in {path}, but there are colours for "
            f"{dataset.num_classes} classes: give the palette.json of the served export by "
            "--palette."
        )


def _read_palette(path: str | None) -> "DatasetInfo":
    """Returns names and colours of the classes.

    Raises:
        UserError: The file is not what an export has in its assets.
    """
    from deeplab_tf.data import records

    if path is None:
        return records.numbered_classes("served", 256)
    labels_path = os.path.join(os.path.dirname(path), "labels.txt")
    try:
        with open(path, encoding="utf-8") as file:
            palette = json.load(file)
        colors = tuple((int(red), int(green), int(blue)) for red, green, blue in palette["colors"])
        dataset = records.numbered_classes("served", len(colors), palette["ignore_label"])
        if os.path.exists(labels_path):
            with open(labels_path, encoding="utf-8") as file:
                class_names = tuple(file.read().splitlines())
            dataset = dataclasses.replace(dataset, class_names=class_names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--palette={path} is no palette of an export ({error}): give its assets/palette.json."
        ) from error
    if len(dataset.class_names) != len(colors):
        raise UserError(
            f"--palette={path} has {len(colors)} colours, but {labels_path} names "
            f"{len(dataset.class_names)} classes: take both from one export."
        )
    return dataclasses.replace(dataset, colors=colors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    server: str = setting(REQUIRED, "HOST:PORT of TF Serving.", is_common=True)
    protocol: str = setting("rest", "How to talk to the server.", choices=tuple(PROTOCOLS))
    model_name: str = setting("deeplab", "Name of the model on the server.", may_be_empty=False)
    model_version: int | None = config.model_version("the highest on the server")
    images: tuple[str, ...] = setting(
        REQUIRED,
        "Images: files, folders or quoted globs; several separated by commas.",
        is_path=True,
        is_common=True,
    )
    output_dir: str = config.output_dir()
    palette: str | None = setting(
        None,
        "File assets/palette.json of the export, for the colours of the classes and, with "
        "labels.txt beside it, for their names.",
        default_help="VOC's colours, and numbers",
        is_path=True,
    )
    batch_size: int = setting(1, "Number of images in a request.", at_least=1)
    timeout: float = setting(
        60.0,
        "Longest wait for an answer.",
        above=0,
        at_most=_LONGEST_TIMEOUT,
        unit="seconds",
    )


def main(arguments: Arguments) -> None:
    with Client(
        arguments.server,
        protocol=arguments.protocol,
        model_name=arguments.model_name,
        model_version=arguments.model_version,
        timeout=arguments.timeout,
    ) as client:
        label_images(
            client,
            arguments.images,
            arguments.output_dir,
            palette=arguments.palette,
            batch_size=arguments.batch_size,
        )


if __name__ == "__main__":
    command_line.run(main, starts_tensorflow=False)
