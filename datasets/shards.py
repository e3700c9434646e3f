"""Writes the shards of a dataset in parallel, so that a build that was cut off goes on.

While a dataset is built it lies in `<version>.incomplete/` beside its final folder, where no reader
looks. Every shard there is written under another name first, and has a file beside it that tells
what it was made of: by that, the next build knows whether to keep it.
"""

import collections
import concurrent.futures
import dataclasses
import datetime
import hashlib
import inspect
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import tensorflow as tf
import tensorflow_datasets as tfds

from deeplab_tf.data import label_files
from deeplab_tf.datasets import segmentation
from deeplab_tf.errors import UserError

_PARTIAL = ".partial"
_STATE = ".json"
_AHEAD = 4  # examples that wait per worker
_SECONDS_PER_LINE = 60.0  # of progress, where the output is no terminal


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file of records, and what goes into it."""

    split: str
    path: pathlib.Path  # in the incomplete folder
    pairs: list[segmentation.Pair]
    fingerprint: str

    @property
    def state_path(self) -> pathlib.Path:
        return self.path.with_name(self.path.name + _STATE)

    def num_bytes_if_finished(self) -> int | None:
        """Returns the bytes of its examples, or None if it has to be written (again)."""
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = state["fingerprint"] == self.fingerprint and self.path.exists()
        return state["num_bytes"] if same else None

    def write(self, examples: Iterable[bytes]) -> int:
        """Writes serialized examples and returns their bytes; nothing bears its name before."""
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}{_PARTIAL}")
        num_bytes = 0
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for example in examples:
                writer.write(example)
                num_bytes += len(example)
        state = {"fingerprint": self.fingerprint, "num_bytes": num_bytes}
        self.state_path.write_text(json.dumps(state), encoding="utf-8")
        partial.rename(self.path)  # last: what has its name is whole, and its state is there
        return num_bytes


def write_shards(
    builder: segmentation.SegmentationBuilder,
    pairs: dict[str, list[segmentation.Pair]],
    num_shards: int,
    num_workers: int | None = None,
) -> None:
    """Writes the records of a dataset to `builder.data_path`, which is not there before all is.

    Images are mixed by a hash of their names. They are read and checked by threads (what takes
    the time, decoding and compressing, leaves Python's lock), and written one shard after another,
    so that not more than one is lost when the build is cut off.

    Args:
        builder: After `find_pairs`.
        pairs: By split.
        num_shards: Files per split; fewer where a split has fewer images.
        num_workers: Threads; by default as many as there are CPU cores.

    Raises:
        UserError: An image or label is no good, or the folder cannot be written.
    """
    folder = pathlib.Path(builder.data_path)
    incomplete = folder.with_name(folder.name + ".incomplete")
    num_workers = num_workers or os.cpu_count()
    finished: dict[pathlib.Path, int] = {}
    shards = []
    try:
        incomplete.mkdir(parents=True, exist_ok=True)
        shards = _plan(builder, pairs, num_shards, incomplete)
        for shard in shards:
            num_bytes = shard.num_bytes_if_finished()
            if num_bytes is not None:
                finished[shard.path] = num_bytes
        _remove_all_but(incomplete, finished)
        if finished:
            print(f"Going on: {len(finished)} of {len(shards)} shards are there already")
        progress = _Progress(
            total=sum(len(shard.pairs) for shard in shards),
            kept=sum(len(shard.pairs) for shard in shards if shard.path in finished),
        )
        with progress, concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
            for shard in shards:
                if shard.path not in finished:
                    examples = _map_in_order(
                        pool,
                        lambda pair: _serialize(builder, pair),
                        shard.pairs,
                        ahead=_AHEAD * num_workers,
                    )
                    finished[shard.path] = shard.write(progress.count(examples))
        _write_info(builder, shards, finished, incomplete)
        for shard in shards:
            shard.state_path.unlink()
        incomplete.rename(folder)
    except (OSError, tf.errors.OpError) as error:  # of writing; those of reading are UserErrors
        raise UserError(
            f"cannot write to {incomplete}: {_reason(error)}. {len(finished)} of {len(shards)} "
            "shards are finished and kept: make room, or make the folder writable, and run the "
            "same command again"
        ) from error


def _plan(
    builder: segmentation.SegmentationBuilder,
    pairs: dict[str, list[segmentation.Pair]],
    num_shards: int,
    folder: pathlib.Path,
) -> list[_Shard]:
    """Deals the pairs out to shards."""
    common = builder.fingerprint() + _code(builder)
    shards = []
    for split, listed in pairs.items():
        # Sorted sources are often sorted by scene or class: a hash mixes them, always in one way.
        mixed = sorted(listed, key=lambda pair: hashlib.sha256(pair.name.encode()).digest())
        template = builder._get_filename_template(split).replace(data_dir=folder)
        count = min(num_shards, len(mixed))
        for index in range(count):
            part = mixed[index * len(mixed) // count : (index + 1) * len(mixed) // count]
            path = pathlib.Path(template.sharded_filepath(shard_index=index, num_shards=count))
            shards.append(_Shard(split, path, part, _fingerprint(common, part)))
    return shards


def _fingerprint(common: str, pairs: list[segmentation.Pair]) -> str:
    """Returns a hash of what a shard is made of; files count by their size and time."""
    digest = hashlib.sha256(common.encode())
    for pair in pairs:
        digest.update(repr(pair).encode())
        for path in pair.sources():
            if path.exists():  # that one is missing is told when it is read
                status = path.stat()
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _code(builder: segmentation.SegmentationBuilder) -> str:
    """Returns the source of the modules that make records."""
    own = pathlib.Path(inspect.getfile(type(builder))).parent.glob("*.py")
    readers = pathlib.Path(label_files.__file__).parent.rglob("*.py")
    modules = [*sorted(own), segmentation.__file__, *sorted(readers)]
    return "".join(pathlib.Path(path).read_text(encoding="utf-8") for path in modules)


def _remove_all_but(folder: pathlib.Path, finished: Iterable[pathlib.Path]) -> None:
    kept = {name for path in finished for name in (path.name, path.name + _STATE)}
    for path in folder.iterdir():
        if path.name in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _serialize(builder: segmentation.SegmentationBuilder, pair: segmentation.Pair) -> bytes:
    """Returns a serialized `tf.train.Example`."""
    try:
        example = builder.read_example(pair)
    except UserError as error:
        raise UserError(
            f"{error}\nTo see everything that is wrong at once: {builder.check_command(pair)}"
        ) from error
    serialized = builder.info.features.serialize_example(example)
    # TFDS leaves the keys in an order that changes from run to run; so that the same images give
    # the same bytes, they are sorted.
    return tf.train.Example.FromString(serialized).SerializeToString(deterministic=True)


def _map_in_order(
    pool: concurrent.futures.Executor, function: Callable, items: Iterable, ahead: int
) -> Iterator:
    """Yields the results in the order of the items, and works on no more than `ahead` of them."""
    pending = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _write_info(
    builder: segmentation.SegmentationBuilder,
    shards: list[_Shard],
    num_bytes: dict[pathlib.Path, int],
    folder: pathlib.Path,
) -> None:
    """Writes what `tfds.builder_from_directory` reads."""
    splits = []
    for split in dict.fromkeys(shard.split for shard in shards):
        own = [shard for shard in shards if shard.split == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(shard.pairs) for shard in own],
                num_bytes=sum(num_bytes[shard.path] for shard in own),
                filename_template=builder._get_filename_template(split),
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.download_size = 0
    builder.info.write_to_directory(folder)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)


class _Progress:
    """Tells how far a build is: a line that is kept up to date, or a rare one in a log file.

    Args:
        total: Images of the dataset.
        kept: Images in shards of an earlier build.
    """

    def __init__(self, total: int, kept: int):
        self._total = total
        self._kept = kept
        self._done = kept
        self._start = time.monotonic()
        self._is_terminal = sys.stdout.isatty()
        self._period = 0.5 if self._is_terminal else _SECONDS_PER_LINE  # seconds
        self._next_line = self._start + self._period

    def count(self, examples: Iterable) -> Iterator:
        """Passes examples on and counts them."""
        for example in examples:
            yield example
            self._done += 1
            if time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + self._period
                self._print()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception) -> None:
        if self._is_terminal:  # what is printed next, be it an error, gets a line of its own
            self._print()
            print()

    def _print(self) -> None:
        rate = (self._done - self._kept) / max(time.monotonic() - self._start, 1e-9)
        left = datetime.timedelta(seconds=round((self._total - self._done) / max(rate, 1e-9)))
        line = f"{self._done}/{self._total} images  {rate:.0f}/s  {left} left"
        if self._is_terminal:
            print(f"\r{line:<60}", end="", flush=True)
        else:
            print(line, flush=True)
