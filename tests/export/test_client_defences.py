"""The client against servers that are slow, endless, lying or forged; TLS and authorisation."""

import base64
import concurrent.futures
import contextlib
import itertools
import json
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable
from collections.abc import Iterator

import cv2
import grpc
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import tensorflow as tf
import trustme
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from deeplab_tf.errors import UserError
from deeplab_tf.export import client

OK = b"HTTP/1.1 200 OK\r\n"
LABEL = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


IMAGE = png(np.zeros((2, 3, 3), np.uint8))


def outputs(*masks: bytes) -> bytes:
    """The JSON of an answer with masks."""
    encoded = [{"b64": base64.b64encode(mask).decode()} for mask in masks]
    return json.dumps({"outputs": encoded}).encode()


def answer(body: bytes, *headers: str) -> bytes:
    length = f"Content-Length: {len(body)}"
    lines = "".join(f"{line}\r\n" for line in headers or [length])
    return OK + lines.encode() + b"\r\n" + body


def receive(sock: socket.socket) -> bytes:
    received = sock.recv(65536)
    if not received:
        raise OSError("the client has closed")
    return received


def read_headers(sock: socket.socket) -> bytes:
    """Reads up to the end of the headers at least."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += receive(sock)
    return received


def read_request(sock: socket.socket) -> bytes:
    """Reads a request with its body; returns the headers."""
    received = read_headers(sock)
    headers, _, body = received.partition(b"\r\n\r\n")
    length = sum(  # a request without a body has no such header
        int(line.split(b":")[1])
        for line in headers.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += receive(sock)
    return headers


@contextlib.contextmanager
def serve(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that lets a function speak on each connection; yields its address."""
    is_over = threading.Event()

    def accept():
        while not is_over.is_set():
            with contextlib.suppress(OSError):  # when the client has enough and closes
                sock, _ = server.accept()
                with sock:
                    sock.settimeout(20)
                    speak(sock)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            is_over.set()
            thread.join()


def saying(parts, pause: float = 0.0) -> Callable[[socket.socket], None]:
    """Reads a request, then sends parts of an answer, perhaps with pauses between them."""

    def speak(sock):
        read_request(sock)
        for part in parts:
            sock.sendall(part)
            time.sleep(pause)

    return speak


def ask(speak, image: bytes = IMAGE, **settings) -> np.ndarray:
    with serve(speak) as address, client.Client(address, **settings) as server:
        return server.predict([image])[0]


def test_an_honest_answer_of_every_framing_is_read():
    body = outputs(png(LABEL))
    chunked = b"".join(b"%x\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    for whole in (
        answer(body),
        answer(body, "Connection: close"),
        answer(chunked + b"0\r\n\r\n", "Transfer-Encoding: chunked"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(body),
    ):
        np.testing.assert_array_equal(ask(saying([whole])), LABEL)


@pytest.mark.parametrize(
    "start",
    [b"", OK, OK + b"X: ", answer(b"", "Connection: close"), answer(b"", "Content-Length: 9999")],
    ids=["status", "header", "header line", "body", "body of known length"],
)
def test_an_answer_that_comes_in_drops_is_not_waited_for(start):
    drops = itertools.chain([start], itertools.repeat(b"x"))
    started = time.monotonic()
    with pytest.raises(UserError, match="no complete answer within 0.6 seconds"):
        ask(saying(drops, pause=0.1), timeout=0.6)
    assert time.monotonic() - started < 15  # on a machine that does much else


def test_a_request_that_is_not_taken_is_not_waited_for():
    def never_read(sock):
        time.sleep(1.5)

    with pytest.raises(UserError, match="no complete answer within 0.5 seconds"):
        ask(never_read, image=bytes(2**24), timeout=0.5)


@pytest.mark.parametrize(
    "start, part",
    [
        (answer(b"", "Connection: close"), bytes(65536)),
        (answer(b"", "Transfer-Encoding: chunked"), b"10000\r\n" + bytes(65536) + b"\r\n"),
        (answer(b"", "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 10000),
        (answer(b"", "Content-Length: 100000000000"), bytes(65536)),
        (b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 1000),
    ],
    ids=["no length", "large chunks", "small chunks", "large length", "continues"],
)
def test_an_endless_answer_is_not_read(start, part):
    sent = 0

    def endless():
        nonlocal sent
        yield start
        while True:
            sent += len(part)
            yield part

    with pytest.raises(UserError, match="more than 1 MiB: raise --max_answer_mib"):
        ask(saying(endless()), max_answer_mib=1, timeout=20)
    assert sent < 16 * 2**20  # with what lies in the buffers of the sockets


@pytest.mark.parametrize(
    "content, message",
    [
        (answer(b"{}", "Content-Length: 99"), "less than it announced"),
        (answer(outputs(png(LABEL)), "Content-Length: 9"), "status 200"),
        (answer(b"5\r\nab", "Transfer-Encoding: chunked"), "less than it announced"),
        (answer(b"zz\r\n", "Transfer-Encoding: chunked"), "answers REST|less than it announced"),
        (answer(b"ffffffffffffffffffff\r\nab", "Transfer-Encoding: chunked"), "less than"),
        (answer(b"", "Content-Length: -5"), "status 200"),
        (answer(b"", "Content-Length: many"), "status 200"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", "answers REST"),
        (OK + b"X" * 70000 + b"\r\n\r\n", "answers REST"),
        (b"220 smtp.example.org\r\n", "answers REST"),
        (b"", "answers REST"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[-30:]),
)
def test_lengths_that_lie_and_other_protocols_end_in_one_message(content, message):
    with pytest.raises(UserError, match=message):
        ask(saying([content]))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"outputs":' * 100_000,
        b'{"outputs": [' + b"[]," * 5_000_000 + b"[]]}",
        b"9" * 100_000,
        b"\xff\xfe\x00",
        b'{"outputs": "\\ud800"}',
        b'{"outputs": [{"b64": "\xc3\xa9"}]}',
    ],
    ids=lambda body: f"{body[:20]!r}",
)
def test_json_that_is_deep_large_or_not_text_ends_in_one_message(body):
    with pytest.raises(UserError, match="status 200|without a base64 mask_png_bytes"):
        ask(saying([answer(body)]))


def test_descriptions_and_versions_of_any_shape_end_in_one_message():
    for body in (b"{}", b'{"metadata": []}', b'{"metadata": {"signature_def": 5}}'):
        with serve(saying_to_get(answer(body))) as address, client.Client(address) as server:
            with pytest.raises(UserError, match="without a description of its model"):
                server.require_model()
    for statuses in (
        b"5",
        b"[5]",
        b'[{"state": "AVAILABLE"}]',
        b'[{"state": "AVAILABLE", "version": "x"}]',
        b'[{"state": "AVAILABLE", "version": Infinity}]',
    ):
        not_found = b"HTTP/1.1 404 Not found\r\nConnection: close\r\n\r\n{}"
        answers = iter([not_found, answer(b'{"model_version_status": %b}' % statuses)])
        with (
            serve(lambda sock, answers=answers: saying_to_get(next(answers))(sock)) as address,
            client.Client(address) as server,
            pytest.raises(UserError, match="without the versions"),
        ):
            server.require_model()


def saying_to_get(content: bytes) -> Callable[[socket.socket], None]:
    def speak(sock):
        read_headers(sock)
        sock.sendall(content)

    return speak


def test_messages_of_a_server_are_cut_and_have_no_control_characters():
    text = "\x1b[2J" + "x" * 10**6
    body = json.dumps({"error": text}).encode()
    with pytest.raises(UserError) as caught:
        ask(saying([answer(body).replace(b"200 OK", b"400 Bad")]))
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 600


def header_only_png(width: int, height: int, bit_depth: int = 8, color_type: int = 0) -> bytes:
    """A PNG of zeros, well packed, of any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    rows = zlib.compress(bytes(10**7))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "mask, message",
    [
        (header_only_png(30000, 30000), "900000000|30000x30000"),
        (header_only_png(3, 2, bit_depth=4), "not a grey PNG of 8 or 16 bits"),
        (header_only_png(3, 2, color_type=2), "not a grey PNG"),
        (png(np.zeros((3, 2), np.uint8)), "of 2x3 pixels for an image of 3x2"),
        (png(np.zeros((1, 1), np.uint8)), "of 1x1 pixels for an image of 3x2"),
        (cv2.imencode(".jpg", LABEL)[1].tobytes(), "not a grey PNG"),
    ],
    ids=["large", "4 bits", "colour", "turned", "small", "jpeg"],
)
def test_a_mask_that_does_not_fit_the_image_is_not_decoded(mask, message, monkeypatch):
    def decode(self):
        pytest.fail("was decoded")

    monkeypatch.setattr(PIL.PngImagePlugin.PngImageFile, "load", decode)
    with pytest.raises(UserError, match=message):
        ask(saying([answer(outputs(mask))]))


def test_a_mask_that_is_cut_off_is_named():
    noise = np.random.default_rng(0).integers(0, 9, (60, 50), dtype=np.uint8)
    with pytest.raises(UserError, match="mask_png_bytes that cannot be read"):
        ask(
            saying([answer(outputs(png(noise)[:-500]))]), image=png(np.zeros((60, 50, 3), np.uint8))
        )


def test_masks_of_images_that_the_client_cannot_read_are_bounded():
    with pytest.raises(UserError, match="more than the limit"):
        ask(saying([answer(outputs(header_only_png(30000, 30000)))]), image=b"an unknown format")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificates(authority, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def speaking_tls(authority: trustme.CA, host: str, speak) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)

    def speak_tls(sock):
        with context.wrap_socket(sock, server_side=True) as tls:
            speak(tls)

    return speak_tls


def test_rest_by_tls_sends_the_token(authority, certificates):
    seen = []

    def speak(sock):
        seen.append(read_request(sock))
        sock.sendall(answer(outputs(png(LABEL))))

    label = ask(
        speaking_tls(authority, "127.0.0.1", speak),
        tls=True,
        ca_certificates=certificates,
        auth_token="s3cret",
    )
    np.testing.assert_array_equal(label, LABEL)
    assert b"Authorization: Bearer s3cret" in seen[0].split(b"\r\n")


def test_a_certificate_that_is_not_trusted_or_of_another_host_is_refused(authority, certificates):
    speak = saying([answer(outputs(png(LABEL)))])
    with pytest.raises(UserError, match="certificate .* is not trusted.*--ca_certificates"):
        ask(speaking_tls(authority, "127.0.0.1", speak), tls=True)
    with pytest.raises(UserError, match="certificate .* is not trusted.*127.0.0.1"):
        ask(speaking_tls(authority, "example.org", speak), tls=True, ca_certificates=certificates)


def test_tls_on_one_side_only_ends_in_one_message(authority, certificates):
    speak = saying([answer(outputs(png(LABEL)))])

    def speak_plainly(sock):
        receive(sock)
        sock.sendall(b"HTTP/1.1 400 Bad request\r\n\r\n")

    with pytest.raises(UserError, match="answers REST by TLS"):
        ask(speak_plainly, tls=True, ca_certificates=certificates)
    with pytest.raises(UserError, match="answers REST without TLS .see --tls"):
        ask(speaking_tls(authority, "127.0.0.1", speak))


def test_a_tls_handshake_that_comes_in_drops_is_not_waited_for(certificates):
    def speak(sock):
        for byte in itertools.chain(b"\x16\x03\x03\x40\x00", itertools.repeat(0)):
            sock.sendall(bytes([byte]))
            time.sleep(0.1)

    with pytest.raises(UserError, match="no complete answer within 0.6 seconds"):
        ask(speak, tls=True, ca_certificates=certificates, timeout=0.6)


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
def test_a_missing_token_is_asked_for(status):
    refusal = answer(b'{"error": "who are you"}').replace(b"200 OK", status)
    with pytest.raises(UserError, match="refuses this client.*--auth_token_file"):
        ask(saying([refusal]))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"auth_token": "two words"}, "printable ASCII"),
        ({"auth_token": "a\r\nX: y"}, "printable ASCII"),
        ({"ca_certificates": "ca.pem"}, "needs --tls"),
        ({"ca_certificates": "none.pem", "tls": True}, "There is no certificate file none.pem"),
        ({"ca_certificates": __file__, "tls": True}, "no certificates in PEM format"),
        ({"max_answer_mib": 0}, "--max_answer_mib"),
    ],
)
def test_settings_of_security_are_checked(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        client.Client("localhost:8501", **settings)
    assert "two words" not in str(caught.value)  # a secret is not shown


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("DEEPLAB_TF_AUTH_TOKEN", raising=False)
    assert client.read_auth_token(None) is None
    monkeypatch.setenv("DEEPLAB_TF_AUTH_TOKEN", "of_environment")
    assert client.read_auth_token(None) == "of_environment"
    (tmp_path / "token").write_text("of_file\n")
    assert client.read_auth_token(str(tmp_path / "token")) == "of_file"
    with pytest.raises(UserError, match="There is no file of a token"):
        client.read_auth_token(str(tmp_path / "none"))


@contextlib.contextmanager
def grpc_server(predict, credentials=None, compression=None) -> Iterator[str]:
    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            return predict(context)

    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        server = grpc.server(
            executor, options=[("grpc.max_send_message_length", -1)], compression=compression
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait()


def masks_response(*masks: bytes) -> predict_pb2.PredictResponse:
    response = predict_pb2.PredictResponse()
    response.outputs["mask_png_bytes"].CopyFrom(tf.make_tensor_proto(list(masks), tf.string))
    return response


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_large_grpc_message_is_not_read(compression):
    large = masks_response(bytes(64 * 2**20))
    with (
        grpc_server(lambda context: large, compression=compression) as address,
        client.Client(address, "grpc", max_answer_mib=1) as server,
        pytest.raises(UserError, match="more than 1 MiB: raise --max_answer_mib"),
    ):
        server.predict([IMAGE])


def test_a_forged_shape_of_a_grpc_tensor_takes_no_memory():
    response = masks_response(png(LABEL))
    dimension = response.outputs["mask_png_bytes"].tensor_shape.dim[0]
    dimension.size = 10**11
    with grpc_server(lambda context: response) as address:
        with client.Client(address, "grpc") as server:
            np.testing.assert_array_equal(server.predict([IMAGE])[0], LABEL)


def test_a_grpc_server_that_answers_in_drops_is_not_waited_for():
    def speak(sock):
        sock.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18))  # HTTP/2's settings
        for _ in itertools.count():
            sock.sendall(b"\x00")
            time.sleep(0.1)

    started = time.monotonic()
    with serve(speak) as address, client.Client(address, "grpc", timeout=0.6) as server:
        with pytest.raises(UserError, match="within 0.6 seconds|answers gRPC"):
            server.predict([IMAGE])
    assert time.monotonic() - started < 15


def test_grpc_by_tls_sends_the_token_and_refuses_strangers(authority, certificates):
    def predict(context):
        if ("authorization", "Bearer s3cret") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")
        return masks_response(png(LABEL))

    issued = authority.issue_cert("127.0.0.1")
    chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])
    settings = {"tls": True, "timeout": 30}
    with grpc_server(predict, credentials) as address:
        with client.Client(
            address, "grpc", **settings, ca_certificates=certificates, auth_token="s3cret"
        ) as server:
            np.testing.assert_array_equal(server.predict([IMAGE])[0], LABEL)
        with client.Client(address, "grpc", **settings, ca_certificates=certificates) as server:
            with pytest.raises(UserError, match="refuses this client .who are you"):
                server.predict([IMAGE])
        with client.Client(address, "grpc", **settings) as server:
            with pytest.raises(UserError, match="certificate .* is not trusted"):
                server.predict([IMAGE])
        with client.Client(address, "grpc", timeout=30) as server:
            with pytest.raises(UserError, match="answers gRPC without TLS .see --tls"):
                server.predict([IMAGE])


METADATA = {
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_bytes": {"inputs": {"image_bytes": {}}, "outputs": {"mask_png_bytes": {}}}
            }
        }
    }
}


def test_the_command_has_flags_for_tls_and_a_token(authority, certificates, tmp_path):
    seen = []

    def speak(sock):
        headers = read_request(sock)
        seen.append(b"Authorization: Bearer of_file" in headers)
        is_description = headers.startswith(b"GET")
        body = json.dumps(METADATA).encode() if is_description else outputs(png(LABEL))
        sock.sendall(answer(body))

    (tmp_path / "token").write_text("of_file\n")
    (tmp_path / "a.png").write_bytes(IMAGE)
    with serve(speaking_tls(authority, "127.0.0.1", speak)) as address:
        client.main(
            client.Arguments(
                server=address,
                images=(str(tmp_path / "a.png"),),
                output_dir=str(tmp_path / "out"),
                tls=True,
                ca_certificates=certificates,
                auth_token_file=str(tmp_path / "token"),
            )
        )
    assert seen == [True, True]
    with PIL.Image.open(tmp_path / "out/a.png") as label:
        np.testing.assert_array_equal(np.asarray(label), LABEL)


def test_a_token_that_would_travel_unencrypted_is_warned_of(monkeypatch, capsys):
    monkeypatch.setenv("DEEPLAB_TF_AUTH_TOKEN", "s3cret")
    arguments = client.Arguments(server="no..host:8501", images=("a.png",), output_dir="out")
    with pytest.raises(UserError, match="no server at --server=no..host:8501"):
        client.main(arguments)
    assert "without --tls the token is sent unencrypted" in capsys.readouterr().err
