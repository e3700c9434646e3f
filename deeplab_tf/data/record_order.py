"""The order of records: repeated and shuffled in training, once in evaluation.

Which record an example of a training is follows from (seed, number of the example), so a training
resumes at any step at once, without the state of a pipeline and without reading what it has seen.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.data import record_index
from deeplab_tf.data.random_numbers import Permutations
from deeplab_tf.data.records import Records

# Raised when the same seed gives another order than before. Checkpoints carry it.
VERSION = 2

_MIXTURE, _RECORDS = 0, 1  # what a permutation is of


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Which records a training reads, how often, and in which order.

    Attributes:
        sources: The records; several are mixed, and share classes and ignore label.
        split: Name of the split, of all of them.
        weights: How often each source gives an example, as whole numbers; by default as often as
          it has records.
        repeats: How often each record of each source comes in an epoch (see
          `class_presence.oversampling`); by default once.
        seed: Of the order, and of what is random in augmentation.
    """

    sources: Sequence[Records]
    split: str
    weights: Sequence[int] = ()
    repeats: Sequence[np.ndarray] = ()
    seed: int = 0


class TrainingOrder:
    """Which record each example of a training is.

    In every epoch of a source each of its records comes as often as `repeats` says, in an order of
    its own. Several sources are mixed in blocks, in each of which every source comes as often as
    its weight.

    Args:
        training_set: The records.
    """

    def __init__(self, training_set: TrainingSet):
        self._seed = training_set.seed
        repeats = training_set.repeats
        if len(repeats):
            counts = [int(each.sum()) for each in repeats]
        else:
            counts = [source.num_records(training_set.split) for source in training_set.sources]
        self._counts = np.array(counts, np.int64)
        self._first = np.cumsum([0, *counts], dtype=np.int64)[:-1]
        self._shuffled = Permutations(counts)
        self._weights = np.array(training_set.weights or _by_size(counts), np.int64)
        self._ends_in_block = np.cumsum(self._weights)
        self._mixed = Permutations([int(self._weights.sum())])
        self._last_repeats = None
        if any((each != 1).any() for each in repeats):
            with tf.init_scope(), tf.device("/cpu:0"):
                self._last_repeats = tf.constant(np.cumsum(np.concatenate(repeats), dtype=np.int64))

    def records(self, numbers: tf.Tensor, attempt: tf.Tensor | int = 0) -> tf.Tensor:
        """Returns the records of some examples.

        Args:
            numbers: Of the examples, since the start of the training: int64 [N].
            attempt: How many records in this place were damaged: others of the same source follow.

        Returns:
            Their numbers in the index of all sources, int64 [N].
        """
        source, number = self._mix(numbers)
        count = tf.gather(self._counts, source)
        place = self._shuffled(
            number % count, self._seed, _RECORDS, source, number // count, attempt, which=source
        )
        place += tf.gather(self._first, source)
        if self._last_repeats is None:
            return place
        return tf.searchsorted(self._last_repeats, place, side="right", out_type=tf.int64)

    def _mix(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Decides which source gives which example; returns it, and the example's number in it."""
        if len(self._counts) == 1:
            return tf.zeros_like(numbers), numbers
        block, place = numbers // self._ends_in_block[-1], numbers % self._ends_in_block[-1]
        place = self._mixed(place, self._seed, _MIXTURE, block)
        source = tf.searchsorted(self._ends_in_block, place, side="right", out_type=tf.int64)
        weight = tf.gather(self._weights, source)
        place -= tf.gather(self._ends_in_block - self._weights, source)
        return source, block * weight + place


# AutoGraph would take a tenth of a second to convert a function without control flow over tensors.
@tf.autograph.experimental.do_not_convert
def each_once(source: Records, split: str, numbers: Sequence[int] | None = None) -> tf.data.Dataset:
    """Returns the records of a split in their order.

    Args:
        source: The records.
        split: Name of the split.
        numbers: Those of the records to return, from 0; None for all.

    Returns:
        Dataset of dicts: `number` (int64), `serialized` (string, empty where the record is lost)
        and `place` (string, such as `7 of train-00000-of-00004.tfrecord`).
    """
    index = record_index.of_splits([source], split)
    if numbers is None:
        dataset = tf.data.Dataset.range(len(index))
    else:
        dataset = tf.data.Dataset.from_tensor_slices(np.asarray(numbers, np.int64))

    def read(number):
        serialized = tf.numpy_function(index.read, [number], tf.string)
        return {
            "number": number,
            "serialized": tf.ensure_shape(serialized, []),
            "place": index.place_in_graph(number),
        }

    return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _by_size(counts: Sequence[int]) -> list[int]:
    """Returns small whole weights that are as near to `counts` as a block of 1000 allows."""
    return [max(1, round(1000 * count / sum(counts))) for count in counts]
