"""A run dir: everything that one training leaves, and that eval, predict and export need.

flags.txt      the run's configs, as a flagfile
dataset.json   class names, colours and ignore label of what it was trained on
checkpoints/   the last states of training, to go on from
best/          the weights with the best validation mIoU
tensorboard/   curves and images
metrics.jsonl  the same figures, a line for each event
lock           held by the process that trains
crf.json       the CRF parameters that `deeplab_tf.tune_crf` found
metrics.json   the figures of the last `deeplab_tf.eval`
"""

import dataclasses
import json
import os

import keras

from deeplab_tf import command_line
from deeplab_tf import crf
from deeplab_tf import models
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import distribution

_FLAGS = "flags.txt"
_DATASET = "dataset.json"
_CRF = "crf.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run dir says of itself."""

    folder: str
    model_config: ModelConfig
    data_config: DataConfig
    train_config: TrainConfig
    dataset: DatasetInfo


def create(
    folder: str,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
    dataset: DatasetInfo,
) -> Run:
    """Makes a run dir, or updates the description of one that holds the same model.

    Of several workers the first does, for all.

    Raises:
        UserError: The folder holds the run of another model or dataset, or cannot be written.
    """
    model_config = models.complete(model_config, dataset.num_classes)
    run = Run(folder, model_config, data_config, train_config, dataset)
    if not distribution.is_chief():
        return run
    if os.path.exists(os.path.join(folder, _FLAGS)):
        _check_same_model(read(folder), run)
    try:
        os.makedirs(folder, exist_ok=True)
        flags_path = os.path.join(folder, _FLAGS)
        command_line.write_flagfile(flags_path + ".new", model_config, data_config, train_config)
        with open(os.path.join(folder, _DATASET), "w", encoding="utf-8") as file:
            file.write(dataset.to_json())
        os.replace(flags_path + ".new", flags_path)  # last: its presence makes it a run dir
    except OSError as error:
        raise UserError(f"--run_dir={folder} cannot be written: {error}.") from error
    return run


def is_run_dir(folder: str) -> bool:
    """Whether a folder describes itself as a run."""
    return os.path.isfile(os.path.join(folder, _FLAGS))


def read(folder: str) -> Run:
    """Reads the description of a run dir.

    Raises:
        UserError: The folder is no run dir.
    """
    for name in (_FLAGS, _DATASET):
        if not os.path.isfile(os.path.join(folder, name)):
            raise UserError(
                f"--run_dir={folder} is no run dir: it has no {name}. Give a folder that "
                "deeplab_tf.train or deeplab_tf.import_checkpoint wrote."
            )
    configs = command_line.read_flagfile(
        os.path.join(folder, _FLAGS), ModelConfig, DataConfig, TrainConfig
    )
    with open(os.path.join(folder, _DATASET), encoding="utf-8") as file:
        return Run(folder, *configs, DatasetInfo.from_json(file.read()))


def load_model(run: Run, checkpoint: str = "best") -> keras.Model:
    """Builds the run's model with its trained weights.

    Args:
        run: The run.
        checkpoint: "best" (highest validation mIoU; the last where there was no validation) or
            "last".

    Returns:
        The model of `deeplab_tf.build_model`, in float32 whatever it was trained in.

    Raises:
        UserError: The run has no checkpoint yet, or one of another model.
    """
    model = models.build_model(**dataclasses.asdict(run.model_config))
    checkpoints.restore_weights(model, checkpoints.find(run.folder, checkpoint))
    return model


def write_crf_parameters(folder: str, found: dict) -> None:
    """Keeps what `deeplab_tf.tune_crf` found; `found["parameters"]` are those to be used.

    Raises:
        UserError: The folder cannot be written.
    """
    path = os.path.join(folder, _CRF)
    try:
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(json.dumps(found, indent=2) + "\n")
        os.replace(path + ".new", path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error


def crf_parameters(folder: str, config: CrfConfig) -> dict | None:
    """Returns the arguments of `dense_crf` that flags ask for in a run dir, or None for no CRF.

    Raises:
        UserError: A name of parameters that there is not, or no CRF has been tuned.
    """
    if not config.crf:
        return None
    if config.crf == "tuned":
        path = os.path.join(folder, _CRF)
        if not os.path.isfile(path):
            raise UserError(
                f"--crf=tuned, but {folder} has no {_CRF}: run deeplab_tf.tune_crf "
                f"--run_dir={folder} first."
            )
        with open(path, encoding="utf-8") as file:
            parameters = json.load(file)["parameters"]
    elif config.crf in crf.PRESETS:
        parameters = crf.PRESETS[config.crf]
    else:
        raise UserError(f"--crf={config.crf}; it can be {', '.join(crf.PRESETS)} or tuned.")
    given = dataclasses.asdict(config)
    changed = {name: given[f"crf_{name}"] for name in parameters}
    return parameters | {name: value for name, value in changed.items() if value is not None}


def _check_same_model(old: Run, new: Run) -> None:
    there, here = (
        dataclasses.asdict(run.model_config)
        | {"class_names": run.dataset.class_names, "ignore_label": run.dataset.ignore_label}
        for run in (old, new)
    )
    different = [
        f"{name} is {there[name]} there and {here[name]} now"
        for name in there
        if there[name] != here[name]
    ]
    if different:
        raise UserError(
            f"--run_dir={new.folder} holds another run: {'; '.join(different)}. Give another "
            "--run_dir, or the settings it was started with."
        )
