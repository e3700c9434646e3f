"""Where every record of a split lies, so that any of them is read without those before it.

The index of a split is made once, from the headers of its shards, and kept (see `kept_index`).
"""

import functools
import os
import threading
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf import files
from deeplab_tf.data import kept_index
from deeplab_tf.data import shard_files
from deeplab_tf.data.records import Records
from deeplab_tf.data.threads import map_in_threads

_MAX_OPEN_SHARDS = 128


class RecordIndex:
    """The records of one or several splits, numbered from 0; reads any of them.

    Args:
        shards: The files.
        lengths: How many records each should hold. Those that it lacks are lost.
        bounds: For each shard, the byte at which each record begins, and that at which the last
            one ends: int64 [sum of (length + 1)]. A lost record ends where it begins.
    """

    def __init__(self, shards: Sequence[str], lengths: Sequence[int], bounds: np.ndarray):
        # Absolute, because the workers of a data service have a working directory of their own.
        self._shards = [files.absolute(shard) for shard in shards]
        self._first = np.cumsum([0, *lengths], dtype=np.int64)
        self._bounds = bounds
        self._opened = functools.lru_cache(_MAX_OPEN_SHARDS)(_OpenShard)
        self._in_graph: _Tensors | None = None
        self._checksum = fast.load("deeplab_tf.data.checksum")

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, number: int) -> bytes:
        """Returns a serialized record; an empty text if it is lost, or its checksum is wrong."""
        shard = self._shard_of(number)
        if self._checksum is None or files.is_remote(self._shards[shard]):
            return self.read_in_graph(tf.constant(number, tf.int64)).numpy()
        start, stop = (int(bound) for bound in self._bounds[number + shard : number + shard + 2])
        try:
            framed = self._opened(self._shards[shard]).read(start, stop - start)
        except OSError:
            return b""
        serialized = framed[12:-4]
        is_whole = framed[:8] == len(serialized).to_bytes(8, "little")
        is_right = framed[-4:] == self._checksum.masked_crc32c(serialized).to_bytes(4, "little")
        return serialized if is_whole and is_right else b""

    def place_of(self, number: int) -> str:
        """Returns the place of a record as a text: `7 of train-00000-of-00004.tfrecord`."""
        shard = self._shard_of(number)
        return f"{number - self._first[shard]} of {os.path.basename(self._shards[shard])}"

    def read_in_graph(self, number: tf.Tensor) -> tf.Tensor:
        """As `read`, as a TensorFlow graph: int64 [] to string []."""
        tensors = self._tensors()
        shard = tensors.shard_of(number)
        start, stop = tensors.bounds[number + shard], tensors.bounds[number + shard + 1]
        found = tf.data.experimental.from_variant(
            tf.raw_ops.TFRecordDatasetV2(
                filenames=[tensors.shards[shard]],
                compression_type="",
                buffer_size=tf.maximum(stop - start, 1),
                byte_offsets=[start],
            ),
            tf.TensorSpec([], tf.string),
        ).ignore_errors(log_warning=False)
        lost = tf.data.Dataset.from_tensors("")
        return found.concatenate(lost).take(1).get_single_element()

    def place_in_graph(self, number: tf.Tensor) -> tf.Tensor:
        """As `place_of`, as a TensorFlow graph: int64 [] to string []."""
        tensors = self._tensors()
        shard = tensors.shard_of(number)
        place = tf.strings.as_string(number - tensors.first[shard])
        name = tf.strings.split(tensors.shards[shard], os.sep)[-1]
        return tf.strings.join([place, " of ", name])

    def _shard_of(self, number: int) -> int:
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def _tensors(self) -> "_Tensors":
        if self._in_graph is None:
            with tf.init_scope(), tf.device("/cpu:0"):
                self._in_graph = _Tensors(self._shards, self._first, self._bounds)
        return self._in_graph


class _Tensors:
    """The index as tensors."""

    def __init__(self, shards: Sequence[str], first: np.ndarray, bounds: np.ndarray):
        self.shards, self.first = tf.constant(shards), tf.constant(first)
        self.bounds = tf.constant(bounds)

    def shard_of(self, number: tf.Tensor) -> tf.Tensor:
        found = tf.searchsorted(self.first, [number], side="right", out_type=tf.int64)
        return found[0] - 1


class _OpenShard:
    """A file that is read at any place, by several threads; it is closed when nobody uses it."""

    def __init__(self, path: str):
        self._file = open(path, "rb", buffering=0)
        self._lock = threading.Lock()

    def read(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, start)
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    def __del__(self):
        self._file.close()


def of_splits(sources: Sequence[Records], split: str) -> RecordIndex:
    """Returns the index of a split of several sources, one after the other.

    Raises:
        UserError: There is no such split, or a shard cannot be read.
    """
    shards = [shard for source in sources for shard in source.shards(split)]
    lengths = [length for source in sources for length in source.shard_lengths[split]]
    bounds = np.concatenate([_bounds(source, split) for source in sources])
    return RecordIndex(shards, lengths, bounds)


def _bounds(source: Records, split: str) -> np.ndarray:
    """The bounds of `RecordIndex` for one source: those that are kept, or made and kept."""
    shards, lengths = source.shards(split), source.shard_lengths[split]
    kept = kept_index.read(shards, split, "lengths", "bounds")
    if kept and np.array_equal(kept["lengths"], lengths):
        return kept["bounds"]
    pairs = zip(shards, lengths, strict=True)
    bounds = np.concatenate(list(map_in_threads(lambda pair: _bounds_of_shard(*pair), pairs)))
    kept_index.write(shards, split, lengths=np.array(lengths, np.int64), bounds=bounds)
    return bounds


def _bounds_of_shard(shard: str, length: int) -> np.ndarray:
    """The bounds of as many records as a shard should hold; lost ones have none between."""
    found, _ = shard_files.record_bounds(shard)
    found = found[: length + 1]
    return np.pad(found, (0, length + 1 - len(found)), mode="edge")
