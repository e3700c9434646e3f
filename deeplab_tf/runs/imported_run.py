"""Run dirs that hold official or other trained weights."""

import dataclasses
import os

from deeplab_tf import files
from deeplab_tf import models
from deeplab_tf import zoo
from deeplab_tf.config import NO_DATA_SETTINGS
from deeplab_tf.config import NO_MODEL_SETTINGS
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.config import TrainedConfig
from deeplab_tf.data import bands
from deeplab_tf.data import published_classes
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.data.class_lists import read_class_list
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import released
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files
from deeplab_tf.runs import run_lock
from deeplab_tf.runs import weight_sources
from deeplab_tf.weights import tf1_checkpoint


def find_run_dir(config: TrainedConfig) -> str:
    """Returns the run dir that a command is to use, see `run_dir_of_release` for released weights.

    Raises:
        UserError: The released weights cannot be loaded. Whether a given folder is a run dir is not
            checked.
    """
    if config.run_dir:
        return config.run_dir
    if config.weights not in zoo.ENTRIES and os.path.basename(config.weights) != config.weights:
        raise UserError(
            f"--weights={config.weights} is a path, and must be a name of `python -m "
            "deeplab_tf.zoo list`. Make a run dir from a checkpoint with `python -m "
            f"deeplab_tf.import_checkpoint --checkpoint={config.weights} --run_dir=DIR` with the "
            "flags of its network, and give that as --run_dir."
        )
    return run_dir_of_release(config.weights)


def run_dir_of_release(name: str) -> str:
    """Returns the run dir of released weights, which lies beside them in the cache.

    The weights are downloaded, and the run dir is made, if they are not there yet.

    Args:
        name: A name of `zoo.ENTRIES`.

    Raises:
        UserError: There is no such name, the weights are those of a backbone alone, or they cannot
            be downloaded or do not fit.
    """
    released.settings_of(name)  # raises before anything is downloaded
    zoo.resolve(name)
    folder = zoo.folder_of(name) / "run"
    if not run_dirs.is_run_dir(str(folder)):
        try:
            with files.replacing(folder) as draft:
                print(import_checkpoint(name, run_dir=str(draft)))
        except OSError as error:
            if not run_dirs.is_run_dir(str(folder)):  # made by another process meanwhile
                raise UserError(
                    f"{folder} cannot be written ({error.strerror or error}): name another folder "
                    "in the environment variable DEEPLAB_TF_CACHE."
                ) from error
    return str(folder)


def import_checkpoint(
    checkpoint: str,
    *,
    run_dir: str,
    model_config: ModelConfig = NO_MODEL_SETTINGS,
    data_config: DataConfig = NO_DATA_SETTINGS,
    classes: str = "",
) -> tf1_checkpoint.ImportReport:
    """Writes a run dir with trained weights.

    Args:
        checkpoint: Path or name of the weights, see `weight_sources.fill`.
        run_dir: Folder to write.
        model_config: The model of the checkpoint, with `num_classes`. With the name of a release,
            all settings follow from the name; those that are given here must agree with it, or
            leave its variables as they are.
        data_config: The data. If it has a `data_dir`, class names and colours are those of the
            records; if it has the `dataset` of a release, those of this published data set.
        classes: File of class names, see `read_class_list`; empty for those of the data.

    Returns:
        What was loaded and what was not used.

    Raises:
        UserError: The checkpoint is of another model, or the run dir holds another model or a
            training.
    """
    if checkpoint in zoo.ENTRIES:
        model_config, data_config, notes = released.settings_of(
            checkpoint, model_config, data_config
        )
        for note in notes:
            print(note)
    dataset = _describe_classes(model_config.num_classes, data_config, classes)
    if model_config.num_classes not in (None, dataset.num_classes):
        raise UserError(
            f"--num_classes={model_config.num_classes}, but {classes or data_config.data_dir} "
            f"has {dataset.num_classes} classes."
        )
    if model_config.in_channels not in (None, dataset.num_channels) and not dataset.bands:
        dataset = _with_bands(dataset, model_config.in_channels)
    model_config = dataclasses.replace(
        model_config, num_classes=dataset.num_classes, in_channels=dataset.num_channels
    )
    model = models.build_model(**dataclasses.asdict(model_config))
    rgb_bands = dataset.rgb_bands if dataset.num_channels != 3 else ()
    report = weight_sources.fill(model, checkpoint, rgb_bands=rgb_bands)
    train_config = TrainConfig(tf_initial_checkpoint=checkpoint)
    run = run_dirs.describe(run_dir, model_config, data_config, train_config, dataset)
    with run_lock.hold(run_dir):
        _check_that_it_is_not_trained(run_dir)
        run_dirs.write(run)
        checkpoints.save_weights(model, run_dir)
    return report


def _with_bands(dataset: records.DatasetInfo, number: int) -> records.DatasetInfo:
    """Describes images of a number of 8-bit bands, of which nothing else is known."""
    return dataclasses.replace(
        dataset,
        bands=tuple(bands.Band(index, str(index)) for index in range(1, number + 1)),
        rgb_bands=bands.default_rgb_bands(number),
    )


def _check_that_it_is_not_trained(run_dir: str) -> None:
    """Keeps imported weights from replacing trained ones."""
    for name in (run_files.TRAINING_LOG, run_files.CHECKPOINTS):
        if files.as_path(run_dir, name).exists():
            raise UserError(f"--run_dir={run_dir} holds a training. Give another --run_dir.")


def _describe_classes(
    num_classes: int | None, data_config: DataConfig, classes: str
) -> records.DatasetInfo:
    """Describes the classes: those of a file, of records, of a published data set, or numbers."""
    published = published_classes.BY_DATASET.get(data_config.dataset)
    if classes:
        class_names, colors = read_class_list(classes)
        info = records.DatasetInfo("imported", class_names, colors, records.IGNORE_LABEL)
    elif data_config.data_dir:
        info = training_data.find_own_records(data_config, num_classes).info
        is_numbered = info.class_names[0] == records.numbered_classes("", 1).class_names[0]
        if is_numbered and published and published.num_classes == info.num_classes:
            info = dataclasses.replace(published, ignore_label=info.ignore_label)
    elif published and num_classes in (None, published.num_classes):
        info = published
    elif num_classes:
        info = records.numbered_classes("imported", num_classes)
    else:
        raise UserError("The classes are not known: give --num_classes, --classes or --data_dir.")
    if data_config.ignore_label is not None:
        info = dataclasses.replace(info, ignore_label=data_config.ignore_label)
    return info
