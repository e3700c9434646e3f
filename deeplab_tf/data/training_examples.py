"""Training examples of records: read, decoded, checked and cut, in numba or as a TensorFlow graph.

Both make the same examples of the same numbers and draws. A damaged record gives way to another of
the same source, which follows from the seed and the number of the example.
"""

import collections
import math
import weakref
from collections.abc import Callable
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import tensorflow as tf

from deeplab_tf.data import record_reading
from deeplab_tf.data import transforms
from deeplab_tf.data.decoded_cache import DecodedCache
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.record_index import RecordIndex
from deeplab_tf.data.record_order import TrainingOrder
from deeplab_tf.data.records import Records

# Damaged records in place of each other before an example stays blank.
_MAX_ATTEMPTS = 100
_ALIGNMENT = 64  # bytes; that of TensorFlow's tensors

Examples = dict[str, tf.Tensor]


class Maker:
    """Makes examples.

    Args:
        order: Which record an example is.
        index: Where the records lie.
        source: The classes, and the limits while records are read.
        crop: Cuts examples of one size.
    """

    def __init__(
        self,
        order: TrainingOrder,
        index: RecordIndex,
        source: Records,
        crop: transforms.TrainingCrop,
    ):
        self._order, self._index, self._crop = order, index, crop
        self._info, self._max_pixels = source.info, source.limits.max_image_pixels

    def in_numba(
        self, fast_crop: ModuleType, cache: DecodedCache
    ) -> Callable[[Examples], Examples]:
        """Returns a function that makes examples in one call of Python.

        Args:
            fast_crop: The module of this name.
            cache: Keeps records for later epochs.

        Returns:
            Function of a dict of `number` int64 [N] (of examples), `record` int64 [N] and `draws`
            int32 [N, crop.num_draws], that returns a dict of `number`; `image` uint8 [N, H, W, C]
            and `label` int32 [N, H, W], of the crop's size; `name` string [N]; and `damaged` string
            [N], see `split_damaged`.
        """
        crop_into, (height, width) = fast_crop.crop_into, self._crop.crop_size
        channels = self._info.num_channels
        memory = _ReusedMemory()

        def make(numbers, records, draws):
            count = len(numbers)
            images = memory.empty((count, height, width, channels), np.uint8)
            labels = memory.empty((count, height, width), np.int32)
            names, damaged = np.empty(count, object), np.empty(count, object)
            for i in range(count):
                image, label, names[i], damaged[i] = self._read(
                    int(numbers[i]), int(records[i]), cache
                )
                if image is None:
                    images[i], labels[i] = self._blank()
                else:
                    crop_into(image, label, draws[i], self._crop, images[i], labels[i])
            return images, labels, names, damaged

        def make_examples(examples):
            image, label, name, damaged = tf.numpy_function(
                make,
                [examples["number"], examples["record"], examples["draws"]],
                [tf.uint8, tf.int32, tf.string, tf.string],
                stateful=False,
            )
            (count,) = examples["number"].shape
            return {
                "number": examples["number"],
                "image": tf.ensure_shape(image, [count, height, width, channels]),
                "label": tf.ensure_shape(label, [count, height, width]),
                "name": tf.ensure_shape(name, [count]),
                "damaged": tf.ensure_shape(damaged, [count]),
            }

        return make_examples

    def _read(self, number: int, record: int, cache: DecodedCache):
        """Reads the record of an example; returns image, label, name and what was damaged."""
        damaged = ""
        for attempt in range(_MAX_ATTEMPTS):
            if attempt:
                record = int(self._order.records(tf.constant([number], tf.int64), attempt)[0])
            try:
                name, image, label = self._decoded(record, cache)
            except DataProblem as problem:
                damaged += _line(problem.name or self._index.place_of(record), problem.of_record)
                continue
            name = name or self._index.place_of(record)
            return image, label, name.encode(), damaged.encode()
        return None, None, b"", damaged.encode()

    def _decoded(self, record: int, cache: DecodedCache) -> record_reading.DecodedRecord:
        """Returns a record that is kept, or reads it."""
        decoded = cache.get(record)
        if decoded is None:
            serialized = self._index.read(record)
            decoded = record_reading.read_record(serialized, self._info, self._max_pixels)
            cache.add(record, decoded)
        return decoded

    def in_graph(self) -> Callable[[Examples], Examples]:
        """Returns the same function as a TensorFlow graph that can run anywhere, for N = 1.

        Its labels are uint8, which a service sends in a quarter of the time.
        """

        def make_examples(examples):
            number, record, draws = examples["number"], examples["record"][0], examples["draws"][0]

            def try_again(_, attempt, __, damaged):
                tried = tf.cond(
                    attempt == 0, lambda: record, lambda: self._order.records(number, attempt)[0]
                )
                example = self._try_in_graph(tried, draws)
                problem = example.pop("problem")
                line = tf.strings.join([example["name"], "\t", problem, "\n"])
                is_damaged = problem != ""
                example["name"] = tf.where(is_damaged, "", example["name"])
                return (
                    is_damaged, attempt + 1, example,
                    tf.strings.join([damaged, tf.where(is_damaged, line, "")]),
                )  # fmt: skip

            _, _, example, damaged = tf.while_loop(
                lambda is_damaged, attempt, *_: is_damaged & (attempt < _MAX_ATTEMPTS),
                try_again,
                (True, 0, self._blank_in_graph() | {"name": ""}, ""),
            )
            example |= {"damaged": damaged, "number": number[0]}
            return {key: value[tf.newaxis] for key, value in example.items()}

        return make_examples

    def _try_in_graph(self, record: tf.Tensor, draws: tf.Tensor) -> Examples:
        """Returns `image`, `label`, `name` and `problem`, which is empty where there is none."""
        place = self._index.place_in_graph(record)
        blank = self._blank_in_graph()

        def example(serialized, draws):
            example, name, problem = self._cut_in_graph(serialized, draws)
            return example | {"name": tf.where(name == "", place, name), "problem": problem}

        def named(serialized, _):
            name = record_reading.parse_name_in_graph(serialized)
            problem = "it cannot be parsed, or its image or label be decoded"
            return blank | {"name": tf.where(name == "", place, name), "problem": problem}

        def unnamed(*_):
            return blank | {"name": place, "problem": "it is lost, or is not a tf.train.Example"}

        # A graph cannot catch an error; a dataset of one element can leave it out.
        one = tf.data.Dataset.from_tensors((self._index.read_in_graph(record), draws))
        first, second, last = (
            one.map(make).ignore_errors(log_warning=False) for make in (example, named, unnamed)
        )
        return first.concatenate(second).concatenate(last).take(1).get_single_element()

    def _cut_in_graph(self, serialized: tf.Tensor, draws: tf.Tensor):
        """Returns image and label, name, and what is wrong."""
        info = self._info
        parsed = record_reading.parse_record_in_graph(serialized)
        problem = record_reading.header_problem_in_graph(
            parsed, self._max_pixels, info.num_channels
        )

        def decode_and_crop():
            example, problem = record_reading.decode_record_in_graph(parsed, info)
            return tf.cond(
                problem == "", lambda: self._crop(example, draws), self._blank_in_graph
            ), problem

        example, problem = tf.cond(
            problem == "", decode_and_crop, lambda: (self._blank_in_graph(), problem)
        )
        return example, parsed["name"], problem

    def _blank_in_graph(self) -> Examples:
        return dict(zip(("image", "label"), map(tf.constant, self._blank())))

    def _blank(self) -> tuple[np.ndarray, np.ndarray]:
        """An image and a label that count nowhere."""
        crop = self._crop
        return (
            np.full((*crop.crop_size, len(crop.pad_color)), crop.pad_color, np.uint8),
            np.full(crop.crop_size, crop.ignore_label, np.uint8),
        )


class _ReusedMemory:
    """Makes arrays in the memory of arrays that nobody uses any more.

    Fresh memory would cost a page fault for every 4 KiB, which takes longer than to write them.
    """

    def __init__(self):
        self._unused: dict[int, list[np.ndarray]] = collections.defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Returns an array that TensorFlow takes without copying it."""
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        unused = self._unused[num_bytes]
        try:
            memory = unused.pop()
        except IndexError:
            memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        array = memory[start : start + num_bytes].view(dtype).reshape(shape)
        weakref.finalize(array, unused.append, memory).atexit = False
        return array


def split_damaged(texts: Sequence[bytes]) -> tuple[list[str], list[str]]:
    """Returns the names and problems of damaged records, of the `damaged` of some examples."""
    lines = [line for text in texts for line in text.decode().splitlines()]
    names, _, problems = zip(*(line.partition("\t") for line in lines))
    return list(names), list(problems)


def _line(name: str, problem: str) -> str:
    return f"{name}\t{' '.join(problem.split())}\n"
