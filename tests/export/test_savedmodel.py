"""The SavedModel, loaded without this package."""

import dataclasses
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import zlib

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory
from google.protobuf import text_format
from google.protobuf import wrappers_pb2
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from conftest import REPOSITORY
from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from conftest import write_run_as_if_trained
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import transforms
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.data.records import default_colors
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import artefacts
from deeplab_tf.evaluation import prediction
from deeplab_tf.export import parity
from deeplab_tf.export import proof_images
from deeplab_tf.export import publishing
from deeplab_tf.export import serving
from deeplab_tf.export import warmup
from deeplab_tf.export.config import SavedModelProofConfig
from deeplab_tf.export.config import ServingConfig
from deeplab_tf.export.formats import savedmodel
from deeplab_tf.runs import run_dir as run_dirs

STRANGER = """
import sys
sys.modules["keras"] = sys.modules["deeplab_tf"] = None  # importing them fails from here on
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
labels = loaded.signatures["serving_default"](images=tf.constant(images))["labels"]
np.savez(sys.argv[3], labels=labels, logits=loaded.logits(images))
"""

# An export as the command makes it, of the models of these tests.
EXPORT = """
import sys
from conftest import short_mobilenet_v2
from deeplab_tf.export.formats import savedmodel

with short_mobilenet_v2():
    savedmodel.export_savedmodel(*sys.argv[1:])
"""


ONE_IMAGE, TWO_IMAGES = (SavedModelProofConfig(num_proof_images=number) for number in (1, 2))


@pytest.fixture(scope="module", autouse=True)
def short_models():
    with short_mobilenet_v2():
        yield


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> str:
    """A run dir with weights as if from training: no statistic is what it began as."""
    folder = str(tmp_path_factory.mktemp("run"))
    names = ("background", "disc", "box", "star")
    dataset = DatasetInfo("invented", names, default_colors(4), ignore_label=255)
    model_config = dataclasses.replace(TINY_MODEL, num_classes=4, output_stride=16)
    data_config = DataConfig(train_crop_size=(65, 65))
    write_run_as_if_trained(folder, model_config, data_config, dataset)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> pathlib.Path:
    """A folder with an earlier version, a later one being exported into it, and a stray file."""
    folder = tmp_path_factory.mktemp("export") / "model"
    (folder / "3").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def exported(run_dir, base) -> pathlib.Path:
    """An export with all that can be asked for, which is proved with two drawn images."""
    config = ServingConfig(with_probabilities=True, with_confidence=True, warmup_batch_sizes=(3,))
    folder, _ = savedmodel.export_savedmodel(
        run_dir, str(base), serving_config=config, proof_config=TWO_IMAGES
    )
    return pathlib.Path(folder)


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(masks) -> list[np.ndarray]:
    return [
        cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_UNCHANGED) for mask in masks.numpy()
    ]


def entries(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_plain_tensorflow_loads_it_without_keras_and_this_package(run_dir, exported, tmp_path):
    images = parity.draw_images((2, 75, 102, 3), seed=7)
    np.save(tmp_path / "images.npy", images)
    arguments = [exported, tmp_path / "images.npy", tmp_path / "results.npz"]
    subprocess.run([sys.executable, "-c", STRANGER, *map(str, arguments)], check=True)
    results = np.load(tmp_path / "results.npz")
    run = run_dirs.read(run_dir)
    expected = prediction.predict_logits(
        run_dirs.load_model(run), images, run.model_config, run.data_config
    )
    np.testing.assert_allclose(results["logits"], expected, atol=1e-4)
    assert results["labels"].dtype == np.uint8
    np.testing.assert_array_equal(results["labels"], results["logits"].argmax(axis=-1))


def test_the_session_loader_reads_every_signature(loaded, exported):
    image = parity.draw_images((1, 65, 65, 3), seed=1)
    expected = loaded.signatures["serving_default"](images=tf.constant(image))["labels"].numpy()
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exported))

        def run(signature, value, output):
            described = graph.signature_def[signature]
            (takes,) = described.inputs.values()
            return session.run(described.outputs[output].name, {takes.name: value})

        np.testing.assert_array_equal(run("serving_default", image, "labels"), expected)
        content = png(image[0])
        for signature, value in (
            ("serving_bytes", content),
            ("tf_example", warmup.serialized_example(content)),
        ):
            (mask,) = run(signature, [value], "mask_png_bytes")
            mask = cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(mask, expected[0])


def test_saved_model_cli_runs_it(loaded, exported, tmp_path):
    images = parity.draw_images((2, 40, 50, 3), seed=2)
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [
            *(sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"),
            *("--dir", str(exported), "--tag_set", "serve", "--signature_def", "serving_default"),
            *("--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", str(tmp_path)),
        ],
        check=True,
    )
    expected = loaded.signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected["labels"])


def test_tensorflows_c_api_runs_it_without_python(loaded, exported, tmp_path):
    library = pathlib.Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"
    if not library.is_file():
        pytest.skip(f"needs TensorFlow's C API, and there is no {library}")
    images = parity.draw_images((2, 65, 65, 3), seed=3)
    expected = loaded.signatures["serving_default"](images=tf.constant(images))["labels"].numpy()
    (tmp_path / "image.png").write_bytes(png(images[1]))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        described = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exported))
    described = described.signature_def
    labels = described["serving_default"].outputs["labels"].name
    mask = described["serving_bytes"].outputs["mask_png_bytes"].name
    feeds = {
        described["serving_default"].inputs["images"].name: images.tolist(),
        described["serving_bytes"].inputs["image_bytes"].name: str(tmp_path / "image.png"),
    }
    (tmp_path / "request.json").write_text(json.dumps({"feeds": feeds, "fetches": [labels, mask]}))
    script = REPOSITORY / "tests/export/c_api_session.py"
    arguments = [script, library, exported, tmp_path / "request.json", tmp_path / "result.json"]
    subprocess.run([sys.executable, *map(str, arguments)], check=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result[labels] == expected.ravel().tolist()
    served = cv2.imdecode(np.array(result[mask], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(served, expected[1])


def test_probabilities_and_confidence_are_those_of_the_labels(loaded):
    images = tf.constant(parity.draw_images((2, 50, 70, 3), seed=4))
    answer = loaded.signatures["serving_default"](images=images)
    expected = tf.nn.softmax(loaded.logits(images))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(answer["confidence"], tf.reduce_max(expected, axis=-1), atol=1e-5)


def test_masks_of_pixels_have_a_signature_of_their_own(loaded):
    images = tf.constant(parity.draw_images((2, 50, 70, 3), seed=4))
    served = loaded.signatures["serving_default"](images=images)
    assert tf.string not in {output.dtype for output in served.values()}
    (masks,) = loaded.signatures["serving_masks"](images=images).values()
    np.testing.assert_array_equal(np.stack(decoded(masks)), served["labels"])


def test_openvino_reads_it(loaded, exported):
    openvino = pytest.importorskip("openvino", reason="needs the package openvino")
    # Without the hint, a CPU with AMX computes in bfloat16.
    in_float32 = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(exported), "CPU", in_float32)
    for shape in ((1, 65, 65, 3), (2, 80, 61, 3)):
        images = parity.draw_images(shape, seed=3)
        expected = loaded.signatures["serving_default"](images=tf.constant(images))["labels"]
        labels = model({"images": images})["labels"]
        assert np.mean(labels == expected) > 0.999


def test_files_of_any_size_and_kind_batch(loaded):
    random = np.random.default_rng(0)
    exact, small, wide = (
        cv2.resize(random.integers(0, 256, (5, 7, 3), dtype=np.uint8), size)
        for size in ((65, 65), (40, 30), (200, 130))
    )
    transparent = cv2.cvtColor(small, cv2.COLOR_RGB2RGBA)
    files = [tf.io.encode_jpeg(wide).numpy(), png(exact), png(transparent)]
    answer = loaded.signatures["serving_bytes"](image_bytes=tf.constant(files))
    masks = decoded(answer["mask_png_bytes"])
    sizes = [(130, 200), (65, 65), (30, 40)]
    assert [mask.shape for mask in masks] == sizes
    assert list(zip(answer["height"].numpy(), answer["width"].numpy())) == sizes
    fitted = list(zip(answer["fitted_height"].numpy(), answer["fitted_width"].numpy()))
    assert fitted == [(42, 65), (65, 65), (30, 40)]
    assert answer["probabilities"].shape == (3, 65, 65, 4)
    assert answer["confidence"].shape == (3, 65, 65)

    def labels(image):
        served = loaded.signatures["serving_default"](images=tf.constant(image[np.newaxis]))
        return served["labels"][0].numpy()

    padded = np.full((65, 65, 3), 128, np.uint8)
    padded[:30, :40] = small
    for mask, expected in ((masks[1], labels(exact)), (masks[2], labels(padded)[:30, :40])):
        assert np.mean(mask == expected) > 0.999
    for mask, file in zip(masks, files):
        alone = loaded.signatures["serving_bytes"](image_bytes=tf.constant([file]))
        assert np.mean(decoded(alone["mask_png_bytes"])[0] == mask) > 0.999


def large_png(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it is large."""
    content = bytearray(png(np.zeros((1, 1, 3), np.uint8)))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", "cut off", "cut off PNG", large_png(30000, 30000)],
    ids=["empty", "text", "cut off JPEG", "cut off PNG", "large"],
)
def test_a_broken_image_is_an_error_that_names_its_position(loaded, content):
    image = parity.draw_images((1, 65, 65, 3), seed=0)[0]
    whole = tf.io.encode_jpeg(image).numpy()
    if content == "cut off":
        content = whole[: len(whole) // 2]
    elif content == "cut off PNG":
        content = png(image)[:-200]
    for files in ([whole, whole, content, whole], [whole, whole, content, content]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="position 2 .* JPEG or PNG"):
            loaded.signatures["serving_bytes"](image_bytes=tf.constant(files))
    with pytest.raises(tf.errors.InvalidArgumentError, match="position 0 "):
        loaded.signatures["serving_bytes"](image_bytes=tf.constant([content]))


def test_warm_up_requests_call_every_signature_with_every_batch_size(loaded, exported):
    calls = []
    for record in tf.data.TFRecordDataset(str(exported / warmup.FILE)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        signature = loaded.signatures[request.model_spec.signature_name]
        answer = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        (value,) = inputs.values()
        assert {len(output) for output in answer.values()} == {len(value)}
        calls.append((request.model_spec.signature_name, len(value)))
    names = ("serving_default", "serving_masks", "serving_bytes", "tf_example")
    assert sorted(calls) == sorted((name, number) for name in names for number in (1, 3))


def test_assets_hold_classes_colours_and_parity(run_dir, exported):
    dataset = run_dirs.read(run_dir).dataset
    labels = (exported / "assets/labels.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(labels) == dataset.class_names
    palette = json.loads((exported / "assets/palette.json").read_text())
    assert palette["colors"] == [list(color) for color in dataset.colors]
    assert palette["ignore_label"] == dataset.ignore_label
    report = json.loads((exported / "assets/parity.json").read_text())
    assert report["num_images"] == 2 and report["label_agreement"] > 0.999
    assert report["logits_of_drawn_images"]["largest_logit_difference"] < 1e-3
    assert report["label_agreement_of_image_files"] > 0.999
    assert report["milliseconds_artefact"] > 0 and report["size_bytes"] > 1000
    assert report["ops"]["Conv2D"] > 6


def test_versions_count_up_and_nothing_else_is_left(base, exported):
    assert exported == base / "4"
    assert entries(base) == {"3", "4", "notes.txt"}
    assert entries(exported) == {
        "saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra",
    }  # fmt: skip


def test_existing_files_and_versions_are_never_replaced(run_dir, exported, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder, version, message in (
        (exported.parent, 3, "has a version 3"),
        (exported.parent, 0, "between 1 and"),
        (exported, None, "is a SavedModel, not a folder"),
        (tmp_path / "file", None, "is a file"),
    ):
        with pytest.raises(UserError, match=message):
            savedmodel.export_savedmodel(run_dir, str(folder), model_version=version)
    assert entries(exported.parent) == {"3", "4", "notes.txt"}


def test_the_folder_of_versions_must_be_writable_and_the_one_above_need_not(tmp_path, monkeypatch):
    readable, writable = tmp_path / "readable", tmp_path / "readable/writable"
    writable.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _: path != str(readable))
    publishing.VersionFolder(str(writable))
    publishing.VersionFolder(str(writable / "new"))
    for folder in (readable, readable / "new"):
        with pytest.raises(UserError, match=f"cannot be written: {readable} is not a folder to"):
            publishing.VersionFolder(str(folder))


def test_eval_reads_it_as_a_function_from_image_to_labels(run_dir, base, exported):
    run = run_dirs.read(run_dir)
    model = run_dirs.load_model(run)
    label_of = prediction.label_function(model, run.model_config, run.data_config)
    image = parity.draw_images((1, 80, 61, 3), seed=3)[0]
    expected = label_of(image)
    for path in (base, exported):  # the highest version, and that version
        label = artefacts.load_artefact(str(path), run.model_config, run.data_config)(image)
        assert label.dtype == np.int32 and label.shape == (80, 61)
        assert np.mean(label == expected) > 0.999


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_folder_that_is_not_an_export_is_refused_by_eval(tmp_path, content):
    (tmp_path / "7").mkdir()
    if content:
        (tmp_path / "7/saved_model.pb").write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        artefacts.load_artefact(str(tmp_path), TINY_MODEL, DataConfig())


def test_a_saved_model_of_something_else_is_refused_by_eval(tmp_path):
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(UserError, match="not an export of deeplab_tf"):
        artefacts.load_artefact(str(tmp_path), TINY_MODEL, DataConfig())


def test_an_export_that_disagrees_fails_and_leaves_nothing(run_dir, tmp_path, monkeypatch):
    class WrongModule(serving.ServingModule):
        def __init__(self, model, *arguments, **named):
            super().__init__(model, *arguments, **named)
            self._predict_logits = lambda images: model(images, training=True)  # batch statistics

    monkeypatch.setattr(serving, "ServingModule", WrongModule)
    with pytest.raises(UserError, match="does not compute what the Keras model does"):
        savedmodel.export_savedmodel(run_dir, str(tmp_path / "model"), proof_config=ONE_IMAGE)
    assert entries(tmp_path) == set()


def test_an_export_that_is_killed_leaves_nothing_that_a_server_takes(
    run_dir, tmp_path, monkeypatch
):
    base = tmp_path / "model"
    path = os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY)])
    export = subprocess.Popen(
        [sys.executable, "-c", EXPORT, run_dir, str(base)], env=os.environ | {"PYTHONPATH": path}
    )
    deadline = time.monotonic() + 120
    while not list(base.glob("*/saved_model/saved_model.pb")) and export.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    export.kill()
    assert export.wait() == -signal.SIGKILL
    (left,) = entries(base)  # half an export, under a name that is not a number
    assert left.startswith(".new_")
    with pytest.raises(UserError, match="is not a SavedModel"):
        artefacts.load_artefact(str(base), TINY_MODEL, DataConfig())

    def stop(*_):
        raise UserError("has begun")

    monkeypatch.setattr(proof_images, "from_records_or_drawn", stop)
    with pytest.raises(UserError, match="has begun"):
        savedmodel.export_savedmodel(run_dir, str(base))
    assert entries(base) == set()


def pixel_classifier(num_classes: int, **settings) -> keras.Model:
    pixels = keras.Input([None, None, 3])
    return keras.Model(pixels, keras.layers.Conv2D(num_classes, 1, **settings)(pixels))


def run_of(num_classes: int, data_config: DataConfig) -> run_dirs.Run:
    names = tuple(f"class {index}" for index in range(num_classes))
    dataset = DatasetInfo("invented", names, ((0, 0, 0),) * num_classes, ignore_label=65535)
    return run_dirs.Run("", ModelConfig(output_stride=16), data_config, TrainConfig(), dataset)


@pytest.fixture
def colour_module(tmp_path) -> serving.ServingModule:
    """Serves the number of every pixel's strongest colour, at 65 x 97."""
    identity = lambda shape, dtype: np.eye(3)[np.newaxis, np.newaxis]
    model = pixel_classifier(3, kernel_initializer=identity)
    run = run_of(3, DataConfig(train_crop_size=(65, 97)))
    return serving.ServingModule(model, run, assets_folder=str(tmp_path))


def test_masks_lie_where_the_image_is(colour_module):
    sizes = {(400, 300): 0.97, (650, 970): 0.97, (31, 97): 1, (60, 5): 1, (5, 3000): 0.3}
    for (height, width), share in sizes.items():
        label = np.zeros((height, width), np.int32)
        label[: height // 4, : width // 2] = 1
        label[height // 2 :, width // 3 :] = 2
        image = np.uint8(255 * np.eye(3))[label]
        answer = colour_module.serving_bytes(tf.constant([png(image)]))
        (mask,) = decoded(answer["mask_png_bytes"])
        assert mask.dtype == np.uint8 and mask.shape == (height, width)
        assert np.mean(mask == label) >= share, (height, width)


def test_an_image_file_above_the_limit_is_not_decoded(tmp_path):
    model, run = pixel_classifier(3), run_of(3, DataConfig(train_crop_size=(33, 33)))
    config = ServingConfig(max_image_pixels=100)
    module = serving.ServingModule(model, run, str(tmp_path), config=config)
    smaller, larger = (png(np.zeros((10, width, 3), np.uint8)) for width in (10, 11))
    assert len(module.serving_bytes(tf.constant([smaller]))["mask_png_bytes"]) == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="position 1 .*at most 100 pixels"):
        module.serving_bytes(tf.constant([smaller, larger]))


def test_image_files_that_get_other_labels_fail_the_export(colour_module, monkeypatch):
    decode = transforms.decode
    monkeypatch.setattr(transforms, "decode", lambda *arguments: decode(*arguments)[:, ::-1])
    with pytest.raises(UserError, match="serving_bytes equal those of serving_default"):
        savedmodel.prove_image_files(colour_module, (65, 97))


def test_more_than_256_classes_are_served_in_16_bits(tmp_path):
    model = pixel_classifier(
        300, kernel_initializer="zeros", bias_initializer=lambda shape, dtype: range(300)
    )
    run = run_of(300, DataConfig(train_crop_size=(33, 33)))
    module = serving.ServingModule(model, run, assets_folder=str(tmp_path))
    images = parity.draw_images((1, 20, 30, 3), seed=0)
    labels = module.serving_default(images)["labels"].numpy()
    assert labels.dtype == np.uint16 and labels.shape == (1, 20, 30)
    assert (labels == 299).all()
    of_file = module.serving_bytes(tf.constant([png(images[0])]))
    for masks in (module.serving_masks(images)["mask_png_bytes"], of_file["mask_png_bytes"]):
        (mask,) = decoded(masks)
        assert mask.dtype == np.uint16
        np.testing.assert_array_equal(mask, labels[0])


def test_an_export_of_resized_images_answers_at_their_own_size(tmp_path):
    data_config = DataConfig(
        train_crop_size=(41, 41), min_resize_value=33, max_resize_value=65, resize_factor=8
    )
    model, run = pixel_classifier(4), run_of(4, data_config)
    module = serving.ServingModule(model, run, assets_folder=str(tmp_path))
    for shape in ((1, 41, 41, 3), (2, 41, 74, 3), (1, 91, 41, 3)):
        images = parity.draw_images(shape, seed=0)
        expected = prediction.predict_logits(model, images, run.model_config, data_config)
        labels = module.serving_default(images)["labels"].numpy()
        assert labels.shape == shape[:3]
        assert np.mean(labels == expected.numpy().argmax(axis=-1)) > 0.999


def test_the_serving_size_is_one_that_the_network_sees_without_padding():
    run = run_of(4, DataConfig(train_crop_size=(512, 769)))
    assert serving.serving_size(run) == (513, 769)
    assert serving.serving_size(run, ServingConfig(serving_size=(1, 130))) == (1, 145)
    for flag, value in (("serving_size", (513,)), ("warmup_batch_sizes", (4, 0))):
        with pytest.raises(UserError, match=f"--{flag}="):
            ServingConfig(**{flag: value})


def test_an_export_can_carry_the_crf(run_dir, tmp_path):
    config = CrfConfig(crf="v1", crf_iterations=1)
    folder, proof = savedmodel.export_savedmodel(
        run_dir,
        str(tmp_path),
        crf_config=config,
        model_version=20,
        proof_config=ONE_IMAGE,
    )
    assert folder == str(tmp_path / "20")
    # It was compared with `dense_crf`; what it says is not what the network alone does.
    assert proof.label_agreement > 0.999
    images = parity.draw_images((1, 65, 65, 3), seed=1)
    loaded = tf.saved_model.load(folder)
    labels = loaded.signatures["serving_default"](images=tf.constant(images))["labels"]
    assert np.mean(labels != np.argmax(loaded.logits(images), axis=-1)) > 0.01


def published_messages() -> dict[str, type]:
    """The messages of TF Serving's files of settings, which its Python package does not bring.

    As published in tensorflow_serving/servables/tensorflow/session_bundle_config.proto and
    tensorflow_serving/config/monitoring_config.proto.
    """
    number = ".google.protobuf.Int64Value"
    messages = {
        "BatchingParameters": [
            ("max_batch_size", 1, number), ("batch_timeout_micros", 2, number),
            ("max_enqueued_batches", 3, number), ("num_batch_threads", 4, number),
            ("allowed_batch_sizes", 6, "int64"),
        ],
        "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
        "MonitoringConfig": [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig")],
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(
        name="settings.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, field_number, kind in fields:
            field = message.field.add(name=field_name, number=field_number, label="LABEL_OPTIONAL")
            if kind.startswith("."):
                field.type, field.type_name = field.TYPE_MESSAGE, kind
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
            if field_name.startswith("allowed"):
                field.label = field.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
        )
        for name in messages
    }


def test_the_settings_for_tf_serving_parse_as_its_messages():
    messages, folder = published_messages(), REPOSITORY / "export/tf_serving"
    batching = text_format.Parse(
        (folder / "batching.txt").read_text(), messages["BatchingParameters"]()
    )
    sizes = list(batching.allowed_batch_sizes)
    # What TF Serving demands of them.
    assert sizes == sorted(set(sizes)) and sizes[-1] == batching.max_batch_size.value
    assert batching.batch_timeout_micros.value < 100_000 and batching.num_batch_threads.value >= 1
    monitoring = text_format.Parse(
        (folder / "monitoring.txt").read_text(), messages["MonitoringConfig"]()
    )
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_missing_packages_of_tf_serving_are_named_with_their_extra(tmp_path, without_package):
    without_package("tensorflow_serving")
    with pytest.raises(UserError, match=r"tensorflow_serving.*pip install 'deeplab_tf\[serving\]'"):
        savedmodel.export_savedmodel("no run", str(tmp_path))
