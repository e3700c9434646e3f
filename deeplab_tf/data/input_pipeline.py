"""Records -> batches for training, single examples for evaluation.

The training pipeline is a pure function of (seed, step): the order of an epoch follows from
(seed, epoch), the augmentation of an example from (seed, its number since step 0). So a run
resumes at any step without saving the state of the pipeline, and repeats exactly. A damaged record
keeps its place in this order.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf.data import decoding
from deeplab_tf.data import record_order
from deeplab_tf.data import record_reading
from deeplab_tf.data import remote_data
from deeplab_tf.data import transforms
from deeplab_tf.data.damaged_records import DamagedRecords
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.records import Records

OnDamaged = Callable[[Sequence[str], Sequence[str]], None]  # of names and problems


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


def training_batches(
    training_set: TrainingSet,
    crop: transforms.TrainingCrop,
    augmentation: Sequence[transforms.RandomOperation] = (),
    *,
    batch_size: int,
    start_step: int = 0,
    on_damaged: OnDamaged | None = None,
    data_service: str = "",
) -> tf.data.Dataset:
    """Returns the endless batches of a training run, from one of its steps on.

    The place of a damaged record is taken by the first good image of its batch.

    Args:
        training_set: The records.
        crop: Cuts examples of one size.
        augmentation: Further operations on these.
        batch_size: Examples per batch; a batch may span two epochs.
        start_step: Step of the first batch.
        on_damaged: Called with the names and problems of damaged records; by default
          `DamagedRecords`.
        data_service: Address of a tf.data service that does all this; empty for this process.

    Returns:
        Dataset of dicts: `image` uint8 [B, H, W, C] (float32 behind further operations), `label`
        int32 [B, H, W], `name` string [B].
    """
    first = start_step * batch_size
    dataset = record_order.endless(
        training_set.sources,
        training_set.split,
        weights=training_set.weights,
        repeats=training_set.repeats,
        seed=training_set.seed,
        first=first,
    ).enumerate(start=first)
    in_numba = None if data_service else fast.load("deeplab_tf.data.fast_crop")
    if in_numba:
        cut = _in_numba(in_numba.crop_example, crop, training_set.sources[0])
        augment = _augmented(cut, augmentation, crop.num_draws, training_set.seed)
        dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    else:
        cut = _in_graph(crop, training_set.sources[0])
        augment = _augmented(cut, augmentation, crop.num_draws, training_set.seed)
        dataset = _map_or_pad(dataset, augment, crop)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    if data_service:
        dataset = remote_data.through_service(dataset, data_service)
    on_damaged = on_damaged or DamagedRecords.of_split(training_set.sources, training_set.split)
    dataset = dataset.map(lambda batch: _finished(batch, on_damaged), tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def evaluation_examples(
    source: Records,
    split: str,
    *,
    numbers: Sequence[int] | None = None,
    on_damaged: OnDamaged | None = None,
) -> tf.data.Dataset:
    """Returns the good examples of a split once, in the order of the records, at their own size.

    Args:
        source: The records.
        split: Name of the split.
        numbers: Places in that order of those to return; None for all.
        on_damaged: Called with the names and problems of damaged records, which are left out; by
          default `DamagedRecords`.

    Returns:
        Dataset of dicts: `image` uint8 [H, W, C], `label` int32 [H, W], `name` string [].
    """
    dataset = record_order.each_once(source, split)
    if numbers is not None:
        dataset = dataset.enumerate().filter(lambda place, _: tf.reduce_any(place == numbers))
        dataset = dataset.map(lambda _, record: record)
    dataset = dataset.map(_whole(source), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.filter(_is_good(on_damaged or DamagedRecords.of_split([source], split)))
    keys = ("image", "label", "name")
    return dataset.map(lambda example: {key: example[key] for key in keys}).prefetch(
        tf.data.AUTOTUNE
    )


def _augmented(
    cut: Callable, augmentation: Sequence[transforms.RandomOperation], num_draws: int, seed: int
):
    """Returns (number, record) -> example: cut and augmented by draws that follow from both."""

    def augment(number, record):
        draws = tf.random.stateless_uniform(
            [num_draws], [seed, number], minval=None, maxval=None, dtype=tf.int32
        )
        example = cut(record, draws)
        for index, operation in enumerate(augmentation):
            operation_seed = tf.random.experimental.stateless_fold_in([seed, number], index)
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
            "name": _name(record, tf.ensure_shape(name, [])),
            "problem": tf.ensure_shape(problem, []),
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


def _name(record: dict[str, tf.Tensor], name: tf.Tensor) -> tf.Tensor:
    """The record's own name, or its place where it has none."""
    return tf.where(name == "", record_order.place_of(record), name)


def _in_numba(crop_example: Callable, crop: transforms.TrainingCrop, source: Records):
    """Returns (record, draws) -> cut example, computed by `fast_crop.crop_example`."""
    info, max_pixels = source.info, source.limits.max_image_pixels
    padding = _padding(crop)

    def read_and_crop(serialized: bytes, draws: np.ndarray):
        try:
            name, image, label = record_reading.read_record(serialized, info, max_pixels)
        except DataProblem as problem:
            return *padding, problem.name.encode(), problem.of_record.encode()
        return *crop_example(image, label, draws, crop), name.encode(), b""

    def cut(record, draws):
        image, label, name, problem = tf.numpy_function(
            read_and_crop,
            [record["serialized"], draws],
            [tf.uint8, tf.uint8, tf.string, tf.string],
            stateful=False,
        )
        return {
            "image": tf.ensure_shape(image, [*crop.crop_size, info.num_channels]),
            "label": tf.ensure_shape(label, crop.crop_size),
            "name": _name(record, tf.ensure_shape(name, [])),
            "problem": tf.ensure_shape(problem, []),
        }

    return cut


def _in_graph(crop: transforms.TrainingCrop, source: Records):
    """Returns (record, draws) -> cut example, as a TensorFlow graph that can run anywhere."""
    info, max_pixels = source.info, source.limits.max_image_pixels
    blank = dict(zip(("image", "label"), map(tf.constant, _padding(crop))))

    def cut(record, draws):
        parsed = record_reading.parse_record_in_graph(record["serialized"])
        problem = record_reading.header_problem_in_graph(parsed, max_pixels, info.num_channels)

        def decode_and_crop():
            example, problem = record_reading.decode_record_in_graph(parsed, info)
            return tf.cond(
                problem == "", lambda: crop(example, draws), lambda: dict(blank)
            ), problem

        example, problem = tf.cond(problem == "", decode_and_crop, lambda: (dict(blank), problem))
        return example | {"name": _name(record, parsed["name"]), "problem": problem}

    return cut


def _padding(crop: transforms.TrainingCrop) -> tuple[np.ndarray, np.ndarray]:
    """An image and a label that count nowhere."""
    return (
        np.full((*crop.crop_size, len(crop.pad_color)), crop.pad_color, np.uint8),
        np.full(crop.crop_size, crop.ignore_label, np.uint8),
    )


def _map_or_pad(
    dataset: tf.data.Dataset, function: Callable, crop: transforms.TrainingCrop
) -> tf.data.Dataset:
    """Maps (number, record); a record at which the function fails becomes padding."""
    spec = dataset.map(function).element_spec
    image, label = _padding(crop)

    def padding(name, problem):
        return {
            "image": tf.cast(image, spec["image"].dtype),
            "label": tf.cast(label, spec["label"].dtype),
            "name": name,
            "problem": problem,
        }

    def named(_, record):
        name = record_reading.parse_name_in_graph(record["serialized"])
        return padding(_name(record, name), "it cannot be parsed, or its image or label be decoded")

    def unnamed(_, record):
        return padding(record_order.place_of(record), "it is lost, or is not a tf.train.Example")

    def map_one(*numbered_record):
        # A graph cannot catch an error; a dataset of one element can leave it out.
        one = tf.data.Dataset.from_tensors(numbered_record)
        first, second, last = (
            one.map(attempt).ignore_errors(log_warning=False)
            for attempt in (function, named, unnamed)
        )
        return first.concatenate(second).concatenate(last).take(1)

    return dataset.interleave(
        map_one,
        cycle_length=tf.data.AUTOTUNE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _finished(batch: dict[str, tf.Tensor], on_damaged: OnDamaged) -> dict[str, tf.Tensor]:
    """Replaces damaged images by good ones, and reports them."""
    batch = dict(batch)
    problems = batch.pop("problem")
    is_good = problems == ""
    batch["label"] = tf.cast(batch["label"], tf.int32)

    def tell(names, problems):
        on_damaged([name.decode() for name in names], [text.decode() for text in problems])
        return np.int32(0)

    def replaced():
        is_bad = tf.logical_not(is_good)
        arguments = [tf.boolean_mask(batch["name"], is_bad), tf.boolean_mask(problems, is_bad)]
        with tf.control_dependencies([tf.numpy_function(tell, arguments, tf.int32)]):
            places = tf.range(tf.size(is_good))
            first_good = tf.argmax(tf.cast(is_good, tf.int32), output_type=tf.int32)
            chosen = tf.where(is_good, places, first_good)
            return {key: tf.gather(values, chosen) for key, values in batch.items()}

    shapes = {key: values.shape for key, values in batch.items()}
    batch = tf.cond(tf.reduce_all(is_good), lambda: dict(batch), replaced)
    return {key: tf.ensure_shape(values, shapes[key]) for key, values in batch.items()}
