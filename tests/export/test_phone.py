"""The programs of examples/tflite around a `.tflite` file: those that run here are run."""

import dataclasses
import pathlib
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from browsers import serving
from conftest import REPOSITORY
from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from conftest import write_run_as_if_trained
from deeplab_tf.config import DataConfig
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.evaluation.artefacts import tflite as artefact
from deeplab_tf.evaluation.fitting import image_fitter
from deeplab_tf.export import metadata
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.formats import tflite
from deeplab_tf.runs import run_dir as run_dirs

EXAMPLES = REPOSITORY / "examples/tflite"
GUIDE = (REPOSITORY / "docs/guides/phone.md").read_text(encoding="utf-8")
SIZE = (65, 97)
INFO = DatasetInfo("shapes", drawing.CLASS_NAMES, drawing.COLORS, 255)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> run_dirs.Run:
    folder = str(tmp_path_factory.mktemp("run") / "run")
    model_config = dataclasses.replace(TINY_MODEL, num_classes=INFO.num_classes)
    with short_mobilenet_v2():
        write_run_as_if_trained(folder, model_config, DataConfig(train_crop_size=SIZE), INFO)
    return run_dirs.read(folder)


@pytest.fixture(scope="module")
def networks(run, tmp_path_factory) -> dict[str, pathlib.Path]:
    """The folder with `model.tflite`, by what it returns."""
    with short_mobilenet_v2():
        model = run_dirs.load_model(run)
    folders = {}
    for result in ("labels", "scores"):
        content = tflite.convert(model, TFLiteConfig(result=result), SIZE)
        folders[result] = tmp_path_factory.mktemp(result)
        (folders[result] / "model.tflite").write_bytes(metadata.add(content, INFO, result))
    return folders


def draw(folder: pathlib.Path, height: int, width: int) -> pathlib.Path:
    """Draws an image with all classes and some noise."""
    image = np.tile(drawing.draw("val", 0)[0], [2, 2, 1])[:height, :width]
    noise = np.random.default_rng(0).integers(-20, 20, image.shape)
    path = folder / f"{height}x{width}.png"
    Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def expected_labels(run: run_dirs.Run, folder: pathlib.Path, image: pathlib.Path) -> np.ndarray:
    """What `predict --model=model.tflite` finds."""
    model = artefact.TFLiteModel(str(folder / "model.tflite"))
    fitter = image_fitter(run.model_config, run.data_config, SIZE)
    labels = artefact.label_function(model, fitter, INFO.num_classes)(np.asarray(Image.open(image)))
    assert len(np.unique(labels)) > 2
    return labels


def shown_labels(browser, image: pathlib.Path) -> np.ndarray:
    """Labels an image that the server has by the `labelImage` of the open page."""
    browser.wait_for("window.labelImage")
    script = """(async () => {
        const file = await (await fetch(NAME)).blob();
        const {labels, rows, columns} = await labelImage(await createImageBitmap(file));
        return [rows, columns, ...labels];
    })()"""
    rows, columns, *labels = browser.value(script.replace("NAME", f"'{image.name}'"))
    return np.reshape(labels, [rows, columns])


@pytest.mark.parametrize("size", [(65, 97), (50, 60)])
def test_the_program_in_python_finds_the_labels_of_predict(run, networks, tmp_path, size):
    image, model = draw(tmp_path, *size), networks["labels"] / "model.tflite"
    command = [sys.executable, EXAMPLES / "label_image.py", model, image, tmp_path / "labels.png"]
    subprocess.run(command, check=True)
    found = np.asarray(Image.open(tmp_path / "labels.png"))
    np.testing.assert_array_equal(found, expected_labels(run, networks["labels"], image))


def test_the_program_in_python_keeps_the_shape_of_a_large_image(networks, tmp_path):
    image, model = draw(tmp_path, 130, 97), networks["labels"] / "model.tflite"
    command = [sys.executable, EXAMPLES / "label_image.py", model, image, tmp_path / "labels.png"]
    subprocess.run(command, check=True)
    assert Image.open(tmp_path / "labels.png").size == (48, 65)


class Interpreter:
    """The interpreter of a file in 8 bits of 2x2 pixels; keeps what it is given."""

    def get_input_details(self) -> list[dict]:
        return [{"index": 0, "shape": [1, 2, 2, 3], "dtype": np.uint8, "quantization": (1.0, 0)}]

    get_output_details = get_input_details

    def set_tensor(self, _, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def invoke(self) -> None:
        """Computes nothing."""

    def get_tensor(self, _) -> np.ndarray:
        return np.zeros([1, 2, 2], np.int32)


def test_the_program_in_python_pads_a_file_in_8_bits_as_predict_does():
    program, interpreter = runpy.run_path(str(EXAMPLES / "label_image.py")), Interpreter()
    program["label_image"](interpreter, Image.new("RGB", (2, 1), (7, 8, 9)))
    padding = np.full(3, program["PAD_PIXEL"], np.float32)
    expected = artefact.to_input_values(padding, interpreter.get_input_details()[0])
    np.testing.assert_array_equal(interpreter.pixels[0, 0], [[7, 8, 9]] * 2)
    np.testing.assert_array_equal(interpreter.pixels[0, 1], [expected] * 2)


def site(folder: pathlib.Path, page: str, modules: pathlib.Path) -> None:
    """Puts a program for browsers, and what it needs, beside the network."""
    (folder / page).write_bytes((EXAMPLES / page).read_bytes())
    (folder / "node_modules").symlink_to(modules)


def test_the_program_with_litert_js_finds_the_labels_of_predict(browser, run, networks, modules):
    folder = networks["labels"]
    site(folder, "litert.html", modules)
    with serving(folder) as address:
        browser.open(f"{address}/litert.html")
        for size in (SIZE, (50, 60)):
            image = draw(folder, *size)
            found = shown_labels(browser, image)
            np.testing.assert_array_equal(found, expected_labels(run, folder, image))
        assert shown_labels(browser, draw(folder, 130, 97)).shape == (65, 48)
        browser.choose_file("#file", image)
        browser.wait_for("document.getElementById('labels').width === 60")


def test_mediapipe_finds_the_labels_of_predict_and_phones_nobody(browser, run, networks, modules):
    folder = networks["scores"]
    site(folder, "mediapipe.html", modules)
    image = draw(folder, *SIZE)
    with serving(folder) as address:
        browser.open(f"{address}/mediapipe.html")
        found = shown_labels(browser, image)
        assert browser.value("classNames") == list(INFO.class_names)
        assert all(url.startswith((address, "blob:", "data:")) for url in browser.requests)
    np.testing.assert_array_equal(found, expected_labels(run, folder, image))


def test_the_guide_names_every_program_and_says_which_are_run():
    rows = dict(re.findall(r"^\| `([\w.]+)` \|.*\| (\w+)[^|]*\|$", GUIDE, re.MULTILINE))
    programs = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert set(rows) == programs
    for name, is_run in rows.items():
        text = " ".join((EXAMPLES / name).read_text(encoding="utf-8").replace("//", "").split())
        assert ("was not compiled or run" in text or "and was not compiled" in text) == (
            is_run == "no"
        ), name
