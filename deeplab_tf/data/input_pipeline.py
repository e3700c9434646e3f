"""Records -> batches for training, single examples for evaluation.

The training pipeline is a pure function of (seed, step): the record of an example, and what is
random in its augmentation, follow from the seed and the example's number since step 0. So a run
resumes at any step without the state of the pipeline, repeats exactly, and is divided among any
number of workers, each of which makes its own examples only.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf.data import decoding
from deeplab_tf.data import random_numbers
from deeplab_tf.data import record_index
from deeplab_tf.data import record_order
from deeplab_tf.data import record_reading
from deeplab_tf.data import remote_data
from deeplab_tf.data import training_examples
from deeplab_tf.data import transforms
from deeplab_tf.data.damaged_records import DamagedRecords
from deeplab_tf.data.decoded_cache import DecodedCache
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.record_order import TrainingSet
from deeplab_tf.data.records import Records

OnDamaged = Callable[[Sequence[str], Sequence[str]], None]  # of names and problems

_DRAWS = 2  # what random numbers are for; `record_order` has 0 and 1
_EXAMPLES_ORDERED_AT_ONCE = 64
_PIXELS_MADE_AT_ONCE = 2**22
_LAST_STEP = 2**62


def training_batches(
    training_set: TrainingSet,
    crop: transforms.TrainingCrop,
    augmentation: Sequence[transforms.RandomOperation] = (),
    *,
    batch_size: int,
    start_step: int = 0,
    part: tuple[int, int] = (0, 1),
    on_damaged: OnDamaged | None = None,
    data_service: str = "",
    cache_bytes: int = 0,
) -> tf.data.Dataset:
    """Returns the endless batches of a training run, from one of its steps on.

    The place of a damaged record is taken by another one of the same source.

    Args:
        training_set: The records.
        crop: Cuts examples of one size.
        augmentation: Further operations on these.
        batch_size: Examples per batch; a batch may span two epochs.
        start_step: Step of the first batch.
        part: Which part of every batch to make, from 0, and into how many it is divided.
        on_damaged: Called with the names and problems of damaged records; by default
          `DamagedRecords`.
        data_service: Address of a tf.data service that does all this; empty for this process.
        cache_bytes: Memory in which decoded records are kept for later epochs. It is not used
          without numba, nor by a data service.

    Returns:
        Dataset of dicts: `image` uint8 [B, H, W, C] (float32 behind further operations), `label`
        int32 [B, H, W], `name` string [B], where B is the size of a part.
    """
    sources, split = training_set.sources, training_set.split
    in_numba = None if data_service else fast.load("deeplab_tf.data.fast_crop")
    size = batch_size // part[1]
    at_once = _examples_at_once(size, crop.crop_size) if in_numba else 1
    order = record_order.TrainingOrder(training_set)
    index = record_index.of_splits(sources, split)
    maker = training_examples.Maker(order, index, sources[0], crop)

    def describe(steps):
        """Numbers, records and draws of the examples of some steps, in groups of `at_once`."""
        places = part[0] * size + tf.range(size, dtype=tf.int64)
        numbers = tf.reshape(steps[:, tf.newaxis] * batch_size + places, [-1])
        draws = random_numbers.random_integers(
            training_set.seed, _DRAWS, numbers[:, tf.newaxis], tf.range(crop.num_draws)
        )
        described = {"number": numbers, "record": order.records(numbers), "draws": draws}
        return {
            name: tf.reshape(values, [-1, at_once, *values.shape[1:]])
            for name, values in described.items()
        }

    # A worker of a data service takes one element of this after the other.
    steps_at_once = 1 if data_service else math.ceil(_EXAMPLES_ORDERED_AT_ONCE / size)
    steps = tf.data.Dataset.range(start_step, _LAST_STEP, steps_at_once)
    steps = steps.map(lambda step: step + tf.range(steps_at_once, dtype=tf.int64))
    dataset = steps.map(describe).unbatch()
    cache = DecodedCache(cache_bytes)
    make = maker.in_numba(in_numba, cache) if in_numba else maker.in_graph()
    dataset = dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if augmentation:
        augment = _augment(augmentation, training_set.seed)
        dataset = dataset.unbatch()
        dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = dataset.batch(size, drop_remainder=True)
    elif at_once < size:
        dataset = dataset.batch(size // at_once, drop_remainder=True).map(_merged)
    if data_service:
        dataset = dataset.map(lambda batch: batch | {"step": batch["number"][0] // batch_size})
        dataset = remote_data.through_service(dataset, data_service, first_step=start_step)
    on_damaged = on_damaged or DamagedRecords.of_split(sources, split)
    dataset = dataset.map(lambda batch: _finished(batch, on_damaged), tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def evaluation_examples(
    source: Records,
    split: str,
    *,
    numbers: Sequence[int] | None = None,
    on_damaged: OnDamaged | None = None,
) -> tf.data.Dataset:
    """Returns the good examples of a split once, in their order, at their own size.

    Args:
        source: The records.
        split: Name of the split.
        numbers: Those to return, by their place in the split from 0; None for all.
        on_damaged: Called with the names and problems of damaged records, which are left out; by
          default `DamagedRecords`.

    Returns:
        Dataset of dicts: `image` uint8 [H, W, C], `label` int32 [H, W], `name` string [], and
        `number` int64 [], the place in the split.
    """
    dataset = record_order.each_once(source, split, numbers)
    dataset = dataset.map(_whole(source), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.filter(_is_good(on_damaged or DamagedRecords.of_split([source], split)))
    keys = ("image", "label", "name", "number")
    return dataset.map(lambda example: {key: example[key] for key in keys}).prefetch(
        tf.data.AUTOTUNE
    )


def _examples_at_once(size: int, crop_size: tuple[int, int]) -> int:
    """Returns how many of a batch's examples one call of Python makes: a divisor of its size.

    Calls take time, and what they return apart must be copied into one batch. Few large examples
    are made at once, so that the first come early and few are under way.
    """
    most = max(1, _PIXELS_MADE_AT_ONCE // math.prod(crop_size))
    return max(count for count in range(1, min(size, most) + 1) if size % count == 0)


def _merged(groups: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Turns groups of examples, [G, N, ...], into a batch, [G * N, ...]."""
    return {
        key: tf.reshape(values, [math.prod(values.shape[:2]), *values.shape[2:]])
        for key, values in groups.items()
    }


def _augment(augmentation: Sequence[transforms.RandomOperation], seed: int) -> Callable:
    """Returns example -> example, augmented by draws that follow from the seed and its number."""

    def augment(example):
        for index, operation in enumerate(augmentation):
            operation_seed = tf.random.experimental.stateless_fold_in(
                [seed, example["number"]], index
            )
            example = operation(example, operation_seed)
        return example

    return augment


def _whole(source: Records):
    """Returns record -> example, with `problem`, at the image's own size."""
    info, max_pixels = source.info, source.limits.max_image_pixels

    def read(serialized: bytes):
        try:
            name, image, label = record_reading.read_record(
                serialized, info, max_pixels, decoding.decode_image_strictly
            )
        except DataProblem as problem:
            nothing = np.zeros((0, 0, info.num_channels), np.uint8), np.zeros((0, 0), np.int32)
            return *nothing, problem.name.encode(), problem.of_record.encode()
        return image, label.astype(np.int32), name.encode(), b""

    def decode(record):
        image, label, name, problem = tf.numpy_function(
            read, [record["serialized"]], [tf.uint8, tf.int32, tf.string, tf.string]
        )
        return {
            "image": tf.ensure_shape(image, [None, None, info.num_channels]),
            "label": tf.ensure_shape(label, [None, None]),
            "name": tf.where(name == "", record["place"], tf.ensure_shape(name, [])),
            "problem": tf.ensure_shape(problem, []),
            "number": record["number"],
        }

    return decode


def _is_good(on_damaged: OnDamaged):
    """Returns example -> whether nothing is wrong with it; reports problems."""

    def tell(name, problem):
        on_damaged([name.decode()], [problem.decode()])
        return False

    def is_good(example):
        arguments = [example["name"], example["problem"]]
        return tf.cond(
            example["problem"] == "",
            lambda: True,
            lambda: tf.ensure_shape(tf.numpy_function(tell, arguments, tf.bool), []),
        )

    return is_good


def _finished(batch: dict[str, tf.Tensor], on_damaged: OnDamaged) -> dict[str, tf.Tensor]:
    """Reports damaged records, and leaves what a training needs."""

    def tell(texts):
        on_damaged(*training_examples.split_damaged(texts))
        return np.int32(0)

    damaged = tf.boolean_mask(batch["damaged"], batch["damaged"] != "")
    told = tf.cond(
        tf.size(damaged) > 0, lambda: tf.numpy_function(tell, [damaged], tf.int32), lambda: 0
    )
    with tf.control_dependencies([told]):
        label = tf.cast(batch["label"], tf.int32)
    return {"image": batch["image"], "label": label, "name": batch["name"]}
