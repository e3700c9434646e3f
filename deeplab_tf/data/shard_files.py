"""Shards: the TFRecord files of a split, found by name, counted, and checked to be complete."""

import array
import filecmp
import math
import os
import pathlib
import re
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from deeplab_tf import files
from deeplab_tf.data.threads import map_in_threads
from deeplab_tf.errors import UserError

# Both `train-00000-of-00004.tfrecord` (DeepLab) and `name-train.tfrecord-00000-of-00004` (TFDS).
_SHARD = re.compile(
    r"(?P<split>[^.].*?)(\.tfrecord)?-(?P<index>\d{5})-of-(?P<count>\d{5})(\.tfrecord)?"
)
_FRAME = 16  # bytes around every record: its length (8), and checksums of that and of it (4 each)
_COMPRESSED = {b"\x1f\x8b": "GZIP", b"\x78\x01": "ZLIB", b"\x78\x9c": "ZLIB", b"\x78\xda": "ZLIB"}
_AGAIN = "Copy or build the records again."


def is_shard(path: str) -> bool:
    """Whether the name of a file is that of a shard.

    >>> is_shard("records/train-00000-of-00004.tfrecord"), is_shard("photos/cat.jpg")
    (True, False)
    """
    name = os.path.basename(path)
    return name.endswith(".tfrecord") or bool(_SHARD.fullmatch(name))


def find_bare_shards(folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns the shards by split; what stands before `-00000-of-00010` is taken for the split.

    Raises:
        UserError: Some of them are missing, or a split is there in two numbers of shards.
    """
    shard_paths: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        match = _SHARD.fullmatch(file.name)
        if not match:
            continue
        count = int(match["count"])
        paths = [
            str(
                file.with_name(
                    file.name.replace(
                        f"{match['index']}-of-{match['count']}", f"{index:05d}-of-{count:05d}"
                    )
                )
            )
            for index in range(count)
        ]
        if shard_paths.setdefault(match["split"], paths) != paths:
            raise UserError(
                f"{folder} has two sets of shards of the split {match['split']!r}: {file.name}, "
                f"and {os.path.basename(shard_paths[match['split']][0])} and its like. Remove one."
            )
    for paths in shard_paths.values():
        check_all_exist(paths)
    return shard_paths


def check_all_exist(shards: Sequence[str]) -> None:
    """Raises a `UserError` that names a shard which is missing."""
    are_there = map_in_threads(lambda shard: files.as_path(shard).exists(), shards)
    missing = [shard for shard, is_there in zip(shards, are_there, strict=True) if not is_there]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(shards)} shards are missing, {missing[0]} for one. {_AGAIN}"
        )


def count_records(shard: str) -> int:
    """Counts the records of a TFRecord file by their headers; no image is read.

    Raises:
        UserError: The file ends in the middle of a record, is compressed, or cannot be read.
    """
    bounds, size = record_bounds(shard)
    if bounds[-1] != size:
        raise _unreadable(shard, len(bounds) - 1)
    return len(bounds) - 1


def record_bounds(shard: str) -> tuple[np.ndarray, int]:
    """Finds the records of a TFRecord file by their headers, which takes microseconds for each.

    Returns:
        The byte at which each whole record begins, and that at which the last one ends, int64
        [N + 1]; and the size of the file.

    Raises:
        UserError: The file cannot be read.
    """
    position, bounds = 0, array.array("q", [0])
    try:
        path = files.as_path(shard)
        size = path.stat().st_size
        with path.open("rb") as file:
            while position < size:
                file.seek(position)
                position += _FRAME + int.from_bytes(file.read(8), "little")
                if position > size:
                    break
                bounds.append(position)
    except OSError as error:
        raise UserError(f"{shard} cannot be read: {error.strerror or error}.") from error
    return np.array(bounds, np.int64), size


def check_lengths(
    shards: Sequence[str], lengths: Sequence[int], num_bytes: int | None, stated_in: str
) -> None:
    """Checks that the shards of a split hold what their description says.

    Where the number of bytes agrees with the files, nothing is read.

    Args:
        shards: The files.
        lengths: Stated number of records of each.
        num_bytes: Stated bytes of all records, without what a file adds to each; None if it is not
          stated.
        stated_in: Name of the description.

    Raises:
        UserError: A shard holds more or fewer records, or is a copy of another one.
    """
    check_all_exist(shards)
    sizes = list(map_in_threads(lambda shard: files.as_path(shard).stat().st_size, shards))
    if num_bytes is not None and sum(sizes) == num_bytes + _FRAME * sum(lengths):
        return
    for shard, length in zip(shards, lengths, strict=True):
        found = count_records(shard)
        if found != length:
            raise UserError(
                f"{shard} holds {found} records, but {stated_in} says {length}. {_AGAIN}"
            )
    first_of_size: dict[int, str] = {}
    for shard, size in zip(shards, sizes, strict=True):
        first = first_of_size.setdefault(size, shard)
        if num_bytes is not None and shard != first and _are_equal(shard, first):
            raise UserError(f"{shard} is a copy of {first}. {_AGAIN}")


def check_empty_shards(lengths: Mapping[str, int]) -> None:
    """Checks that bare shards without a record are so by division, not by loss.

    The original's converters put ceil(N / shards) records into each, so that the last may be empty.

    Args:
        lengths: Number of records of every shard of a split.

    Raises:
        UserError: A shard is empty that should not be.
    """
    counts = list(lengths.values())
    total = sum(counts)
    each = math.ceil(total / len(counts))
    divided = [min(each, max(0, total - each * index)) for index in range(len(counts))]
    if 0 in counts and counts != divided:
        empty = next(shard for shard, count in lengths.items() if not count)
        raise UserError(
            f"{empty} holds no record, while other shards of its split hold up to {max(counts)}. "
            f"{_AGAIN}"
        )


def _are_equal(shard: str, other: str) -> bool:
    with files.local_copy(shard) as one, files.local_copy(other) as two:
        return filecmp.cmp(one, two, shallow=False)


def _unreadable(shard: str, num_whole: int) -> UserError:
    with files.as_path(shard).open("rb") as file:
        kind = _COMPRESSED.get(file.read(2))
    if kind and not num_whole:
        unpack = "gunzip < SHARD > NEW" if kind == "GZIP" else "pigz -dz < SHARD > NEW"
        return UserError(
            f"{shard} is compressed ({kind}); records are read uncompressed. Unpack every shard "
            f"({unpack}), or write them without compression."
        )
    return UserError(
        f"{shard} is cut off after {num_whole} whole records, or is not a TFRecord file. {_AGAIN}"
    )
