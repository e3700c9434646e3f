"""Validation during training: the same figures as `eval`, and the worst images."""

import contextlib
import dataclasses
from collections.abc import Callable

import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.data import records
from deeplab_tf.drawing import panels
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation.evaluate import evaluate
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import training_log
from deeplab_tf.training.training_state import TrainingState

_NUM_PANELS = 4


def build(
    state: TrainingState,
    run: run_dirs.Run,
    source: records.Records,
    saved: checkpoints.TrainingCheckpoints,
) -> Callable[[training_log.TrainingLog, int], dict] | None:
    """Returns a function that evaluates a model in training, keeps the best, and reports.

    It evaluates as `eval` does: the averaged weights, if any, in float32 and on one device,
    whatever precision and devices the training uses.

    Args:
        state: What is trained.
        run: The run.
        source: The records to validate on.
        saved: Where the best weights are saved.

    Returns:
        A function of the log and the step that returns the metrics of `evaluate`; None
        without a split to validate on.
    """
    split, info = run.data_config.val_split, source.info
    if not split:
        return None
    evaluated = models.build_model(**dataclasses.asdict(run.model_config))
    label_of = prediction.label_function(evaluated, run.model_config, run.data_config)

    def validate(log: training_log.TrainingLog, step: int) -> dict:
        worst = metrics.WorstImages(_NUM_PANELS)

        def keep_worst(example, labels, matrix):
            worst.add(matrix, (example, labels))

        with _averages_in_place(state):
            for target, variable in zip(evaluated.weights, state.model.weights, strict=True):
                target.assign(tf.convert_to_tensor(variable))
            result = evaluate(label_of, source, split, on_image=keep_worst, progress=log.validating)
            is_best = saved.save_if_best(result["miou"])
        worst_panels = [
            panels.error_panel(
                info.displayed(example["image"]),
                example["label"],
                labels,
                class_names=info.class_names,
                colors=info.colors,
                ignore_label=info.ignore_label,
                caption=f"{example['name'].decode()}: miou {miou:.2f}",
            )
            for miou, (example, labels) in worst.worst
        ]
        log.validation(step, result, worst_panels, is_best)
        return result

    return validate


def _averages_in_place(state: TrainingState) -> contextlib.AbstractContextManager:
    """Within the context the weights are their moving averages, if there are any."""
    if state.average is None:
        return contextlib.nullcontext()
    return state.average.swapped(checkpoints.averaged_variables(state.model))
