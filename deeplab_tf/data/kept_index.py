"""The file that keeps what is known of the shards of a split.

It lies beside the shards as `.SPLIT.index.npz`, or in the user's cache folder where that cannot be
written. It is valid as long as no shard has another size or time.
"""

import hashlib
import os
import pathlib
import typing
from collections.abc import Sequence

import numpy as np

from deeplab_tf import files
from deeplab_tf.data.threads import map_in_threads


def read(shards: Sequence[str], split: str, *names: str) -> dict[str, np.ndarray] | None:
    """Returns arrays that are kept for the shards as they are now; None if there are none."""
    state = _state(shards)
    for path in _places(shards, split):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                if all(np.array_equal(kept[name], value) for name, value in state.items()):
                    return {name: kept[name] for name in names}
        except Exception:  # of many kinds: there is none, or it is damaged. It is made again.
            continue
    return None


def write(shards: Sequence[str], split: str, **arrays: np.ndarray) -> None:
    """Keeps arrays, where there is a place for them."""
    content: dict[str, typing.Any] = {**_state(shards), **arrays}  # as NumPy's stubs want it
    for path in _places(shards, split):
        try:
            with files.replacing(path) as draft:
                np.savez(draft, **content)
            return
        except OSError:
            continue


def _state(shards: Sequence[str]) -> dict[str, np.ndarray]:
    return {
        "names": np.array([os.path.basename(shard) for shard in shards]),
        "sizes_and_times": np.array(list(map_in_threads(_size_and_time, shards)), np.int64),
    }


def _size_and_time(shard: str) -> tuple[int, int]:
    status = files.as_path(shard).stat()
    return status.st_size, status.st_mtime_ns


def _places(shards: Sequence[str], split: str) -> list[pathlib.Path]:
    beside = _beside(shards, split)
    key = hashlib.sha256(files.absolute(beside).encode()).hexdigest()[:32]
    return [beside, files.cache_folder() / "indices" / f"{key}.npz"]


def _beside(shards: Sequence[str], split: str) -> pathlib.Path:
    return files.as_path(shards[0]).parent / f".{split}.index.npz"
