"""Records -> batches.

The training pipeline is a pure function of (seed, step): the order of an epoch follows from
(seed, epoch), the augmentation of an example from (seed, its number since step 0). So a run goes
on from any step without saving the state of the pipeline, and repeats exactly.
"""

import contextlib
import re

import tensorflow as tf

from deeplab_tf import images
from deeplab_tf import records
from deeplab_tf.errors import UserError

# Records are shuffled before they are decoded: this many stay in memory as JPEG or PNG bytes.
_SHUFFLE_BUFFER = 1000
_PARALLEL_SHARDS = 8


def training_batches(
    source: records.Records,
    split: str,
    batch_size: int,
    augmentation: list[images.RandomOperation],
    seed: int = 0,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Returns the endless batches of a training run, from one of its steps on.

    Args:
        source: The records.
        split: Name of the split.
        batch_size: Examples per batch; batches go on over the end of an epoch.
        augmentation: Operations that end in examples of one size.
        seed: Of order and augmentation.
        start_step: Step of the first batch.

    Returns:
        Dataset of dicts: `image` float32 [B, H, W, 3] in 0..255, `label` int32 [B, H, W],
        `name` string [B].
    """
    shards = source.shards(split)
    num_examples = source.num_examples[split]
    first = start_step * batch_size

    def epoch_of_records(epoch):
        # In this function's own graph: with a global seed, tf.data takes no tensor for a seed.
        tf.random.set_seed(None)
        files = tf.data.Dataset.from_tensor_slices(shards).shuffle(len(shards), seed=seed + epoch)
        serialized = files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(_PARALLEL_SHARDS, len(shards)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return serialized.shuffle(min(_SHUFFLE_BUFFER, num_examples), seed=seed + epoch)

    def augment(number, serialized):
        example = _decode(serialized, source.info)
        example_seed = tf.random.experimental.stateless_fold_in([seed, 0], number)
        seeds = tf.random.experimental.stateless_split(example_seed, len(augmentation))
        for operation, operation_seed in zip(augmentation, tf.unstack(seeds)):
            example = operation(example, operation_seed)
        return example | {"image": tf.cast(example["image"], tf.float32)}

    epochs = tf.data.Dataset.range(first // num_examples, tf.int64.max)
    dataset = epochs.flat_map(epoch_of_records).skip(first % num_examples)
    dataset = dataset.enumerate(start=first)
    dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def evaluation_examples(source: records.Records, split: str) -> tf.data.Dataset:
    """Returns the examples of a split once, in the order of the records, at their own size.

    Args:
        source: The records.
        split: Name of the split.

    Returns:
        Dataset of dicts: `image` uint8 [H, W, 3], `label` int32 [H, W], `name` string [].
    """
    dataset = tf.data.TFRecordDataset(source.shards(split))
    dataset = dataset.map(
        lambda serialized: _decode(serialized, source.info), num_parallel_calls=tf.data.AUTOTUNE
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


@contextlib.contextmanager
def readable_errors():
    """Turns what tf.data raises about a bad record into one readable `UserError`."""
    try:
        yield
    except tf.errors.DataLossError as error:
        raise UserError(
            f"A record is damaged: {error.message}. Build the records again."
        ) from error
    except tf.errors.InvalidArgumentError as error:
        check = re.search(r"assertion failed: \[(Record .*?)\]\s", error.message)
        if check is None:
            raise
        raise UserError(check[1]) from error


def _decode(serialized: tf.Tensor, info: records.DatasetInfo) -> images.Example:
    record = records.parse_example(serialized)
    image = tf.io.decode_image(record["image_bytes"], channels=3, expand_animations=False)
    label = tf.io.decode_png(record["label_bytes"], channels=1)[..., 0]
    label = tf.cast(label, tf.int32)
    largest = tf.reduce_max(tf.where(label == info.ignore_label, 0, label))
    with tf.control_dependencies(
        [
            _check(
                tf.reduce_all(tf.shape(image)[:2] == tf.shape(label)),
                record["name"],
                "image and label differ in size. Build the records again from pairs of one size.",
            ),
            _check(
                largest < info.num_classes,
                record["name"],
                f"a label id is beyond the {info.num_classes} classes and is not the ignore label "
                f"{info.ignore_label}. Give the right --num_classes and --ignore_label, or build "
                "the records again. The id is ",
                largest,
            ),
        ]
    ):
        return {"image": image, "label": tf.identity(label), "name": record["name"]}


def _check(condition: tf.Tensor, name: tf.Tensor, problem: str, *values) -> tf.Operation:
    """Asserts what `readable_errors` turns into a `UserError`."""
    text = [tf.strings.as_string(value) for value in values]
    message = tf.strings.join(["Record ", name, ": ", problem, *text])
    return tf.debugging.Assert(condition, [message], summarize=1)
