"""Labels of many images by a run, through Apache Beam: images or records in, PNGs or records out.

The files of a label are the same as without Beam, except that there is no overview. A worker labels
a part of the images, one after the other. Every file appears whole under a name that follows from
the images alone, so a part that is labelled twice leaves the same files.

An image that cannot be labelled is a failure of the part. An error in writing is raised: it may
pass, and Beam lets a worker try again.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import beam_pipelines
from deeplab_tf import files
from deeplab_tf.beam_pipelines import Failure
from deeplab_tf.config import LABELS_AND_OVERLAYS
from deeplab_tf.config import PNG
from deeplab_tf.config import RECORDS
from deeplab_tf.config import PredictConfig
from deeplab_tf.data import band_files
from deeplab_tf.data import decoding
from deeplab_tf.data import image_files
from deeplab_tf.data import record_reading
from deeplab_tf.data import record_writing
from deeplab_tf.data import shard_files
from deeplab_tf.data import source_images
from deeplab_tf.data import wording
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.drawing import predictions
from deeplab_tf.drawing import video
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import labelling
from deeplab_tf.evaluation.inference import BEST_CHECKPOINT
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.runs import run_dir as run_dirs

FAILURES = "failures.jsonl"
_IMAGES_PER_PART = 32
_IMAGES_PER_SHARD = 256  # of records that are made of images
_MAX_REASONS = 10  # in a message
_LOST = "and those after it are lost: the shard is damaged from there on"

# What is wrong with an image however often it is labelled.
_OF_AN_IMAGE = (
    image_files.ImageFileError, DataProblem, MemoryError, tf.errors.ResourceExhaustedError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """What a worker labels before it turns to something else.

    Attributes:
        name: Of the shard of records that is written, or of the folder for the PNGs of a shard.
        images: Paths of the images, and the names of their files.
        shard: A shard of records, in place of images.
    """

    name: str = ""
    images: tuple[tuple[str, str], ...] = ()
    shard: str = ""


def predict(
    run_dir: str,
    images: str | Sequence[str],
    output_dir: str,
    *,
    options: Sequence[str],
    labels_as: str = PNG,
    inference: Inference = BEST_CHECKPOINT,
    predict_config: PredictConfig = LABELS_AND_OVERLAYS,
) -> int:
    """Labels images, or the images of records, and writes the labels.

    Args:
        run_dir: Folder of a trained or imported run, which all workers must see, as all folders.
        images: Images as in `labelling.predict`, or shards of records.
        output_dir: Folder to write to; made if it is missing.
        options: Of the pipeline, see `beam_pipelines.do_all`.
        labels_as: `PNG` for the files that `labelling.predict` writes; those of a shard get a
            folder with its name. `RECORDS` for records of images and labels, in shards with the
            names of those that were read.
        inference: Weights, views and CRF; by default the best checkpoint on whole images.
        predict_config: What is written besides labels and overlays.

    Returns:
        The number of images that were labelled.

    Raises:
        UserError: No image was found; the run or the artefact cannot do what is asked for; or
            images could not be labelled, which is raised after all others were.
    """
    run = run_dirs.read(run_dir)
    is_of_bands = bool(run.dataset.bands)
    paths = video.find_sources(images, band_files.ARRAY_ENDINGS if is_of_bands else ())
    parts = _parts(paths, output_dir, labels_as, is_of_bands)
    labelling.Labeller(run, inference, predict_config)  # fails now where every worker would
    writer = labelling.prediction_writer(run, output_dir, predict_config)
    outcome = beam_pipelines.do_all(
        parts,
        functools.partial(
            _worker, run_dir, inference, predict_config, writer=writer, labels_as=labels_as
        ),
        folder=output_dir,
        options=options,
    )
    _report(outcome.failures, output_dir)
    return outcome.num_done


def _parts(paths: Sequence[str], output_dir: str, labels_as: str, is_of_bands: bool) -> list[Part]:
    """Divides the images, which must be files of one kind."""
    if videos := [path for path in paths if video.is_video(path)]:
        raise UserError(f"{videos[0]} is a video: label it without --beam_pipeline_options.")
    shards = [path for path in paths if shard_files.is_shard(path)]
    if shards and len(shards) < len(paths):
        raise UserError(
            f"--images matches shards of records ({shards[0]}) and other files: give one kind."
        )
    if shards:
        return _parts_of_shards(shards, output_dir)
    if is_of_bands and labels_as == RECORDS:
        raise UserError(
            "--labels_as=records takes images of bands from records only: build these first, "
            "by deeplab_tf.datasets.build, and give their shards as --images."
        )
    names = predictions.output_names(paths)
    predictions.check_overwrites(paths, names, output_dir)
    size = _IMAGES_PER_SHARD if labels_as == RECORDS else _IMAGES_PER_PART
    named = list(zip(paths, names, strict=True))
    count = -(-len(named) // size)
    return [
        Part(
            f"labelled-{index:05d}-of-{count:05d}.tfrecord",
            images=tuple(named[index * size : (index + 1) * size]),
        )
        for index in range(count)
    ]


def _parts_of_shards(shards: Sequence[str], output_dir: str) -> list[Part]:
    by_name: dict[str, str] = {}
    for shard in shards:
        name = os.path.basename(shard)
        if by_name.setdefault(name, shard) != shard:
            raise UserError(
                f"{by_name[name]} and {shard} have the same name, and their labels would too: "
                "label the folders one by one, each with its own --output_dir."
            )
        if files.real(shard) == files.real(files.as_path(output_dir, name)):
            raise UserError(f"{shard} would be overwritten: give another --output_dir.")
    return [Part(name, shard=shard) for name, shard in by_name.items()]


def _report(failures: Sequence[Failure], output_dir: str) -> None:
    """Writes the list of failures, if there are any, and raises a `UserError`."""
    path = files.as_path(output_dir, FAILURES)
    lines = sorted(json.dumps(dataclasses.asdict(failure)) for failure in failures)
    if not lines:
        path.unlink(missing_ok=True)  # that of an earlier time
        return
    files.write_text(path, "\n".join(lines) + "\n")
    reasons = sorted(failure.reason for failure in failures)[:_MAX_REASONS]
    raise UserError(
        f"{wording.counted(len(lines), 'image')} could not be labelled, see {path}; the labels of "
        f"the others are in {output_dir}. The first reasons:\n  " + "\n  ".join(reasons)
    )


def _worker(
    run_dir: str,
    inference: Inference,
    predict_config: PredictConfig,
    *,
    writer: predictions.PredictionWriter,
    labels_as: str,
) -> beam_pipelines.Do:
    """Loads a run, and returns the function that labels a part."""
    labeller = labelling.Labeller(run_dirs.read(run_dir), inference, predict_config)
    write = _write_records if labels_as == RECORDS else _write_files
    return functools.partial(write, labeller, writer)


def _write_files(
    labeller: labelling.Labeller, writer: predictions.PredictionWriter, part: Part
) -> list[Failure | None]:
    """Writes the files of every image."""
    outcomes: list[Failure | None] = []
    for path, name in part.images:
        with _noting_in(outcomes, path):
            labeller.label(path, name, labeller.read(path), writer)()
    if part.shard:
        folder = os.path.splitext(part.name)[0]
        files.as_path(writer.output_dir, folder).mkdir(parents=True, exist_ok=True)
        taken: set[str] = set()
        for subject, read in _read_shard(part.shard):
            with _noting_in(outcomes, subject):
                record, image = _decode(read(), labeller)
                name = os.path.join(folder, _file_name(record.name, taken))
                writer.write(name, labeller.dataset.displayed(image), labeller.predict(image))
    return outcomes


def _write_records(
    labeller: labelling.Labeller, writer: predictions.PredictionWriter, part: Part
) -> list[Failure | None]:
    """Writes a shard of the images and their labels, in the order of the images."""
    outcomes: list[Failure | None] = []
    sources = _read_shard(part.shard) if part.shard else _read_images(part.images, labeller)
    with files.replacing(files.as_path(writer.output_dir, part.name)) as draft:
        with tf.io.TFRecordWriter(str(draft)) as shard:
            for subject, read in sources:
                with _noting_in(outcomes, subject):
                    serialized = read()
                    _, image = _decode(serialized, labeller)
                    label = labeller.predict(image).label.astype(np.uint8)
                    shard.write(record_writing.with_label(serialized, label))
    return outcomes


@contextlib.contextmanager
def _noting_in(outcomes: list[Failure | None], subject: str) -> Iterator[None]:
    """Adds what became of an image: what is wrong with it, or None."""
    try:
        yield
    except _OF_AN_IMAGE as error:
        outcomes.append(Failure(subject, labelling.describe_failure(subject, error)))
    else:
        outcomes.append(None)


_Source = tuple[str, Callable[[], bytes]]  # what it is, for messages; reads the record


def _read_images(
    images: Sequence[tuple[str, str]], labeller: labelling.Labeller
) -> Iterator[_Source]:
    """Yields records, without labels, of image files."""
    for path, name in images:
        yield path, functools.partial(_record_of_file, path, name, labeller.max_pixels)


def _record_of_file(path: str, name: str, max_pixels: int) -> bytes:
    content = image_files.read_bytes(path)
    image = source_images.read_source_image(content, path, max_pixels=max_pixels)
    return record_writing.serialize(name, image)


def _read_shard(shard: str) -> Iterator[_Source]:
    """Yields the records of a shard; where the rest of it is damaged, one that says so."""
    with files.local_copy(shard) as copy:
        records = tf.data.TFRecordDataset(str(copy)).as_numpy_iterator()
        for number in itertools.count(1):
            subject = f"record {number} of {shard}"
            try:
                serialized = next(records, None)
            except tf.errors.DataLossError:
                problem = DataProblem(
                    "record_unreadable", _LOST, subject="record", name=f"{number} of {shard}"
                )
                yield subject, functools.partial(_raise, problem)
                return
            if serialized is None:
                return
            yield subject, functools.partial(bytes, serialized)


def _decode(
    serialized: bytes, labeller: labelling.Labeller
) -> tuple[record_reading.Record, np.ndarray]:
    record = record_reading.parse_record(serialized)
    try:
        channels = labeller.dataset.num_channels
        return record, decoding.decode_image(record.image, labeller.max_pixels, channels)
    except DataProblem as problem:
        raise problem.named(record.name) from None


def _file_name(name: str, taken: set[str]) -> str:
    """Returns the name of a record for its files, with a number where that is taken."""
    stem = os.path.splitext(re.split(r"[/\\]", name)[-1])[0] or "image"
    numbered = (f"{stem}_{number}" for number in itertools.count(2))
    candidates = itertools.chain([stem], numbered)
    unique = next(candidate for candidate in candidates if candidate.lower() not in taken)
    taken.add(unique.lower())
    return unique


def _raise(error: Exception) -> bytes:
    raise error
