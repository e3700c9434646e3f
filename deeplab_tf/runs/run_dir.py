"""A run dir: everything that one training leaves, and that eval, predict and export need.

`run_files` lists what is in it. Every file appears whole: it is written beside its place and then
renamed.
"""

import dataclasses
import os

import keras

from deeplab_tf import command_line
from deeplab_tf import crf
from deeplab_tf import files
from deeplab_tf import models
from deeplab_tf import settings
from deeplab_tf.config import ORIGINAL_CROP_SIZE
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import distribution
from deeplab_tf.runs import hub
from deeplab_tf.runs import run_files
from deeplab_tf.weights import checkpoint_values

# Fields of `TrainConfig` that determine what a checkpoint holds.
_SHAPING_FLAGS = (
    "optimizer",
    "momentum",
    "moving_average_decay",
    "mixed_precision",
    "frozen_scopes",
    "quantize_delay_step",
)
_RESTORE = "Restore the file from a copy; a run on the same records has an equal one."


@dataclasses.dataclass(frozen=True)
class Run:
    """The description of a run.

    Attributes:
        folder: The run dir.
        model_config: The model; settings that the version and backbone imply are filled in.
        data_config: The records and their augmentation.
        train_config: The training.
        dataset: Class names, colours and ignore label.
    """

    folder: str
    model_config: ModelConfig
    data_config: DataConfig
    train_config: TrainConfig
    dataset: DatasetInfo


def describe(
    folder: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
    dataset: DatasetInfo,
) -> Run:
    """Returns the description of a new run; nothing is written.

    Raises:
        UserError: The folder holds the run of another model or other classes, or is not a folder
            but an address; or the model takes images of other bands.
    """
    hub.require_folder(folder)
    _check_channels(model_config, dataset)
    model_config = models.complete(model_config, dataset.num_classes, dataset.num_channels)
    if data_config.train_crop_size is None:  # of weights that were not trained here
        data_config = dataclasses.replace(data_config, train_crop_size=ORIGINAL_CROP_SIZE)
    # Where the command was run must not matter to those that read the run.
    data_config, train_config = map(_with_absolute_paths, (data_config, train_config))
    run = Run(folder, model_config, data_config, train_config, dataset)
    if is_run_dir(folder):
        _check_same_model(read(folder), run)
    return run


def write(run: Run) -> None:
    """Writes the description of a run into its folder; of several workers, only the first writes.

    Raises:
        UserError: The folder cannot be written.
    """
    if not distribution.is_chief():
        return
    try:
        files.as_path(run.folder).mkdir(parents=True, exist_ok=True)
        files.remove_drafts(run.folder)
        files.write_text(os.path.join(run.folder, run_files.DATASET), run.dataset.to_json())
        # The flags come last: they make the folder a run dir.
        path = os.path.join(run.folder, run_files.FLAGS)
        command_line.write_flagfile(path, run.model_config, run.data_config, run.train_config)
    except OSError as error:
        raise UserError(f"--run_dir={run.folder} cannot be written: {error}.") from error


def create(
    folder: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
    dataset: DatasetInfo,
) -> Run:
    """Makes a run dir, or updates the description of one that holds the same model.

    Raises:
        UserError: The folder holds the run of another model or other classes, or cannot be
            written.
    """
    run = describe(folder, model_config, data_config, train_config, dataset)
    write(run)
    return run


def is_run_dir(folder: str) -> bool:
    """Whether a folder describes itself as a run."""
    return files.as_path(folder, run_files.FLAGS).is_file()


def read(folder: str) -> Run:
    """Reads the description of a run dir.

    Args:
        folder: The run dir, or the address hf://USER/REPO of a published one.

    Raises:
        UserError: The folder is not a run dir, or its description is damaged; or the address
            cannot be downloaded.
    """
    given, folder = folder, hub.local_folder(folder)
    for name in (run_files.FLAGS, run_files.DATASET):
        if not files.as_path(folder, name).is_file():
            raise UserError(
                f"{given} is not a run dir: it has no {name}. Give a folder that "
                "deeplab_tf.train or deeplab_tf.import_checkpoint wrote."
            )
    model_config, data_config, train_config = command_line.read_flagfile(
        os.path.join(folder, run_files.FLAGS), ModelConfig, DataConfig, TrainConfig
    )
    path = os.path.join(folder, run_files.DATASET)
    text = files.read_text(path, "description of the classes")
    dataset = DatasetInfo.from_json(text, path, _RESTORE)
    return Run(folder, model_config, data_config, train_config, dataset)


def build_model(run: Run) -> keras.Model:
    """Builds the network of a run, with random weights; it rounds to 8 bits if the run does."""
    model = models.build_model(**dataclasses.asdict(run.model_config))
    return models.quantize(model) if run.train_config.is_quantized else model


def load_model(run: Run, checkpoint: str = "best") -> keras.Model:
    """Builds the run's model with its trained weights.

    Args:
        run: The run.
        checkpoint: "best" (highest validation mIoU; the last where there was no validation) or
            "last". A published run has one set of weights, which is loaded for either.

    Returns:
        The model of `deeplab_tf.build_model`, in float32 whatever it was trained in.

    Raises:
        UserError: The run has no checkpoint yet; or it is damaged, of another model, or holds
            weights that are not finite.
    """
    model = build_model(run)
    if is_published(run.folder):
        _load_published_weights(model, run.folder)
        return model
    checkpoints.restore_weights(model, checkpoints.find(run.folder, checkpoint))
    return model


def is_published(folder: str) -> bool:
    """Whether a folder was written by `deeplab_tf.export.hub`: Keras' files, no checkpoints."""
    return files.as_path(folder, run_files.KERAS_WEIGHTS).is_file()


def _load_published_weights(model: keras.Model, folder: str) -> None:
    path = os.path.join(folder, run_files.KERAS_WEIGHTS)
    try:
        with files.local_copy(path) as copy:
            model.load_weights(copy)
    except Exception as error:  # of many kinds, for all the ways in which a file can be damaged
        raise UserError(
            f"{path} cannot be used: it is damaged, or of another model than {run_files.FLAGS} "
            f"beside it describes ({checkpoint_values.first_line(error)})."
        ) from error
    checkpoints.check_finite(model, path)


def write_crf_parameters(folder: str, found: dict) -> None:
    """Writes what `deeplab_tf.tune_crf` found; `found["parameters"]` are the parameters to use.

    Raises:
        UserError: The folder cannot be written.
    """
    path = os.path.join(folder, run_files.CRF)
    try:
        files.write_json(path, found)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error


def crf_parameters(folder: str, config: CrfConfig) -> dict | None:
    """Returns the arguments of `dense_crf` that flags ask for in a run dir, or None for no CRF.

    Raises:
        UserError: The flags ask for tuned parameters, but none have been found, or their file is
            damaged.
    """
    if not config.crf:
        return None
    parameters = _read_crf_parameters(folder) if config.crf == "tuned" else crf.PRESETS[config.crf]
    given = {name: getattr(config, f"crf_{name}") for name in parameters}
    return parameters | {name: value for name, value in given.items() if value is not None}


def _read_crf_parameters(folder: str) -> dict:
    """Reads what `write_crf_parameters` wrote; the limits are those of the flags."""
    path = os.path.join(folder, run_files.CRF)
    command = f"python -m deeplab_tf.tune_crf --run_dir={folder}"
    if not files.as_path(path).is_file():
        raise UserError(f"--crf=tuned, but {folder} has no {run_files.CRF}. Run {command} first.")
    found = files.read_json(path, "file of CRF parameters")
    values = found.get("parameters") if isinstance(found, dict) else None
    if not isinstance(values, dict):
        raise UserError(f"{path} must have an object `parameters`. Run {command} again.")
    parameters = {}
    for setting in settings.settings_of(CrfConfig):
        name = setting.name.removeprefix("crf_")
        if name in crf.PRESETS["v1"]:
            try:
                parameters[name] = setting.check(values.get(name))
            except UserError as error:
                raise UserError(f"{path}: {error} Run {command} again.") from error
            if parameters[name] is None:
                raise UserError(f"{path}: parameters has no {name}. Run {command} again.")
    return parameters


def _with_absolute_paths(config):
    """Makes the paths in a config absolute where something exists at them."""
    paths = {
        setting.name: getattr(config, setting.name)
        for setting in settings.settings_of(type(config))
        if setting.is_path
    }
    return dataclasses.replace(
        config,
        **{
            name: tuple(map(_absolute, value)) if isinstance(value, tuple) else _absolute(value)
            for name, value in paths.items()
        },
    )


def _absolute(path: str) -> str:
    is_there = path and not files.is_remote(path) and os.path.exists(path)
    return os.path.abspath(path) if is_there else path


def changed_flags(run: Run) -> list[str]:
    """Returns how the flags that shape a checkpoint differ from those in the folder of a run."""
    if not is_run_dir(run.folder):
        return []
    before, now = (
        {name: getattr(config, name) for name in _SHAPING_FLAGS}
        for config in (read(run.folder).train_config, run.train_config)
    )
    return _differences(before, now)


def _check_channels(model_config: ModelConfig, dataset: DatasetInfo) -> None:
    if model_config.in_channels not in (None, dataset.num_channels):
        raise UserError(
            f"--in_channels={model_config.in_channels}, but the images of {dataset.name} have "
            f"{dataset.num_channels} channels: leave out --in_channels."
        )


def _check_same_model(old: Run, new: Run) -> None:
    before, now = (
        dataclasses.asdict(
            models.complete(run.model_config, run.dataset.num_classes, run.dataset.num_channels)
        )
        | {
            "class_names": run.dataset.class_names,
            "ignore_label": run.dataset.ignore_label,
            "bands": run.dataset.bands,
        }
        for run in (old, new)
    )
    different = _differences(before, now)
    if different:
        raise UserError(
            f"--run_dir={new.folder} holds another run: {'; '.join(different)}. Give another "
            "--run_dir, or the settings that it was started with."
        )


def _differences(before: dict, now: dict) -> list[str]:
    return [
        f"{name} was {before[name]!r} and is {now[name]!r}"
        for name in before
        if before[name] != now[name]
    ]
