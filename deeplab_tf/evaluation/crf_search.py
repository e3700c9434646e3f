"""The search for the CRF parameters of a run."""

import itertools
import time
import typing
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np

from deeplab_tf import crf
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.data.damaged_records import readable_errors
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.runs import hub
from deeplab_tf.runs import run_dir as run_dirs

# The ranges of the papers in three steps, and half of these steps for the refinement. The Gaussian
# kernel is not searched (arXiv:1412.7062, section 4.1; arXiv:1606.00915, section 4.1).
_GRID = {
    "bilateral_weight": (3.0, 5.0, 7.0),
    "bilateral_sigma_xy": (30.0, 60.0, 90.0),
    "bilateral_sigma_rgb": (3.0, 5.0, 8.0),
}
_REFINEMENT = {"bilateral_weight": 1.0, "bilateral_sigma_xy": 15.0, "bilateral_sigma_rgb": 1.0}


def tune_crf(
    run_dir: str,
    *,
    num_images: int = 20,
    split: str = "",
    checkpoint: str = "best",
    preset: str = "v1",
) -> dict:
    """Searches for the CRF parameters with the highest mIoU on the first images of a split.

    Args:
        run_dir: Folder of the run; the result is written to its `crf.json`.
        num_images: Number of images; their probabilities are held in memory, 4 bytes for every
            pixel and class.
        split: Split of the run's records; empty for the run's validation split.
        checkpoint: "best" or "last".
        preset: Name in `crf.PRESETS` of the parameters to start from; their Gaussian kernel and
            number of iterations are kept.

    Returns:
        The content of `crf.json`: `parameters` for `dense_crf`, their `miou`, `miou_without_crf`,
        `num_images` and `split`.

    Raises:
        UserError: There is no such run, split or preset, or there are no records.
    """
    if preset not in crf.PRESETS:
        raise UserError(f"--preset={preset} must be one of {', '.join(crf.PRESETS)}.")
    if num_images < 1:
        raise UserError(f"--num_images={num_images} must be at least 1.")
    hub.require_folder(run_dir)
    run = run_dirs.read(run_dir)
    split = split or run.data_config.val_split
    search = _Search(run, _predict(run, split, num_images, checkpoint), split)
    search.try_all([crf.PRESETS[preset]])
    search.try_all(_combine(search.best, _GRID))
    search.try_all(_combine(search.best, _around(search.best)))
    return search.found


class _Search:
    """Tries parameters and keeps the best ones in the run dir.

    Attributes:
        found: The content of `crf.json`.
    """

    def __init__(self, run: run_dirs.Run, examples: list[tuple], split: str):
        self._run, self._examples = run, examples
        self._start, self._tried = time.monotonic(), set()
        self._num_trials = 2 * 3 ** len(_GRID)  # both grids, which share a point, and the preset
        self.found: dict[str, typing.Any] = {
            "parameters": None,
            "miou": -1.0,
            "miou_without_crf": _miou(examples, run.dataset, None),
            "num_images": len(examples),
            "split": split,
        }
        print(f"without CRF: miou {self.found['miou_without_crf']:.4f} on {len(examples)} images")

    @property
    def best(self) -> dict:
        """The best parameters so far."""
        return self.found["parameters"]

    def try_all(self, candidates: Iterable[dict]) -> None:
        """Evaluates parameters; those that were tried before are skipped."""
        for parameters in candidates:
            if tuple(parameters.values()) in self._tried:
                continue
            self._tried.add(tuple(parameters.values()))
            miou = _miou(self._examples, self._run.dataset, parameters)
            is_better = miou > self.found["miou"]
            self._print_trial(parameters, miou, is_better)
            if is_better:
                self.found.update(parameters=parameters, miou=miou)
                run_dirs.write_crf_parameters(self._run.folder, self.found)

    def _print_trial(self, parameters: dict, miou: float, is_better: bool) -> None:
        done = len(self._tried)
        minutes = (time.monotonic() - self._start) / done * (self._num_trials - done) / 60
        print(
            f"{done}/{self._num_trials}  miou {miou:.4f}  {to_text(parameters)}  "
            f"{minutes:.1f} min left" + ("  (best so far)" if is_better else ""),
            flush=True,
        )


def _predict(run: run_dirs.Run, split: str, num_images: int, checkpoint: str) -> list[tuple]:
    """Image, label and probabilities of the first examples of a split."""
    source = training_data.find_own_records(
        run.data_config, run.model_config.num_classes, in_channels=run.model_config.in_channels
    )
    training_data.check_bands(source, run.dataset)
    probabilities_of = Inference(checkpoint).probability_function(run)
    examples = input_pipeline.evaluation_examples(source, split).take(num_images)
    with readable_errors():
        return [
            (
                run.dataset.displayed(example["image"]),
                example["label"],
                probabilities_of(example["image"]),
            )
            for example in examples.as_numpy_iterator()
        ]


def _miou(examples: list[tuple], dataset: records.DatasetInfo, parameters: dict | None) -> float:
    """The mIoU with a CRF, or without one if `parameters` is None."""
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
    """The values of the refinement: one step below the best value, the value, one step above."""
    return {
        name: tuple(parameters[name] + sign * step for sign in (-1, 0, 1))
        for name, step in _REFINEMENT.items()
    }


def _combine(parameters: dict, values: Mapping[str, tuple[float, ...]]) -> Iterator[dict]:
    """The parameters with every combination of some values."""
    for combination in itertools.product(*values.values()):
        yield parameters | dict(zip(values, combination))


def to_text(parameters: dict) -> str:
    """Returns the parameters that are searched, for a line of output."""
    return " ".join(f"{name}={parameters[name]:g}" for name in _GRID)
