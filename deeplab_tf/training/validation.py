"""Validation during training: the same figures as `eval`, and the worst images."""

import contextlib
import functools
import json
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.drawing import panels
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation.evaluate import evaluate
from deeplab_tf.evaluation.evaluate import on_each_device
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import batch_statistics
from deeplab_tf.training import learning_signs
from deeplab_tf.training import training_log
from deeplab_tf.training.training_state import TrainingState

_NUM_PANELS = 4


class _Networks(NamedTuple):
    """Copies of the model in training, one for each device.

    Attributes:
        models: The models, in float32.
        label_functions: What gives the labels of an image by each of them.
        update_statistics: A function of the step, which measures batch norm's statistics.
    """

    models: list[keras.Model]
    label_functions: list[Callable[[np.ndarray], np.ndarray]]
    update_statistics: Callable[[int], None]


class Validation:
    """Evaluates a model in training, keeps the best, and reports.

    It evaluates as `eval` does: the averaged weights, if any, in float32, whatever precision the
    training uses. Workers and devices share the images. Before that, it measures the statistics of
    batch norm.

    Args:
        state: What is trained.
        run: The run.
        source: The records to validate on.
        saved: Where the best weights are saved.
        strategy: The devices of the training.
    """

    def __init__(
        self,
        state: TrainingState,
        run: run_dirs.Run,
        source: records.Records,
        *,
        saved: checkpoints.TrainingCheckpoints,
        strategy: tf.distribute.Strategy,
    ):
        self._state = state
        self._run = run
        self._source = source
        self._saved = saved
        self._strategy = strategy

    @functools.cached_property
    def _networks(self) -> _Networks:
        """What is evaluated; built when it is needed, as the first step need not wait for it."""
        run, networks = self._run, []

        def make_label_function() -> Callable[[np.ndarray], np.ndarray]:
            networks.append(run_dirs.build_model(run))
            return prediction.label_function(networks[-1], run.model_config, run.data_config)

        label_functions = on_each_device(make_label_function, self._strategy)
        update_statistics = _statistics_updater(networks[0], self._state.model, run, self._source)
        return _Networks(networks, label_functions, update_statistics)

    def __call__(
        self, log: training_log.TrainingLog, step: int, loss: float | None = None
    ) -> dict[str, Any]:
        """Validates.

        Args:
            log: What the report goes to.
            step: The number of steps that are done.
            loss: The mean loss of the last steps; None if it is not known.

        Returns:
            The metrics of `evaluate`; none without a split to validate on, where only the
            statistics are measured.
        """
        run, source, split = self._run, self._source, self._run.data_config.val_split
        networks, label_functions, update_statistics = self._networks
        worst = metrics.WorstImages(_NUM_PANELS)

        def keep_worst(example, _, matrix):
            worst.add(matrix, int(example["number"]))

        with _averages_in_place(self._state):
            _copy_weights(self._state.model, networks[0])
            update_statistics(step)
            if not split:
                return {}
            for network in networks[1:]:
                _copy_weights(networks[0], network)
            result = evaluate(
                label_functions, source, split, on_image=keep_worst, progress=log.validating
            )
            is_best = self._saved.save_if_best(result["miou"])
        worst_of_all = _worst_of_all_workers(worst)
        if not distribution.is_chief():
            return result
        signs = learning_signs.describe(
            result["confusion_matrix"],
            source.info.class_names,
            run.train_config,
            loss=loss,
            step=step - 1,
        )
        if signs and step == run.train_config.training_number_of_steps:
            signs.append(learning_signs.ADVICE)
        shown = _panels(worst_of_all, label_functions[0], source, split)
        log.validation(step, result, shown, is_best=is_best, signs=signs)
        return result


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    for variable, value in zip(target.weights, source.weights, strict=True):
        variable.assign(tf.convert_to_tensor(value))


def _worst_of_all_workers(worst: metrics.WorstImages) -> list[tuple[float, int]]:
    """Returns mIoU and number of the worst images that any worker has seen, the worst first."""
    texts = distribution.texts_of_all_workers(json.dumps(worst.worst))
    seen = [(miou, number) for text in texts for miou, number in json.loads(text)]
    worst_of_all = metrics.WorstImages(_NUM_PANELS)
    for miou, number in sorted(seen, key=lambda image: image[1]):
        worst_of_all.add_miou(miou, number)
    return worst_of_all.worst


def _panels(
    images: Sequence[tuple[float, int]],
    label_of: Callable[[np.ndarray], np.ndarray],
    source: records.Records,
    split: str,
) -> list[np.ndarray]:
    """Draws images of a split with their labels and what is found in them.

    Another worker may have seen them, so they are labelled again.
    """
    numbers, info = [number for _, number in images], source.info
    examples = input_pipeline.evaluation_examples(source, split, numbers=numbers)
    return [
        panels.error_panel(
            info.displayed(example["image"]),
            example["label"],
            label_of(example["image"]),
            class_names=info.class_names,
            colors=info.colors,
            ignore_label=info.ignore_label,
            caption=f"{example['name'].decode()}: miou {miou:.2f}",
        )
        for (miou, _), example in zip(images, examples.as_numpy_iterator())
    ]


def _statistics_updater(
    evaluated: keras.Model, in_training: keras.Model, run: run_dirs.Run, source: records.Records
) -> Callable[[int], None]:
    """Returns a function of the step that measures the statistics of the batch norms that train.

    Both models get them: the one in training uses them in no step, but saves them.
    """
    norms = [
        (measured, trained)
        for measured, trained in zip(
            layers.batch_norms(evaluated), layers.batch_norms(in_training), strict=True
        )
        if batch_statistics.is_trained(trained)
    ]
    statistics = batch_statistics.BatchStatistics(evaluated, [measured for measured, _ in norms])

    def update(step: int) -> None:
        if norms and statistics.measure(batch_statistics.images_as_evaluated(run, source, step)):
            for measured, trained in norms:
                trained.moving_mean.assign(tf.convert_to_tensor(measured.moving_mean))
                trained.moving_variance.assign(tf.convert_to_tensor(measured.moving_variance))

    return update


def _averages_in_place(state: TrainingState) -> contextlib.AbstractContextManager:
    """Within the context the weights are their moving averages, if there are any."""
    if state.average is None:
        return contextlib.nullcontext()
    return state.average.swapped(checkpoints.averaged_variables(state.model))
