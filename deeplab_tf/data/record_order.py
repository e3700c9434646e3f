"""The order of records: repeated and shuffled in training, once in evaluation.

The order of an epoch follows from (seed, epoch), so that a training resumes at any step without the
state of a pipeline. A record that cannot be read keeps its place, as an empty text.
"""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.data.records import Records

# Records are shuffled before they are decoded: this many stay in memory as JPEG or PNG bytes.
_SHUFFLE_BUFFER = 1000
_PARALLEL_SHARDS = 8


def each_once(source: Records, split: str) -> tf.data.Dataset:
    """Returns the records of a split in their order.

    Returns:
        Dataset of dicts: `serialized` (string), `shard` (string, its path) and `index` (int64,
        the place in the shard).
    """
    shards = tf.data.Dataset.from_tensor_slices(_shards(source, split))
    return shards.flat_map(_records_of_shard)


def endless(
    sources: Sequence[Records],
    split: str,
    *,
    weights: Sequence[int] = (),
    repeats: Sequence[np.ndarray] = (),
    seed: int = 0,
    first: int = 0,
) -> tf.data.Dataset:
    """Returns the records of one or several sources repeatedly, shuffled.

    Args:
        sources: The records.
        split: Name of the split, of all of them.
        weights: How often each source gives an example, as whole numbers; by default as often as
          it has records.
        repeats: How often each record of each source comes in an epoch; by default once.
        seed: Of the order.
        first: Number of the first example that is returned, since the start of a training.

    Returns:
        Dataset as that of `each_once`.
    """
    repeats = list(repeats) or [np.ones(source.num_records(split), int) for source in sources]
    weights = list(weights) or _by_size([int(counts.sum()) for counts in repeats])
    taken, choices = _mixture(weights, seed, first)
    streams = [
        _endless_source(source, split, counts, seed, int(start))
        for source, counts, start in zip(sources, repeats, taken, strict=True)
    ]
    if len(streams) == 1:
        return streams[0]
    return tf.data.Dataset.choose_from_datasets(streams, choices)


def place_of(example: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns the place of a record, a string scalar: `7 of train-00000-of-00004.tfrecord`."""
    shard = tf.strings.split(example["shard"], os.sep)[-1]
    return tf.strings.join([tf.strings.as_string(example["index"]), " of ", shard])


def _by_size(counts: Sequence[int]) -> list[int]:
    """Returns small whole weights that are as near to `counts` as a block of 1000 allows."""
    return [max(1, round(1000 * count / sum(counts))) for count in counts]


def _mixture(weights: Sequence[int], seed: int, first: int) -> tuple[np.ndarray, tf.data.Dataset]:
    """Decides which source gives which example: in every block each as often as its weight.

    Returns:
        How many examples each source has given before the example `first`, and the dataset of the
        numbers of sources from there on.
    """
    pattern = np.repeat(np.arange(len(weights)), weights)

    def block(number):
        return tf.random.experimental.stateless_shuffle(tf.constant(pattern), [seed, number])

    blocks, rest = divmod(first, len(pattern))
    taken = blocks * np.array(weights)
    taken += np.bincount(block(blocks)[:rest], minlength=len(weights))
    choices = tf.data.Dataset.range(blocks, tf.int64.max)
    choices = choices.flat_map(lambda n: tf.data.Dataset.from_tensor_slices(block(n))).skip(rest)
    return taken, choices


def _endless_source(
    source: Records, split: str, repeats: np.ndarray, seed: int, first: int
) -> tf.data.Dataset:
    """Returns the records of one source repeatedly, from the `first` on."""
    shards = _shards(source, split)
    num_shards, num_examples = len(shards["path"]), int(repeats.sum())
    starts = tf.constant(np.cumsum([0, *shards["length"]])[:-1])
    counts = None if (repeats == 1).all() else tf.constant(repeats, tf.int64)

    def read(number, shard):
        dataset = _records_of_shard(shard)
        if counts is None:
            return dataset
        return dataset.flat_map(
            lambda example: tf.data.Dataset.from_tensors(example).repeat(
                counts[starts[number] + example["index"]]
            )
        )

    def epoch_of_records(epoch):
        # In this function's own graph: with a global seed, tf.data takes no tensor for a seed.
        tf.random.set_seed(None)
        files = tf.data.Dataset.from_tensor_slices(shards).enumerate()
        files = files.shuffle(num_shards, seed=seed + epoch)
        serialized = files.interleave(
            read,
            cycle_length=min(_PARALLEL_SHARDS, num_shards),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return serialized.shuffle(min(_SHUFFLE_BUFFER, num_examples), seed=seed + epoch)

    epochs = tf.data.Dataset.range(first // num_examples, tf.int64.max)
    return epochs.flat_map(epoch_of_records).skip(first % num_examples)


def _shards(source: Records, split: str) -> dict[str, list]:
    # Absolute, because the workers of a service have a working directory of their own.
    paths = [files.absolute(path) for path in source.shards(split)]
    return {"path": paths, "length": source.shard_lengths[split]}


def _records_of_shard(shard: dict[str, tf.Tensor]) -> tf.data.Dataset:
    # Behind a record whose checksum is wrong, the rest of its shard is lost.
    found = tf.data.TFRecordDataset(shard["path"]).ignore_errors(log_warning=False)
    lost = tf.data.Dataset.from_tensors("").repeat()
    dataset = found.concatenate(lost).take(tf.cast(shard["length"], tf.int64)).enumerate()
    return dataset.map(
        lambda index, serialized: {
            "serialized": serialized,
            "shard": shard["path"],
            "index": index,
        }
    )
