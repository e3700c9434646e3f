"""What an evaluation counts: added up over workers, and kept so that it resumes after a kill."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterator

import filelock
import numpy as np

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_lock

_SECONDS_BETWEEN_SAVES = 10.0


@dataclasses.dataclass
class Tally:
    """What has been counted in the images that a worker has seen.

    Attributes:
        num_read: Records that were read, of those that this worker reads.
        num_images: Images that were evaluated; fewer where records are damaged.
        sums: Counts by name, int64. They are changed in place.
        damaged: What is wrong with damaged records, by name.
    """

    num_read: int = 0
    num_images: int = 0
    sums: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict:
        sums = {name: counts.tolist() for name, counts in self.sums.items()}
        return vars(self) | {"sums": sums}

    def load(self, *parts: dict) -> None:
        """Takes the counts of one or several tallies in the form of `to_json`, added up."""
        self.num_read = sum(part["num_read"] for part in parts)
        self.num_images = sum(part["num_images"] for part in parts)
        self.damaged = {name: text for part in parts for name, text in part["damaged"].items()}
        for name, counts in self.sums.items():
            counts[...] = sum(np.array(part["sums"][name], np.int64) for part in parts)

    def join_workers(self) -> None:
        """Adds up the counts of all workers; every worker has to call this."""
        if distribution.num_workers() > 1:
            texts = distribution.texts_of_all_workers(json.dumps(self.to_json()))
            self.load(*map(json.loads, texts))


class Journal:
    """Keeps a tally, and a line for each image, while an evaluation runs.

    A process that is killed leaves them; the next evaluation with the same settings begins there.
    Evaluations with other settings have files of their own, and may run at the same time.

    Args:
        folder: Local folder for the files, which is made.
        settings: What the counts depend on, for JSON.

    Raises:
        OSError: The files cannot be written.
        UserError: Another process evaluates with the same settings.
    """

    def __init__(self, folder: pathlib.Path, settings: dict):
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"{digest}-{distribution.worker_index()}-of-{distribution.num_workers()}"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(folder / f"{name}.lock", timeout=0)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise UserError(
                f"Another process evaluates with the same settings, and counts in {folder}: wait "
                "until it has ended."
            ) from error
        except OSError as error:
            if error.errno not in run_lock.NO_LOCKS:
                raise
        self._state_path, lines_path = folder / f"{name}.json", folder / f"{name}.jsonl"
        self._settings = json.loads(text)
        lines_path.touch()
        self._lines = lines_path.open("r+b")
        self._saved = time.monotonic()

    def resume(self, tally: Tally) -> bool:
        """Gives a tally the counts that were kept, if there are any; returns whether there are."""
        state = self._read()
        if state:
            tally.load(state["tally"])
        self._lines.seek(state["num_bytes"] if state else 0)
        self._lines.truncate()
        return bool(state)

    def add(self, line: dict) -> None:
        """Keeps the line of an image."""
        self._lines.write(json.dumps(line).encode() + b"\n")

    def save_if_due(self, tally: Tally) -> None:
        """Keeps a tally, and the lines so far, every ten seconds."""
        if time.monotonic() < self._saved + _SECONDS_BETWEEN_SAVES:
            return
        self._lines.flush()
        os.fsync(self._lines.fileno())
        state = {
            "settings": self._settings,
            "num_bytes": self._lines.tell(),
            "tally": tally.to_json(),
        }
        files.write_json(self._state_path, state)
        self._saved = time.monotonic()

    def lines_of_all_workers(self) -> Iterator[dict]:
        """Yields the lines of all images, by their `number`; every worker has to call this."""
        self._lines.seek(0)
        if distribution.num_workers() == 1:
            yield from map(json.loads, self._lines)
            return
        texts = distribution.texts_of_all_workers(self._lines.read().decode())
        lines = [json.loads(line) for text in texts for line in text.splitlines()]
        yield from sorted(lines, key=lambda line: line["number"])

    def remove(self) -> None:
        """Deletes the files."""
        self.close()
        for path in (self._state_path, pathlib.Path(self._lines.name)):
            path.unlink(missing_ok=True)
        pathlib.Path(self._lock.lock_file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other evaluations have files there
            self._state_path.parent.rmdir()

    def close(self) -> None:
        self._lines.close()
        self._lock.release()

    def _read(self) -> dict | None:
        """Returns the state that was kept; None if it is not whole, or of other settings."""
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
            num_bytes = os.fstat(self._lines.fileno()).st_size
            is_fit = state["settings"] == self._settings and state["num_bytes"] <= num_bytes
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return state if is_fit else None
