"""The evaluation of a run on a split of records."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import report as report_page
from deeplab_tf.evaluation import results
from deeplab_tf.evaluation.evaluate import LabelFunction
from deeplab_tf.evaluation.evaluate import empty_matrix
from deeplab_tf.evaluation.evaluate import evaluate
from deeplab_tf.evaluation.evaluate import on_each_device
from deeplab_tf.evaluation.inference import BEST_CHECKPOINT
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.evaluation.memory import peak_memory_mib
from deeplab_tf.evaluation.tally import Journal
from deeplab_tf.evaluation.tally import Tally
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files

_NUM_WORST, _NUM_BEST = 12, 6  # images on the report


@dataclasses.dataclass(frozen=True)
class Data:
    """The records to evaluate on; by default those that the run validated on.

    Attributes:
        data_dir: Folder of the records; empty for those of the run.
        dataset: Name of the dataset, if data_dir holds several.
        split: Split to evaluate on; empty for the run's validation split.
        max_damaged_share: Share of damaged records beyond which the evaluation stops; None for
            that of the run.
        max_image_pixels: Images and labels with more pixels are refused before they are decoded;
            None for the limit of the run.
    """

    data_dir: str = ""
    dataset: str = ""
    split: str = ""
    max_damaged_share: float | None = None
    max_image_pixels: int | None = None


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measures in addition to the figures of whole images.

    Attributes:
        border_width: Evaluates only pixels closer than this to a border between classes; 0 for all.
        trimap_width: Also measures all trimaps up to this width in pixels, see `metrics.Trimap`; 0
            for none.
        boundary_iou: Whether to measure the Boundary IoU, too, see `metrics.BoundaryIou`.
    """

    border_width: int = 0
    trimap_width: int = 0
    boundary_iou: bool = False


VALIDATION_DATA, PLAIN_FIGURES = Data(), Measures()


def evaluate_run(
    run_dir: str,
    *,
    data: Data = VALIDATION_DATA,
    inference: Inference = BEST_CHECKPOINT,
    measures: Measures = PLAIN_FIGURES,
    report: str = "",
    compare: str = "",
) -> dict:
    """Evaluates a run on a split of records, every pixel once, at the size of the images.

    Memory does not grow with the number of images: each leaves a line in `images.jsonl`.

    Args:
        run_dir: Folder of the run.
        data: The records; by default the validation split of the run.
        inference: Weights, views and CRF; by default the best checkpoint on whole images.
        measures: Additional measures.
        report: HTML file to write; empty for none.
        compare: Run dir of an evaluation that the report compares with; empty for none.

    Returns:
        The content of `metrics.json`: the figures of `evaluate` and `Measures`, memory, and the
        settings. `images.jsonl` holds the figures of single images.

    Raises:
        UserError: There is no such run, split or artefact, or there are no such records; the
            records have other classes; or a file cannot be read or written.
    """
    if compare and not report:
        raise UserError("--compare needs --report: give the HTML file to write.")
    strategy = distribution.get_strategy("auto")
    run = run_dirs.read(run_dir)
    source, split = _find_records(run, data)
    other = _read_comparable(compare, source.info) if compare else None
    label_functions = _label_functions(inference, run, strategy)
    counter = _Counter(measures, source.info)
    settings = _settings(run, source, split, measures, inference)
    with contextlib.closing(_journal(run, settings)) as journal:
        if journal.resume(counter.tally):
            print(f"resumes an interrupted evaluation after {counter.tally.num_read} images")

        def add(*seen) -> None:
            journal.add(counter.see(*seen))
            journal.save_if_due(counter.tally)

        figures = evaluate(
            label_functions,
            source,
            split,
            border_width=measures.border_width,
            on_image=add,
            progress=print_progress,
            tally=counter.tally,
        )
        figures = {
            "run_dir": run_dir,
            **settings["metrics"],
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            **figures,
            "confusion_matrix": figures["confusion_matrix"].tolist(),
            "peak_memory_mib": peak_memory_mib(),
            **counter.figures(),
        }
        worst, best = _write(run_dir, figures, journal.lines_of_all_workers())
        journal.remove()
    if report and distribution.is_chief():
        shown = [
            _shown(images, label_functions[0], source, split)
            for images in metrics.divided(worst, best)
        ]
        _write_report(report, results.read(run_dir), shown, source.info, other)
    return figures


def print_progress(done: int, total: int, images_per_second: float) -> None:
    """Prints a line for about every tenth of the images."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"  {done}/{total} images  {images_per_second:.1f} images/s", flush=True)


def _write(
    run_dir: str, figures: dict, lines: Iterator[dict]
) -> tuple[metrics.WorstImages, metrics.BestImages]:
    """Writes the files of an evaluation, as the chief; returns the numbers of images to show."""
    worst, best = metrics.WorstImages(_NUM_WORST), metrics.BestImages(_NUM_BEST)
    with contextlib.ExitStack() as stack:
        if distribution.is_chief():
            writer = stack.enter_context(results.writing(run_dir))
            writer.figures = figures
        for line in lines:
            if distribution.is_chief():
                writer.add_image(line)
            if line["num_pixels"]:
                for images in (worst, best):
                    images.add_miou(line["miou"], line["number"])
    distribution.of_all_workers(0)  # none deletes what it has counted before all is written
    return worst, best


class _Counter:
    """Measures every image; the counts of all measures are in its `tally`."""

    def __init__(self, measures: Measures, info: records.DatasetInfo):
        self._measures, self._class_names = measures, info.class_names
        self._trimap = metrics.Trimap(measures.trimap_width, info.num_classes, info.ignore_label)
        self._boundaries = metrics.BoundaryIou(info.num_classes, info.ignore_label)
        self.tally = Tally(sums={"confusion_matrix": empty_matrix(info)})
        if measures.trimap_width:
            self.tally.sums["trimap"] = self._trimap.counts
        if measures.boundary_iou:
            self.tally.sums["boundaries"] = self._boundaries.counts

    def see(self, example: dict, prediction: np.ndarray, counts: np.ndarray) -> dict:
        """Measures an image; returns its line of `images.jsonl`."""
        label = example["label"]
        line = _image_line(example, counts, self._class_names)
        if self._measures.trimap_width:
            self._trimap.add(label, prediction)
        if self._measures.boundary_iou:
            line["boundary_iou"] = self._boundaries.add(label, prediction)
        return line

    def figures(self) -> dict:
        """Returns the additional measures, for JSON."""
        figures = {}
        if self._measures.trimap_width:
            figures["trimap"] = self._trimap.result()
        if self._measures.boundary_iou:
            figures |= self._boundaries.result(self._class_names)
        return figures


def _label_functions(
    inference: Inference, run: run_dirs.Run, strategy: tf.distribute.Strategy
) -> list[LabelFunction]:
    """Loads the network on each device; an artefact once."""
    if inference.model:
        return [inference.label_function(run)]
    return on_each_device(lambda: inference.label_function(run), strategy)


def _settings(
    run: run_dirs.Run,
    source: records.Records,
    split: str,
    measures: Measures,
    inference: Inference,
) -> dict:
    """Returns all that the counts depend on, for JSON; `metrics` is for `metrics.json`."""
    if inference.model:
        weights = inference.model
    elif run_dirs.is_published(run.folder):
        weights = os.path.join(run.folder, run_files.KERAS_WEIGHTS)
    else:
        weights = checkpoints.find(run.folder, inference.checkpoint) + ".index"
    return {
        "metrics": {
            "records": source.folder,
            "split": split,
            "border_width": measures.border_width,
            **inference.describe(run),
        },
        "measures": dataclasses.asdict(measures),
        "limits": dataclasses.asdict(source.limits),
        "classes": source.info.to_json(),
        "files": [_name_size_and_time(path) for path in [weights, *source.shards(split)]],
    }


def _name_size_and_time(path: files.Path) -> list:
    status = files.as_path(path).stat()
    return [os.fspath(path), status.st_size, status.st_mtime_ns]


def _journal(run: run_dirs.Run, settings: dict) -> Journal:
    """Opens the journal: in the run dir, or in the cache folder where that is remote."""
    if files.is_remote(run.folder):
        name = hashlib.sha256(run.folder.encode()).hexdigest()[:16]
        folder = files.cache_folder() / run_files.EVALUATION / name
    else:
        folder = pathlib.Path(run.folder) / run_files.EVALUATION
    try:
        return Journal(folder, settings)
    except OSError as error:
        raise UserError(f"The evaluation of {run.folder} cannot be written: {error}.") from error


def _shown(
    images: Sequence[tuple[float, int]],
    label_of: LabelFunction,
    source: records.Records,
    split: str,
) -> list[report_page.Shown]:
    """Returns images for the report. They are labelled again: none was kept in memory."""
    numbers = [number for _, number in images]
    examples = input_pipeline.evaluation_examples(source, split, numbers=numbers)
    return [
        report_page.Shown(
            example["name"].decode(),
            miou,
            source.info.displayed(example["image"]),
            example["label"],
            label_of(example["image"]),
        )
        for (miou, _), example in zip(images, examples.as_numpy_iterator())
    ]


def _find_records(run: run_dirs.Run, data: Data) -> tuple[records.Records, str]:
    """Finds the records to evaluate on, and the split.

    Raises:
        UserError: There are none, they have other classes than the run, or there is no such split.
    """
    limits = {
        name: value
        for name in ("max_damaged_share", "max_image_pixels")
        if (value := getattr(data, name)) is not None
    }
    own = dataclasses.replace(run.data_config, **limits)
    source = training_data.find_own_records(
        own,
        run.model_config.num_classes,
        data.data_dir,
        data.dataset,
        in_channels=run.model_config.in_channels,
    )
    training_data.check_bands(source, run.dataset)
    split = data.split or own.val_split
    source.num_records(split)  # raises the error for a missing split before the network is loaded
    return source, split


def _image_line(example: dict, counts: np.ndarray, class_names: tuple[str, ...]) -> dict:
    """The figures of one image, for JSON, with the IoU of the classes that are present."""
    figures = metrics.segmentation_metrics(counts, class_names)
    ious = figures["iou_per_class"].items()
    return {
        "number": int(example["number"]),
        "name": example["name"].decode(),
        "miou": figures["miou"],
        "pixel_accuracy": figures["pixel_accuracy"],
        "iou_per_class": {name: iou for name, iou in ious if iou is not None},
        "num_pixels": figures["num_pixels"],
    }


def _read_comparable(run_dir: str, info: records.DatasetInfo) -> results.Evaluation:
    """Reads the evaluation of another run on the same classes."""
    evaluation = results.read(run_dir)
    report_page.check_comparable(evaluation, info.class_names)
    return evaluation


def _write_report(
    path: str,
    evaluation: results.Evaluation,
    shown: Sequence[list[report_page.Shown]],
    info: records.DatasetInfo,
    other: results.Evaluation | None,
) -> None:
    worst, best = shown
    try:
        report_page.write(path, evaluation, info=info, worst=worst, best=best, other=other)
    except OSError as error:
        raise UserError(f"--report={path} cannot be written: {error}.") from error
