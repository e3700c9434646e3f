"""Writes the shards of a dataset in parallel, so that a build that was interrupted can resume.

Threads of this process read the images of a shard; or Apache Beam gives whole shards to workers on
other machines. Both write the same bytes.

While a dataset is built it lies in `<version>.incomplete/` beside its final folder, where no reader
looks. Every shard there appears when it is complete, and has a file beside it with the fingerprint
of its sources, by which the next build decides whether to keep it. In remote storage, whose folders
may appear file by file, `dataset_info.json` is the last file of a complete folder.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_datasets as tfds

from deeplab_tf import files
from deeplab_tf.data import label_files
from deeplab_tf.data.problems import ERROR
from deeplab_tf.data_report import findings
from deeplab_tf.data_report.images import count_ids
from deeplab_tf.data_report.statistics import SplitStatistics
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets.progress import Progress
from deeplab_tf.datasets.source_files import Pair
from deeplab_tf.errors import UserError

_INFO = "dataset_info.json"
_STATE = ".json"
_AHEAD = 4  # examples that wait per worker


@dataclasses.dataclass(frozen=True)
class _Written:
    """What a finished shard holds.

    Attributes:
        fingerprint: Hash of its sources.
        num_bytes: Of its examples.
        pixels_by_id: Of every label, by class id.
    """

    fingerprint: str
    num_bytes: int
    pixels_by_id: list[dict[int, int]]


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file of records, and what goes into it."""

    split: str
    path: pathlib.Path  # in the incomplete folder
    pairs: list[Pair]
    fingerprint: str

    @property
    def state_path(self) -> pathlib.Path:
        return self.path.with_name(self.path.name + _STATE)

    def read_if_finished(self) -> _Written | None:
        """Returns what it holds, or None if it has to be written (again)."""
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            written = _Written(
                state["fingerprint"],
                state["num_bytes"],
                [{int(i): count for i, count in label.items()} for label in state["pixels_by_id"]],
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        is_same = written.fingerprint == self.fingerprint and self.path.exists()
        return written if is_same else None

    def write(self, examples: Iterable[tuple[bytes, dict[int, int]]]) -> _Written:
        """Writes serialized examples; nothing has its name before all are written."""
        written = _Written(self.fingerprint, 0, [])
        with files.draft_folder(self.path.parent) as folder:
            draft = folder / "shard"
            with tf.io.TFRecordWriter(str(draft)) as writer:
                for example, pixels_by_id in examples:
                    writer.write(example)
                    num_bytes = written.num_bytes + len(example)
                    written = dataclasses.replace(written, num_bytes=num_bytes)
                    written.pixels_by_id.append(pixels_by_id)
            # First: a shard that has its name is whole, and its state is there.
            files.write_json(self.state_path, dataclasses.asdict(written))
            files.publish(draft, self.path)
        return written


def is_complete(folder: pathlib.Path) -> bool:
    """Whether a folder holds the records of a build that ended."""
    return (folder / _INFO if files.is_remote(folder) else folder).exists()


def write_shards(
    builder: segmentation.SegmentationBuilder,
    folder: pathlib.Path,
    pairs: dict[str, list[Pair]],
    num_shards: int = 4,
    num_workers: int | None = None,
    beam_pipeline_options: Sequence[str] = (),
) -> None:
    """Writes the records of a dataset to a folder, which appears when all are written.

    Images are shuffled by a hash of their names. They are read and checked by threads (decoding and
    compressing, which take the time, release Python's lock), and written one shard after another,
    so that at most one is lost when the build is interrupted.

    Args:
        builder: After `find_pairs`.
        folder: The folder.
        pairs: By split.
        num_shards: Files per split; fewer where a split has fewer images.
        num_workers: Threads; by default as many as there are CPU cores.
        beam_pipeline_options: Lets Apache Beam write the shards, see `beam_pipelines.do_all`.

    Raises:
        UserError: An image or label is not fit, nothing can be learned from all of them, or the
            folder cannot be written.
    """
    incomplete = folder.with_name(folder.name + ".incomplete")
    finished: dict[pathlib.Path, _Written] = {}
    shards = []
    try:
        incomplete.mkdir(parents=True, exist_ok=True)
        shards = _plan(builder, pairs, num_shards, incomplete)
        for shard in shards:
            if written := shard.read_if_finished():
                finished[shard.path] = written
        _remove_all_but(incomplete, finished)
        if finished:
            print(f"Resuming: {len(finished)} of {len(shards)} shards are finished.")
        if beam_pipeline_options:
            _write_missing_by_beam(builder, shards, finished, beam_pipeline_options)
        else:
            _write_missing(builder, shards, finished, num_workers or os.cpu_count() or 1)
        _check_labels(builder, shards, finished)
        _write_info(builder, shards, finished, incomplete)
        for shard in shards:
            shard.state_path.unlink()
        files.move_folder(incomplete, folder, last=_INFO)
    except (OSError, tf.errors.OpError) as error:  # of writing; those of reading are UserErrors
        raise UserError(
            f"cannot write to {incomplete}: {_reason(error)}. {len(finished)} of {len(shards)} "
            "shards are finished and kept: make room, or make the folder writable, and run the "
            "same command again"
        ) from error


def _write_missing(
    builder: segmentation.SegmentationBuilder,
    shards: list[_Shard],
    finished: dict[pathlib.Path, _Written],
    num_workers: int,
) -> None:
    """Writes the shards that are not finished, and adds them to those that are."""
    progress = Progress(
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


def _write_missing_by_beam(
    builder: segmentation.SegmentationBuilder,
    shards: list[_Shard],
    finished: dict[pathlib.Path, _Written],
    options: Sequence[str],
) -> None:
    """Writes the shards that are not finished, and adds them to those that are.

    A shard with an image that is not fit does not keep the others from being written.
    """
    from deeplab_tf import beam_pipelines  # needs Apache Beam

    missing = [shard for shard in shards if shard.path not in finished]
    outcome = beam_pipelines.do_all(
        missing,
        functools.partial(_shard_writer, builder),
        folder=str(missing[0].path.parent) if missing else "",
        options=options,
    )
    for shard in missing:
        if written := shard.read_if_finished():
            finished[shard.path] = written
    if outcome.failures:
        first = outcome.failures[0]
        raise UserError(
            f"{len(outcome.failures)} of {len(shards)} shards have images or labels that are not "
            f"fit. {first.subject}: {first.reason}"
        )


def _shard_writer(builder: segmentation.SegmentationBuilder):
    """Returns a function that writes a shard, for a worker of Apache Beam."""
    from deeplab_tf import beam_pipelines

    def write(shard: _Shard) -> list[beam_pipelines.Failure | None]:
        try:
            shard.write(_serialize(builder, pair) for pair in shard.pairs)
        except UserError as error:
            return [beam_pipelines.Failure(shard.path.name, str(error))]
        return [None]

    return write


def _check_labels(
    builder: segmentation.SegmentationBuilder,
    shards: list[_Shard],
    finished: dict[pathlib.Path, _Written],
) -> None:
    """Judges the labels as a whole, as `check_data` does; prints warnings.

    Raises:
        UserError: There is an error among the findings.
    """
    info = builder.classes
    splits: dict[str, SplitStatistics] = {}
    for shard in shards:
        split = splits.setdefault(shard.split, SplitStatistics(info.num_classes, info.ignore_label))
        for pixels_by_id in finished[shard.path].pixels_by_id:
            split.num_images += 1
            split.add_label(pixels_by_id)
    found = list(findings.find_in_labels(info, splits))
    for finding in found:
        if finding.severity != ERROR:
            print(f"warning: {finding.what}. {finding.remedy}", file=sys.stderr, flush=True)
    errors = [f"{finding.what}. {finding.remedy}" for finding in found if finding.severity == ERROR]
    if errors:
        raise UserError("The labels are not fit to train: " + "\n".join(errors))


def _plan(
    builder: segmentation.SegmentationBuilder,
    pairs: dict[str, list[Pair]],
    num_shards: int,
    folder: pathlib.Path,
) -> list[_Shard]:
    """Deals the pairs out to shards."""
    common = builder.fingerprint() + _code(builder)
    shards = []
    for split, listed in pairs.items():
        # Sorted sources are often sorted by scene or class: a hash shuffles them, always alike.
        shuffled = sorted(listed, key=lambda pair: hashlib.sha256(pair.name.encode()).digest())
        template = builder.filename_template(split)
        count = min(num_shards, len(shuffled))
        for index in range(count):
            part = shuffled[index * len(shuffled) // count : (index + 1) * len(shuffled) // count]
            name = template.sharded_filepath(shard_index=index, num_shards=count).name
            shards.append(_Shard(split, folder / name, part, _fingerprint(common, part)))
    return shards


def _fingerprint(common: str, pairs: list[Pair]) -> str:
    """Returns a hash of the sources of a shard; files count by their size and time."""
    digest = hashlib.sha256(common.encode())
    for pair in pairs:
        digest.update(repr(pair).encode())
        for path in pair.sources():
            if path.exists():  # a missing one is an error when it is read
                status = path.stat()
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _code(builder: segmentation.SegmentationBuilder) -> str:
    """Returns the source of the modules that make records."""
    own = pathlib.Path(inspect.getfile(type(builder))).parent.glob("*.py")
    readers = pathlib.Path(label_files.__file__).parent.rglob("*.py")
    modules = [*sorted(own), pathlib.Path(segmentation.__file__), *sorted(readers)]
    return "".join(path.read_text(encoding="utf-8") for path in modules)


def _remove_all_but(folder: pathlib.Path, finished: Iterable[pathlib.Path]) -> None:
    kept = {name for path in finished for name in (path.name, path.name + _STATE)}
    # Object stores have no empty folders.
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in kept:
            continue
        if path.is_dir():
            files.remove_folder(path)
        else:
            path.unlink()


def _serialize(
    builder: segmentation.SegmentationBuilder, pair: Pair
) -> tuple[bytes, dict[int, int]]:
    """Returns a serialized `tf.train.Example`, and the pixels of every id in its label."""
    try:
        image, label = builder.read_pair(pair)
    except UserError as error:
        command = builder.check_command(pair)
        hint = f"\nTo list all problems at once: {command}" if command else ""
        raise UserError(f"{error}{hint}") from error
    example = segmentation.encode_example(pair.name, image, label)
    serialized = builder.info.features.serialize_example(example)
    # TFDS leaves the keys in an order that changes from run to run; so that the same images give
    # the same bytes, they are sorted.
    ordered = tf.train.Example.FromString(serialized).SerializeToString(deterministic=True)
    return ordered, count_ids(label)


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
    finished: dict[pathlib.Path, _Written],
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
                num_bytes=sum(finished[shard.path].num_bytes for shard in own),
                filename_template=builder.filename_template(split),
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.download_size = 0
    with files.draft_folder(folder) as draft:
        builder.info.write_to_directory(draft)
        for path in sorted(draft.iterdir(), key=lambda path: path.name == _INFO):
            files.publish(path, folder / path.name)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
