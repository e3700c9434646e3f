"""Random integers and permutations that are functions of their keys, computed for whole vectors.

TensorFlow's `stateless_uniform` takes one seed at a time, and the permutations of `index_shuffle`
are alike for seeds that differ by little.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_ROUNDS = 6


def random_bits(*words) -> tf.Tensor:
    """Returns 64 random bits for each combination of words.

    Args:
        *words: Integers or integer tensors, which are broadcast.

    Returns:
        uint64 of the shape that the words broadcast to.

    Reference: SplitMix64 in Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators,
    OOPSLA 2014, with the constants of its figure 16 (Stafford's Mix13), applied word by word.
    """
    state = _uint64(0)
    for word in words:
        state = _mix(tf.bitwise.bitwise_xor(state, tf.cast(word, tf.uint64)))
    return state


def random_integers(*words) -> tf.Tensor:
    """Returns random integers from 0 to 2**31 - 1, int32, from `random_bits`."""
    return tf.cast(tf.bitwise.right_shift(random_bits(*words), _uint64(33)), tf.int32)


class Permutations:
    """Random permutations of numbers below some sizes; any element is computed without the others.

    Args:
        sizes: One or several sizes, each at least 1.
    """

    def __init__(self, sizes: Sequence[int]):
        # Numbers are two digits, of bases whose product is at least the size.
        heads = [math.isqrt(size - 1) + 1 for size in sizes]
        tails = [-(-size // head) for size, head in zip(sizes, heads, strict=True)]
        self._bases = np.array([heads, tails, sizes], np.uint64)

    def __call__(self, positions: tf.Tensor, *key, which: tf.Tensor | int = 0) -> tf.Tensor:
        """Returns the elements at some positions of the permutations of some keys.

        Args:
            positions: int64 [N], each below its size.
            *key: Integers or int64 [N]; every key has a permutation of its own.
            which: Number of the size, or int64 [N].

        Returns:
            int64 [N].

        Reference: a Feistel network in mixed radix whose results beyond the size are permuted
        again: Black, Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002.
        """
        heads, tails, sizes = (tf.gather(bases, which) for bases in self._bases)
        keys = [random_bits(*key, number) for number in range(_ROUNDS)]

        def permuted(values):
            head, tail = values // tails, values % tails
            for number in range(0, _ROUNDS, 2):
                head = (head + _half(keys[number], tail)) % heads
                tail = (tail + _half(keys[number + 1], head)) % tails
            return head * tails + tail

        values = permuted(tf.cast(positions, tf.uint64))
        (values,) = tf.while_loop(
            lambda values: tf.reduce_any(values >= sizes),
            lambda values: (tf.where(values >= sizes, permuted(values), values),),
            [values],
        )
        return tf.cast(values, tf.int64)


def _half(key: tf.Tensor, digit: tf.Tensor) -> tf.Tensor:
    """63 random bits, to which a digit can be added."""
    return tf.bitwise.right_shift(_mix(tf.bitwise.bitwise_xor(key, digit)), _uint64(1))


def _mix(bits: tf.Tensor) -> tf.Tensor:
    bits += _uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _uint64(shift)))
        bits *= _uint64(factor)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _uint64(31)))


def _uint64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
