"""Damaged and hostile bytes: every reader gives what is there, or one message; nothing else.

The examples are drawn by hypothesis with a fixed seed, so that every run sees the same ones.
"""

import contextlib
import io
import json
import pathlib
import warnings

import cv2
import fuzzing
import hypothesis
import numpy as np
import PIL.Image
import pngs
import pytest
import tensorflow as tf
from fuzzing import damaged
from fuzzing import fuzzed
from hypothesis import strategies

from deeplab_tf.data import class_lists
from deeplab_tf.data import class_map
from deeplab_tf.data import decoding
from deeplab_tf.data import label_files
from deeplab_tf.data import record_reading
from deeplab_tf.data import records
from deeplab_tf.data import source_images
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.errors import UserError

LIMIT = 10_000  # pixels
INFO = records.numbered_classes("fuzz", 8)


def encoded(array: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 8, (9, 14))
PHOTO = cv2.resize(RNG.integers(0, 256, (3, 4, 3)).astype(np.uint8), (14, 9))
TURNED = PIL.Image.Exif()
TURNED[0x0112] = 6

LABELS = [
    pngs.png(IDS), pngs.png(IDS % 2, 1), pngs.png(IDS, 16), pngs.palette_png(IDS % 4, 2),
    pngs.palette_png(IDS), pngs.png(IDS % 4, 2, interlaced=True),
]  # fmt: skip
IMAGES = [
    encoded(PHOTO, "JPEG"), encoded(PHOTO, "PNG"), encoded(PHOTO, "JPEG", exif=TURNED),
    encoded(PHOTO[..., 0], "PNG"), encoded(PHOTO, "JPEG", progressive=True),
]  # fmt: skip
OTHER_IMAGES = [encoded(PHOTO, kind) for kind in ("BMP", "GIF", "TIFF", "WEBP", "PPM")]
OTHER_LABELS = [
    encoded(IDS.astype(np.uint8), "BMP"), encoded(IDS.astype(np.int32), "TIFF"),
    encoded(IDS.astype(np.uint8), "GIF"), encoded(PHOTO, "PNG"),
]  # fmt: skip


def example(image: bytes, label: bytes) -> bytes:
    def feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        record_reading.IMAGE_KEY: feature(image),
        record_reading.LABEL_KEY: feature(label),
        record_reading.NAME_KEY: feature(b"image_7"),
        "image/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[9])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@fuzzed
@hypothesis.given(damaged(LABELS + IMAGES))
def test_labels_give_ids_or_a_problem(content):
    try:
        label = decoding.decode_label(content, LIMIT)
    except DataProblem:
        return
    assert label.ndim == 2 and label.size and label.dtype in (np.uint8, np.uint16)
    assert decoding.label_problem_in_graph(tf.constant(content), LIMIT) == ""
    with contextlib.suppress(tf.errors.InvalidArgumentError):  # it wants a whole last chunk
        graph = decoding.decode_label_in_graph(tf.constant(content))
        np.testing.assert_array_equal(label, graph)


@fuzzed
@hypothesis.given(damaged(IMAGES + LABELS))
def test_images_give_pixels_or_a_problem(content):
    for decode in (decoding.decode_image, decoding.decode_image_strictly):
        try:
            image = decode(content, LIMIT)
        except DataProblem:
            continue
        assert image.dtype == np.uint8 and image.shape[2] == 3 and image.size


@fuzzed
@hypothesis.given(damaged([example(IMAGES[0], LABELS[0]), example(IMAGES[1], LABELS[4])]))
def test_records_give_an_image_with_ids_in_range_or_a_problem(serialized):
    try:
        name, image, label = record_reading.read_record(serialized, INFO, LIMIT)
    except DataProblem as problem:
        assert problem.of_record.startswith("it")
        return
    assert isinstance(name, str) and image.shape[:2] == label.shape
    assert not set(np.unique(label)) - {*range(8), 255}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """One folder for all examples, which each write over the one before."""
    return tmp_path_factory.mktemp("fuzz")


def arrays() -> list[bytes]:
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, IDS)
    np.savez_compressed(npz, label=IDS, other=np.zeros((2, 2, 2)))
    return [npy.getvalue(), npz.getvalue()]


@fuzzed
@hypothesis.given(
    damaged(LABELS + OTHER_LABELS + arrays()), strategies.sampled_from((".png", ".npy", ".npz"))
)
def test_label_files_give_integers_or_a_message_that_names_them(folder, content, ending):
    path = folder / f"label{ending}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow and numpy, about damaged files
        try:
            label = label_files.read_label(path, max_pixels=LIMIT)
        except UserError as error:
            assert str(path) in str(error)
            return
    assert label.ndim == 2 and label.dtype.kind == "i" and label.size <= LIMIT


@fuzzed
@hypothesis.given(damaged(IMAGES + OTHER_IMAGES))
def test_image_files_become_records_or_a_message_that_names_them(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = source_images.read_source_image(content, "photo.jpg", max_pixels=LIMIT)
        except UserError as error:
            assert "photo.jpg" in str(error)
            return
    assert decoding.decode_image_strictly(image.content, LIMIT).shape[1::-1] == image.size


CLASS_LISTS = [
    b"sky 70 130 180\nroad\ntraffic light 250 170 30\n",
    b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:9,8,7::\n",
    b"__ignore__\n_background_\ncar\n",
    b"name,r,g,b\nsky,1,2,3\nroad,4,5,6\n",
    "\ufeff0: sky\n1: road\n".encode(),
    b'[{"name": "sky", "color": "#102030"}, {"name": "road", "color": [1, 2, 3], "id": 1}]',
    b"sky;0\nroad;1\n",
    "70 130 180 sky\n1 2 3 Stra\u00dfe\n".encode("utf-16"),
]


@fuzzed
@hypothesis.given(damaged(CLASS_LISTS) | strategies.binary(max_size=80))
def test_class_lists_give_names_and_colours_or_a_message_that_names_them(folder, content):
    path = folder / "classes.txt"
    path.write_bytes(content)
    try:
        names, colors = class_lists.read_class_list(path)
    except UserError as error:
        assert str(path) in str(error) and len(str(error)) < 2000
        return
    assert 1 <= len(names) == len(colors) == len(set(names)) <= 255
    assert all(name and name.isprintable() for name in names)
    assert all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in colors)


@fuzzed
@hypothesis.given(damaged([b"sky: ignore\ncar: vehicle\nroad: car\n"]) | strategies.binary())
def test_class_maps_give_classes_or_a_message_that_names_them(folder, content):
    path = folder / "map.txt"
    path.write_bytes(content)
    try:
        found = class_map.parse_class_map(
            str(path), ("sky", "car", "road"), records.default_colors(3), 255
        )
    except UserError as error:
        assert str(path) in str(error)
        return
    assert set(found.table) == {0, 1, 2} and found.class_names


DESCRIPTIONS = {
    "dataset_info.json": {
        "name": "toy",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": "val",
                "shardLengths": ["1"],
                "numBytes": "90",
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
            }
        ],
    },
    "metadata.json": {
        "class_names": ["ground", "thing"],
        "colors": [[0, 0, 0], [9, 8, 7]],
        "ignore_label": 255,
    },
}


@strategies.composite
def changed_description(draw) -> tuple[str, bytes]:
    """A description with another value somewhere, or with bytes damaged."""
    file = draw(strategies.sampled_from(sorted(DESCRIPTIONS)))
    return file, draw(fuzzing.changed_json(DESCRIPTIONS[file]))


@fuzzed
@hypothesis.given(changed_description())
def test_descriptions_give_records_or_a_message_that_names_them(folder, changed):
    file, content = changed
    for name, value in DESCRIPTIONS.items():
        (folder / name).write_text(json.dumps(value))
    with tf.io.TFRecordWriter(str(folder / "val-00000-of-00001.tfrecord")) as writer:
        writer.write(b"x" * 90)
    (folder / file).write_bytes(content)
    try:
        found = records.find_records(folder)
    except UserError as error:
        assert str(folder) in str(error) and len(str(error)) < 2000
        return
    paths = [path for shards in found.shard_paths.values() for path in shards]
    assert all(pathlib.Path(path).parent == folder for path in paths)
    assert records.DatasetInfo.from_json(found.info.to_json()) == found.info


@fuzzed
@hypothesis.given(strategies.data())
def test_shards_give_their_number_of_records_or_a_message_that_names_them(folder, data):
    shard = folder / "train-00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for length in (0, 3, 70):
            writer.write(b"x" * length)
    shard.write_bytes(data.draw(damaged([shard.read_bytes()])))
    for file in DESCRIPTIONS:
        (folder / file).unlink(missing_ok=True)
    (folder / "val-00000-of-00001.tfrecord").unlink(missing_ok=True)
    try:
        found = records.find_records(folder, num_classes=2)
    except UserError as error:
        assert "train-00000-of-00001" in str(error)
        return
    assert found.num_examples["train"] >= 0
