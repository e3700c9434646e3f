"""The client against the development server, over real sockets."""

import base64
import concurrent.futures
import contextlib
import dataclasses
import http.server
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request

import cv2
import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from deeplab_tf import build_model
from deeplab_tf.config import DataConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.data.records import default_colors
from deeplab_tf.errors import UserError
from deeplab_tf.export import client
from deeplab_tf.export.config import SavedModelProofConfig
from deeplab_tf.export.formats import savedmodel
from deeplab_tf.export.server import running
from deeplab_tf.export.server.servable import Servable
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir as run_dirs

PROTOCOLS = ("rest", "grpc")
CLASS_NAMES = ("background", "disc", "box", "star")
SIZES = {"long.jpg": (60, 95), "small.png": (41, 33), "square.jpg": (64, 64)}  # height, width

WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # importing it fails from here on
from deeplab_tf.export import client

with client.Client(sys.argv[1], "rest") as server:
    server.require_model()
    print(server.predict([open(sys.argv[2], "rb").read()])[0].shape)
"""


class LimitedModel(tf.Module):
    """Finds class 1 in bright pixels, but not in many images at once, nor in large files."""

    def __init__(self, most_images: int, most_bytes: int):
        super().__init__()
        self._most_images, self._most_bytes = most_images, most_bytes

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_bytes(self, image_bytes):
        longest = tf.reduce_max(tf.strings.length(image_bytes))
        tf.debugging.assert_less_equal(tf.size(image_bytes), self._most_images, "too many")
        tf.debugging.assert_less_equal(longest, self._most_bytes, "too long")

        def mask(content):
            image = tf.io.decode_image(content, channels=3, expand_animations=False)
            grey = tf.reduce_mean(tf.cast(image, tf.float32), axis=-1, keepdims=True)
            return tf.io.encode_png(tf.cast(grey > 127.5, tf.uint8))

        return {"mask_png_bytes": tf.map_fn(mask, image_bytes)}


def serve(folder: pathlib.Path):
    """Serves the versions in a folder; yields the addresses by protocol."""
    return running.serve(Servable("deeplab", str(folder), labels={"canary": 2}))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> pathlib.Path:
    """A folder of JPEGs and PNGs of several sizes: smooth blobs, bright and dark."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        coarse = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(image).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory) -> pathlib.Path:
    """The base folder of a small run's exports: the versions 1 and 2, the same."""
    run_folder = str(tmp_path_factory.mktemp("run"))
    dataset = DatasetInfo("invented", CLASS_NAMES, default_colors(4), ignore_label=255)
    model_config = dataclasses.replace(TINY_MODEL, num_classes=4, output_stride=16)
    data_config = DataConfig(train_crop_size=(65, 65))
    run_dirs.create(run_folder, model_config, data_config, TrainConfig(), dataset)
    folder = tmp_path_factory.mktemp("served") / "deeplab"
    with short_mobilenet_v2():
        keras.utils.set_random_seed(0)
        checkpoints.save_weights(build_model(**dataclasses.asdict(model_config)), run_folder)
        savedmodel.export_savedmodel(
            run_folder, str(folder), proof_config=SavedModelProofConfig(num_proof_images=1)
        )
    shutil.copytree(folder / "1", folder / "2")
    return folder


@pytest.fixture(scope="module")
def servers(base_folder):
    with serve(base_folder) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def direct_labels(base_folder, images) -> dict[str, np.ndarray]:
    """What the SavedModel itself says, by the images' names."""
    loaded = tf.saved_model.load(str(base_folder / "1"))
    contents = tf.constant([(images / name).read_bytes() for name in SIZES])
    masks = loaded.signatures["serving_bytes"](image_bytes=contents)["mask_png_bytes"]
    labels = [tf.io.decode_png(mask).numpy()[..., 0] for mask in masks]
    return dict(zip(SIZES, labels, strict=True))


def assert_nearly_same(label: np.ndarray, expected: np.ndarray) -> None:
    """Compares labels that were computed in batches of different sizes."""
    assert label.shape == expected.shape
    assert np.mean(label == expected) > 0.99  # ties may round either way


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "version", [{}, {"model_version": 1}, {"version_label": "canary"}], ids=["any", "1", "canary"]
)
def test_labels_of_mixed_images_are_those_of_the_saved_model(
    servers, images, direct_labels, protocol, version
):
    with client.Client(servers[protocol], protocol, **version) as server:
        server.require_model()
        labels = server.predict([(images / name).read_bytes() for name in SIZES])
    for label, (name, size) in zip(labels, SIZES.items(), strict=True):
        assert label.dtype == np.int32 and label.shape == size
        assert len(np.unique(label)) > 1
        np.testing.assert_array_equal(label, direct_labels[name])


def test_rest_needs_no_tensorflow(servers, images):
    arguments = [servers["rest"], str(images / "long.jpg")]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments], capture_output=True, text=True
    )
    assert result.stdout == "(60, 95)\n", result.stderr


def test_the_row_format_of_rest_takes_an_image_per_row(servers, images, direct_labels):
    rows = [{"b64": base64.b64encode((images / name).read_bytes()).decode()} for name in SIZES]
    request = urllib.request.Request(
        f"http://{servers['rest']}/v1/models/deeplab:predict",
        json.dumps({"signature_name": "serving_bytes", "instances": rows}).encode(),
    )
    predictions = json.load(urllib.request.urlopen(request))["predictions"]
    for prediction, label in zip(predictions, direct_labels.values(), strict=True):
        mask = base64.b64decode(prediction.get("mask_png_bytes", prediction)["b64"])
        np.testing.assert_array_equal(tf.io.decode_png(mask)[..., 0], label)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_threads_share_a_client(servers, images, direct_labels, protocol):
    names = list(SIZES) * 6
    with (
        client.Client(servers[protocol], protocol) as server,
        concurrent.futures.ThreadPoolExecutor(6) as executor,
    ):
        contents = [[(images / name).read_bytes()] for name in names]
        answers = list(executor.map(server.predict, contents))
    for name, (label,) in zip(names, answers, strict=True):
        assert_nearly_same(label, direct_labels[name])


@pytest.fixture
def palette(base_folder, tmp_path) -> pathlib.Path:
    """A copy of the export's palette, with the classes' names beside it."""
    shutil.copytree(base_folder / "1/assets", tmp_path / "assets")
    return tmp_path / "assets/palette.json"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_masks_have_the_palette_and_overlays_lie_beside_them(
    servers, images, direct_labels, palette, tmp_path, capsys, protocol
):
    colors = [[0, 0, 0], [10, 200, 30], [200, 0, 0], [0, 0, 200]]
    palette.write_text(json.dumps({"colors": colors, "ignore_label": 255}))
    output_dir = tmp_path / "out"
    with client.Client(servers[protocol], protocol) as server:
        written = client.label_images(
            server, str(images), str(output_dir), palette=str(palette), batch_size=2
        )
    names = sorted(SIZES)
    assert written == [str(output_dir / f"{name[:-4]}.png") for name in names]
    for path, name in zip(written, names, strict=True):
        with Image.open(path) as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[:12] == list(np.ravel(colors))
            assert_nearly_same(np.asarray(mask), direct_labels[name])
        with Image.open(path.replace(".png", "_overlay.png")) as overlay:
            assert overlay.height > SIZES[name][0]  # a legend follows
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 of 3") and lines[0].endswith(" ms")
    assert "ms per image in the median" in lines[-1]


def test_broken_images_are_named_after_all_others_are_done(servers, images, tmp_path, capsys):
    folder = tmp_path / "with broken ones"
    shutil.copytree(images, folder)
    (folder / "cut.jpg").write_bytes((images / "long.jpg").read_bytes()[:500])
    (folder / "empty.png").touch()
    with client.Client(servers["rest"]) as server:
        with pytest.raises(UserError, match=r"(?s)2 of 5 images.*cut\.jpg: .*empty\.png: "):
            client.label_images(server, str(folder), str(tmp_path / "out"), batch_size=2)
    masks = {path.name for path in (tmp_path / "out").glob("*.png") if "_" not in path.name}
    assert masks == {"long.png", "small.png", "square.png"}
    assert "1 of 5" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_images_refused_together_are_sent_one_by_one(images, tmp_path, protocol):
    longest = max(len((images / name).read_bytes()) for name in SIZES)
    module = LimitedModel(most_images=2, most_bytes=longest - 1)
    tf.saved_model.save(module, str(tmp_path / "model/1"), {"serving_bytes": module.serving_bytes})
    with (
        serve(tmp_path / "model") as addresses,
        client.Client(addresses[protocol], protocol) as server,
        pytest.raises(UserError, match="(?s)1 of 3 images.*refuses the request: .*too long"),
    ):
        client.label_images(server, str(images), str(tmp_path / "out"), batch_size=3)
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == 2


def test_images_that_the_server_would_decode_differently_become_an_upright_png(
    servers, images, tmp_path
):
    upright = Image.open(images / "small.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    (tmp_path / "in").mkdir()
    upright.rotate(90, expand=True).save(tmp_path / "in/turned.png", exif=exif)
    upright.save(tmp_path / "in/web.webp", lossless=True)
    shutil.copy(images / "small.png", tmp_path / "in")
    with client.Client(servers["rest"]) as server:
        written = client.label_images(server, str(tmp_path / "in"), str(tmp_path / "out"))
    expected, turned, web = (np.asarray(Image.open(path)) for path in written)
    np.testing.assert_array_equal(turned, expected)
    np.testing.assert_array_equal(web, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_address_without_a_server_is_named(protocol):
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    with client.Client(address, protocol) as server:
        with pytest.raises(UserError, match=f"no server at --server={address} answers .*8501"):
            server.require_model()


@pytest.mark.parametrize("host", ["no..host", "no host"])
def test_an_impossible_host_name_is_named(host):
    with pytest.raises(UserError, match=f"no server at --server={host}:8501"):
        client.Client(f"{host}:8501").require_model()


@pytest.mark.parametrize("protocol, other", [PROTOCOLS, PROTOCOLS[::-1]])
def test_the_port_of_the_other_protocol_is_named(servers, protocol, other):
    with client.Client(servers[other], protocol, timeout=30) as server:
        with pytest.raises(UserError, match="TF Serving answers REST at port 8501 and gRPC at 85"):
            server.require_model()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_never_answers_is_not_waited_for(protocol):
    with socket.create_server(("localhost", 0)) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        with client.Client(address, protocol, timeout=0.3) as server:
            with pytest.raises(UserError, match="no complete answer within 0.3 seconds: raise --t"):
                server.predict([b"image"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_missing_models_and_missing_versions_have_different_messages(servers, protocol):
    with client.Client(servers[protocol], protocol, "resnet") as server:
        with pytest.raises(UserError, match="serves no model resnet .*--model_name"):
            server.require_model()
    with client.Client(servers[protocol], protocol, model_version=7) as server:
        with pytest.raises(UserError, match="no version 7 of .*--model_version=1 or 2"):
            server.predict([b"image"])
    with client.Client(servers[protocol], protocol, version_label="stable") as server:
        with pytest.raises(UserError, match="Unrecognized servable version label: stable"):
            server.require_model()


def test_a_version_has_a_number_or_a_label():
    with pytest.raises(UserError, match="--model_version or --version_label, not both"):
        client.Client("localhost:8501", model_version=1, version_label="canary")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_is_not_an_export_is_refused_before_any_work(images, tmp_path, protocol):
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "model/1"), {"serving_default": module.double})
    with (
        serve(tmp_path / "model") as addresses,
        client.Client(addresses[protocol], protocol) as server,
        pytest.raises(UserError, match="no signature serving_bytes .*among .*serving_default"),
    ):
        client.label_images(server, str(images), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@contextlib.contextmanager
def rest_server_that_says(content: bytes, status: int = 200):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_):
            """Keeps quiet."""

    server = http.server.HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def grpc_server_that_says(response: predict_pb2.PredictResponse):
    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            return response

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        server = grpc.server(executor)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        try:
            yield f"localhost:{port}"
        finally:
            server.stop(grace=None).wait()


def png(label: np.ndarray) -> bytes:
    return cv2.imencode(".png", label)[1].tobytes()


def encoded(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


@pytest.mark.parametrize(
    "status, answer, message",
    [
        (200, "<html>", "status 200: '<html>'.*REST at port 8501"),
        (200, [], "status 200"),
        (200, {"predictions": []}, "without a base64 mask_png_bytes"),
        (200, {"outputs": {"labels": [[0]]}}, "without a base64 mask_png_bytes"),
        (200, {"outputs": ["a mask"]}, "without a base64 mask_png_bytes"),
        (200, {"outputs": [{"b64": "!"}]}, "without a base64 mask_png_bytes"),
        (200, {"outputs": [encoded(b"")]}, "mask_png_bytes that cannot be read"),
        (200, {"outputs": [encoded(b"no image")]}, "mask_png_bytes that cannot be read"),
        (200, {"outputs": [encoded(png(np.zeros((4, 4, 3), np.uint8)))]}, "not a grey PNG"),
        (200, {"outputs": []}, "1 images with 0 masks"),
        (400, {"error": "no JPEG"}, "refuses the request: no JPEG"),
        (400, "{'error': 'it\\'s none'}", "refuses the request: .*it.*s none"),
        (404, "<html>not here", "status 404: '<html>not here'"),
        (503, {"error": "full"}, "status 503: 'full'"),
    ],
)
def test_senseless_answers_over_rest_are_refused(status, answer, message):
    content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
    with (
        rest_server_that_says(content, status) as address,
        client.Client(address, "rest") as server,
        pytest.raises(UserError, match=message),
    ):
        server.predict([b"image"])


@pytest.mark.parametrize(
    "name, tensor, message",
    [
        ("labels", [b""], "without mask_png_bytes"),
        ("mask_png_bytes", [1.5], "not a string"),
        ("mask_png_bytes", [b"no image"], "mask_png_bytes that cannot be read"),
        ("mask_png_bytes", [b"", b""], "1 images with 2 masks"),
    ],
)
def test_senseless_answers_over_grpc_are_refused(name, tensor, message):
    response = predict_pb2.PredictResponse()
    response.outputs[name].CopyFrom(tf.make_tensor_proto(tensor))
    with (
        grpc_server_that_says(response) as address,
        client.Client(address, "grpc") as server,
        pytest.raises(UserError, match=message),
    ):
        server.predict([b"image"])


def test_masks_of_more_than_256_classes_have_16_bits():
    label = np.arange(600, dtype=np.uint16).reshape(20, 30)
    content = json.dumps({"outputs": [encoded(png(label))]}).encode()
    with rest_server_that_says(content) as address, client.Client(address) as server:
        np.testing.assert_array_equal(server.predict([b"image"])[0], label)


@pytest.mark.parametrize("label", [np.full((9, 8), 3), np.zeros((8, 9))])
def test_labels_that_fit_neither_palette_nor_image_are_refused(tmp_path, palette, label):
    Image.new("RGB", (8, 9)).save(tmp_path / "a.png")

    class Server(client.Client):
        def require_model(self):
            """There is no server."""

        def predict(self, image_bytes):
            return [label.astype(np.int32)]

    palette.write_text(json.dumps({"colors": [[0, 0, 0]] * 3, "ignore_label": 255}))
    (palette.parent / "labels.txt").unlink()
    with pytest.raises(UserError, match="class 3 .*--palette|8x9 pixels, with a mask of 9x8"):
        client.label_images(
            Server("localhost:1"),
            str(tmp_path / "a.png"),
            str(tmp_path / "out"),
            palette=str(palette),
        )


@pytest.mark.parametrize("text", [None, "no JSON", "[]", '{"colors": [[1, 2]]}'])
def test_a_file_that_is_not_a_palette_is_refused(servers, tmp_path, images, text):
    path = tmp_path / "palette.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"palette.*{path}"):
        client.label_images(
            client.Client(servers["rest"]), str(images), str(tmp_path / "out"), palette=str(path)
        )


def test_names_of_another_export_are_refused(servers, tmp_path, images, palette):
    (palette.parent / "labels.txt").write_text("one\n")
    with pytest.raises(UserError, match="4 colours, but .*labels.txt names 1"):
        client.label_images(
            client.Client(servers["rest"]), str(images), str(tmp_path / "out"), palette=str(palette)
        )


def test_a_label_never_overwrites_an_image(servers, images):
    before = {path: path.read_bytes() for path in images.iterdir()}
    with pytest.raises(UserError, match="give another"):
        client.label_images(client.Client(servers["rest"]), str(images), str(images))
    assert before == {path: path.read_bytes() for path in images.iterdir()}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"server": "localhost"}, "localhost:8501"),
        ({"server": "http://localhost:8501"}, "localhost:8501"),
        ({"server": "localhost:99999"}, "localhost:8501"),
        ({"protocol": "soap"}, "rest or grpc"),
        ({"timeout": 0.0}, "above 0 and at most"),
        ({"timeout": float("inf")}, "above 0 and at most"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        client.Client(**{"server": "localhost:8501"} | settings)


def test_the_command_labels_what_it_can_and_exits_with_1_for_the_rest(servers, images, tmp_path):
    (tmp_path / "broken.jpg").touch()
    command = [sys.executable, "-m", "deeplab_tf.export.client", f"--server={servers['grpc']}"]
    command += ["--protocol=grpc", f"--images={images},{tmp_path}/*.jpg", "--batch_size=4"]
    result = subprocess.run(
        [*command, f"--output_dir={tmp_path}/out"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "error: 1 of 4 images could not be labelled" in result.stderr
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == 3


def test_a_missing_grpc_is_named_with_its_extra(without_package):
    without_package("grpc")
    with pytest.raises(UserError, match=r"grpc.*'deeplab_tf\[serving\]'"):
        client.Client("localhost:8500", "grpc", "deeplab")
