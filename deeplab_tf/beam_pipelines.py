"""Work that Apache Beam spreads over many machines.

The work is a list of items. A worker does an item as a whole, and may have to do it again: runners
repeat what failed, and may let two workers do the same. So an item must be done in a way that
repeating it changes nothing, as files are that appear whole under a name of their own.

The items are read from a file. In the description of the pipeline, which runners limit to some
megabytes, there would be no room for them.
"""

import contextlib
import dataclasses
import json
import pathlib
import pickle
import uuid
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.errors import extra_for

with extra_for("--beam_pipeline_options", extra="beam"):
    import apache_beam as beam
    from apache_beam.options import pipeline_options

_FAILED = "failed"  # the side output


@dataclasses.dataclass(frozen=True)
class Failure:
    """What could not be done, however often it is repeated.

    Attributes:
        subject: What it is: an image, a record, a shard.
        reason: Why, as a sentence for the user.
    """

    subject: str
    reason: str


# Does an item; returns for each part of it, such as an image, a failure, or None where all is well.
Do = Callable[[Any], Iterable[Failure | None]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the work.

    Attributes:
        num_done: Number of parts of the items that were done.
        failures: The parts that could not be done.
    """

    num_done: int
    failures: list[Failure]


def do_all(
    items: Iterable[Any], start: Callable[[], Do], *, folder: str, options: Sequence[str]
) -> Outcome:
    """Does all items of work, and waits until they are done.

    Args:
        items: Anything that can be pickled.
        start: Returns the function that does an item; called once for each worker. It is pickled:
            a function of a module, or `functools.partial` of one.
        folder: Folder on a file system that all workers see, for passing files.
        options: Options of the pipeline, such as `("runner=FlinkRunner", "parallelism=8")`; by
            default Beam runs on this machine.

    Returns:
        The outcome.

    Raises:
        UserError: Apache Beam is not installed.
        Exception: Whatever an item raised, once the runner has given up repeating it.
    """
    with _passing_folder(folder) as passing:
        work, done, failed = (str(passing / name) for name in ("work", "done", "failed"))
        with files.replacing(work) as draft, tf.io.TFRecordWriter(str(draft)) as writer:
            for item in items:
                writer.write(pickle.dumps(item))
        with beam.Pipeline(options=_parse(options)) as pipeline:
            results = (
                pipeline
                | "NameWork" >> beam.Create([work])
                | "ReadWork" >> beam.FlatMap(_read_items)
                | "SpreadWork" >> beam.Reshuffle()
                | "DoWork" >> beam.ParDo(_Doer(start)).with_outputs(_FAILED, main="done")
            )
            counted = results["done"] | "CountDone" >> beam.combiners.Count.Globally()
            _ = counted | "WriteCount" >> beam.io.WriteToText(done, shard_name_template="")
            _ = results[_FAILED] | "WriteFailures" >> beam.io.WriteToText(
                failed, shard_name_template=""
            )
        lines = files.as_path(failed).read_text(encoding="utf-8").splitlines()
        num_done = int(files.as_path(done).read_text(encoding="utf-8"))
        return Outcome(num_done, [Failure(**json.loads(line)) for line in lines])


@contextlib.contextmanager
def _passing_folder(folder: str) -> Iterator[pathlib.Path]:
    """Makes a folder for files that workers read and write, and deletes it afterwards."""
    path = files.as_path(folder, f".beam_{uuid.uuid4().hex}")
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        files.remove_folder(path)


class _Doer(beam.DoFn):
    """Does items; failures go to the side output, as JSON."""

    def __init__(self, start: Callable[[], Do]):
        self._start = start

    def setup(self):
        self._do = self._start()

    def process(self, item):
        for failure in self._do(pickle.loads(item)):
            if failure is None:
                yield None
            else:
                text = json.dumps(dataclasses.asdict(failure))
                yield beam.pvalue.TaggedOutput(_FAILED, text)


def _read_items(path: str) -> Iterator[bytes]:
    """Yields pickled items; Beam's own reader of TFRecords needs a package more."""
    with files.local_copy(path) as copy:
        yield from tf.data.TFRecordDataset(str(copy)).as_numpy_iterator()


def _parse(options: Sequence[str]) -> pipeline_options.PipelineOptions:
    return pipeline_options.PipelineOptions([f"--{option.lstrip('-')}" for option in options])
