"""Searches the parameters of a run's CRF: python -m deeplab_tf.tune_crf --run_dir=DIR

On a few validation images, as the papers did: a coarse grid over weight and deviations of the
bilateral kernel, then a finer one around its best. What is found is written into the run dir after
every improvement; `--crf=tuned` of eval, predict and export takes it from there.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np
from absl import flags

from deeplab_tf import command_line
from deeplab_tf import crf
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import prediction
from deeplab_tf.runs import run_dir as run_dirs

# The papers' ranges, taken in three steps each, and half of these steps to refine. The Gaussian
# kernel stays as it is (arXiv:1412.7062, section 4.1; arXiv:1606.00915, section 4.1).
_GRID = {
    "bilateral_weight": (3.0, 5.0, 7.0),
    "bilateral_sigma_xy": (30.0, 60.0, 90.0),
    "bilateral_sigma_rgb": (3.0, 5.0, 8.0),
}
_REFINEMENT = {"bilateral_weight": 1.0, "bilateral_sigma_xy": 15.0, "bilateral_sigma_rgb": 1.0}


def tune_crf(
    run_dir: str,
    num_images: int = 20,
    split: str = "",
    checkpoint: str = "best",
    preset: str = "v1",
) -> dict:
    """Searches the CRF parameters with the highest mIoU on the first images of a split.

    Args:
        run_dir: Folder of the run; the result is written to its `crf.json`.
        num_images: How many images; their probabilities are held in memory, 4 bytes for every
            pixel and class.
        split: Split of the run's records; empty for the one that the run validated on.
        checkpoint: "best" or "last".
        preset: Name in `crf.PRESETS` of the parameters to begin with, whose Gaussian kernel and
            iterations are kept.

    Returns:
        What `crf.json` holds: `parameters` for `dense_crf`, their `miou`, `miou_without_crf`, and
        on how many images of which split.

    Raises:
        UserError: No such run, records, split or preset.
    """
    if preset not in crf.PRESETS:
        raise UserError(f"--preset={preset}; it can be {', '.join(crf.PRESETS)}.")
    if num_images < 1:
        raise UserError(f"--num_images={num_images}; it must be 1 or more.")
    run = run_dirs.read(run_dir)
    examples = _predict(run, split or run.data_config.val_split, num_images, checkpoint)
    found = {
        "parameters": crf.PRESETS[preset],
        "miou": -1.0,
        "miou_without_crf": _miou(examples, run.dataset, None),
        "num_images": len(examples),
        "split": split or run.data_config.val_split,
    }
    print(f"without CRF: miou {found['miou_without_crf']:.4f} on {len(examples)} images")

    start, tried = time.monotonic(), set()
    num_trials = 1 + 2 * 3 ** len(_GRID) - 1  # the refinement has its middle in common

    def try_all(candidates):
        for parameters in candidates:
            if tuple(parameters.values()) in tried:
                continue
            tried.add(tuple(parameters.values()))
            miou = _miou(examples, run.dataset, parameters)
            minutes = (time.monotonic() - start) / len(tried) * (num_trials - len(tried)) / 60
            is_better = miou > found["miou"]
            print(
                f"{len(tried)}/{num_trials}  miou {miou:.4f}  {_to_text(parameters)}  "
                f"{minutes:.1f} min left" + ("  (best so far)" if is_better else ""),
                flush=True,
            )
            if is_better:
                found.update(parameters=parameters, miou=miou)
                run_dirs.write_crf_parameters(run_dir, found)

    try_all([crf.PRESETS[preset]])
    try_all(_combine(found["parameters"], _GRID))
    try_all(_combine(found["parameters"], _around(found["parameters"])))
    return found


def _predict(run: run_dirs.Run, split: str, num_images: int, checkpoint: str) -> list[tuple]:
    """Image, label and probabilities of the first examples of a split."""
    source = records.find_records(
        run.data_config.data_dir,
        run.data_config.dataset,
        run.model_config.num_classes,
        run.data_config.ignore_label,
    )
    model = run_dirs.load_model(run, checkpoint)
    probabilities_of = prediction.probability_function(model, run.model_config, run.data_config)
    examples = input_pipeline.evaluation_examples(source, split).take(num_images)
    with input_pipeline.readable_errors():
        return [
            (example["image"], example["label"], probabilities_of(example["image"]))
            for example in examples.as_numpy_iterator()
        ]


def _miou(examples: list[tuple], dataset: records.DatasetInfo, parameters: dict | None) -> float:
    """mIoU with a CRF, or without one."""
    num_classes = dataset.num_classes
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for image, label, probabilities in examples:
        if parameters is not None:
            probabilities = crf.dense_crf(image, probabilities, **parameters)
        matrix += metrics.confusion_matrix(
            label, np.argmax(probabilities, axis=-1), num_classes, dataset.ignore_label
        )
    return metrics.segmentation_metrics(matrix, dataset.class_names)["miou"]


def _around(parameters: dict) -> dict[str, tuple[float, ...]]:
    """The values of the refinement: one step below the best, it, and one step above."""
    return {
        name: tuple(parameters[name] + sign * step for sign in (-1, 0, 1))
        for name, step in _REFINEMENT.items()
    }


def _combine(parameters: dict, values: dict[str, tuple[float, ...]]) -> Iterator[dict]:
    """Parameters with every combination of some values."""
    for combination in itertools.product(*values.values()):
        yield parameters | dict(zip(values, combination))


def _to_text(parameters: dict) -> str:
    return " ".join(f"{name}={parameters[name]:g}" for name in _GRID)


def main(_) -> None:
    found = tune_crf(
        flags.FLAGS.run_dir,
        flags.FLAGS.num_images,
        flags.FLAGS.split,
        flags.FLAGS.checkpoint,
        flags.FLAGS.preset,
    )
    gain = found["miou"] - found["miou_without_crf"]
    print(f"miou {found['miou']:.4f} ({gain:+.4f} by the CRF) with {_to_text(found['parameters'])}")
    print(f"written to {flags.FLAGS.run_dir}/crf.json: use it with --crf=tuned")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_integer("num_images", 20, "Images to search on.")
    flags.DEFINE_string("split", "", "Split; by default the one that the run validated on.")
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which weights of the run.")
    flags.DEFINE_string("preset", "v1", "Parameters to begin with: v1 or v2.")
    command_line.run(main)
