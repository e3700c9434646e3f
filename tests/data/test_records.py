"""Records: where they are found, and the messages when they are not."""

import gzip
import json
import pathlib
import re
import shutil
import zlib

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from deeplab_tf.data import records
from deeplab_tf.data import shard_files
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
    with pytest.raises(UserError, match="no split 'train'; it has val"):
        found.shards("train")


def test_among_several_datasets_one_has_to_be_chosen(tmp_path):
    write_tfds_folder(tmp_path / "toy" / "1.0.0", "toy")
    write_tfds_folder(tmp_path / "joy" / "1.0.0", "joy")
    assert records.find_records(tmp_path, "joy").info.name == "joy"
    with pytest.raises(UserError, match="--dataset one of joy, toy"):
        records.find_records(tmp_path)
    with pytest.raises(UserError, match="no dataset 'boy'; it has joy, toy"):
        records.find_records(tmp_path, "boy")


def test_tfds_folders_from_other_programs_are_read_given_the_number_of_classes(tmp_path):
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
    assert shard_files.count_records(str(shard)) == 3
    for size in (len(whole) - 1, len(whole) - 20, 3):
        shard.write_bytes(whole[:size])
        with pytest.raises(UserError, match=re.escape(f"{shard} is cut off")):
            records.find_records(tmp_path, num_classes=2)


def test_a_missing_or_empty_folder_is_an_error_that_shows_how_to_build(tmp_path):
    for data_dir, message in (
        ("", "data_dir is missing"),
        (tmp_path / "nowhere", "There is no folder"),
        (tmp_path, "There are no records in"),
    ):
        with pytest.raises(UserError, match=message) as error:
            records.find_records(data_dir)
        assert "python -m deeplab_tf.datasets.build" in str(error.value)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-5])


def doubled(path):
    path.write_bytes(2 * path.read_bytes())


def copied(path):
    shutil.copy(str(path).replace("00000-of", "00001-of"), path)


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda path: path.write_bytes(b""), "holds 0 records, but .*dataset_info.json says 2"),
        (cut_off, "is cut off after 1 whole records"),
        (doubled, "holds 4 records, but .*dataset_info.json says 2"),
        (copied, "00001-of-00002.tfrecord is a copy of .*00000-of-00002.tfrecord"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes())), "compressed .GZIP.*gunz"),
        (lambda path: path.write_bytes(zlib.compress(path.read_bytes())), "compressed .ZLIB"),
        (lambda path: path.write_bytes(b"hello, this is text"), "not a TFRecord file"),
    ],
)
def test_shards_that_hold_other_than_the_stated_records_are_refused(
    tiny_records, tmp_path, damage, complaint
):
    folder = pathlib.Path(shutil.copytree(tiny_records.folder, tmp_path / "records"))
    assert records.find_records(folder).num_examples == {"train": 8, "val": 4}
    damage(folder / "val-00000-of-00002.tfrecord")
    with pytest.raises(UserError, match=complaint) as error:
        records.find_records(folder)
    assert "val-0000" in str(error.value)
    records.find_records(folder, must_be_complete=False)


def test_records_that_tfds_wrote_are_as_many_bytes_as_they_say(tiny_raw, tmp_path):
    from deeplab_tf.datasets.folder import folder_dataset_builder

    builder = folder_dataset_builder.Builder(data_dir=tmp_path)
    config = tfds.download.DownloadConfig(manual_dir=tiny_raw)
    builder.download_and_prepare(download_config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_files, "count_records", None)  # what is called where bytes differ
        assert records.find_records(tmp_path).num_examples == {"train": 8, "val": 4}


@pytest.mark.parametrize(
    "lengths, is_fine", [((2, 2, 1, 0), True), ((4, 0), False), ((0, 3), False), ((0, 0), True)]
)
def test_an_empty_bare_shard_is_fine_where_division_left_it_empty(tmp_path, lengths, is_fine):
    for index, length in enumerate(lengths):
        write_shard(tmp_path / f"val-{index:05d}-of-{len(lengths):05d}", length)
    if is_fine:
        found = records.find_records(tmp_path, num_classes=2)
        assert found.num_examples == {"val": sum(lengths)}
        if not sum(lengths):
            with pytest.raises(UserError, match="'val' of .* holds no record"):
                found.shards("val")
    else:
        with pytest.raises(UserError, match="holds no record, while other shards"):
            records.find_records(tmp_path, num_classes=2)


def test_two_sets_of_shards_of_one_split_are_refused_and_litter_is_not_a_split(tmp_path):
    write_shard(tmp_path / "val-00000-of-00001.tfrecord")
    (tmp_path / "._val-00000-of-00001.tfrecord").write_bytes(b"of a Mac")
    assert list(records.find_records(tmp_path, num_classes=2).shard_paths) == ["val"]
    for index in range(2):
        write_shard(tmp_path / f"val-{index:05d}-of-00002.tfrecord")
    with pytest.raises(UserError, match="two sets of shards of the split 'val'"):
        records.find_records(tmp_path, num_classes=2)


def changed(fields, path, value):
    """A copy of JSON fields with a value at a path of keys; deleted where the value is `...`."""
    fields = json.loads(json.dumps(fields))
    *parents, last = path
    place = fields
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return fields


SPLITS = "splits", 0
WRONG_FIELDS = [  # of dataset_info.json or metadata.json; what the message names
    ("dataset_info.json", ["name"], ..., "'name' is missing"),
    ("dataset_info.json", ["name"], 3, "name is 3"),
    ("dataset_info.json", ["fileFormat"], "riegeli", "riegeli files"),
    ("dataset_info.json", ["splits"], ..., "'splits' is missing"),
    ("dataset_info.json", ["splits"], {"val": 2}, "not a list"),
    ("dataset_info.json", ["splits"], ["val"], r"splits\[0\]: it is 'val', not an object"),
    ("dataset_info.json", [*SPLITS, "name"], None, r"splits\[0\]: name is None"),
    ("dataset_info.json", [*SPLITS, "shardLengths"], "2", "shardLengths is '2'"),
    ("dataset_info.json", [*SPLITS, "shardLengths"], ["-1", "2"], "shardLengths is "),
    ("dataset_info.json", [*SPLITS, "shardLengths"], ["1", 1.5], "shardLengths is "),
    ("dataset_info.json", [*SPLITS, "shardLengths"], ["9" * 5000], "shardLengths is "),
    ("dataset_info.json", [*SPLITS, "numBytes"], [], "numBytes is "),
    *(
        ("dataset_info.json", [*SPLITS, "filepathTemplate"], template, "filepathTemplate is ")
        for template in (
            "{SPLIT:>4000000000}", "../{SPLIT}-{SHARD_X_OF_Y}", "/etc/{SPLIT}", "{0}", "{SPLIT",
            "{SPLIT.__class__}", "..", "all.tfrecord", 7, "x" * 300, "a\0b-{SHARD_X_OF_Y}",
        )
    ),
    ("metadata.json", ["class_names"], ..., "'class_names' is missing"),
    ("metadata.json", ["class_names"], [], "class_names is "),
    ("metadata.json", ["class_names"], "ground", "class_names is 'ground'"),
    ("metadata.json", ["class_names"], ["a", 2], "class_names is "),
    ("metadata.json", ["class_names"], ["a", "a"], "different names"),
    ("metadata.json", ["class_names"], [str(i) for i in range(300)], "at most 256"),
    ("metadata.json", ["colors"], [[0, 0, 0]], "a list of 2 colours"),
    ("metadata.json", ["colors"], [[0, 0, 0], [9, 8, 700]], "colors is "),
    ("metadata.json", ["colors"], [[0, 0, 0], "red"], "colors is "),
    ("metadata.json", ["ignore_label"], "x", "ignore_label is 'x'"),
    ("metadata.json", ["ignore_label"], -1, "between 0 and 255"),
    ("metadata.json", ["ignore_label"], True, "ignore_label is True"),
    ("metadata.json", ["ignore_label"], 1e300, "ignore_label is "),
]  # fmt: skip


@pytest.mark.parametrize("file, path, value, complaint", WRONG_FIELDS)
def test_a_wrong_field_of_a_description_is_named(tmp_path, file, path, value, complaint):
    write_tfds_folder(tmp_path, "toy")
    fields = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(changed(fields, path, value)))
    with pytest.raises(UserError, match=complaint) as error:
        records.find_records(tmp_path)
    assert str(tmp_path) in str(error.value) and len(str(error.value)) < 600
    if file == "metadata.json":
        fields = changed(fields | {"name": "toy"}, path, value)
        with pytest.raises(UserError, match=complaint):
            records.DatasetInfo.from_json(json.dumps(fields), "dataset.json")


@pytest.mark.parametrize("file", ["dataset_info.json", "metadata.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\0", b"[" * 100_000])
def test_a_description_that_is_not_json_is_named(tmp_path, file, content):
    write_tfds_folder(tmp_path, "toy")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path / file)):
        records.find_records(tmp_path)
