"""Run dirs made of official TF1 weights."""

import dataclasses

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
from deeplab_tf.weights import tf1_checkpoint


def import_checkpoint(
    checkpoint: str,
    *,
    model_config: ModelConfig,
    data_config: DataConfig,
    run_dir: str,
    classes: str = "",
) -> tf1_checkpoint.ImportReport:
    """Writes a run dir that holds the weights of a TF1 checkpoint.

    Args:
        checkpoint: Prefix of the checkpoint, such as `.../model.ckpt`.
        model_config: The model that it is of, `num_classes` included.
        data_config: Where there is a `data_dir`, its class names and colours are taken.
        run_dir: Folder to write.
        classes: File with a class name per line, where there are no records.

    Returns:
        What was loaded and what was not used.

    Raises:
        UserError: The checkpoint is of another model, or the run dir is of another.
    """
    dataset = _describe_classes(model_config.num_classes, data_config, classes)
    if model_config.num_classes not in (None, dataset.num_classes):
        raise UserError(
            f"--num_classes={model_config.num_classes}, but {classes or data_config.data_dir} "
            f"has {dataset.num_classes} classes."
        )
    model_config = dataclasses.replace(model_config, num_classes=dataset.num_classes)
    model = models.build_model(**dataclasses.asdict(model_config))
    report = tf1_checkpoint.load_tf1_checkpoint(model, checkpoint)
    run_dirs.create(run_dir, model_config, data_config, TrainConfig(), dataset)
    checkpoints.save_weights(model, run_dir)
    return report


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
