"""Records -> batches.

The training pipeline is a pure function of (seed, step): the order of an epoch follows from
(seed, epoch), the augmentation of an example from (seed, its number since step 0). So a run goes
on from any step without saving the state of the pipeline, and repeats exactly. What is damaged
keeps its place in this order.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf.data import records
from deeplab_tf.data import remote_data
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError

# Records are shuffled before they are decoded: this many stay in memory as JPEG or PNG bytes.
_SHUFFLE_BUFFER = 1000
_PARALLEL_SHARDS = 8


def training_batches(
    sources: records.Records | Sequence[records.Records],
    split: str,
    batch_size: int,
    crop: transforms.TrainingCrop,
    augmentation: Sequence[transforms.RandomOperation] = (),
    seed: int = 0,
    start_step: int = 0,
    weights: Sequence[int] = (),
    repeats: Sequence[np.ndarray] = (),
    on_damaged: Callable[[Sequence[str], Sequence[str]], None] | None = None,
    data_service: str = "",
) -> tf.data.Dataset:
    """Returns the endless batches of a training run, from one of its steps on.

    The place of a damaged record is taken by the first good image of its batch.

    Args:
        sources: The records, or several that are mixed; they share classes and ignore label.
        split: Name of the split, of all of them.
        batch_size: Examples per batch; batches go on over the end of an epoch.
        crop: Cuts examples of one size.
        augmentation: Further operations on these.
        seed: Of order and augmentation.
        start_step: Step of the first batch.
        weights: How often each source gives an example, as whole numbers; by default as many as
          it has.
        repeats: How often each record of each source comes in an epoch (see `oversampling`).
        on_damaged: Called in passing with names and problems of damaged records that a batch had.
        data_service: Address of a tf.data service that does all this; empty for this process.

    Returns:
        Dataset of dicts: `image` uint8 [B, H, W, 3] (float32 behind further operations), `label`
        int32 [B, H, W], `name` string [B].
    """
    sources = [sources] if isinstance(sources, records.Records) else list(sources)
    repeats = list(repeats) or [np.ones(source.num_examples[split], int) for source in sources]
    weights = list(weights) or _by_size([int(counts.sum()) for counts in repeats])
    first = start_step * batch_size
    taken, choices = _mixture(weights, seed, first)
    streams = [
        _endless(source, split, counts, seed, int(start))
        for source, counts, start in zip(sources, repeats, taken)
    ]
    dataset = streams[0]
    if len(streams) > 1:
        dataset = tf.data.Dataset.choose_from_datasets(streams, choices)

    in_numba = None if data_service else fast.load("deeplab_tf.data.fast_crop")
    if in_numba:
        cut = _in_numba(in_numba.decode_and_crop, crop, sources[0].info)
    else:
        cut = _in_graph(crop, sources[0].info)

    def augment(number, example):
        draws = tf.random.stateless_uniform(
            [crop.num_draws], [seed, number], minval=None, maxval=None, dtype=tf.int32
        )
        example = cut(example, draws)
        for index, operation in enumerate(augmentation):
            operation_seed = tf.random.experimental.stateless_fold_in([seed, number], index)
            example = operation(example, operation_seed)
        return example

    dataset = dataset.enumerate(start=first)
    if in_numba:
        dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    else:
        dataset = _map_or_pad(dataset, augment, crop)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    if data_service:
        dataset = remote_data.through_service(dataset, data_service)
    dataset = dataset.map(lambda batch: _finished(batch, on_damaged), tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def evaluation_examples(
    source: records.Records, split: str, numbers: Sequence[int] | None = None
) -> tf.data.Dataset:
    """Returns the examples of a split once, in the order of the records, at their own size.

    Args:
        source: The records.
        split: Name of the split.
        numbers: Places in that order of those to return; None for all.

    Returns:
        Dataset of dicts: `image` uint8 [H, W, 3], `label` int32 [H, W], `name` string [].
    """

    def decode(serialized):
        example = _decode(records.parse_example(serialized), source.info)
        return example | {"label": tf.cast(example["label"], tf.int32)}

    dataset = tf.data.TFRecordDataset(source.shards(split))
    if numbers is not None:
        dataset = dataset.enumerate().filter(lambda place, _: tf.reduce_any(place == numbers))
        dataset = dataset.map(lambda _, serialized: serialized)
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def oversampling(
    source: records.Records, split: str, classes: Sequence[str], factor: int
) -> np.ndarray:
    """Returns how often each record of a split comes in an epoch: rare classes more often.

    Args:
        source: The records; all labels of the split are read.
        split: Name of the split.
        classes: Names of the classes.
        factor: How often an image with any of these classes comes; all others come once.

    Returns:
        int [N], in the order of the shards.

    Raises:
        UserError: There is no class so named, or none of the split's images has it.

    Reference:
        The bootstrapping of hard images in DeepLab v3, section 4.1 (arXiv 1706.05587).
    """
    unknown = [name for name in classes if name not in source.info.class_names]
    if unknown:
        raise UserError(
            f"there is no class {unknown[0]!r} to oversample in {source.folder}; there is "
            f"{', '.join(source.info.class_names)}"
        )
    class_ids = [source.info.class_names.index(name) for name in classes]

    def has_class(label_bytes: bytes) -> bool:
        label = cv2.imdecode(np.frombuffer(label_bytes, np.uint8), cv2.IMREAD_UNCHANGED)
        # A damaged label has no class; training says so when its turn comes.
        return label is not None and bool(np.isin(class_ids, label).any())

    dataset = tf.data.Dataset.from_tensor_slices(_shards(source, split)).flat_map(_records_of_shard)
    dataset = dataset.map(
        lambda example: tf.numpy_function(
            has_class, [records.parse_example(example["serialized"])["label_bytes"]], tf.bool
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    has_any = np.array(list(dataset.as_numpy_iterator()))
    if not has_any.any():
        raise UserError(f"no image of the split {split!r} has any of {', '.join(classes)}")
    return np.where(has_any, factor, 1)


class DamagedRecords:
    """Tells of damaged records once each, and stops when they are too many: an `on_damaged`."""

    def __init__(self, num_examples: int, max_share: float):
        self._num_examples = num_examples
        self._limit = max(1, int(max_share * num_examples)) if max_share else 0
        self.problems: dict[str, str] = {}

    def __call__(self, names: Sequence[str], problems: Sequence[str]) -> None:
        for name, problem in zip(names, problems):
            if name in self.problems:
                continue
            self.problems[name] = problem
            count = len(self.problems)
            if count > self._limit:
                listed = "; ".join(f"{name}: {text}" for name, text in self.problems.items())
                raise UserError(
                    f"{count} of {self._num_examples} records are damaged, which is more than "
                    f"--max_damaged_share allows: {listed[:1000]}. See python -m "
                    "deeplab_tf.check_data --data_dir=..., and build them again."
                )
            print(
                f"warning: record {name} is left out: {problem} "
                f"(damaged until now: {count} of {self._num_examples})",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def readable_errors():
    """Turns what tf.data raises about a bad record into one readable `UserError`."""
    try:
        yield
    except tf.errors.DataLossError as error:
        raise UserError(
            f"A record is damaged: {error.message}. Build the records again."
        ) from error
    except tf.errors.NotFoundError as error:
        raise UserError(
            f"The data service lost this run, or does not find the records under the same path "
            f"({error.message.splitlines()[0]}). Run the same command again."
        ) from error
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        check = re.search(r"assertion failed: \[(Record .*?)\]\s", error.message)
        check = check or re.search(r"UserError: (.*?)\n(?:Traceback|$)", error.message, re.DOTALL)
        if check is None:
            raise
        raise UserError(check[1].strip()) from error


def _by_size(counts: Sequence[int]) -> list[int]:
    """Returns small whole weights that are as near to `counts` as a block of 1000 allows."""
    return [max(1, round(1000 * count / sum(counts))) for count in counts]


def _mixture(weights: Sequence[int], seed: int, first: int) -> tuple[np.ndarray, tf.data.Dataset]:
    """Says which source gives which example: in every block each as often as its weight.

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


def _endless(
    source: records.Records, split: str, repeats: np.ndarray, seed: int, first: int
) -> tf.data.Dataset:
    """Returns the serialized records of a split over and over, from the `first` on."""
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


def _shards(source: records.Records, split: str) -> dict[str, list]:
    # Absolute, for the workers of a service have a working directory of their own.
    paths = [os.path.abspath(path) for path in source.shards(split)]
    return {"path": paths, "length": source.shard_lengths[split]}


def _records_of_shard(shard: dict[str, tf.Tensor]) -> tf.data.Dataset:
    """Returns `serialized`, `shard` and `index` of a shard's records; lost ones are empty texts."""
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


def _name(example: dict[str, tf.Tensor], name: tf.Tensor) -> tf.Tensor:
    """The record's own name, or its place where it has none."""
    shard = tf.strings.split(example["shard"], os.sep)[-1]
    place = tf.strings.join([tf.strings.as_string(example["index"]), " of ", shard])
    return tf.where(name == "", place, name)


def _in_numba(
    decode_and_crop_for: Callable, crop: transforms.TrainingCrop, info: records.DatasetInfo
):
    """Returns (example, draws) -> cut example, computed by `fast_crop.decode_and_crop`."""

    def decode_and_crop(image_bytes, label_bytes, draws):
        return decode_and_crop_for(image_bytes, label_bytes, draws, crop, info.num_classes)

    def cut(example, draws):
        record = records.parse_example(example["serialized"])
        image, label, problem = tf.numpy_function(
            decode_and_crop,
            [record["image_bytes"], record["label_bytes"], draws],
            [tf.uint8, tf.uint8, tf.string],
            stateful=False,
        )
        return {
            "image": tf.ensure_shape(image, [*crop.crop_size, 3]),
            "label": tf.ensure_shape(label, crop.crop_size),
            "name": _name(example, record["name"]),
            "problem": tf.ensure_shape(problem, []),
        }

    return cut


def _in_graph(crop: transforms.TrainingCrop, info: records.DatasetInfo):
    """Returns (example, draws) -> cut example, as a TensorFlow graph that can run anywhere."""

    def cut(example, draws):
        record = records.parse_example(example["serialized"])
        decoded = crop(_decode(record, info), draws)
        return decoded | {"name": _name(example, record["name"]), "problem": ""}

    return cut


def _map_or_pad(
    dataset: tf.data.Dataset, function, crop: transforms.TrainingCrop
) -> tf.data.Dataset:
    """Maps (number, example); an example at which the function fails becomes padding."""
    image_type = dataset.map(function).element_spec["image"].dtype

    def padding(example):
        name = records.parse_example(example["serialized"])["name"]
        return {
            "image": tf.cast(tf.broadcast_to(crop.pad_color, [*crop.crop_size, 3]), image_type),
            "label": tf.cast(tf.fill(crop.crop_size, crop.ignore_label), tf.uint8),
            "name": _name(example, name),
            "problem": "its image or label cannot be decoded, or do not fit each other",
        }

    def map_one(number, example):
        one = tf.data.Dataset.from_tensors((number, example)).map(function)
        one = one.ignore_errors(log_warning=False)
        return one.concatenate(tf.data.Dataset.from_tensors(padding(example))).take(1)

    # A graph cannot catch an error; a dataset of one element can leave it out.
    return dataset.interleave(
        map_one,
        cycle_length=tf.data.AUTOTUNE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _finished(batch: dict[str, tf.Tensor], on_damaged) -> dict[str, tf.Tensor]:
    """Puts good images in the place of damaged ones, which it tells of."""
    batch = dict(batch)
    problems = batch.pop("problem")
    is_good = problems == ""
    batch["label"] = tf.cast(batch["label"], tf.int32)

    def tell(names, problems):
        on_damaged([name.decode() for name in names], [text.decode() for text in problems])
        return np.int32(0)

    def replaced():
        told = []
        if on_damaged:
            bad = tf.logical_not(is_good)
            arguments = [tf.boolean_mask(batch["name"], bad), tf.boolean_mask(problems, bad)]
            told.append(tf.numpy_function(tell, arguments, tf.int32))
        with tf.control_dependencies(told):
            places = tf.range(tf.size(is_good))
            first_good = tf.argmax(tf.cast(is_good, tf.int32), output_type=tf.int32)
            chosen = tf.where(is_good, places, first_good)
            return {key: tf.gather(values, chosen) for key, values in batch.items()}

    shapes = {key: values.shape for key, values in batch.items()}
    batch = tf.cond(tf.reduce_all(is_good), lambda: dict(batch), replaced)
    return {key: tf.ensure_shape(values, shapes[key]) for key, values in batch.items()}


def _decode(record: dict[str, tf.Tensor], info: records.DatasetInfo) -> transforms.Example:
    image = transforms.decode(record["image_bytes"])
    label = tf.io.decode_png(record["label_bytes"], channels=1)[..., 0]
    largest = tf.reduce_max(tf.where(label == info.ignore_label, tf.zeros_like(label), label))
    with tf.control_dependencies(
        [
            _check(
                tf.reduce_all(tf.shape(image)[:2] == tf.shape(label)),
                record["name"],
                "image and label differ in size. Build the records again from pairs of one size.",
            ),
            _check(
                tf.cast(largest, tf.int32) < info.num_classes,
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
