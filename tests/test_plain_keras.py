"""Models are plain Keras models: they train with `fit`, are saved, exported and loaded as such."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
from conftest import REPOSITORY
from deeplab_tf.errors import UserError

pytestmark = pytest.mark.usefixtures("short_network")
IGNORED = 255


def _model(num_classes=3, batch_norm_decay=0.9):
    return deeplab_tf.DeepLabV3Plus(
        "mobilenet_v2",
        num_classes,
        atrous_rates=(2,),
        aspp_convs_filters=16,
        decoder_filters=16,
        depth_multiplier=0.35,
        batch_norm_decay=batch_norm_decay,
    )


def _images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


@pytest.fixture(scope="module")
def trained(short_network):
    """A model whose statistics have moved, and the images that it was trained on."""
    model, images = _model(), _images(2, 33, 41, 3)
    for _ in range(5):
        model(images, training=True)
    return model, images


def test_fit_learns_from_the_pixels_that_are_not_ignored():
    keras.utils.set_random_seed(0)
    images = _images(8, 33, 33, 3) // 8 + _images(8, 1, 1, 3) // 3  # each of another brightness
    images[:, :, 16:] += 130
    labels = np.zeros(images.shape[:3], "int32")
    labels[:, :, 16:] = 1
    hidden = np.zeros(labels.shape, bool)
    hidden[:, ::2] = True
    wrong = np.where(hidden, IGNORED, labels)
    model = _model(num_classes=2, batch_norm_decay=0.5)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED),
        metrics=[keras.metrics.MeanIoU(2, ignore_class=IGNORED, sparse_y_pred=False, name="miou")],
    )
    history = model.fit(images, wrong, batch_size=8, epochs=25, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["miou"][-1] > 0.8
    predicted = model.predict(images, verbose=0).argmax(-1)
    assert np.mean(predicted[hidden] == labels[hidden]) > 0.9


def test_mean_iou_does_not_count_ignored_pixels(trained):
    model, images = trained
    logits = np.asarray(model(images, training=False))
    labels = logits.argmax(-1)
    labels[:, :16] = IGNORED  # what the metric must not see
    metric = keras.metrics.MeanIoU(3, ignore_class=IGNORED, sparse_y_pred=False)
    metric.update_state(labels, logits)
    assert float(metric.result()) == 1


def test_an_exported_model_equals_the_model_in_inference(trained, tmp_path):
    model, images = trained
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    served = loaded.serve(images.astype("float32"))
    np.testing.assert_allclose(served, model(images, training=False), atol=1e-4)
    assert np.abs(served - model(images, training=True)).max() > 1e-2


def test_a_fresh_model_exports_to_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    model, images, path = _model(), _images(1, 33, 41, 3).astype("float32"), tmp_path / "it.onnx"
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(logits, model(images, training=False), atol=1e-4)


def test_a_fresh_model_exports_to_litert(tmp_path):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    model, images, path = _model(), _images(1, 33, 41, 3).astype("float32"), tmp_path / "it.tflite"
    model.export(path, format="litert", verbose=False)
    interpreter = interpreters.Interpreter(str(path))
    logits = interpreter.get_signature_runner()
    (found,) = logits(**dict.fromkeys(logits.get_input_details(), images)).values()
    np.testing.assert_allclose(found, model(images, training=False), atol=1e-4)


def test_a_backbone_can_be_shared_by_two_heads():
    backbone = deeplab_tf.backbones.MobileNetV2(depth_multiplier=0.35)
    image = keras.Input((None, None, 3))
    features = backbone(image)["features"]
    heads = [deeplab_tf.layers.ASPP(8, rates=(rate,))(features) for rate in (2, 3)]
    model = keras.Model(image, heads)
    first, second = model(_images(1, 65, 65, 3))
    assert first.shape == second.shape == (1, 5, 5, 8)


def _run(code: str, *arguments, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd or REPOSITORY)},
    )


IMPORTS = {
    "Keras first": "import keras, deeplab_tf",
    "Keras last": "import deeplab_tf, keras",
    "TensorFlow last": "import deeplab_tf, tensorflow, keras",
    "TensorFlow's Keras": "import deeplab_tf, tensorflow; keras = tensorflow.keras",
}
LOAD = """
import sys
import numpy as np
{imports}
folder = sys.argv[1]
model = keras.models.load_model(f"{{folder}}/model.keras")
logits = model(np.load(f"{{folder}}/images.npy"), training=False)
np.save(f"{{folder}}/logits.npy", logits)
"""


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """A folder with a model, images, and the logits of these."""
    model, images = trained
    folder = tmp_path_factory.mktemp("saved")
    model.save(folder / "model.keras")
    np.save(folder / "images.npy", images)
    return folder


@pytest.mark.parametrize("order", IMPORTS)
def test_keras_loads_a_model_in_a_new_process_after_a_plain_import(trained, saved, order):
    finished = _run(LOAD.format(imports=IMPORTS[order]), saved)
    assert finished.returncode == 0, finished.stderr
    model, images = trained
    np.testing.assert_allclose(
        np.load(saved / "logits.npy"), model(images, training=False), atol=1e-5
    )


def test_without_the_package_the_error_names_it(saved, tmp_path):
    code = "import keras, sys; keras.saving.load_model(sys.argv[1])"
    finished = _run(code, saved / "model.keras", cwd=tmp_path)
    assert finished.returncode != 0
    message = finished.stderr.splitlines()[-1]
    assert "could not" in message.lower() and "'registered_name': 'deeplab_tf>" in message


def test_importing_the_package_leaves_keras_as_it_is():
    code = """
import importlib.resources, inspect, sys
import deeplab_tf, keras
assert "deeplab_tf.layers" in sys.modules
assert not any(type(finder).__module__.startswith("deeplab_tf") for finder in sys.meta_path)
assert inspect.getsource(keras) and importlib.resources.files(keras).is_dir()
"""
    finished = _run(code)
    assert finished.returncode == 0, finished.stderr


def test_load_model_takes_a_file_or_a_run_dir(trained, saved, tiny_run_dir):
    model, images = trained
    loaded = deeplab_tf.load_model(saved / "model.keras")
    np.testing.assert_array_equal(loaded(images, training=False), model(images, training=False))
    of_run = deeplab_tf.load_model(tiny_run_dir)
    assert of_run(images, training=False).shape[:3] == images.shape[:3]


@pytest.mark.parametrize("name, message", [("nothing.keras", "no file"), ("folder", "run dir")])
def test_load_model_says_what_is_missing(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        deeplab_tf.load_model(tmp_path / name)


def test_load_model_says_that_a_file_is_not_a_model(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="damaged, or not a Keras model"):
        deeplab_tf.load_model(tmp_path / "model.keras")
