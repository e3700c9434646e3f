"""Records: what is found where, and what is said when it is not."""

import json
import re

import pytest
import tensorflow as tf

from deeplab_tf.data import records
from deeplab_tf.errors import UserError

INFO = {"class_names": ["ground", "thing"], "colors": [[0, 0, 0], [9, 8, 7]], "ignore_label": 255}


def write_shard(path, num_examples=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index in range(num_examples):
            writer.write(f"record {index}".encode())


def write_tfds_folder(folder, name, template="{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}", metadata=INFO):
    for shard in ("00000-of-00002", "00001-of-00002"):
        write_shard(
            folder
            / template.format(DATASET=name, SPLIT="val", SHARD_X_OF_Y=shard, FILEFORMAT="tfrecord")
        )
    split = {"name": "val", "shardLengths": ["1", "1"], "filepathTemplate": template}
    about = {"name": name, "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    if metadata:
        (folder / "metadata.json").write_text(json.dumps(metadata))


def test_default_colors_are_those_of_voc():
    colors = records.default_colors(256)
    assert colors[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert colors[20] == (0, 64, 128)  # tvmonitor
    assert colors[255] == (224, 224, 192)  # void
    assert len(set(colors)) == 256


def test_dataset_info_survives_json():
    info = records.DatasetInfo("toy", ("ground", "thing"), ((0, 0, 0), (9, 8, 7)), 255)
    assert records.DatasetInfo.from_json(info.to_json()) == info
    assert info.num_classes == 2


def test_what_a_record_lacks_gets_the_original_readers_defaults():
    example = records.parse_example(tf.constant(tf.train.Example().SerializeToString()))
    assert {key: value.numpy() for key, value in example.items()} == {
        "image_bytes": b"",
        "label_bytes": b"",
        "name": b"",
        "height": 0,
        "width": 0,
    }


def test_records_are_found_by_their_folder_their_dataset_and_their_data_dir(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        write_tfds_folder(tmp_path / "toy" / version, "toy")
    write_tfds_folder(tmp_path / "toy" / "incomplete.ABCDEF_2.0.0", "toy")  # of a killed build
    newest = tmp_path / "toy" / "1.10.0"
    for data_dir in (newest, tmp_path / "toy", tmp_path):
        found = records.find_records(data_dir)
        assert found.folder == str(newest)
        assert found.num_examples == {"val": 2}
        assert found.info == records.DatasetInfo(
            "toy", ("ground", "thing"), ((0, 0, 0), (9, 8, 7)), 255
        )
        assert found.shards("val") == [
            str(newest / f"val-0000{index}-of-00002.tfrecord") for index in range(2)
        ]
    assert records.find_records(tmp_path, ignore_label=1).info.ignore_label == 1
    with pytest.raises(UserError, match="no split 'train'; there is val"):
        found.shards("train")


def test_among_several_datasets_one_has_to_be_chosen(tmp_path):
    write_tfds_folder(tmp_path / "toy" / "1.0.0", "toy")
    write_tfds_folder(tmp_path / "joy" / "1.0.0", "joy")
    assert records.find_records(tmp_path, "joy").info.name == "joy"
    with pytest.raises(UserError, match="--dataset one of joy, toy"):
        records.find_records(tmp_path)
    with pytest.raises(UserError, match="no dataset 'boy'; there is joy, toy"):
        records.find_records(tmp_path, "boy")


def test_tfds_folders_of_others_are_read_given_the_number_of_classes(tmp_path):
    write_tfds_folder(
        tmp_path, "toy", template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", metadata=None
    )
    with pytest.raises(UserError, match="give --num_classes"):
        records.find_records(tmp_path)
    found = records.find_records(tmp_path, num_classes=3)
    assert found.shards("val")[1] == str(tmp_path / "toy-val.tfrecord-00001-of-00002")
    assert found.info.class_names == ("class_0", "class_1", "class_2")
    assert found.info.colors == records.default_colors(3)
    assert found.info.ignore_label == 255


@pytest.mark.parametrize(
    "name", ["{}-{:05d}-of-00002.tfrecord", "{}-{:05d}-of-00002", "{}.tfrecord-{:05d}-of-00002"]
)
def test_bare_shards_are_read_and_counted(tmp_path, name):
    for split, num_examples in (("train_fine", 5), ("val", 2)):
        for index in range(2):
            write_shard(tmp_path / name.format(split, index), num_examples + index)
    (tmp_path / "notes.txt").write_text("not a shard")
    found = records.find_records(tmp_path, num_classes=19, ignore_label=0)
    assert found.num_examples == {"train_fine": 11, "val": 5}
    assert found.shards("val") == [str(tmp_path / name.format("val", i)) for i in range(2)]
    assert (found.info.num_classes, found.info.ignore_label) == (19, 0)


def test_a_missing_shard_is_an_error_that_names_it(tmp_path):
    write_tfds_folder(tmp_path / "tfds", "toy")
    (tmp_path / "tfds" / "val-00000-of-00002.tfrecord").unlink()
    write_shard(tmp_path / "bare" / "val-00001-of-00002.tfrecord")
    for folder in ("tfds", "bare"):
        with pytest.raises(UserError, match="1 of 2 shards .*val-00000-of-00002.tfrecord"):
            records.find_records(tmp_path / folder, num_classes=2)


def test_a_shard_that_is_cut_off_is_an_error_that_names_it(tmp_path):
    shard = tmp_path / "val-00000-of-00001.tfrecord"
    write_shard(shard, num_examples=3)
    whole = shard.read_bytes()
    assert records.count_records(str(shard)) == 3
    for size in (len(whole) - 1, len(whole) - 20, 3):
        shard.write_bytes(whole[:size])
        with pytest.raises(UserError, match=re.escape(f"{shard} is cut off")):
            records.find_records(tmp_path, num_classes=2)


def test_a_missing_or_empty_folder_is_an_error_that_shows_how_to_build(tmp_path):
    for data_dir, message in (
        ("", "data_dir is missing"),
        (tmp_path / "nowhere", "there is no folder"),
        (tmp_path, "no records in"),
    ):
        with pytest.raises(UserError, match=message) as error:
            records.find_records(data_dir)
        assert "python -m deeplab_tf.datasets.build" in str(error.value)
