"""Reading any record by its number."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import kept_index
from deeplab_tf.data import record_index
from deeplab_tf.data import records
from deeplab_tf.data import shard_files

CONTENTS = [bytes([number]) * size for number, size in enumerate((1, 7, 8, 100, 70_000, 9))]


@pytest.fixture
def source(tmp_path) -> records.Records:
    """Six records in two shards."""
    folder = tmp_path / "records"
    folder.mkdir()
    for shard, part in enumerate((CONTENTS[:4], CONTENTS[4:])):
        path = folder / f"train-{shard:05d}-of-00002"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for content in part:
                writer.write(content)
    return records.find_records(folder, num_classes=2)


def read_all(index: record_index.RecordIndex) -> list[bytes]:
    contents = [index.read(number) for number in range(len(index))]
    in_graph = tf.data.Dataset.range(len(index)).map(index.read_in_graph)
    assert list(in_graph.as_numpy_iterator()) == contents
    return contents


def test_records_in_remote_storage_are_read(source):
    folder = "ram://record_index"
    for shard in source.shards("train"):
        tf.io.gfile.copy(shard, f"{folder}/{os.path.basename(shard)}")
    found = records.find_records(folder, num_classes=2)
    assert read_all(record_index.of_splits([found], "train")) == CONTENTS
    assert tf.io.gfile.exists(f"{folder}/.train.index.npz")


def test_every_record_is_read_by_its_number(source):
    index = record_index.of_splits([source, source], "train")
    assert read_all(index) == CONTENTS * 2
    assert index.place_of(5) == "1 of train-00001-of-00002"
    assert index.place_in_graph(tf.constant(5, tf.int64)).numpy() == b"1 of train-00001-of-00002"


def test_damaged_records_are_lost_alone_and_those_behind_the_end_of_a_file_too(source):
    first, second = source.shards("train")
    with open(first, "r+b") as file:
        file.seek(16 + 1 + 12)  # the second record's first byte
        file.write(b"\xff")
    os.truncate(second, 70_016 + 5)
    assert read_all(record_index.of_splits([source], "train")) == [
        CONTENTS[0], b"", *CONTENTS[2:5], b"",
    ]  # fmt: skip


def test_an_index_is_made_once_and_again_when_a_shard_changes(source, tmp_path, monkeypatch):
    def bounds() -> np.ndarray:
        return record_index.of_splits([source], "train")._bounds

    made = bounds()
    kept = tmp_path / "records/.train.index.npz"
    with monkeypatch.context() as patch:
        patch.setattr(shard_files, "record_bounds", None)
        np.testing.assert_array_equal(bounds(), made)
        assert records.find_records(source.folder, num_classes=2) == source  # counts nothing
    kept.write_bytes(kept.read_bytes()[:100])
    np.testing.assert_array_equal(bounds(), made)  # a damaged file is replaced
    first = source.shards("train")[0]
    with tf.io.TFRecordWriter(first) as writer:  # of the same size, in another order
        for content in reversed(CONTENTS[:4]):
            writer.write(content)
    assert read_all(record_index.of_splits([source], "train"))[:4] == CONTENTS[3::-1]


def test_an_index_is_kept_in_the_cache_where_the_folder_cannot_be_written(
    source, tmp_path, monkeypatch
):
    monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        kept_index, "_beside", lambda *_: tmp_path / "records/train-00000-of-00002/x.npz"
    )
    assert read_all(record_index.of_splits([source], "train")) == CONTENTS
    monkeypatch.setattr(record_index, "_bounds_of_shard", None)
    assert read_all(record_index.of_splits([source], "train")) == CONTENTS
    shutil.rmtree(tmp_path / "cache")
