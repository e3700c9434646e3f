"""Where every record of a split lies, so that any of them is read without those before it.

The index of a split is made once, from the headers of its shards, and kept beside them as
`.SPLIT.index.npz`, or in the user's cache folder where that cannot be written. It is made again
when a shard has another size or time.
"""

import functools
import hashlib
import os
import pathlib
import threading
import typing
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf import files
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
    own: dict[str, typing.Any] = {
        "names": np.array([os.path.basename(shard) for shard in shards]),
        "lengths": np.array(lengths, np.int64),
        "sizes_and_times": np.array(list(map_in_threads(_size_and_time, shards)), np.int64),
    }
    places = [_beside(source, split), _in_cache(source, split)]
    for path in places:
        bounds = _read(path, own)
        if bounds is not None:
            return bounds
    pairs = zip(shards, lengths, strict=True)
    bounds = np.concatenate(list(map_in_threads(lambda pair: _bounds_of_shard(*pair), pairs)))
    for path in places:
        try:
            with files.replacing(path) as draft:
                np.savez(draft, bounds=bounds, **own)
            break
        except OSError:
            continue  # only this process has it then
    return bounds


def _bounds_of_shard(shard: str, length: int) -> np.ndarray:
    """The bounds of as many records as a shard should hold; lost ones have none between."""
    found, _ = shard_files.record_bounds(shard)
    found = found[: length + 1]
    return np.pad(found, (0, length + 1 - len(found)), mode="edge")


def _read(path: pathlib.Path, own: dict[str, np.ndarray]) -> np.ndarray | None:
    """Returns the bounds that a file keeps, if they are those of the shards as they are now."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if all(np.array_equal(kept[name], value) for name, value in own.items()):
                bounds = kept["bounds"]
                count = int((own["lengths"] + 1).sum())
                return bounds if bounds.shape == (count,) and bounds.dtype == np.int64 else None
    except Exception:  # of many kinds: there is none, or it is damaged. It is made again.
        pass
    return None


def _size_and_time(shard: str) -> tuple[int, int]:
    status = files.as_path(shard).stat()
    return status.st_size, status.st_mtime_ns


def _beside(source: Records, split: str) -> pathlib.Path:
    return files.as_path(source.shards(split)[0]).parent / f".{split}.index.npz"


def _in_cache(source: Records, split: str) -> pathlib.Path:
    place = files.absolute(_beside(source, split))
    return (
        files.cache_folder() / "indices" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.npz"
    )
