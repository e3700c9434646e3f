"""Records to batches."""

import collections
import functools
import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError


@pytest.fixture(params=["numba", "graph"])
def form(request, monkeypatch):
    """The two forms of the pipeline: with numba, and as a graph."""
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def training_batches(source, count, seed=0, start_step=0, batch_size=3, **settings):
    crop = transforms.TrainingCrop((65, 49), 255)
    dataset = input_pipeline.training_batches(
        source, "train", batch_size, crop, (), seed, start_step, **settings
    )
    return list(dataset.take(count).as_numpy_iterator())


def names_of(batches):
    return [name.decode() for batch in batches for name in batch["name"]]


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_a_batch_is_what_the_training_step_expects(tiny_records):
    (batch,) = training_batches(tiny_records, 1)
    assert batch["image"].shape == (3, 65, 49, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (3, 65, 49) and batch["label"].dtype == np.int32
    info = tiny_records.info
    assert set(np.unique(batch["label"])) <= {*range(info.num_classes), info.ignore_label}


def test_batches_from_a_later_step_equal_those_of_the_uninterrupted_run(tiny_records, form):
    # 8 training examples: steps 2 and 3 go over the end of the epoch.
    assert_equal(training_batches(tiny_records, 7)[2:], training_batches(tiny_records, 5, 0, 2))


def test_batches_repeat_with_their_seed_whatever_the_global_seed_is(tiny_records):
    first = training_batches(tiny_records, 3, seed=5)
    tf.random.set_seed(1)
    assert_equal(first, training_batches(tiny_records, 3, seed=5))


def test_another_seed_gives_other_batches(tiny_records):
    first, other = (training_batches(tiny_records, 1, seed=seed)[0] for seed in (0, 1))
    assert (first["image"] != other["image"]).any()


def test_every_example_comes_once_in_an_epoch_and_in_another_order_in_the_next(tiny_records):
    names = names_of(training_batches(tiny_records, 8, batch_size=2))
    first, second = names[:8], names[8:]
    assert len(set(first)) == 8 and set(first) == set(second)
    assert first != second


def test_evaluation_gives_every_image_once_at_its_own_size(tiny_records):
    examples = list(input_pipeline.evaluation_examples(tiny_records, "val").as_numpy_iterator())
    assert len(examples) == tiny_records.num_examples["val"]
    assert len({example["image"].shape for example in examples}) > 1
    for example in examples:
        assert example["image"].dtype == np.uint8
        assert example["image"].shape[:2] == example["label"].shape


def write_record(folder, label: np.ndarray, image: np.ndarray):
    def feature(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    example = tf.train.Example(
        features=tf.train.Features(
            feature={
                "image/encoded": feature(tf.io.encode_png(image).numpy()),
                "image/filename": feature(b"image_7"),
                "image/segmentation/class/encoded": feature(
                    tf.io.encode_png(label[..., np.newaxis]).numpy()
                ),
            }
        )
    )
    with tf.io.TFRecordWriter(str(folder / "val-00000-of-00001.tfrecord")) as writer:
        writer.write(example.SerializeToString())


@pytest.mark.parametrize(
    "label_size, largest_id, complaint",
    [((8, 8), 30, "30"), ((8, 9), 1, "differ in size")],
)
def test_a_bad_record_is_named_with_a_remedy(tmp_path, label_size, largest_id, complaint):
    label = np.zeros(label_size, np.uint8)
    label[0, 0] = largest_id
    write_record(tmp_path, label, np.zeros((8, 8, 3), np.uint8))
    source = records.find_records(str(tmp_path), num_classes=21)
    with pytest.raises(UserError, match=f"image_7.*{complaint}|{complaint}.*image_7"):
        with input_pipeline.readable_errors():
            list(input_pipeline.evaluation_examples(source, "val"))


def test_a_truncated_shard_is_a_readable_error(tiny_records, tmp_path):
    shard = tmp_path / "val-00000-of-00001.tfrecord"
    with open(tiny_records.shards("val")[0], "rb") as file:
        shard.write_bytes(file.read()[:-20])
    source = records.Records(str(tmp_path), tiny_records.info, {"val": [4]}, {"val": [str(shard)]})
    with pytest.raises(UserError, match="damaged"):
        with input_pipeline.readable_errors():
            list(input_pipeline.evaluation_examples(source, "val"))


def test_the_graph_makes_the_batches_that_numba_makes(tiny_records, monkeypatch):
    pytest.importorskip("numba")
    fast = training_batches(tiny_records, 4)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for batch, other in zip(fast, training_batches(tiny_records, 4), strict=True):
        assert list(batch["name"]) == list(other["name"])
        np.testing.assert_array_equal(batch["label"], other["label"])
        difference = np.abs(batch["image"].astype(int) - other["image"])
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def damage_image(record: bytes) -> bytes:
    example = tf.train.Example.FromString(record)
    encoded = example.features.feature["image/encoded"].bytes_list.value
    encoded[0] = encoded[0][:40]
    return example.SerializeToString()


def damage_label(record: bytes) -> bytes:
    example = tf.train.Example.FromString(record)
    label = np.full((5, 5, 1), 7, np.uint8)
    encoded = tf.io.encode_png(label).numpy()
    example.features.feature["image/segmentation/class/encoded"].bytes_list.value[0] = encoded
    return example.SerializeToString()


def damaged_copy(source, folder, damages: dict[int, object]) -> records.Records:
    """Copies the training records into one shard, some of them damaged; None flips a bit there."""
    path = folder / "train-00000-of-00001.tfrecord"
    serialized = [record.numpy() for record in tf.data.TFRecordDataset(source.shards("train"))]
    flipped = []
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index, record in enumerate(serialized):
            if damages.get(index):
                record = damages[index](record)
            writer.write(record)
            if index in damages and damages[index] is None:
                writer.flush()
                flipped.append(path.stat().st_size - 50)
    content = bytearray(path.read_bytes())
    for position in flipped:
        content[position] ^= 1
    path.write_bytes(content)
    return records.Records(
        str(folder), source.info, {"train": [len(serialized)]}, {"train": [str(path)]}
    )


def test_damaged_records_are_named_and_good_images_take_their_place(
    tiny_records, tmp_path, form, capsys
):
    names = names_of(training_batches(tiny_records, 8, batch_size=1))
    source = damaged_copy(tiny_records, tmp_path, {2: damage_image, 4: damage_label})
    damaged = input_pipeline.DamagedRecords(8, max_share=0.3)
    batches = training_batches(source, 6, batch_size=4, on_damaged=damaged)
    assert len(damaged.problems) == 2 and set(damaged.problems) <= set(names)
    assert set(names_of(batches)) == set(names) - set(damaged.problems)
    assert all((batch["label"] < 255).any(axis=(1, 2)).all() for batch in batches)
    told = capsys.readouterr().err
    assert all(f"record {name} is left out" in told for name in damaged.problems)
    assert "damaged until now: 2 of 8" in told
    # As everything, it follows from seed and step.
    assert_equal(batches[3:], training_batches(source, 3, 0, 3, batch_size=4))


def test_behind_a_wrong_checksum_the_rest_of_the_shard_is_lost_and_named(tiny_records, tmp_path):
    source = damaged_copy(tiny_records, tmp_path, {6: None})
    damaged = input_pipeline.DamagedRecords(8, max_share=0.3)
    batches = training_batches(source, 4, batch_size=4, on_damaged=damaged)
    assert set(damaged.problems) == {f"{i} of train-00000-of-00001.tfrecord" for i in (6, 7)}
    assert len(set(names_of(batches))) == 6


def test_too_many_damaged_records_stop_the_run(tiny_records, tmp_path, form):
    source = damaged_copy(tiny_records, tmp_path, {2: damage_image, 4: damage_label})
    damaged = input_pipeline.DamagedRecords(8, max_share=0.01)  # one is always tolerated
    with pytest.raises(UserError, match="2 of 8 records are damaged.*--max_damaged_share"):
        with input_pipeline.readable_errors():
            training_batches(source, 6, batch_size=4, on_damaged=damaged)


def test_sources_are_mixed_by_their_weights_from_any_step_on(tiny_records):
    other = records.Records(
        tiny_records.folder,
        tiny_records.info,
        {"train": tiny_records.shard_lengths["val"]},
        {"train": tiny_records.shards("val")},
    )
    sources = [tiny_records, other]
    batches = training_batches(sources, 12, batch_size=4, weights=[3, 1])
    names = names_of(batches)
    assert sum(name.startswith("val") for name in names) == 12
    assert sum(name.startswith("val") for name in names[:4]) == 1  # in every block
    assert len(set(names)) == 12
    assert_equal(batches[7:], training_batches(sources, 5, 0, 7, 4, weights=[3, 1]))


def test_images_of_oversampled_classes_come_more_often(tiny_records):
    name = tiny_records.info.class_names[-1]
    counts = input_pipeline.oversampling(tiny_records, "train", [name], 3)
    examples = tf.data.TFRecordDataset(tiny_records.shards("train"))
    has_it = [
        (
            tf.io.decode_png(records.parse_example(example)["label_bytes"]).numpy()
            == tiny_records.info.num_classes - 1
        ).any()
        for example in examples
    ]
    assert 0 < sum(has_it) < 8
    assert counts.tolist() == [3 if has else 1 for has in has_it]
    epoch = int(counts.sum())
    batches = training_batches(tiny_records, epoch, batch_size=1, repeats=[counts])
    by_name = collections.Counter(names_of(batches))
    assert sorted(by_name.values()) == sorted(counts.tolist())
    half = training_batches(tiny_records, epoch - 3, 0, 3, batch_size=1, repeats=[counts])
    assert_equal(batches[3:], half)


def test_a_class_that_is_not_there_cannot_be_oversampled(tiny_records):
    with pytest.raises(UserError, match="no class 'unicorn' to oversample .* there is"):
        input_pipeline.oversampling(tiny_records, "train", ["unicorn"], 2)


def test_where_numba_cannot_compile_the_graph_makes_the_batches(tiny_records, monkeypatch, caplog):
    pytest.importorskip("numba")
    from deeplab_tf.data import fast_crop

    expected = training_batches(tiny_records, 1)

    def fail(*_):
        raise RuntimeError("LLVM: no such instruction")

    monkeypatch.setattr(fast_crop, "_sample", fail)
    untried = functools.cache(fast.load_and_try.__wrapped__)
    monkeypatch.setattr(fast, "load_and_try", untried)
    (batch,) = training_batches(tiny_records, 1)
    np.testing.assert_array_equal(batch["label"], expected[0]["label"])
    assert any("TensorFlow takes over" in message for message in caplog.messages)
