"""Makes a run dir out of official TF1 weights, for eval, predict and export.

python -m deeplab_tf.import_checkpoint --checkpoint=PREFIX --flagfile=configs/X.flagfile \
    --run_dir=DIR
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
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
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import setting
from deeplab_tf.weights import tf1_checkpoint


def import_checkpoint(
    checkpoint: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    run_dir: str,
    class_list: str = "",
) -> tf1_checkpoint.ImportReport:
    """Writes a run dir that holds the weights of a TF1 checkpoint.

    Args:
        checkpoint: Prefix of the checkpoint, such as `.../model.ckpt`.
        model_config: The model that it is of, `num_classes` included.
        data_config: Where there is a `data_dir`, its class names and colours are taken.
        run_dir: Folder to write.
        class_list: File with a class name per line, where there are no records.

    Returns:
        What was loaded and what was not used.

    Raises:
        UserError: The checkpoint is of another model, or the run dir is of another.
    """
    dataset = _describe_classes(model_config.num_classes, data_config, class_list)
    if model_config.num_classes not in (None, dataset.num_classes):
        raise UserError(
            f"--num_classes={model_config.num_classes}, but {class_list or data_config.data_dir} "
            f"has {dataset.num_classes} classes."
        )
    model_config = dataclasses.replace(model_config, num_classes=dataset.num_classes)
    model = models.build_model(**dataclasses.asdict(model_config))
    report = tf1_checkpoint.load_tf1_checkpoint(model, checkpoint)
    run_dirs.create(run_dir, model_config, data_config, TrainConfig(), dataset)
    checkpoints.save_weights(model, run_dir)
    return report


def _describe_classes(
    num_classes: int | None, data_config: DataConfig, class_list: str
) -> records.DatasetInfo:
    if class_list:
        class_names, colors = read_class_list(class_list)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    checkpoint: str = setting(
        REQUIRED,
        "Official TF1 checkpoint: its prefix, such as model.ckpt-30000.",
        is_path=True,
        is_common=True,
    )
    run_dir: str = config.run_dir()
    classes: str = config.classes("the records of data_dir, or numbers")


def main(
    arguments: Arguments,
    model_config: ModelConfig,
    data_config: DataConfig,
    _: TrainConfig,  # so that the flagfiles of trainings can be given
) -> None:
    report = import_checkpoint(
        arguments.checkpoint,
        model_config,
        data_config,
        arguments.run_dir,
        class_list=arguments.classes,
    )
    print(report)
    print(f"the run is in {arguments.run_dir}")


if __name__ == "__main__":
    command_line.run(main)
