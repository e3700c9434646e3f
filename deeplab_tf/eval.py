"""Evaluates a run, or what was exported from it: python -m deeplab_tf.eval --run_dir=DIR

Prints mIoU, its companions and the IoU of every class, and writes them to metrics.json, and those
of every image to images.jsonl. --report=FILE.html makes a page of them.
"""

import dataclasses
import json
import os
import resource
import shlex
import sys

import numpy as np
import tensorflow as tf
from absl import flags

from deeplab_tf import command_line
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import WHOLE_IMAGES
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import artefacts
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import report
from deeplab_tf.evaluation.evaluate import evaluate
from deeplab_tf.evaluation.evaluate import print_metrics
from deeplab_tf.evaluation.prediction import label_function
from deeplab_tf.runs import run_dir as run_dirs

_NUM_WORST, _NUM_BEST = 12, 6  # images on the report


def evaluate_run(
    run_dir: str,
    split: str = "",
    checkpoint: str = "best",
    artefact: str = "",
    data_dir: str = "",
    dataset: str = "",
    crf_config: CrfConfig = NO_CRF,
    border_width: int = 0,
    eval_config: EvalConfig = WHOLE_IMAGES,
    trimap_width: int = 0,
    boundary_iou: bool = False,
    report_path: str = "",
    compare: str = "",
) -> dict:
    """Evaluates a run on a split of its records, every pixel once, at the image's own size.

    Memory does not grow with the images: of each there is a line in `images.jsonl`.

    Args:
        run_dir: Folder of the run.
        split: Split to evaluate on; empty for the one that the run validated on.
        checkpoint: "best" or "last".
        artefact: Evaluates this SavedModel, `.keras` or `.tflite` file in place of the checkpoint.
        data_dir: Records; empty for those of the run.
        dataset: Name of the dataset, where data_dir holds several.
        crf_config: The fully-connected CRF behind the network; by default none.
        border_width: Evaluates pixels less than this far from a border between classes; 0 for all.
        eval_config: How the network looks at images; by default once, as a whole.
        trimap_width: Measures in all trimaps up to this width, in pixels; 0 for none.
        boundary_iou: Whether the Boundary IoU is measured.
        report_path: HTML file to write for the eye; empty for none.
        compare: Run dir of an evaluation that the report compares with; empty for none.

    Returns:
        The metrics of `segmentation_metrics`, for JSON, with `confusion_matrix` (rows are labels),
        `trimap` (of `metrics.Trimap`) and `boundary_iou` (of `metrics.BoundaryIou`) where they are
        asked for, speed, memory, and what was evaluated. They are also in `metrics.json` of the
        run dir, and those of single images in its `images.jsonl`.

    Raises:
        UserError: No such run, records, split or artefact; records of other classes; or a file
            that cannot be read or written.
    """
    if compare and not report_path:
        raise UserError("--compare goes with --report: give the HTML file that is to compare.")
    run = run_dirs.read(run_dir)
    other = _read_evaluation(compare) if compare else None
    data = run.data_config
    source = records.find_records(
        data_dir or data.data_dir,
        dataset or ("" if data_dir else data.dataset),
        run.model_config.num_classes,
        data.ignore_label,
    )
    info = source.info
    if info.num_classes != run.model_config.num_classes:
        raise UserError(
            f"The run in {run_dir} has {run.model_config.num_classes} classes, the records in "
            f"{source.folder} have {info.num_classes}. Give records of the same classes "
            "with --data_dir."
        )
    if other:
        report.check_comparable(other[0], info)
    split = split or data.val_split
    crf_parameters = run_dirs.crf_parameters(run_dir, crf_config)
    settings = (run.model_config, data)
    inference = {"eval_config": eval_config, "crf_parameters": crf_parameters}
    if artefact:
        label_of = artefacts.load_artefact(artefact, *settings, **inference)
    else:
        model = run_dirs.load_model(run, checkpoint)
        label_of = label_function(model, *settings, **inference)
    trimap = metrics.Trimap(trimap_width, info.num_classes, info.ignore_label)
    boundaries = metrics.BoundaryIou(info.num_classes, info.ignore_label)
    worst, best = metrics.WorstImages(_NUM_WORST), metrics.BestImages(_NUM_BEST)
    lines_path = os.path.join(run_dir, "images.jsonl")
    try:
        with open(lines_path + ".new", "w", encoding="utf-8") as lines:

            def see(example, prediction, counts):
                line = _image_line(example, counts, info.class_names)
                if trimap_width:
                    trimap.add(example["label"], prediction)
                if boundary_iou:
                    line["boundary_iou"] = boundaries.add(example["label"], prediction)
                if report_path:
                    for images in (worst, best):
                        images.add(counts, (example, prediction))
                lines.write(json.dumps(line) + "\n")

            result = {
                "run_dir": run_dir,
                "model": artefact or checkpoint,
                "crf": crf_parameters,
                "border_width": border_width,
                **dataclasses.asdict(eval_config),
                "records": source.folder,
                "split": split,
                "command": shlex.join(["python", *sys.orig_argv[1:]]),
            } | evaluate(label_of, source, split, print_progress, border_width, see)
        result["confusion_matrix"] = result["confusion_matrix"].tolist()
        result["peak_memory_mib"] = _peak_memory_mib()
        if trimap_width:
            result["trimap"] = trimap.result()
        if boundary_iou:
            result |= boundaries.result(info.class_names)
        metrics_path = os.path.join(run_dir, "metrics.json")
        with open(metrics_path + ".new", "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
        os.replace(lines_path + ".new", lines_path)
        os.replace(metrics_path + ".new", metrics_path)
        if report_path:
            os.makedirs(os.path.dirname(os.path.abspath(report_path)), exist_ok=True)
            _, images = _read_evaluation(run_dir)
            report.write(report_path, result, images, *_shown(worst, best), info, other)
    except OSError as error:
        raise UserError(f"The evaluation of {run_dir} cannot be written: {error}.") from error
    return result


def print_progress(done: int, total: int, seconds: float) -> None:
    """Prints one line about every tenth of the images."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"  {done}/{total} images  {done / seconds:.1f} images/s", flush=True)


def _image_line(example: dict, counts: np.ndarray, class_names: tuple[str, ...]) -> dict:
    """The figures of one image, for JSON; of the classes that are in its label or prediction."""
    figures = metrics.segmentation_metrics(counts, class_names)
    ious = figures["iou_per_class"].items()
    return {
        "name": example["name"].decode(),
        "miou": figures["miou"],
        "pixel_accuracy": figures["pixel_accuracy"],
        "iou_per_class": {name: iou for name, iou in ious if iou is not None},
        "num_pixels": figures["num_pixels"],
    }


def _shown(
    worst: metrics.WorstImages, best: metrics.BestImages
) -> tuple[list[report.Shown], list[report.Shown]]:
    """The images for the report: the worst, the worst first, and the best, the best first.

    None is among both: where there are too few for two full lists, half of them are the best.
    """
    among_worst = {id(image[0]) for _, image in worst.worst}
    others = [pair for pair in reversed(best.best) if id(pair[1][0]) not in among_worst]
    shown = [
        report.Shown(example["name"].decode(), miou, example["image"], example["label"], prediction)
        for miou, (example, prediction) in worst.worst + others
    ]
    num_worst = len(shown) - min(len(best.best), len(shown) // 2)
    return shown[:num_worst], shown[num_worst:][::-1]


def _read_evaluation(run_dir: str) -> tuple[dict, list[dict]]:
    """Reads the figures that an evaluation left in a run dir, and those of its images.

    Raises:
        UserError: There are none.
    """
    try:
        with open(os.path.join(run_dir, "metrics.json"), encoding="utf-8") as file:
            result = json.load(file)
        with open(os.path.join(run_dir, "images.jsonl"), encoding="utf-8") as file:
            return result, [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run_dir} cannot be compared with: it has no evaluation ({error}). Run "
            f"python -m deeplab_tf.eval --run_dir={run_dir} first."
        ) from error


def _peak_memory_mib() -> int:
    """Most memory that this process has held, MiB: of the GPU where there is one, else of it."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def main(_) -> None:
    given = flags.FLAGS
    result = evaluate_run(
        given.run_dir,
        given.split,
        given.checkpoint,
        given.model,
        given.data_dir,
        given.dataset,
        command_line.read_flags(CrfConfig),
        given.border_width,
        command_line.read_flags(EvalConfig),
        given.trimap_width,
        given.boundary_iou,
        given.report,
        given.compare,
    )
    print_metrics(result)
    print(f"written to {os.path.join(given.run_dir, 'metrics.json')} and images.jsonl beside it")
    if given.report:
        print(f"report     {given.report}")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_string("split", "", "Split; by default the one that the run validated on.")
    flags.DEFINE_string("checkpoint", "best", "Which weights: best or last.")
    flags.DEFINE_string(
        "model",
        "",
        "Evaluates this SavedModel, .keras or .tflite file in place of the checkpoint.",
    )
    flags.DEFINE_string("data_dir", "", "Records; by default those of the run.")
    flags.DEFINE_string("dataset", "", "Name of the dataset, where data_dir holds several.")
    flags.DEFINE_integer(
        "border_width", 0, "Evaluates pixels less than this far from a border; 0 for all."
    )
    flags.DEFINE_integer(
        "trimap_width",
        0,
        "Measures in trimaps along the borders, 1 pixel to this many wide; the papers' is 40.",
        lower_bound=0,
    )
    flags.DEFINE_boolean("boundary_iou", False, "Measures the Boundary IoU.")
    flags.DEFINE_string("report", "", "HTML file to write, with figures, curves and images.")
    flags.DEFINE_string("compare", "", "Run dir, evaluated before, that the report compares with.")
    command_line.define_flags(EvalConfig)
    command_line.define_flags(CrfConfig)
    command_line.run(main)
