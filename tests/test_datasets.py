"""Building records: what is written, and the messages about unusable images."""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from conftest import REPOSITORY
from deeplab_tf import check_data
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import own_data
from deeplab_tf.data import record_reading
from deeplab_tf.data import records
from deeplab_tf.datasets import build
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets.camvid import camvid_dataset_builder
from deeplab_tf.errors import UserError


@pytest.fixture
def raw(tmp_path) -> pathlib.Path:
    """Raw images for the dataset `folder`, as they should be: train a.jpg b.png, val c.jpg."""
    root = tmp_path / "raw"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.jpg"):
        image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        PIL.Image.fromarray(image).save(root / "images" / name)
        label = rng.choice(np.array([0, 1, 255], np.uint8), (20, 30))
        PIL.Image.fromarray(label).save((root / "labels" / name).with_suffix(".png"))
    (root / "classes.txt").write_text("ground\ntraffic light 250 170 30\n")
    (root / "train.txt").write_text("/home/somebody/images/a.jpg\nb\n")
    (root / "val.txt").write_text("c\n\n")
    return root


def examples(found: records.Records, split: str) -> dict[str, record_reading.Record]:
    """Reads records without TFDS, by name."""
    dataset = tf.data.TFRecordDataset(found.shards(split)).as_numpy_iterator()
    return {record.name: record for record in map(record_reading.parse_record, dataset)}


def test_records_have_the_official_keys_and_tfds_reads_them_back(raw, tmp_path):
    found = build.build("folder", tmp_path / "out", raw)
    assert found.num_examples == {"train": 2, "val": 1}
    assert found.info == records.DatasetInfo(
        "raw", ("ground", "traffic light"), ((0, 0, 0), (250, 170, 30)), 255
    )
    serialized = next(iter(tf.data.TFRecordDataset(found.shards("val")))).numpy()
    features = tf.train.Example.FromString(serialized).features.feature
    assert set(features) == {
        "image/encoded",
        "image/filename",
        "image/format",
        "image/height",
        "image/width",
        "image/channels",
        "image/segmentation/class/encoded",
        "image/segmentation/class/format",
    }
    assert features["image/filename"].bytes_list.value[0] == b"c"
    assert features["image/format"].bytes_list.value[0] == b"jpeg"
    assert features["image/segmentation/class/format"].bytes_list.value[0] == b"png"
    for key, value in (("height", 20), ("width", 30), ("channels", 3)):
        assert features[f"image/{key}"].int64_list.value[0] == value

    builder = tfds.builder_from_directory(found.folder)
    for split in ("train", "val"):
        assert [str(path) for path in builder.info.splits[split].filepaths] == found.shards(split)
    assert builder.info.metadata["class_names"] == ["ground", "traffic light"]
    example = next(iter(builder.as_dataset(split="val")))["image"]
    np.testing.assert_array_equal(
        example["segmentation"]["class"]["encoded"][..., 0],
        np.array(PIL.Image.open(raw / "labels" / "c.png")),
    )


def test_image_bytes_stay_as_they_are_and_labels_keep_their_ids(raw, tmp_path):
    train = examples(build.build("folder", tmp_path / "out", raw), "train")
    assert set(train) == {"a", "b"}
    assert train["a"].image == (raw / "images" / "a.jpg").read_bytes()
    assert train["b"].image == (raw / "images" / "b.png").read_bytes()
    for name in "ab":
        label = tf.io.decode_png(train[name].label)
        assert label.shape == (20, 30, 1)
        np.testing.assert_array_equal(
            label[..., 0], np.array(PIL.Image.open(raw / "labels" / f"{name}.png"))
        )


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def save(array, path):
    PIL.Image.fromarray(array).save(path)


# What is wrong -> how it comes about, and what the message says besides the file.
BAD_IMAGES = {
    "truncated JPEG": (lambda raw: truncate(raw / "images/c.jpg"), "images/c.jpg", "to its end"),
    "truncated PNG": (lambda raw: truncate(raw / "images/b.png"), "images/b.png", "to its end"),
    "no image": (
        lambda raw: (raw / "images/a.jpg").write_text("hello"),
        "images/a.jpg",
        "is damaged, or not one of",
    ),
    "label in colours": (
        lambda raw: save(np.full((20, 30, 3), (1, 2, 3), np.uint8), raw / "labels/c.png"),
        "labels/c.png",
        "different ways: color_map in .*, grey in",
    ),
    "label as JPEG": (
        lambda raw: PIL.Image.new("L", (30, 20)).save(raw / "labels/c.png", format="JPEG"),
        "labels/c.png",
        "labels are PNGs",
    ),
    "ids out of range": (
        lambda raw: save(np.full((20, 30), 12, np.uint8), raw / "labels/c.png"),
        "labels/c.png",
        "id 12 .* 2 classes (0..1 or 255)",
    ),
    "16-bit ids out of range": (
        lambda raw: save(np.full((20, 30), 256, np.uint16), raw / "labels/c.png"),
        "labels/c.png",
        "id 256",
    ),
    "sizes differ": (
        lambda raw: save(np.zeros((30, 20), np.uint8), raw / "labels/c.png"),
        "labels/c.png",
        "has 20x30 pixels .*, but its image .*c.jpg has 30x20",
    ),
    "label missing": (
        lambda raw: (raw / "labels/c.png").unlink(),
        "val.txt",
        "lists 'c', but there is no image with a label of that name",
    ),
    "listed twice": (lambda raw: (raw / "val.txt").write_text("c\nc.jpg"), "c.jpg", "twice"),
    "list empty": (lambda raw: (raw / "val.txt").write_text("\n"), "val.txt", "is empty"),
    "class twice": (
        lambda raw: (raw / "classes.txt").write_text("a\na"),
        "classes.txt",
        "'a' twice",
    ),
    "colour out of range": (
        lambda raw: (raw / "classes.txt").write_text("a 1 2 300"),
        "classes.txt",
        "0..255",
    ),
    "no images": (lambda raw: shutil.rmtree(raw / "images"), "raw", "There is no image in"),
    "same name twice": (
        lambda raw: shutil.copy(raw / "images/a.jpg", raw / "images/a.png"),
        "a.jpg",
        "rename one",
    ),
}


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_a_bad_image_is_one_message_and_leaves_no_records(what, raw, tmp_path):
    make_bad, file, message = BAD_IMAGES[what]
    make_bad(raw)
    message = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UserError, match=message) as error:
        build.build("folder", tmp_path / "out", raw)
    assert file in str(error.value)
    if what in ("truncated JPEG", "ids out of range", "sizes differ"):
        assert "python -m deeplab_tf.check_data --data=" in str(error.value)
    with pytest.raises(UserError):
        records.find_records(tmp_path / "out")


def test_a_split_of_few_images_gets_fewer_shards(raw, tmp_path):
    found = build.build("folder", tmp_path / "out", raw, num_shards=2)
    assert [len(found.shards(split)) for split in ("train", "val")] == [2, 1]


def test_labels_in_colours_are_looked_up_and_classes_mapped(raw, tmp_path):
    colors = np.array([(0, 0, 0), (250, 170, 30), (9, 9, 9)], np.uint8)
    (raw / "classes.txt").write_text("ground 0 0 0\ntraffic light 250 170 30\nvoid 9 9 9\n")
    ids = {}
    for path in (raw / "labels").iterdir():
        ids[path.stem] = np.array(PIL.Image.open(path))
        save(colors[np.where(ids[path.stem] == 255, 2, ids[path.stem])], path)
    found = build.build("folder", tmp_path / "plain", raw)
    assert found.info.class_names == ("ground", "traffic light", "void")
    # Two of the colours look the same, so that all are replaced.
    assert found.info.colors == records.default_colors(3)
    found = build.build("folder", tmp_path / "mapped", raw, class_map="ground:ignore,void:ignore")
    assert found.info.class_names == ("traffic light",)
    assert found.info.colors == ((250, 170, 30),)
    for name, example in examples(found, "train").items():
        np.testing.assert_array_equal(
            tf.io.decode_png(example.label)[..., 0], np.where(ids[name] == 1, 0, 255)
        )
    with pytest.raises(UserError, match=r"labels/.*\.png is not an array"):
        array = own_data.OwnDataOptions(label_encoding="array")
        build.build("folder", tmp_path / "told", raw, own=array)
    (raw / "classes.txt").write_text("ground 0 0 0\nroad 0 0 0\nvoid 9 9 9\n")
    with pytest.raises(UserError, match=r"colour \(0, 0, 0\) to two classes"):
        build.build("folder", tmp_path / "twice", raw)


def test_the_original_camvid_is_read_by_its_colours(tmp_path):
    raw = tmp_path / "raw"
    for folder in ("701_StillsRaw_full", "LabeledApproved_full"):
        (raw / folder).mkdir(parents=True)
    original = [
        (color, list(camvid_dataset_builder.ORIGINAL_COLORS).index(group))
        for group, members in camvid_dataset_builder.ORIGINAL_COLORS.items()
        for color in members.values()
    ]
    assert len(original) == len(dict(original)) == 32
    rgb = np.array([[color for color, _ in original]], np.uint8)
    save(rgb, raw / "701_StillsRaw_full" / "a_1.png")
    save(rgb, raw / "LabeledApproved_full" / "a_1_L.png")
    with pytest.raises(UserError, match="(?s)no split list.*SegNet's: the original has no"):
        build.build("camvid", tmp_path / "out", raw)
    (raw / "train.txt").write_text("/SegNet/CamVid/train/a_1.png /SegNet/CamVid/trainannot/a_1.png")
    train = examples(build.build("camvid", tmp_path / "out", raw), "train")
    label = tf.io.decode_png(train["a_1"].label)[..., 0]
    np.testing.assert_array_equal(label, [[class_id for _, class_id in original]])
    assert original[-1] == ((0, 0, 0), camvid_dataset_builder.IGNORE_LABEL)


# Builds with one thread, and kills itself when the second shard is there.
KILLED_BUILD = """
import os, pathlib, signal, sys
from deeplab_tf.datasets import build, segmentation

out, raw = sys.argv[1:]
read_pair = segmentation.SegmentationBuilder.read_pair

def read_or_die(self, pair):
    if list(pathlib.Path(out).rglob("train-00001-of-00004.tfrecord")):
        os.kill(os.getpid(), signal.SIGKILL)
    return read_pair(self, pair)

segmentation.SegmentationBuilder.read_pair = read_or_die
build.build("folder", out, raw, num_workers=1)
"""


def test_a_killed_build_resumes_and_keeps_what_has_not_changed(raw, tmp_path, monkeypatch, capsys):
    names = [f"image_{index:02d}" for index in range(12)]
    for name in names:
        shutil.copy(raw / "images/a.jpg", raw / f"images/{name}.jpg")
        shutil.copy(raw / "labels/a.png", raw / f"labels/{name}.png")
    (raw / "train.txt").write_text("\n".join(names))
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BUILD, str(out), str(raw)],
        check=False,
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with pytest.raises(UserError, match="no records in"):
        records.find_records(out)
    first_shard = out / "folder/1.0.0.incomplete/train-00000-of-00004.tfrecord"
    first = {
        record_reading.parse_record(serialized).name
        for serialized in tf.data.TFRecordDataset(str(first_shard)).as_numpy_iterator()
    }
    assert len(first) == 3
    os.utime(raw / f"images/{min(first)}.jpg", (0, 0))  # this image is another one now

    read = set()
    read_pair = segmentation.SegmentationBuilder.read_pair
    monkeypatch.setattr(
        segmentation.SegmentationBuilder,
        "read_pair",
        lambda self, pair: read.add(pair.name) or read_pair(self, pair),
    )
    found = build.build("folder", out, raw)
    assert "Resuming: 1 of 5 shards are finished" in capsys.readouterr().out
    assert len(read) == 3 + 6 + 1 and first < read
    at_once = build.build("folder", tmp_path / "at_once", raw)
    assert found.num_examples == at_once.num_examples == {"train": 12, "val": 1}
    files, wanted = (
        sorted(pathlib.Path(folder).iterdir()) for folder in (found.folder, at_once.folder)
    )
    assert [file.name for file in files] == [file.name for file in wanted]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(files, wanted, strict=True))
    assert tfds.builder_from_directory(found.folder).info.splits["train"].num_bytes == sum(
        len(serialized.numpy()) for serialized in tf.data.TFRecordDataset(found.shards("train"))
    )


def test_annotations_become_records_and_the_notes_stay_with_them(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, left in (("a", 3), ("b", 9), ("c", 15)):
        pixels = np.random.default_rng(left).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(raw / f"{name}.jpg")
        points = [[left, 2], [left + 9, 2], [left + 9, 11], [left, 11]]
        shape = {"label": "leaf", "points": points, "shape_type": "polygon"}
        content = {"shapes": [shape], "imagePath": f"{name}.jpg", "imageData": None}
        (raw / f"{name}.json").write_text(json.dumps(content))
    found = build.build("folder", tmp_path / "out", raw, own=own_data.OwnDataOptions(val_share=0.4))
    assert found.info.class_names == ("background", "leaf")
    assert found.num_examples == {"train": 2, "val": 1}
    for split in found.num_examples:
        for name, example in examples(found, split).items():
            wanted = np.zeros((20, 30))
            left = {"a": 3, "b": 9, "c": 15}[name]
            wanted[2:12, left : left + 10] = 1
            label = tf.io.decode_png(example.label)[..., 0]
            np.testing.assert_array_equal(label, wanted)
            assert example.image == (raw / f"{name}.jpg").read_bytes()
    notes = json.loads((pathlib.Path(found.folder) / "metadata.json").read_text())["notes"]
    assert "Format labelme: 3 .json files of labelme beside 3 images." in notes


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_one_message(
    raw, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*run the same command again"):
        build.build("folder", tmp_path / "file" / "out", raw)
    open_writer, full = tf.io.TFRecordWriter, iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(
            tf.io,
            "TFRecordWriter",
            lambda path: open_writer("/dev/full" if next(full) else path),
        )
        with pytest.raises(UserError, match="No space left.* 1 of 3 shards are finished and kept"):
            build.build("folder", tmp_path / "out", raw)
    assert build.build("folder", tmp_path / "out", raw).num_examples == {"train": 2, "val": 1}


def test_the_progress_line_counts_images_on_a_terminal(raw, tmp_path, monkeypatch, capsys):
    build.build("folder", tmp_path / "silent", raw)
    assert "3/3 images" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    build.build("folder", tmp_path / "shown", raw)
    assert "3/3 images" in capsys.readouterr().out


def test_records_of_the_original_converters_are_read(raw, tmp_path):
    """Five images in four shards of ceil(5 / 4); the last one is empty."""
    image_bytes = (raw / "images/a.jpg").read_bytes()
    label_bytes = (raw / "labels/a.png").read_bytes()

    def bytes_feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def int_feature(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    for shard in range(4):
        path = str(tmp_path / f"train-{shard:05d}-of-00004.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for index in range(2 * shard, min(2 * shard + 2, 5)):
                feature = {
                    "image/encoded": bytes_feature(image_bytes),
                    "image/filename": bytes_feature(f"2007_{index:06d}".encode()),
                    "image/format": bytes_feature(b"jpeg"),
                    "image/height": int_feature(20),
                    "image/width": int_feature(30),
                    "image/channels": int_feature(3),
                    "image/segmentation/class/encoded": bytes_feature(label_bytes),
                    "image/segmentation/class/format": bytes_feature(b"png"),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    found = records.find_records(tmp_path, num_classes=2)
    assert found.num_examples == {"train": 5}
    read = list(input_pipeline.evaluation_examples(found, "train"))
    assert [example["name"].numpy() for example in read] == [b"2007_00000%d" % i for i in range(5)]
    for example in read:
        np.testing.assert_array_equal(
            example["image"], np.array(PIL.Image.open(io.BytesIO(image_bytes)))
        )
        np.testing.assert_array_equal(
            example["label"], np.array(PIL.Image.open(raw / "labels/a.png"))
        )


def test_our_records_are_read_by_the_original_reader(raw, tmp_path):
    """With its feature specification, its glob and its way to tell JPEG from PNG."""
    found = build.build("folder", tmp_path / "out", raw)
    spec = {
        "image/encoded": tf.io.FixedLenFeature((), tf.string, default_value=""),
        "image/filename": tf.io.FixedLenFeature((), tf.string, default_value=""),
        "image/format": tf.io.FixedLenFeature((), tf.string, default_value="jpeg"),
        "image/height": tf.io.FixedLenFeature((), tf.int64, default_value=0),
        "image/width": tf.io.FixedLenFeature((), tf.int64, default_value=0),
        "image/segmentation/class/encoded": tf.io.FixedLenFeature((), tf.string, default_value=""),
        "image/segmentation/class/format": tf.io.FixedLenFeature(
            (), tf.string, default_value="png"
        ),
    }
    for split, wanted in (("train", {b"a": "a.jpg", b"b": "b.png"}), ("val", {b"c": "c.jpg"})):
        shards = sorted(tf.io.gfile.glob(f"{found.folder}/{split}-*"))
        read = {}
        for serialized in tf.data.TFRecordDataset(shards):
            parsed = tf.io.parse_single_example(serialized, spec)
            read[parsed["image/filename"].numpy()] = parsed
        assert set(read) == set(wanted)
        for name, file in wanted.items():
            parsed = read[name]
            is_jpeg = bool(tf.io.is_jpeg(parsed["image/encoded"]))
            assert is_jpeg == file.endswith("jpg") == (parsed["image/format"] == b"jpeg")
            decode = tf.io.decode_jpeg if is_jpeg else tf.io.decode_png
            image = decode(parsed["image/encoded"], channels=3)
            original = decode((raw / "images" / file).read_bytes(), channels=3)
            np.testing.assert_array_equal(image, original)
            assert image.shape[:2] == (parsed["image/height"], parsed["image/width"])
            assert parsed["image/segmentation/class/format"] == b"png"
            label = tf.io.decode_png(parsed["image/segmentation/class/encoded"], channels=1)
            np.testing.assert_array_equal(
                label[..., 0], np.array(PIL.Image.open(raw / "labels" / f"{name.decode()}.png"))
            )


def test_only_the_splits_that_are_asked_for_are_built(raw, tmp_path):
    found = build.build("folder", tmp_path / "out", raw, splits=["val"])
    assert found.num_examples == {"val": 1}
    with pytest.raises(UserError, match="--splits asks for 'trainval', .* has train, val"):
        build.build("folder", tmp_path / "other", raw, splits=["trainval"])


def test_records_that_are_there_are_not_built_again(raw, tmp_path, capsys):
    first = build.build("folder", tmp_path / "out", raw)
    shutil.rmtree(raw)
    assert build.build("folder", tmp_path / "out", raw) == first
    assert "exists already" in capsys.readouterr().out


def test_what_build_needs_is_asked_for(tmp_path):
    for arguments, message in (
        (("voc", tmp_path), "no dataset 'voc'; choose one of shapes, camvid, "),
        (("camvid", tmp_path), "--manual_dir is missing.\n.*trainannot/"),
        (("camvid", tmp_path, tmp_path / "nowhere"), "no folder --manual_dir=.*\n.*trainannot/"),
        (("camvid", tmp_path, tmp_path), "--manual_dir=.* is empty.\n.*trainannot/"),
        (("shapes", tmp_path, tmp_path), "draws its own images: leave out --manual_dir"),
    ):
        with pytest.raises(UserError, match="(?s)" + message):
            build.build(*arguments)
    assert not list(tmp_path.iterdir())


def test_the_command_ends_with_one_message_and_code_1_on_a_truncated_jpeg(raw, tmp_path):
    truncate(raw / "images" / "c.jpg")
    flags = ["--dataset=folder", f"--data_dir={tmp_path / 'out'}", f"--manual_dir={raw}"]
    finished = subprocess.run(
        [sys.executable, "-m", "deeplab_tf.datasets.build", *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert finished.returncode == 1
    assert f"error: {raw / 'images' / 'c.jpg'} cannot be decoded" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_real_camvid_images_keep_bytes_and_ids(shared, tmp_path):
    camvid = shared / "data" / "CamVid"
    for part in ("train", "trainannot"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    lines = (camvid / "train.txt").read_text().splitlines()[:3]
    (tmp_path / "raw" / "train.txt").write_text("\n".join(lines))
    names = [pathlib.Path(line.split()[0]).name for line in lines]
    for name in names:
        for part in ("train", "trainannot"):
            (tmp_path / "raw" / part / name).symlink_to(camvid / part / name)
    found = build.build("camvid", tmp_path / "out", tmp_path / "raw")
    assert (found.info.num_classes, found.info.ignore_label) == (11, 11)
    train = examples(found, "train")
    assert set(train) == {pathlib.Path(name).stem for name in names}
    for name in names:
        example = train[pathlib.Path(name).stem]
        assert example.image == (camvid / "train" / name).read_bytes()
        np.testing.assert_array_equal(
            tf.io.decode_png(example.label)[..., 0],
            np.array(PIL.Image.open(camvid / "trainannot" / name)),
        )


@pytest.mark.parametrize("values", [[255], [0, 255]])
def test_labels_from_which_nothing_can_be_learned_are_refused_at_the_end(raw, tmp_path, values):
    for path in (raw / "labels").iterdir():
        save(np.resize(np.array(values, np.uint8), (20, 30)), path)
    told_ids = own_data.OwnDataOptions(label_encoding="grey")
    with pytest.raises(UserError, match="not fit to train.*(fewer than two classes|masks)"):
        build.build("folder", tmp_path / "out", raw, own=told_ids)
    with pytest.raises(UserError, match="no records in"):
        records.find_records(tmp_path / "out")
    report = check_data.check_folders(
        raw / "images", raw / "labels", num_classes=2, options=told_ids
    )
    assert not report.is_fit_to_train


def test_warnings_about_labels_are_printed_at_the_end(raw, tmp_path, capsys):
    (raw / "classes.txt").write_text("ground\ntraffic light\nsky\n")
    save(np.ones((20, 30), np.uint8), raw / "labels" / "c.png")
    build.build("folder", tmp_path, raw)
    told = capsys.readouterr().err
    assert "largest id that occurs is 1, but there are 3 classes" in told and "sky" in told
    assert "split val: Only the class 'traffic light' (id 1) occurs" in told


def test_litter_of_file_managers_is_not_an_image(tmp_path):
    raw = shutil.copytree(REPOSITORY / "datasets" / "voc2012" / "dummy_data", tmp_path / "raw")
    voc = pathlib.Path(raw) / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        for path in list((voc.parent.parent / folder).glob("*")) + list((voc / folder).glob("*")):
            path.with_name(f"._{path.name}").write_bytes(b"of a Mac")
            (path.parent / ".DS_Store").write_bytes(b"of a Mac")
    built = build.build("voc2012", tmp_path / "out", raw)
    assert built.num_examples == {"train": 2, "val": 1, "trainval": 3, "train_aug": 3}


def test_lists_of_images_may_be_of_any_unicode_encoding(raw, tmp_path):
    (raw / "train.txt").write_text("a\nb\n", encoding="utf-16")
    (raw / "classes.txt").write_text("ground\ntraffic light\n", encoding="utf-8-sig")
    built = build.build("folder", tmp_path, raw)
    assert built.num_examples == {"train": 2, "val": 1}
    assert built.info.class_names == ("ground", "traffic light")
    (raw / "train.txt").write_bytes("a\nbücher\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"train.txt is not a UTF-8 text \(line 2\)"):
        build.build("folder", tmp_path / "other", raw)
