"""The evaluation of a run on a split of records."""

import dataclasses
import shlex
import sys

import numpy as np

from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import report as report_page
from deeplab_tf.evaluation import results
from deeplab_tf.evaluation.evaluate import evaluate
from deeplab_tf.evaluation.inference import BEST_CHECKPOINT
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.evaluation.memory import peak_memory_mib
from deeplab_tf.runs import run_dir as run_dirs

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
    run = run_dirs.read(run_dir)
    source, split = _find_records(run, data)
    other = _read_comparable(compare, source.info) if compare else None
    label_of = inference.label_function(run)
    observer = _Observer(measures, source.info, shows_images=bool(report))
    with results.writing(run_dir) as writer:
        figures = evaluate(
            label_of,
            source,
            split,
            border_width=measures.border_width,
            on_image=lambda *seen: writer.add_image(observer.see(*seen)),
            progress=print_progress,
        )
        writer.figures = {
            "run_dir": run_dir,
            "records": source.folder,
            "split": split,
            "border_width": measures.border_width,
            **inference.describe(run),
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            **figures,
            "confusion_matrix": figures["confusion_matrix"].tolist(),
            "peak_memory_mib": peak_memory_mib(),
            **observer.figures(),
        }
    if report:
        _write_report(report, results.read(run_dir), observer, source.info, other)
    return writer.figures


def print_progress(done: int, total: int, seconds: float) -> None:
    """Prints a line for about every tenth of the images."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"  {done}/{total} images  {done / seconds:.1f} images/s", flush=True)


class _Observer:
    """Measures every image, and keeps the best and the worst for the report."""

    def __init__(self, measures: Measures, info: records.DatasetInfo, shows_images: bool):
        self._measures, self._info = measures, info
        self._trimap = metrics.Trimap(measures.trimap_width, info.num_classes, info.ignore_label)
        self._boundaries = metrics.BoundaryIou(info.num_classes, info.ignore_label)
        self._worst = metrics.WorstImages(_NUM_WORST if shows_images else 0)
        self._best = metrics.BestImages(_NUM_BEST if shows_images else 0)

    def see(self, example: dict, prediction: np.ndarray, counts: np.ndarray) -> dict:
        """Measures an image; returns its line of `images.jsonl`."""
        label = example["label"]
        line = _image_line(example, counts, self._info.class_names)
        if self._measures.trimap_width:
            self._trimap.add(label, prediction)
        if self._measures.boundary_iou:
            line["boundary_iou"] = self._boundaries.add(label, prediction)
        image = (example | {"image": self._info.displayed(example["image"])}, prediction)
        for images in (self._worst, self._best):
            images.add(counts, image)
        return line

    def figures(self) -> dict:
        """Returns the additional measures, for JSON."""
        figures = {}
        if self._measures.trimap_width:
            figures["trimap"] = self._trimap.result()
        if self._measures.boundary_iou:
            figures |= self._boundaries.result(self._info.class_names)
        return figures

    def shown(self) -> list[list[report_page.Shown]]:
        """Returns the images for the report: the worst, the worst first, and the best."""
        return [
            [
                report_page.Shown(
                    example["name"].decode(), miou, example["image"], example["label"], prediction
                )
                for miou, (example, prediction) in group
            ]
            for group in metrics.divided(self._worst, self._best)
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
    observer: _Observer,
    info: records.DatasetInfo,
    other: results.Evaluation | None,
) -> None:
    worst, best = observer.shown()
    try:
        report_page.write(path, evaluation, info=info, worst=worst, best=best, other=other)
    except OSError as error:
        raise UserError(f"--report={path} cannot be written: {error}.") from error
