"""Evaluates a run, or what was exported from it: python -m deeplab_tf.eval --run_dir=DIR

Prints mIoU, pixel accuracy and the IoU of every class, and writes them to metrics.json.
"""

import json
import os
import time
from collections.abc import Callable

from absl import flags
import numpy as np

from deeplab_tf import command_line
from deeplab_tf import inference
from deeplab_tf import input_pipeline
from deeplab_tf import metrics
from deeplab_tf import records
from deeplab_tf import run_dir as run_dirs
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import CrfConfig
from deeplab_tf.errors import UserError


def evaluate_run(
    run_dir: str,
    split: str = "",
    checkpoint: str = "best",
    artefact: str = "",
    data_dir: str = "",
    dataset: str = "",
    crf_config: CrfConfig = NO_CRF,
    border_width: int = 0,
) -> dict:
    """Evaluates a run on a split of its records, every pixel at the picture's own size.

    Args:
        run_dir: Folder of the run.
        split: Split to evaluate on; empty for the one that the run validated on.
        checkpoint: "best" or "last".
        artefact: Evaluates this SavedModel in place of the checkpoint.
        data_dir: Records; empty for those of the run.
        dataset: Name of the dataset, where data_dir holds several.
        crf_config: The fully-connected CRF behind the network; by default none.
        border_width: Evaluates pixels less than this far from a border between classes; 0 for all.

    Returns:
        The metrics of `segmentation_metrics`, with what was evaluated. They are also in
        `metrics.json` of the run dir.

    Raises:
        UserError: No such run, records, split or artefact; or records of other classes.
    """
    run = run_dirs.read(run_dir)
    data = run.data_config
    source = records.find_records(
        data_dir or data.data_dir,
        dataset or ("" if data_dir else data.dataset),
        run.model_config.num_classes,
        data.ignore_label,
    )
    if source.info.num_classes != run.model_config.num_classes:
        raise UserError(
            f"The run in {run_dir} has {run.model_config.num_classes} classes, the records in "
            f"{source.folder} have {source.info.num_classes}. Give records of the same classes "
            "with --data_dir."
        )
    split = split or data.val_split
    crf_parameters = run_dirs.crf_parameters(run_dir, crf_config)
    if artefact:
        label_of = inference.saved_model_label_function(artefact, crf_parameters)
    else:
        label_of = inference.label_function(
            run_dirs.load_model(run, checkpoint), run.model_config, data, crf_parameters
        )
    result = {
        "run_dir": run_dir,
        "model": artefact or checkpoint,
        "crf": crf_parameters,
        "border_width": border_width,
        "records": source.folder,
        "split": split,
    } | evaluate(label_of, source, split, print_progress, border_width)
    with open(os.path.join(run_dir, "metrics.json"), "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    return result


def evaluate(
    label_of: Callable[[np.ndarray], np.ndarray],
    source: records.Records,
    split: str,
    report: Callable[[int, int, float], None] | None = None,
    border_width: int = 0,
) -> dict:
    """Evaluates a function from picture to labels on a split of records.

    Args:
        label_of: Function of a picture, uint8 [H, W, 3], that returns its class ids, [H, W].
        source: The records.
        split: Name of the split.
        report: Called after every picture with the number done, of how many, and the seconds so
            far.
        border_width: Evaluates pixels less than this far from a border between classes; 0 for all.

    Returns:
        The metrics of `segmentation_metrics`, with `num_pictures` and `pictures_per_second`.
    """
    info = source.info
    matrix = np.zeros((info.num_classes, info.num_classes), np.int64)
    examples = input_pipeline.evaluation_examples(source, split)
    total, done, start = source.num_examples[split], 0, time.perf_counter()
    with input_pipeline.readable_errors():
        for done, example in enumerate(examples.as_numpy_iterator(), start=1):
            label = example["label"]
            if border_width:
                label = metrics.near_borders(label, border_width, info.ignore_label)
            matrix += metrics.confusion_matrix(
                label, label_of(example["image"]), info.num_classes, info.ignore_label
            )
            if report:
                report(done, total, time.perf_counter() - start)
    return metrics.segmentation_metrics(matrix, info.class_names) | {
        "num_pictures": done,
        "pictures_per_second": done / (time.perf_counter() - start),
    }


def print_progress(done: int, total: int, seconds: float) -> None:
    """Prints one line about every tenth of the pictures."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"  {done}/{total} pictures  {done / seconds:.1f} pictures/s", flush=True)


def print_metrics(result: dict) -> None:
    """Prints the metrics as a small table, worst class first."""
    ious = result["iou_per_class"]
    width = max(map(len, ious))
    for name in sorted(ious, key=lambda name: (ious[name] is None, ious[name])):
        iou = "absent" if ious[name] is None else f"{ious[name]:.4f}"
        print(f"  {name:<{width}}  {iou}")
    print(f"miou            {result['miou']:.4f}")
    print(f"pixel_accuracy  {result['pixel_accuracy']:.4f}", flush=True)


def main(_) -> None:
    result = evaluate_run(
        flags.FLAGS.run_dir,
        flags.FLAGS.split,
        flags.FLAGS.checkpoint,
        flags.FLAGS.model,
        flags.FLAGS.data_dir,
        flags.FLAGS.dataset,
        command_line.read_flags(CrfConfig),
        flags.FLAGS.border_width,
    )
    print_metrics(result)
    print(f"written to {os.path.join(flags.FLAGS.run_dir, 'metrics.json')}")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_string("split", "", "Split; by default the one that the run validated on.")
    flags.DEFINE_string("checkpoint", "best", "Which weights: best or last.")
    flags.DEFINE_string("model", "", "Evaluates this SavedModel in place of the checkpoint.")
    flags.DEFINE_string("data_dir", "", "Records; by default those of the run.")
    flags.DEFINE_string("dataset", "", "Name of the dataset, where data_dir holds several.")
    flags.DEFINE_integer(
        "border_width", 0, "Evaluates pixels less than this far from a border; 0 for all."
    )
    command_line.define_flags(CrfConfig)
    command_line.run(main)
