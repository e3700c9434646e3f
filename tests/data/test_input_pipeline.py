"""Records to batches."""

import collections
import functools
import importlib.util

import numpy as np
import pngs
import pytest
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf.data import class_presence
from deeplab_tf.data import decoding
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import record_order
from deeplab_tf.data import record_reading
from deeplab_tf.data import records
from deeplab_tf.data import transforms
from deeplab_tf.data.damaged_records import DamagedRecords
from deeplab_tf.data.damaged_records import readable_errors
from deeplab_tf.errors import UserError


@pytest.fixture(params=["numba", "graph"])
def form(request, monkeypatch):
    """The two forms of the pipeline: with numba, and as a graph."""
    if request.param == "numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def training_batches(
    sources, count, seed=0, start_step=0, batch_size=3, weights=(), repeats=(), **options
):
    sources = sources if isinstance(sources, list) else [sources]
    dataset = input_pipeline.training_batches(
        record_order.TrainingSet(sources, "train", weights, repeats, seed),
        transforms.TrainingCrop((65, 49), 255),
        batch_size=batch_size,
        start_step=start_step,
        **options,
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


def test_parts_make_up_the_batches_even_where_records_are_damaged(tiny_records, tmp_path):
    source = damaged_copy(tiny_records, tmp_path, {2: damage_image})
    whole, *parts = (
        training_batches(source, 4, 0, 1, batch_size=4, **options)
        for options in ({}, {"part": (0, 2)}, {"part": (1, 2)})
    )
    joined = [
        {key: np.concatenate([batch[key], other[key]]) for key in batch}
        for batch, other in zip(*parts, strict=True)
    ]
    assert_equal(joined, whole)


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


def bytes_feature(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def int_feature(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


LABEL = np.arange(70).reshape(7, 10) % 2
GOOD = {
    "image/encoded": bytes_feature(tf.io.encode_png(np.full((7, 10, 3), 9, np.uint8)).numpy()),
    "image/filename": bytes_feature(b"image_7"),
    "image/segmentation/class/encoded": bytes_feature(pngs.png(LABEL, 1)),
}
ENCODED, NAME, LABEL_KEY = GOOD


def example_of(**changes) -> bytes:
    """The good record with some features changed, or left out where a change is None."""
    features = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def with_label(label: np.ndarray) -> bytes:
    return example_of(**{LABEL_KEY: bytes_feature(pngs.png(label))})


# What is wrong -> the record, the name it goes by, and words of what is said.
PLACE = "1 of val-00000-of-00001.tfrecord"
BAD_RECORDS = {
    "another size": (with_label(np.zeros((7, 9), int)), "image_7", "has 9x7 pixels"),
    "an id too large": (with_label(np.full((7, 10), 30)), "image_7", "has the id 30"),
    "a label without ids": (
        example_of(**{LABEL_KEY: GOOD[ENCODED]}), "image_7", "its label is a colour image (RGB)",
    ),
    "a damaged image": (
        example_of(**{ENCODED: bytes_feature(b"\xff\xd8 no")}), "image_7",
        "its image has a damaged",
    ),
    "an image of a forged size": (
        example_of(
            **{ENCODED: bytes_feature(pngs.png(np.zeros((7, 10), int), size=(50_000, 50_000)))}
        ),
        "image_7", "more than the limit",
    ),
    "no image": (example_of(**{ENCODED: None}), "image_7", "no image under the key image/encoded"),
    "no label": (example_of(**{LABEL_KEY: None}), "image_7", f"no label under the key {LABEL_KEY}"),
    "a label under another key": (
        example_of(**{LABEL_KEY: None, "label/encoded": GOOD[LABEL_KEY]}), "image_7",
        "it has image/encoded, image/filename, label/encoded",
    ),
    "an image of numbers": (
        example_of(**{ENCODED: int_feature(3)}), "image_7", "type int64_list under the key",
    ),
    "two names": (example_of(**{NAME: bytes_feature(b"a", b"b")}), PLACE, "2 values under the key"),
    "a name of numbers": (example_of(**{NAME: int_feature(1)}), PLACE, "image/filename"),
    "not an example": (b"\xff not an example", PLACE, "not a tf.train.Example"),
    "another message": (b"\x08\x01\x12\x05hello", PLACE, "no image"),
    "nothing": (b"", PLACE, "lost"),
}  # fmt: skip


def write_records(folder, *serialized: bytes, split="val") -> records.Records:
    """Writes bare records, as other programs do, and finds them."""
    with tf.io.TFRecordWriter(str(folder / f"{split}-00000-of-00001.tfrecord")) as writer:
        for record in serialized:
            writer.write(record)
    return records.find_records(folder, num_classes=21)


def names_of_evaluation(source, **options) -> list[str]:
    examples = input_pipeline.evaluation_examples(source, "val", **options)
    return [example["name"].decode() for example in examples.as_numpy_iterator()]


@pytest.mark.parametrize("what", BAD_RECORDS)
def test_evaluation_leaves_out_a_damaged_record_and_names_it(tmp_path, what, capsys):
    serialized, name, words = BAD_RECORDS[what]
    source = write_records(tmp_path, example_of(), serialized, example_of(**{NAME: None}))
    damaged = DamagedRecords(3, max_share=0.5)
    names = names_of_evaluation(source, on_damaged=damaged)
    assert names == ["image_7", "2 of val-00000-of-00001.tfrecord"]
    assert list(damaged.problems) == [name]
    assert words in damaged.problems[name]
    assert f"record {name} is left out" in capsys.readouterr().err


def test_training_leaves_out_damaged_records_and_names_them(tmp_path, form):
    good = [example_of(**{NAME: bytes_feature(name)}) for name in (b"a", b"b")]
    bad = [
        serialized.replace(b"image_7", b"image%02d" % index)
        for index, (serialized, _, _) in enumerate(BAD_RECORDS.values())
    ]
    source = write_records(tmp_path, *good, *bad, split="train")
    damaged = DamagedRecords(len(bad), max_share=1)
    batches = training_batches(source, 1, batch_size=2 + len(bad), on_damaged=damaged)
    assert set(names_of(batches)) == {"a", "b"}
    assert set(damaged.problems) == {
        f"image{index:02d}"
        if name == "image_7"
        else f"{2 + index} of train-00000-of-00001.tfrecord"
        for index, (_, name, _) in enumerate(BAD_RECORDS.values())
    }


def test_too_many_damaged_records_stop_an_evaluation(tmp_path):
    bad, _, _ = BAD_RECORDS["an id too large"]
    other = example_of(**{NAME: bytes_feature(b"image_8"), LABEL_KEY: None})
    source = write_records(tmp_path, example_of(), bad, other)
    with pytest.raises(UserError, match="2 of 3 records are damaged.*image_7.*image_8"):
        with readable_errors():
            names_of_evaluation(source)


def test_names_are_shown_whatever_bytes_they_are(tmp_path):
    names = [b"caf\xe9", "\u00fc\u6f22".encode(), b"a\nb\x1b[31m", b"x" * 10_000]
    source = write_records(tmp_path, *(example_of(**{NAME: bytes_feature(name)}) for name in names))
    assert names_of_evaluation(source) == [
        "caf\ufffd", "\u00fc\u6f22", "a\ufffdb\ufffd[31m", "x" * 255,
    ]  # fmt: skip


def test_evaluation_of_some_numbers_gives_these_places(tiny_records):
    names = names_of_evaluation(tiny_records)
    assert names_of_evaluation(tiny_records, numbers=[1, 3]) == names[1::2]


def test_labels_of_every_bit_depth_train_and_evaluate_as_their_ids(tmp_path, form):
    ids = np.random.default_rng(0).integers(0, 2, (7, 10))
    labels = [pngs.png(ids, bits) for bits in (1, 2, 4, 8, 16)]
    labels += [pngs.palette_png(ids, bits) for bits in (1, 2, 4, 8)]
    serialized = [example_of(**{LABEL_KEY: bytes_feature(label)}) for label in labels]
    source = write_records(tmp_path, *serialized)
    for example in input_pipeline.evaluation_examples(source, "val").as_numpy_iterator():
        np.testing.assert_array_equal(example["label"], ids)
    crop = transforms.TrainingCrop((7, 10), 255, min_scale_factor=1, max_scale_factor=1, flip=False)
    batches = input_pipeline.training_batches(
        record_order.TrainingSet([source], "val"), crop, batch_size=len(labels)
    )
    for label in next(iter(batches))["label"]:
        np.testing.assert_array_equal(label, ids)


def test_lost_records_of_a_shard_are_named(tiny_records, tmp_path):
    shard = tmp_path / "val-00000-of-00001.tfrecord"
    with open(tiny_records.shards("val")[0], "rb") as file:
        shard.write_bytes(file.read()[:-20])
    source = records.Records(str(tmp_path), tiny_records.info, {"val": [2]}, {"val": [str(shard)]})
    damaged = DamagedRecords(2, max_share=0.5)
    assert len(names_of_evaluation(source, on_damaged=damaged)) == 1
    assert list(damaged.problems) == ["1 of val-00000-of-00001.tfrecord"]


def test_labels_without_a_class_are_nothing_to_learn(tmp_path, capsys):
    def found(*ids: int) -> records.Records:
        label = np.resize(ids, (7, 10))
        return write_records(tmp_path, *[with_label(label)] * 2)

    class_presence.check_there_is_something_to_learn(found(0, 1), "val")
    assert capsys.readouterr().err == ""
    class_presence.check_there_is_something_to_learn(found(0, 255), "val")
    told = capsys.readouterr().err
    assert "Only the class 'class_0'" in told and "--label_encoding=mask" in told
    with pytest.raises(UserError, match="nothing to learn .* all have the ignore label 255"):
        class_presence.check_there_is_something_to_learn(found(255), "val")


def test_the_graph_makes_the_batches_that_numba_makes(tiny_records, monkeypatch):
    pytest.importorskip("numba")
    expected = training_batches(tiny_records, 4)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for batch, other in zip(expected, training_batches(tiny_records, 4), strict=True):
        assert list(batch["name"]) == list(other["name"])
        np.testing.assert_array_equal(batch["label"], other["label"])
        difference = np.abs(batch["image"].astype(int) - other["image"])
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_kept_records_are_decoded_once_and_give_the_same_batches(tiny_records, monkeypatch):
    pytest.importorskip("numba")
    expected = training_batches(tiny_records, 16, batch_size=2)  # four epochs
    record = next(iter(record_order.each_once(tiny_records, "train").as_numpy_iterator()))
    decoded = record_reading.read_record(record["serialized"], tiny_records.info, 2**20)
    size = decoded.image.nbytes + decoded.label.nbytes  # all images have the same
    numbers_decoded, decode = [], decoding.decode_label

    def counted(*arguments):
        numbers_decoded[-1] += 1
        return decode(*arguments)

    monkeypatch.setattr(decoding, "decode_label", counted)
    for room in (0, 5 * size + 1, 8 * size):
        numbers_decoded.append(0)
        assert_equal(training_batches(tiny_records, 16, batch_size=2, cache_bytes=room), expected)
    none, five, all_kept = numbers_decoded
    assert none >= 32  # and those that were prefetched
    assert five < none - 10 and all_kept <= 16


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
    damaged = DamagedRecords(8, max_share=0.3)
    batches = training_batches(source, 6, batch_size=4, on_damaged=damaged)
    assert len(damaged.problems) == 2 and set(damaged.problems) <= set(names)
    assert set(names_of(batches)) == set(names) - set(damaged.problems)
    assert all((batch["label"] < 255).any(axis=(1, 2)).all() for batch in batches)
    told = capsys.readouterr().err
    assert all(f"record {name} is left out" in told for name in damaged.problems)
    assert "damaged so far: 2 of 8" in told
    # As everything, it follows from seed and step.
    again = training_batches(source, 3, 0, 3, batch_size=4, on_damaged=damaged)
    assert_equal(batches[3:], again)


def test_a_record_with_a_wrong_checksum_alone_is_lost(tiny_records, tmp_path):
    source = damaged_copy(tiny_records, tmp_path, {5: None})
    damaged = DamagedRecords(8, max_share=0.3)
    batches = training_batches(source, 4, batch_size=4, on_damaged=damaged)
    assert set(damaged.problems) == {"5 of train-00000-of-00001.tfrecord"}
    assert len(set(names_of(batches))) == 7


def test_too_many_damaged_records_stop_the_run(tiny_records, tmp_path, form):
    source = damaged_copy(tiny_records, tmp_path, {2: damage_image, 4: damage_label})
    damaged = DamagedRecords(8, max_share=0.01)  # one is always tolerated
    with pytest.raises(UserError, match="2 of 8 records are damaged.*--max_damaged_share"):
        with readable_errors():
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
    counts = class_presence.oversampling(tiny_records, "train", [name], 3)
    examples = tf.data.TFRecordDataset(tiny_records.shards("train"))
    has_it = [
        (
            decoding.decode_label(record_reading.parse_record(example.numpy()).label)
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
    with pytest.raises(UserError, match="no class 'unicorn' to oversample .* it has"):
        class_presence.oversampling(tiny_records, "train", ["unicorn"], 2)


def test_where_numba_cannot_compile_the_graph_makes_the_batches(tiny_records, monkeypatch, caplog):
    pytest.importorskip("numba")
    from deeplab_tf.data import fast_crop

    expected = training_batches(tiny_records, 1)

    def fail(*_):
        raise RuntimeError("LLVM: no such instruction")

    monkeypatch.setattr(fast_crop, "try_out", fail)
    untried = functools.cache(fast.load_and_try.__wrapped__)
    monkeypatch.setattr(fast, "load_and_try", untried)
    (batch,) = training_batches(tiny_records, 1)
    np.testing.assert_array_equal(batch["label"], expected[0]["label"])
    assert any("TensorFlow is used" in message for message in caplog.messages)
