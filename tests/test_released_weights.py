"""Released weights through the commands, by their name alone."""

import dataclasses
import functools
import http.server
import importlib
import json
import os
import pathlib
import tarfile
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import configs_of
from conftest import short_mobilenet_v2
from deeplab_tf import build_model
from deeplab_tf import command_line
from deeplab_tf import layers
from deeplab_tf import load_run
from deeplab_tf import zoo
from deeplab_tf.data import published_classes
from deeplab_tf.data.own_data import OwnDataOptions
from deeplab_tf.datasets import build
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.errors import UserError
from deeplab_tf.runs import released
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.weights import checkpoint_values

NAME = "mobilenetv2_dm05_coco_voc_trainaug"
VOC = published_classes.VOC2012


def run(command: str, **flags) -> None:
    """Runs a command as its command line does."""
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    configs = command_line.parse(arguments, *configs_of(f"deeplab_tf.{command}"))
    importlib.import_module(f"deeplab_tf.{command}").main(*configs)


@pytest.fixture(scope="module", autouse=True)
def short_network():
    with short_mobilenet_v2():
        yield


@pytest.fixture(scope="module")
def archive(short_network, tmp_path_factory) -> pathlib.Path:
    """The archive of a release, made here, as its authors pack it."""
    folder = tmp_path_factory.mktemp("release")
    config = released.settings_of(NAME).model_config
    model = build_model(**dataclasses.asdict(config))
    values = {layers.official_name(weight): weight for weight in model.weights}
    biases = values["logits/semantic/biases"]
    biases.assign(np.eye(VOC.num_classes, dtype=np.float32)[VOC.class_names.index("person")] * 9)
    checkpoint_values.write(str(folder / "model.ckpt-30000"), values)
    path = folder / zoo.ENTRIES[NAME].archive
    with tarfile.open(path, "w:gz") as file:
        for part in folder.glob("model.ckpt*"):
            file.add(part, f"deeplabv3_mnv2/{part.name}")
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(archive, tmp_path_factory):
    """An empty cache, and a server on this machine that has the release."""
    kind = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    with (
        pytest.MonkeyPatch.context() as patch,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("DEEPLAB_TF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("DEEPLAB_TF_ZOO_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


@pytest.fixture
def photo(tmp_path) -> pathlib.Path:
    image, _ = drawing.draw("val", 0)
    path = tmp_path / "photos" / "photo.jpg"
    path.parent.mkdir()
    cv2.imwrite(str(path), image)
    return path


def test_photos_are_labelled_by_a_name_without_a_run_dir(photo, tmp_path):
    run("predict", weights=NAME, images=photo.parent, output_dir=tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        "overview.png",
        "photo.png",
        "photo_overlay.png",
    ]
    label = Image.open(tmp_path / "out" / "photo.png")
    person = VOC.class_names.index("person")
    assert (np.asarray(label) == person).all()
    assert tuple(label.getpalette()[3 * person : 3 * person + 3]) == VOC.colors[person]
    in_python = load_run(NAME)
    assert in_python.class_names == VOC.class_names
    np.testing.assert_array_equal(
        in_python.predict(cv2.imread(str(photo))[..., ::-1]), np.asarray(label)
    )


def test_a_name_is_imported_with_another_output_stride(tmp_path, capsys):
    run("import_checkpoint", checkpoint=NAME, output_stride=8, run_dir=tmp_path / "run")
    output = capsys.readouterr().out
    assert f"--output_stride=8 in place of 16 of {NAME}" in output
    assert "variables loaded" in output
    assert run_dirs.read(str(tmp_path / "run")).model_config.output_stride == 8
    with pytest.raises(UserError, match="--version=v3plus describes another network"):
        run("import_checkpoint", checkpoint=NAME, version="v3plus", run_dir=tmp_path / "other")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "--run_dir must be given, or --weights"),
        ({"weights": NAME, "run_dir": "RUN"}, "--run_dir=RUN and --weights=.* leave one out"),
        ({"weights": "mobilenetv2_coco_vok_trainaug"}, "Did you mean mobilenetv2_coco_voc_train"),
        ({"weights": "xception_65_imagenet"}, "backbone alone, without classes"),
        ({"weights": "./model.ckpt"}, "import_checkpoint"),
    ],
    ids=["nothing", "both", "misspelt", "a backbone", "a path"],
)
def test_what_is_not_a_release_is_refused(photo, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        run("predict", images=photo, output_dir=tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_a_release_is_evaluated_on_records(tiny_raw, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(VOC.class_names))
    records = build.build(
        "folder", tmp_path / "records", tiny_raw, own=OwnDataOptions(classes=str(classes))
    )
    run("eval", weights=NAME, data_dir=records.folder)
    figures = json.loads(pathlib.Path(zoo.folder_of(NAME), "run/metrics.json").read_text())
    assert figures["split"] == "val" and list(figures["iou_per_class"]) == list(VOC.class_names)


def test_a_release_is_exported_with_its_classes_and_colours(tmp_path):
    flags = {"weights": NAME, "num_proof_images": 1}
    run("export.savedmodel", output_dir=tmp_path / "export", serving_size="65,65", **flags)
    assets = tmp_path / "export" / "1" / "assets"
    assert (assets / "labels.txt").read_text().split("\n")[: VOC.num_classes] == list(
        VOC.class_names
    )
    assert "[192, 128, 128]" in str(json.loads((assets / "palette.json").read_text()))
    output = tmp_path / "model.tflite"
    run("export.tflite", output=output, input_size="65,65", **flags)
    assert b"pottedplant" in output.read_bytes()
