"""The order of training, and the permutations that it is made of."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import random_numbers
from deeplab_tf.data import record_order
from deeplab_tf.data import records


def order_of(counts, **options) -> record_order.TrainingOrder:
    info = records.numbered_classes("n", 2)
    sources = [records.Records("", info, {"train": [count]}, {"train": [""]}) for count in counts]
    return record_order.TrainingOrder(record_order.TrainingSet(sources, "train", **options))


def test_random_bits_of_one_word_are_those_of_splitmix64():
    # The first two outputs of the reference implementation with the seed 1234567.
    states = 1234567 + np.arange(2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = random_numbers.random_bits(tf.constant(states))
    assert bits.numpy().tolist() == [6457827717110365317, 3203168211198807973]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 1000, 10_007])
def test_a_permutation_has_every_number_once(size):
    shuffled = random_numbers.Permutations([size])
    numbers = shuffled(tf.range(size, dtype=tf.int64), 3, 5).numpy()
    assert sorted(numbers) == list(range(size))


def test_permutations_of_consecutive_keys_are_as_unlike_as_any():
    size, keys = 8, 2000
    shuffled = random_numbers.Permutations([size])
    positions = tf.tile(tf.range(size, dtype=tf.int64), [keys])
    epochs = tf.repeat(tf.range(keys, dtype=tf.int64), size)
    numbers = shuffled(positions, 0, epochs).numpy().reshape(keys, size)
    counts = np.array([np.bincount(column, minlength=size) for column in numbers.T])
    expected = keys / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 90  # 49 degrees of freedom: exceeded once in 3000
    steps = [np.corrcoef(one, next_one)[0, 1] for one, next_one in itertools.pairwise(numbers)]
    assert abs(np.mean(steps)) < 0.04  # four standard deviations


def test_an_order_is_computed_at_any_number_alike():
    order = order_of([7, 5])
    numbers = tf.range(100, dtype=tf.int64)
    whole = order.records(numbers).numpy()
    alone = [order.records(numbers[n : n + 1]).numpy()[0] for n in (0, 13, 99)]
    assert alone == whole[[0, 13, 99]].tolist()


def test_an_epoch_of_ten_million_records_begins_anywhere_at_once():
    order = order_of([10**7])
    late = order.records(tf.range(10**12, 10**12 + 1000, dtype=tf.int64)).numpy()
    assert len(set(late)) == 1000 and late.min() >= 0 and late.max() < 10**7
    assert abs(late.mean() / 10**7 - 0.5) < 0.05


def test_a_damaged_record_gives_way_to_another_of_its_source():
    order = order_of([50, 50])
    numbers = tf.range(200, dtype=tf.int64)
    first, second = (order.records(numbers, attempt).numpy() for attempt in (0, 1))
    np.testing.assert_array_equal(first < 50, second < 50)
    assert (first != second).mean() > 0.9


def test_repeats_of_several_sources_come_as_often_as_asked():
    repeats = [np.array([1, 3]), np.array([2, 1, 1])]
    order = order_of([2, 3], repeats=repeats, weights=[4, 4])
    counts = collections.Counter(order.records(tf.range(8, dtype=tf.int64)).numpy().tolist())
    assert counts == {0: 1, 1: 3, 2: 2, 3: 1, 4: 1}
