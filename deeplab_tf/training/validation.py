"""Validation during training: as `eval` will see the model, and what there is to see of it."""

import contextlib
import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.data import records
from deeplab_tf.drawing import panels
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation.evaluate import evaluate
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import optimizers
from deeplab_tf.training import training_log

_NUM_PANELS = 4


def build(
    model: keras.Model,
    average: optimizers.MovingAverage | None,
    source: records.Records,
    run: run_dirs.Run,
    state: checkpoints.TrainingCheckpoints,
) -> Callable[[training_log.TrainingLog, int], dict] | None:
    """Returns a function that evaluates a model in training, keeps the best and tells of it.

    It evaluates what `eval` will: the averaged weights, if any, in float32 and on one device,
    whatever the model is trained in and on.

    Args:
        model: The model in training.
        average: Of `checkpoints.averaged_variables(model)`; None for none.
        source: The records to validate on.
        run: The run.
        state: Where the best weights are saved.

    Returns:
        A function of the log and the step that returns the metrics of `evaluate`; None
        without a split to validate on.
    """
    split, info = run.data_config.val_split, source.info
    if not split:
        return None
    evaluated = models.build_model(**dataclasses.asdict(run.model_config))
    label_of = prediction.label_function(evaluated, run.model_config, run.data_config)
    averaged = checkpoints.averaged_variables(model)

    def validate(log: training_log.TrainingLog, step: int) -> dict:
        worst = metrics.WorstImages(_NUM_PANELS)

        def see(example, labels, matrix):
            worst.add(matrix, (example, labels))

        with average.swapped(averaged) if average else contextlib.nullcontext():
            for target, variable in zip(evaluated.weights, model.weights, strict=True):
                target.assign(tf.convert_to_tensor(variable))
            result = evaluate(label_of, source, split, on_image=see, progress=log.validating)
            is_best = state.save_if_best(result["miou"])
        worst_panels = [
            panels.error_panel(
                example["image"],
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
