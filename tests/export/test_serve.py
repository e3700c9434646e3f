"""The server for development: its command, and what TF Serving's REST documentation says."""

import base64
import http.client
import importlib.util
import json
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tensorflow as tf

from conftest import REPOSITORY
from deeplab_tf.errors import UserError
from deeplab_tf.export import serve
from deeplab_tf.export.server import running
from deeplab_tf.export.server.servable import Servable

MIB = 2**20

# In a process of its own: the messages of ovmsclient bear the names of TensorFlow's.
OVMSCLIENT = """
import sys
import numpy as np
from ovmsclient import make_grpc_client, make_http_client

images = np.load(sys.argv[3])
over_grpc, over_rest = make_grpc_client(sys.argv[1]), make_http_client(sys.argv[2])
for client in (over_grpc, over_rest):
    status = client.get_model_status("deeplab")
    labels = client.predict({"images": images}, "deeplab")
    print(sorted(status), status[2]["state"], np.sum(labels))
# Over REST, it reads metadata in the spelling of OpenVINO's server, which is not TF Serving's.
print(sorted(over_grpc.get_model_metadata("deeplab")["inputs"]))
"""


class BrightModel(tf.Module):
    """Finds class 1 in bright pixels: the signatures of an export, without a network."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def serving_default(self, images):
        return {"labels": tf.cast(self._is_bright(images), tf.uint8)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_bytes(self, image_bytes):
        def mask(content):
            labels = self._is_bright(tf.io.decode_png(content, channels=3))
            return tf.io.encode_png(tf.cast(labels, tf.uint8)[..., tf.newaxis])

        return {"mask_png_bytes": tf.map_fn(mask, image_bytes)}

    def _is_bright(self, images):
        return tf.reduce_mean(tf.cast(images, tf.float32), axis=-1) > 127.5


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> pathlib.Path:
    """A folder with the versions 1 and 2."""
    folder, module = tmp_path_factory.mktemp("export") / "model", BrightModel()
    signatures = {name: getattr(module, name) for name in ("serving_default", "serving_bytes")}
    tf.saved_model.save(module, str(folder / "1"), signatures)
    shutil.copytree(folder / "1", folder / "2")
    return folder


@pytest.fixture(scope="module")
def address(export):
    """The address of REST; a request may have a MiB."""
    servable = Servable("deeplab", str(export), {"stable": 1, "canary": 2})
    with running.serve(servable, max_bytes=MIB) as addresses:
        yield addresses["rest"]


def ask(address: str, method: str, path: str, body: str = "", headers=None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(address)
    connection.request(method, path, body or None, headers or {})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def predict(address: str, body: object, at: str = "") -> tuple[int, dict]:
    text = body if isinstance(body, str) else json.dumps(body)
    return ask(address, "POST", f"/v1/models/deeplab{at}:predict", text)


def served_version(version: int) -> dict:
    return {
        "version": str(version),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


def test_states_are_those_of_the_rest_documentation(address):
    both = {"model_version_status": [served_version(2), served_version(1)]}
    assert ask(address, "GET", "/v1/models/deeplab") == (200, both)
    canary = {"model_version_status": [served_version(2)]}
    assert ask(address, "GET", "/v1/models/deeplab/versions/2") == (200, canary)
    assert ask(address, "GET", "/v1/models/deeplab/labels/canary") == (200, canary)
    status, metadata = ask(address, "GET", "/v1/models/deeplab/labels/stable/metadata")
    assert status == 200 and metadata["model_spec"]["version"] == "1"
    assert "serving_bytes" in metadata["metadata"]["signature_def"]["signature_def"]
    assert ask(address, "GET", "/healthz") == (200, {"model": "deeplab", "versions": [1, 2]})


@pytest.mark.parametrize("at", ["", "/versions/1", "/labels/canary"])
def test_rows_and_columns_are_answered_in_kind(address, at):
    image = np.zeros((2, 2, 3), int)
    image[0] = 255
    labels = [[[1, 1], [0, 0]]]
    assert predict(address, {"instances": [image.tolist()]}, at) == (200, {"predictions": labels})
    columns = {"inputs": {"images": [image.tolist()]}}
    assert predict(address, columns, at) == (200, {"outputs": labels})


@pytest.mark.parametrize(
    "body, status, message",
    [
        ("{", 400, "JSON Parse error"),
        ("[" * 100_000, 400, "JSON Parse error"),
        (f'{{"instances": {"[" * 900}1{"]" * 900}}}', 400, "Failed to process images"),
        ([], 400, "must be a JSON object"),
        ({}, 400, "only one of 'inputs' or 'instances'"),
        ({"instances": []}, 400, "'instances' to be a list with values"),
        ({"signature_name": 1, "instances": [1]}, 400, "must be a string"),
        ({"signature_name": "none", "instances": [1]}, 400, '"none" not found'),
        ({"instances": [1, 2]}, 400, r"shape \(None, None, None, 3\), not uint8 of shape \(2,\)"),
        ({"instances": [[[[0.5, 0, 0]]]]}, 400, "not all are whole numbers between 0 and 255"),
        ({"instances": ["text"]}, 400, '^JSON Value: "text" is not of expected type: uint8$'),
        ({"instances": ["a" * 1000]}, 400, r"^JSON Value: .{103} is not of"),
        ({"instances": [[[[300, 0, 0]]]]}, 400, "Failed to process images"),
        (
            {"signature_name": "serving_bytes", "instances": [{"b64": "!"}]},
            400,
            "Failed to process",
        ),
        ({"signature_name": "serving_bytes", "instances": [{"b64": ""}]}, 400, "^Input is empty"),
        (" " * (MIB + 1), 413, "more than 1 MiB"),
    ],
    ids=lambda value: None if isinstance(value, int) else "",
)
def test_wrong_requests_get_an_error_object(address, body, status, message):
    got, answer = predict(address, body)
    assert got == status and list(answer) == ["error"]
    assert re.search(message, answer["error"])


def test_missing_models_and_paths_get_an_error_object(address):
    for method, path, status, message in (
        ("GET", "/v1/models/other", 404, "Could not find any versions of model other"),
        ("GET", "/v1/models/deeplab/versions/3", 404, "with version 3"),
        ("GET", "/v1/models/deeplab/labels/none", 400, "version label: none"),
        ("GET", "/v1/models/deeplab:predict", 400, "Malformed request"),
        ("GET", "/", 400, "Malformed request"),
    ):
        got, answer = ask(address, method, path)
        assert got == status and message in answer["error"]
    body = {"instances": [[[[0, 0, 0]]]]}
    status, answer = predict(address, body, "/versions/3")
    assert (status, answer["error"]) == (
        404, "Servable not found for request: Specific(deeplab, 3)",
    )  # fmt: skip
    status, answer = predict(address, body, "/labels/none")
    assert (status, answer["error"]) == (400, "Unrecognized servable version label: none")
    chunked = {"Transfer-Encoding": "chunked"}
    status, answer = ask(address, "POST", "/v1/models/deeplab:predict", "", chunked)
    assert (status, answer) == (411, {"error": "Content-Length is missing"})


def test_versions_come_and_go(export, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(export, folder)
    servable = Servable("deeplab", str(folder))
    servable.refresh()
    shutil.rmtree(folder / "1")
    (folder / "3").mkdir()
    (folder / "3/saved_model.pb").write_bytes(b"damaged")
    (folder / ".new_4").mkdir()  # a draft
    changes = servable.refresh()
    assert len(changes) == 2 and "version 3 of deeplab cannot be loaded" in changes[0]
    assert changes[1] == "version 1 of deeplab is gone"
    with running.serve(servable) as addresses:
        _, answer = ask(addresses["rest"], "GET", "/v1/models/deeplab")
        assert predict(addresses["rest"], {"instances": [[[[0, 0, 0]]]]})[0] == 200
    states = {one["version"]: one for one in answer["model_version_status"]}
    assert {number: one["state"] for number, one in states.items()} == {
        "1": "END", "2": "AVAILABLE", "3": "END",
    }  # fmt: skip
    assert states["3"]["status"]["error_code"] == "UNKNOWN"
    assert states["1"]["status"]["error_code"] == "OK"


def test_a_version_that_is_exported_again_is_served_again(export, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(export / "1", folder / "1")
    servable = Servable("deeplab", str(folder))
    servable.refresh()
    shutil.rmtree(folder / "1")
    servable.refresh()
    shutil.copytree(export / "1", folder / "1")
    assert servable.refresh() == ["version 1 of deeplab is served"]


def test_a_version_that_comes_file_by_file_is_loaded_when_it_is_complete(export, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(export / "1", folder / "1", ignore=shutil.ignore_patterns("saved_model.pb"))
    servable = Servable("deeplab", str(folder))
    assert servable.refresh() == []
    shutil.copy(export / "1/saved_model.pb", folder / "1")
    assert servable.refresh() == ["version 1 of deeplab is served"]


def test_versions_stay_while_their_folder_cannot_be_read(export, monkeypatch):
    def fail(_):
        raise OSError("no network")

    servable = Servable("deeplab", str(export))
    servable.refresh()
    monkeypatch.setattr(pathlib.Path, "iterdir", fail)
    assert servable.refresh() == [] and servable.available == {1, 2}


def test_a_single_version_is_not_taken_for_the_folder_of_all(export):
    with pytest.raises(UserError, match="--export_dir=.*1 is a SavedModel, not a folder of"):
        serve.main(serve.Arguments(export_dir=str(export / "1")))


def test_a_name_with_spaces_is_found_by_its_address(export):
    with running.serve(Servable("my model", str(export))) as addresses:
        assert ask(addresses["rest"], "GET", "/v1/models/my%20model")[0] == 200


def test_a_client_that_hangs_up_leaves_no_traceback(address, capsys):
    host, port = address.split(":")
    reset_at_close = struct.pack("ii", 1, 0)
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_at_close)
        connection.sendall(b"POST /v1/models/deeplab:predict HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_a_server_without_a_version_is_not_healthy(tmp_path):
    with running.serve(Servable("deeplab", str(tmp_path))) as addresses:
        assert ask(addresses["rest"], "GET", "/healthz")[0] == 503


def test_a_port_that_is_taken_is_named(export, address):
    port = int(address.rpartition(":")[2])
    servable = Servable("deeplab", str(export / "none"))
    for flag in ("rest_port", "port"):
        with pytest.raises(UserError, match=f"--{flag}={port} cannot be listened at"):
            with running.serve(servable, **{flag: port}):
                pass


def test_a_host_that_does_not_exist_is_named(export):
    with pytest.raises(UserError, match="--host=no host is not the name"):
        with running.serve(Servable("deeplab", str(export / "none")), "no host"):
            pass


@pytest.mark.parametrize("labels", [("canary",), ("=1",), ("canary=two",)], ids=str)
def test_wrong_labels_are_refused(labels):
    with pytest.raises(UserError, match="--version_labels=.* must be LABEL=VERSION"):
        serve.Arguments(export_dir="export", version_labels=labels).versions_by_label  # noqa: B018


def test_missing_packages_are_named_with_their_extra(without_package):
    without_package("tensorflow_serving")
    with pytest.raises(UserError, match=r"pip install 'deeplab_tf\[serving\]'"):
        serve.main(serve.Arguments(export_dir="export"))


@pytest.fixture(scope="module")
def command(export):
    """The command in a process of its own; its lines up to the addresses."""
    arguments = [f"--export_dir={export}", "--rest_port=0", "--port=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deeplab_tf.export.serve", *arguments, "--version_labels=canary=2"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Health:"):
            break
    yield "".join(lines)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


def address_in(said: str, protocol: str) -> str:
    return re.search(rf"{protocol}: (?:http://)?([\w.]+:\d+)", said)[1]


def test_the_command_says_that_it_is_for_development(command):
    assert "For development only" in command and "TF Serving" in command
    assert "use only those that you trust" in command


def test_curl_sends_a_large_photo_as_the_guide_says(command, tmp_path):
    if not (shutil.which("curl") and shutil.which("bash")):
        pytest.skip("needs curl and bash")
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.jpg"), noise)
    png = cv2.imencode(".png", noise)[1].tobytes()
    assert len(base64.b64encode(png)) > 2**17  # the longest argument that Linux takes
    (tmp_path / "photo.jpg").write_bytes(png)  # the model here decodes PNGs
    guide = (REPOSITORY / "docs/guides/serving.md").read_text(encoding="utf-8")
    (script,) = [one for one in re.findall(r"```bash\n(.*?)```", guide, re.S) if "mask.png" in one]
    script = script.replace("localhost:8501", address_in(command, "REST"))
    script = script.replace("python ", f"{sys.executable} ")
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True)
    mask = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, noise.mean(axis=-1) > 127.5)


def test_ovmsclient_asks_over_grpc_and_rest(command, tmp_path):
    if importlib.util.find_spec("ovmsclient") is None:
        pytest.skip("needs the package ovmsclient")
    images = np.zeros((1, 3, 4, 3), np.uint8)
    images[0, 0] = 200
    np.save(tmp_path / "images.npy", images)
    addresses = [address_in(command, protocol) for protocol in ("gRPC", "REST")]
    result = subprocess.run(
        [sys.executable, "-c", OVMSCLIENT, *addresses, str(tmp_path / "images.npy")],
        capture_output=True,
        text=True,
    )
    assert result.stdout == "[1, 2] AVAILABLE 4\n" * 2 + "['images']\n", result.stderr
