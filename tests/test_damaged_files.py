"""Every command, and every file that it reads: a damaged file is read, or ends in one message.

The table `FILES` says how a file is written and read, the table `READS` which command reads which
files. Images, labels and records are damaged in `data/test_fuzz.py`, artefacts in
`evaluation/test_artefacts.py`, and answers of servers in `export/test_client_defences.py`.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import tarfile
import warnings
from collections.abc import Callable
from unittest import mock

import cv2
import fuzzing
import hypothesis
import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import videos

from conftest import COMMANDS
from conftest import TINY_MODEL
from conftest import configs_of
from deeplab_tf import command_line
from deeplab_tf import crf
from deeplab_tf import zoo
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import band_files
from deeplab_tf.data import class_lists
from deeplab_tf.data import class_map
from deeplab_tf.data import own_data
from deeplab_tf.data import records
from deeplab_tf.datasets import source_files
from deeplab_tf.drawing import server_ids
from deeplab_tf.drawing import video
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import report
from deeplab_tf.evaluation import results
from deeplab_tf.evaluation.engines import automatic
from deeplab_tf.evaluation.engines import built
from deeplab_tf.export import client
from deeplab_tf.export import connection
from deeplab_tf.export import rest_api
from deeplab_tf.models import dense_prediction_cell
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import saved_models
from deeplab_tf.training import early_stopping
from deeplab_tf.training import log_files
from deeplab_tf.weights import checkpoint_paths
from deeplab_tf.weights import checkpoint_values

sys.path.append(str(pathlib.Path(__file__).parent / "data/annotations"))
import samples

INFO = records.numbered_classes("toy", 3)
NAMES = INFO.class_names
CONFIGS = (
    dataclasses.replace(TINY_MODEL, num_classes=3),
    DataConfig(data_dir="records"),
    TrainConfig(),
)
CELL = [
    {"op": "conv", "kernel": 3, "rate": [6, 3], "input": -1},
    {"op": "pyramid_pooling", "grid_size": [2, 2], "input": 0},
]
FIGURES = {
    "miou": 0.5,
    "iou_per_class": dict.fromkeys(NAMES, 0.5),
    "num_images": 1,
    "trimap": {"widths": [1, 2], "miou": [0.1, 0.2]},
    "confusion_matrix": [[3, 1, 0]] * 3,
}
LINE = {
    "name": "a",
    "miou": 0.5,
    "pixel_accuracy": 0.5,
    "iou_per_class": {NAMES[0]: 0.5},
    "num_pixels": 9,
}


@dataclasses.dataclass(frozen=True)
class File:
    """A file that commands read.

    Attributes:
        write: Writes it, and what belongs to it, into a folder.
        damaged: Name of the file in that folder that is to be damaged.
        read: Reads it as the commands do.
        num_examples: How many damaged ones are read.
    """

    write: Callable[[pathlib.Path], object]
    damaged: str
    read: Callable[[pathlib.Path], object]
    num_examples: int = 40


def text(name: str, content: str) -> Callable[[pathlib.Path], object]:
    return lambda folder: (folder / name).write_text(content)


def json_file(name: str, content) -> Callable[[pathlib.Path], object]:
    return text(name, json.dumps(content))


def write_run(folder: pathlib.Path) -> None:
    run_dirs.create(str(folder), *CONFIGS, INFO)
    json_file("crf.json", {"parameters": crf.PRESETS["v1"]})(folder)


def write_evaluation(folder: pathlib.Path) -> None:
    for name, content in (("metrics.json", FIGURES), ("images.jsonl", LINE)):
        (folder / name).write_text(json.dumps(content) + "\n")


def read_evaluation(folder: pathlib.Path) -> None:
    """As `eval --compare` does."""
    other = results.read(str(folder))
    report.check_comparable(other, NAMES)
    own = results.Evaluation(FIGURES, [LINE])
    report.write(folder / "report.html", own, info=INFO, other=other)


def write_engine(folder: pathlib.Path) -> None:
    (folder / "a.onnx").write_bytes(b"graph")
    digest = hashlib.sha256(b"graph").hexdigest()
    json_file("a.onnx.json", {"stride": 4.0, "sha256": digest})(folder)


def write_log(folder: pathlib.Path) -> None:
    lines = [json.dumps({"step": step, "validation/miou": 0.5}) + "\n" for step in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    with tf.io.TFRecordWriter(str(folder / "events.out.tfevents.1")) as writer:
        for step in range(1, 6):
            writer.write(tf.compat.v1.Event(step=step).SerializeToString())


def read_log(folder: pathlib.Path) -> None:
    early_stopping.EarlyStopping(str(folder), 3, patience=2)
    log_files.cut_lines(str(folder / "metrics.jsonl"), 3)


def write_checkpoint(folder: pathlib.Path) -> None:
    variables = {"scope/weights": tf.Variable(tf.ones([3, 3])), "global_step": tf.Variable(7)}
    checkpoint_values.write(str(folder / "ckpt-7"), variables)


def read_checkpoint(path: pathlib.Path) -> None:
    with checkpoint_paths.located(str(path)) as (prefix, origin):
        values = checkpoint_values.CheckpointValues(prefix, origin)
        for name in values.shapes:
            values.read(name)


def write_archive(folder: pathlib.Path) -> None:
    write_checkpoint(folder)
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        for path in sorted(folder.glob("ckpt-7*")):
            archive.add(path, f"model/{path.name}")


def add_to_cache(folder: pathlib.Path) -> None:
    with mock.patch.dict(os.environ, DEEPLAB_TF_CACHE=str(folder)):
        zoo.cache.add(next(iter(zoo.ENTRIES)), folder / "model.tar.gz")


def write_cache(folder: pathlib.Path) -> None:
    write_archive(folder)
    add_to_cache(folder)


def write_keras(folder: pathlib.Path) -> None:
    keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]).save(folder / "model.keras")


def write_label_images(folder: pathlib.Path) -> None:
    for number, name in enumerate("ab"):
        samples.write_image(folder / "images" / f"{name}.jpg", number)
        (folder / "labels").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "labels" / f"{name}.png"), np.eye(12, 20, dtype=np.uint8))
    text("classes.txt", "sky\nroad\n")(folder)
    text("train.txt", "a\n")(folder)
    text("val.txt", "b\n")(folder)


def read_own_data(folder: pathlib.Path) -> None:
    data = own_data.find_own_data(folder, own_data.OwnDataOptions(val_share=0.5))
    for images in data.splits.values():
        for image in images:
            data.read(image)


def write_stack(folder: pathlib.Path) -> None:
    pages = [PIL.Image.new("L", (9, 7), number) for number in range(3)]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
    np.savez(folder / "a.npz", np.zeros((7, 9, 3), np.float32))


def read_bands(folder: pathlib.Path) -> None:
    for name in ("a.tif", "a.npz"):
        band_files.has_bands(folder / name)
        with band_files.open_bands(folder / name, max_pixels=10_000) as file:
            file.read(*band_files.whole(file), file.default_numbers)


def read_certificates(folder: pathlib.Path) -> None:
    authorities = str(folder / "authorities.pem")
    settings = connection.Connection("localhost:1", "m", tls=True, ca_certificates=authorities)
    rest_api.Rest(settings).close()


FILES = {
    "flagfile": File(
        lambda folder: command_line.write_flagfile(folder / "flags.txt", *CONFIGS), "flags.txt",
        lambda folder: command_line.parse(
            [f"--flagfile={folder / 'flags.txt'}"], ModelConfig, DataConfig, TrainConfig
        ),
    ),
    "flags of a run": File(write_run, "flags.txt", lambda folder: run_dirs.read(str(folder))),
    "classes of a run": File(write_run, "dataset.json", lambda folder: run_dirs.read(str(folder))),
    "CRF parameters": File(
        write_run, "crf.json",
        lambda folder: run_dirs.crf_parameters(str(folder), CrfConfig(crf="tuned")),
    ),
    "choice of an engine": File(
        json_file("choice.json", dataclasses.asdict(automatic.Choice("litert", 1.5, 0.9995))),
        "choice.json", lambda folder: automatic.read_choice(folder / "choice.json"),
    ),
    "file of an engine": File(
        write_engine, "a.onnx", lambda folder: built.read_stride(folder / "a.onnx")
    ),
    "description of an engine's file": File(
        write_engine, "a.onnx.json", lambda folder: built.read_stride(folder / "a.onnx")
    ),
    "figures": File(write_evaluation, "metrics.json", read_evaluation),
    "figures of images": File(write_evaluation, "images.jsonl", read_evaluation),
    "training log": File(
        write_log, "metrics.jsonl", read_log,
    ),
    "events of TensorBoard": File(
        write_log, "events.out.tfevents.1", lambda folder: log_files.cut_events(str(folder), 3)
    ),
    "index of a checkpoint": File(
        write_checkpoint, "ckpt-7.index", lambda folder: read_checkpoint(folder / "ckpt-7")
    ),
    "data of a checkpoint": File(
        write_checkpoint, "ckpt-7.data-00000-of-00001",
        lambda folder: read_checkpoint(folder / "ckpt-7"),
    ),
    "archive of a checkpoint": File(
        write_archive, "model.tar.gz", lambda folder: read_checkpoint(folder / "model.tar.gz")
    ),
    "record of a download": File(
        write_cache, f"zoo/{next(iter(zoo.ENTRIES))}.json", add_to_cache, num_examples=20
    ),
    "Keras file": File(
        write_keras, "model.keras",
        lambda folder: saved_models.load_model(folder / "model.keras"), num_examples=15,
    ),
    "dense prediction cell": File(
        json_file("cell.json", CELL), "cell.json",
        lambda folder: dense_prediction_cell.read_cell(str(folder / "cell.json")),
    ),
    "ids of a server": File(
        text("ids.txt", "".join(f"{name}: {3 * i}\n" for i, name in enumerate(NAMES))), "ids.txt",
        lambda folder: server_ids.read_label_ids(str(folder / "ids.txt"), NAMES),
    ),
    "class list": File(
        text("classes.txt", "sky 70 130 180\nroad\n"), "classes.txt",
        lambda folder: class_lists.read_class_list(folder / "classes.txt"),
    ),
    "class map": File(
        text("map.txt", f"{NAMES[0]}: {NAMES[1]}\n{NAMES[2]}: ignore\n"), "map.txt",
        lambda folder: class_map.parse_class_map(
            str(folder / "map.txt"), NAMES, INFO.colors, INFO.ignore_label
        ),
    ),
    "split list": File(
        text("train.txt", "a\nb\n"), "train.txt",
        lambda folder: source_files.read_split_lists(folder, ("train",), "Fetch it again."),
    ),
    "split list of own data": File(write_label_images, "train.txt", read_own_data),
    "class list of own data": File(write_label_images, "classes.txt", read_own_data),
    "label images": File(write_label_images, "labels/a.png", read_own_data),
    "stack of bands": File(write_stack, "a.tif", read_bands),
    "array of bands": File(write_stack, "a.npz", read_bands),
    "masks": File(samples.write_masks_per_class, "masks/cat/a.png", read_own_data),
    "COCO": File(samples.write_coco, "annotations/instances.json", read_own_data, num_examples=80),
    "panoptic label images": File(
        samples.write_panoptic, "annotations/panoptic_val2017/a.png", read_own_data
    ),
    "labelme": File(samples.write_labelme, "a.json", read_own_data),
    "CVAT": File(samples.write_cvat, "annotations.xml", read_own_data),
    "Label Studio": File(
        samples.write_label_studio, "project-1-at-2024.json", read_own_data, num_examples=80
    ),
    "YOLO": File(samples.write_yolo, "train/labels/a.txt", read_own_data),
    "class names of YOLO": File(samples.write_yolo, "data.yaml", read_own_data),
    "video": File(
        lambda folder: videos.draw_video(folder / "a.avi", videos.plain_frames(2)), "a.avi",
        lambda folder: list(video.Reader(str(folder / "a.avi")).frames()), num_examples=15,
    ),
    "palette": File(
        json_file("palette.json", {"colors": [[1, 2, 3], [4, 5, 6]]}), "palette.json",
        lambda folder: client.read_palette(str(folder / "palette.json")),
    ),
    "token": File(
        text("token", "abc\n"), "token",
        lambda folder: connection.Connection(
            "localhost:1", "m", auth_token=client.read_auth_token(str(folder / "token"))
        ),
    ),
    "certificates": File(
        text("authorities.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
        "authorities.pem", read_certificates,
    ),
}  # fmt: skip

_RUN = {"flags of a run", "classes of a run", "index of a checkpoint", "data of a checkpoint"}
_START = {"archive of a checkpoint", "record of a download", "Keras file", "dense prediction cell"}
_INFERENCE = _RUN | {
    "CRF parameters",
    "choice of an engine",
    "file of an engine",
    "description of an engine's file",
}
_OWN_DATA = {
    "split list of own data", "class list of own data", "label images", "masks", "COCO",
    "panoptic label images", "labelme", "CVAT", "Label Studio", "YOLO", "class names of YOLO",
    "class list", "stack of bands", "array of bands",
}  # fmt: skip
_TRAINING = _RUN | _START | {"training log", "events of TensorBoard"}
READS = {
    "check_data": _OWN_DATA,
    "datasets.build": _OWN_DATA | {"class map", "split list"},
    "describe": {"dense prediction cell"},
    "train": _TRAINING,
    "supervise": _TRAINING,
    "import_checkpoint": _START | {"index of a checkpoint", "data of a checkpoint"},
    "eval": _INFERENCE | {"figures", "figures of images", "Keras file"},
    "predict": _INFERENCE | {"ids of a server", "video", "Keras file", "stack of bands"},
    "tune_crf": _RUN,
    "export.savedmodel": _RUN,
    "export.tflite": _RUN,
    "export.onnx": _RUN,
    "export.web": _RUN,
    "export.serve": set(),  # what a damaged version answers is in tests/export/test_serve.py
    "export.hub": _RUN,
    "export.client": {"palette", "token", "certificates"},
    "data_service": set(),
    "datasets.shapes.draw": set(),
}


def test_the_table_has_every_command_and_every_file():
    assert {f"deeplab_tf.{name}" for name in READS} == set(COMMANDS)
    assert set().union({"flagfile"}, *READS.values()) == set(FILES)  # all commands read flagfiles


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_ends_in_a_message_that_names_it(name, tmp_path):
    file = FILES[name]
    file.write(tmp_path)
    path = tmp_path / file.damaged
    good = path.read_bytes()
    is_json = path.suffix == ".json" or name == "figures of images"
    damage = fuzzing.changed_json(json.loads(good)) if is_json else fuzzing.damaged([good])

    @hypothesis.settings(fuzzing.fuzzed, max_examples=file.num_examples)
    @hypothesis.given(damage)
    def check(content):
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about damaged files
            try:
                file.read(tmp_path)
            except UserError as error:
                assert path.name in str(error) or str(tmp_path) in str(error)
                assert len(str(error)) < 2500

    check()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flagfile_in_another_encoding_ends_in_a_message_that_names_it(command, tmp_path):
    path = tmp_path / "flags.txt"
    path.write_bytes("--name=Stra\u00dfe\n".encode("cp1252"))
    with pytest.raises(UserError, match=f"{path} is not a UTF-8 text .line 1."):
        command_line.parse([f"--flagfile={path}"], *configs_of(command))
