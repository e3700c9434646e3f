"""Records to batches."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import images
from deeplab_tf import input_pipeline
from deeplab_tf import records
from deeplab_tf.errors import UserError


def training_batches(source, count, seed=0, start_step=0, batch_size=3):
    augmentation = images.official_augmentation((65, 49), source.info.ignore_label)
    dataset = input_pipeline.training_batches(
        source, "train", batch_size, augmentation, seed, start_step
    )
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def test_a_batch_is_what_the_training_step_expects(tiny_records):
    (batch,) = training_batches(tiny_records, 1)
    assert batch["image"].shape == (3, 65, 49, 3) and batch["image"].dtype == np.float32
    assert batch["label"].shape == (3, 65, 49) and batch["label"].dtype == np.int32
    info = tiny_records.info
    assert set(np.unique(batch["label"])) <= {*range(info.num_classes), info.ignore_label}


def test_batches_from_a_later_step_equal_those_of_the_uninterrupted_run(tiny_records):
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
    names = [
        name for batch in training_batches(tiny_records, 8, batch_size=2) for name in batch["name"]
    ]
    first, second = names[:8], names[8:]
    assert len(set(first)) == 8 and set(first) == set(second)
    assert first != second


def test_evaluation_gives_every_picture_once_at_its_own_size(tiny_records):
    examples = list(
        input_pipeline.evaluation_examples(tiny_records, "val").as_numpy_iterator()
    )
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
                "image/filename": feature(b"picture_7"),
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
    with pytest.raises(UserError, match=f"picture_7.*{complaint}|{complaint}.*picture_7"):
        with input_pipeline.readable_errors():
            list(input_pipeline.evaluation_examples(source, "val"))


def test_a_truncated_shard_is_a_readable_error(tiny_records, tmp_path):
    shard = tmp_path / "val-00000-of-00001.tfrecord"
    with open(tiny_records.shards("val")[0], "rb") as file:
        shard.write_bytes(file.read()[:-20])
    source = records.Records(
        str(tmp_path), tiny_records.info, {"val": 4}, {"val": [str(shard)]}
    )
    with pytest.raises(UserError, match="damaged"):
        with input_pipeline.readable_errors():
            list(input_pipeline.evaluation_examples(source, "val"))
