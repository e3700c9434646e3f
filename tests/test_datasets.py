"""Building records: what is written, and what is said of pictures that are no good."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from deeplab_tf import records
from deeplab_tf.datasets import build
from deeplab_tf.datasets import segmentation
from deeplab_tf.errors import UserError


@pytest.fixture
def raw(tmp_path) -> pathlib.Path:
    """Raw pictures for the dataset `folder`, as they should be: train a.jpg b.png, val c.jpg."""
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


def examples(found: records.Records, split: str) -> dict[str, dict[str, tf.Tensor]]:
    """Reads records without TFDS, by name."""
    parsed = map(records.parse_example, tf.data.TFRecordDataset(found.shards(split)))
    return {example["name"].numpy().decode(): example for example in parsed}


def test_records_have_the_official_keys_and_tfds_reads_them_back(raw, tmp_path):
    found = build.build("folder", tmp_path / "out", raw)
    assert found.num_examples == {"train": 2, "val": 1}
    assert found.info == records.DatasetInfo(
        "folder", ("ground", "traffic light"), ((0, 0, 0), (250, 170, 30)), 255
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


def test_picture_bytes_stay_as_they_are_and_labels_keep_their_ids(raw, tmp_path):
    train = examples(build.build("folder", tmp_path / "out", raw), "train")
    assert set(train) == {"a", "b"}
    assert train["a"]["image_bytes"].numpy() == (raw / "images" / "a.jpg").read_bytes()
    assert train["b"]["image_bytes"].numpy() == (raw / "images" / "b.png").read_bytes()
    for name in "ab":
        label = tf.io.decode_png(train[name]["label_bytes"])
        assert label.shape == (20, 30, 1)
        np.testing.assert_array_equal(
            label[..., 0], np.array(PIL.Image.open(raw / "labels" / f"{name}.png"))
        )


def test_the_indices_of_a_palette_label_are_its_ids(tmp_path):
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    label = PIL.Image.fromarray(ids)
    label.putpalette([0, 0, 0, 200, 100, 50] * 6)  # makes it mode P
    label.save(tmp_path / "label.png")
    np.testing.assert_array_equal(segmentation.read_label(tmp_path / "label.png", 12, 255), ids)


@pytest.mark.parametrize("mode", segmentation.IMAGE_MODES)
def test_every_image_mode_that_is_let_in_decodes_to_three_channels(tmp_path, mode):
    rgb = PIL.Image.fromarray(np.full((4, 5, 3), (200, 100, 50), np.uint8))
    rgb.convert(mode).save(tmp_path / "image.png")
    image_bytes, image_format, size = segmentation.read_image(tmp_path / "image.png")
    assert (image_format, size) == ("png", (5, 4))
    assert tf.io.decode_png(image_bytes, channels=3).shape == (4, 5, 3)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def turn_by_exif(path):
    image = PIL.Image.open(path)
    exif = image.getexif()
    exif[segmentation.EXIF_ORIENTATION] = 6
    image.save(path, exif=exif)


def save(array, path):
    PIL.Image.fromarray(array).save(path)


# What is wrong -> how it comes about, and what the message says besides the file.
BAD_PICTURES = {
    "truncated JPEG": (lambda raw: truncate(raw / "images/c.jpg"), "images/c.jpg", "to its end"),
    "truncated PNG": (lambda raw: truncate(raw / "images/b.png"), "images/b.png", "to its end"),
    "no picture": (
        lambda raw: (raw / "images/a.jpg").write_text("hello"), "images/a.jpg", "no picture"
    ),
    "turned by EXIF": (lambda raw: turn_by_exif(raw / "images/a.jpg"), "images/a.jpg", "EXIF"),
    "CMYK": (
        lambda raw: PIL.Image.new("CMYK", (30, 20)).save(raw / "images/a.jpg"),
        "images/a.jpg",
        "mode CMYK",
    ),
    "GIF": (
        lambda raw: PIL.Image.new("L", (30, 20)).save(raw / "images/a.jpg", format="GIF"),
        "images/a.jpg",
        "GIF",
    ),
    "label in colours": (
        lambda raw: save(np.zeros((20, 30, 3), np.uint8), raw / "labels/c.png"),
        "labels/c.png",
        "replace every colour by its id",
    ),
    "label as JPEG": (
        lambda raw: PIL.Image.new("L", (30, 20)).save(raw / "labels/c.png", format="JPEG"),
        "labels/c.png",
        "labels are PNGs",
    ),
    "ids out of range": (
        lambda raw: save(np.full((20, 30), 12, np.uint8), raw / "labels/c.png"),
        "labels/c.png",
        "id 12 .* 2 classes (0..1) and ignore_label 255",
    ),
    "16-bit ids out of range": (
        lambda raw: save(np.full((20, 30), 256, np.uint16), raw / "labels/c.png"),
        "labels/c.png",
        "id 256",
    ),
    "sizes differ": (
        lambda raw: save(np.zeros((30, 20), np.uint8), raw / "labels/c.png"),
        "labels/c.png",
        "30x20 in .*, 20x30 in",
    ),
    "label missing": (
        lambda raw: (raw / "labels/c.png").unlink(), "val.txt", "there is no label c in"
    ),
    "listed twice": (lambda raw: (raw / "val.txt").write_text("c\nc.jpg"), "c.jpg", "twice"),
    "list empty": (lambda raw: (raw / "val.txt").write_text("\n"), "val.txt", "is empty"),
    "no class list": (
        lambda raw: (raw / "classes.txt").unlink(), "classes.txt", "NAME RED GREEN BLUE"
    ),
    "class twice": (
        lambda raw: (raw / "classes.txt").write_text("a\na"), "classes.txt", "'a' twice"
    ),
    "colour out of range": (
        lambda raw: (raw / "classes.txt").write_text("a 1 2 300"), "classes.txt", "0..255"
    ),
    "no images": (lambda raw: shutil.rmtree(raw / "images"), "images", "expected in --manual_dir"),
    "same name twice": (
        lambda raw: shutil.copy(raw / "images/a.jpg", raw / "images/a.png"), "a.jpg", "rename one"
    ),
}


@pytest.mark.parametrize("what", BAD_PICTURES)
def test_a_bad_picture_is_one_message_and_leaves_no_records(what, raw, tmp_path):
    make_bad, file, message = BAD_PICTURES[what]
    make_bad(raw)
    message = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UserError, match=message) as error:
        build.build("folder", tmp_path / "out", raw)
    assert file in str(error.value)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_without_split_lists_the_message_is_a_command_that_makes_them(raw, tmp_path):
    for split in ("train", "val"):
        (raw / f"{split}.txt").unlink()
    with pytest.raises(UserError, match="no split list") as error:
        build.build("folder", tmp_path, raw)
    command = next(line for line in str(error.value).splitlines() if line.startswith("  cd "))
    subprocess.run(command, shell=True, check=True)
    assert build.build("folder", tmp_path, raw).num_examples == {"train": 2, "val": 1}


def test_a_class_list_holds_names_with_or_without_colours(tmp_path):
    (tmp_path / "classes.txt").write_text("sky 70 130 180\n\n  traffic light\nlane 2\n")
    names, colors = records.read_class_list(tmp_path / "classes.txt")
    assert names == ("sky", "traffic light", "lane 2")
    assert colors == ((70, 130, 180), (128, 0, 0), (0, 128, 0))


def test_a_split_of_few_pictures_gets_fewer_shards(raw, tmp_path):
    found = build.build("folder", tmp_path / "out", raw, num_shards=2)
    assert [len(found.shards(split)) for split in ("train", "val")] == [2, 1]


def test_records_that_are_there_are_not_built_again(raw, tmp_path, capsys):
    first = build.build("folder", tmp_path / "out", raw)
    shutil.rmtree(raw)
    assert build.build("folder", tmp_path / "out", raw) == first
    assert "is there already" in capsys.readouterr().out


def test_what_build_needs_is_asked_for(tmp_path):
    for arguments, message in (
        (("voc", tmp_path), "no dataset 'voc'; there is shapes, camvid, folder"),
        (("camvid", tmp_path), "--manual_dir is missing.\n.*trainannot/"),
        (("camvid", tmp_path, tmp_path / "nowhere"), "no folder --manual_dir=.*\n.*trainannot/"),
        (("camvid", tmp_path, tmp_path), "--manual_dir=.* is empty.\n.*trainannot/"),
        (("shapes", tmp_path, tmp_path), "draws its own pictures: leave out --manual_dir"),
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
    assert f"error: image {raw / 'images' / 'c.jpg'} cannot be decoded" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_real_camvid_pictures_keep_bytes_and_ids(shared, tmp_path):
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
        assert example["image_bytes"].numpy() == (camvid / "train" / name).read_bytes()
        np.testing.assert_array_equal(
            tf.io.decode_png(example["label_bytes"])[..., 0],
            np.array(PIL.Image.open(camvid / "trainannot" / name)),
        )
