"""Run dirs that hold official or other trained weights."""

import dataclasses
import os

from deeplab_tf import models
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.data.class_lists import read_class_list
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files
from deeplab_tf.runs import run_lock
from deeplab_tf.runs import weight_sources
from deeplab_tf.weights import tf1_checkpoint


def import_checkpoint(
    checkpoint: str,
    *,
    model_config: ModelConfig,
    data_config: DataConfig,
    run_dir: str,
    classes: str = "",
) -> tf1_checkpoint.ImportReport:
    """Writes a run dir with trained weights.

    Args:
        checkpoint: Path or name of the weights, see `weight_sources.fill`.
        model_config: The model of the checkpoint, with `num_classes`.
        data_config: If it has a `data_dir`, class names and colours are those of the records.
        run_dir: Folder to write.
        classes: File of class names, see `read_class_list`; empty for those of the records.

    Returns:
        What was loaded and what was not used.

    Raises:
        UserError: The checkpoint is of another model, or the run dir holds another model or a
            training.
    """
    dataset = _describe_classes(model_config.num_classes, data_config, classes)
    if model_config.num_classes not in (None, dataset.num_classes):
        raise UserError(
            f"--num_classes={model_config.num_classes}, but {classes or data_config.data_dir} "
            f"has {dataset.num_classes} classes."
        )
    model_config = dataclasses.replace(model_config, num_classes=dataset.num_classes)
    model = models.build_model(**dataclasses.asdict(model_config))
    report = weight_sources.fill(model, checkpoint)
    run = run_dirs.describe(run_dir, model_config, data_config, TrainConfig(), dataset)
    with run_lock.hold(run_dir):
        _check_that_it_is_not_trained(run_dir)
        run_dirs.write(run)
        checkpoints.save_weights(model, run_dir)
    return report


def _check_that_it_is_not_trained(run_dir: str) -> None:
    """Keeps imported weights from replacing trained ones."""
    for name in (run_files.TRAINING_LOG, run_files.CHECKPOINTS):
        if os.path.exists(os.path.join(run_dir, name)):
            raise UserError(f"--run_dir={run_dir} holds a training. Give another --run_dir.")


def _describe_classes(
    num_classes: int | None, data_config: DataConfig, classes: str
) -> records.DatasetInfo:
    if classes:
        class_names, colors = read_class_list(classes)
        ignore_label = data_config.ignore_label
        return records.DatasetInfo(
            "imported",
            class_names,
            colors,
            records.IGNORE_LABEL if ignore_label is None else ignore_label,
        )
    if data_config.data_dir:
        return training_data.find_own_records(data_config, num_classes).info
    if num_classes:
        return records.numbered_classes("imported", num_classes, data_config.ignore_label)
    raise UserError("The classes are not known: give --num_classes, --classes or --data_dir.")
