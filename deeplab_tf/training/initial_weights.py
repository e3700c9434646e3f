"""The weights that a new training starts from."""

import dataclasses

from deeplab_tf import zoo
from deeplab_tf.config import IMAGENET
from deeplab_tf.config import NO_WEIGHTS
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import bands
from deeplab_tf.errors import UserError
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import weight_sources
from deeplab_tf.training.training_state import TrainingState

# Without a network, a training starts within a few seconds.
_SECONDS_TO_REACH_A_SERVER = 3.0


def choose(train_config: TrainConfig, model_config: ModelConfig, run_dir: str) -> TrainConfig:
    """Replaces `IMAGENET` by the weights that a run starts from.

    Args:
        train_config: The training. With `IMAGENET`, the weights of the backbone are taken from the
            cache or downloaded; without them, the weights are random, and the reason is printed.
        model_config: The model.
        run_dir: Folder of the run. If it holds one, its weights are taken in place of
            `IMAGENET`.

    Returns:
        The training, with the name or path of weights, or `NO_WEIGHTS`.
    """
    if train_config.tf_initial_checkpoint != IMAGENET:
        return train_config
    source = _recorded(run_dir) or _imagenet_weights(model_config)
    return dataclasses.replace(train_config, tf_initial_checkpoint=source)


def as_recorded(run: run_dirs.Run) -> run_dirs.Run:
    """Returns a run with the weights that it was started from, which its folder records."""
    train_config = dataclasses.replace(
        run.train_config, tf_initial_checkpoint=_recorded(run.folder)
    )
    return dataclasses.replace(run, train_config=train_config)


def _recorded(run_dir: str) -> str:
    """Returns the weights that a run was started from; empty if there is no run."""
    if not run_dirs.is_run_dir(run_dir):
        return ""
    return run_dirs.read(run_dir).train_config.tf_initial_checkpoint or NO_WEIGHTS


def fill(state: TrainingState, run: run_dirs.Run) -> None:
    """Gives a new training its weights.

    Args:
        state: What is trained; its model gets the weights.
        run: The run.

    Raises:
        UserError: There is no such checkpoint, or it does not fit.
    """
    source = run.train_config.tf_initial_checkpoint
    if source and source != NO_WEIGHTS:
        report = weight_sources.fill(
            state.model,
            source,
            skip_mismatched=run.train_config.skip_mismatched,
            allow_backbone=True,
            rgb_bands=_rgb_bands(run),
        )
        print(report)


def _rgb_bands(run: run_dirs.Run) -> tuple[int, ...]:
    """The bands that get the weights of R, G and B; empty for RGB images."""
    given, dataset = run.train_config.rgb_bands, run.dataset
    if not given:
        return dataset.rgb_bands if dataset.num_channels != 3 else ()
    return bands.check_rgb_bands(given, dataset.num_channels, "rgb_bands")


def _imagenet_weights(model_config: ModelConfig) -> str:
    """Returns the name of a backbone's ImageNet weights, which then are in the cache of every
    worker; or `NO_WEIGHTS`, and prints why."""
    name, reason = _name_of_imagenet_weights(model_config)
    if name:
        reason = _download(name)
    if 0 in distribution.of_all_workers(not reason):
        reason = reason or f"another worker cannot get {name}."
        print(
            f"Starts from random weights: {reason} To start from other weights, give "
            "--tf_initial_checkpoint."
        )
        return NO_WEIGHTS
    print(f"Starts from the ImageNet weights of the backbone, {name}.")
    return name


def _name_of_imagenet_weights(model_config: ModelConfig) -> tuple[str, str]:
    """Returns the name of the weights that fit a backbone, or why there are none."""
    backbone = model_config.backbone
    name = zoo.imagenet_name(backbone)
    if name is None:
        return "", f"there are no released ImageNet weights for {backbone}."
    if model_config.depth_multiplier != 1:
        return "", (
            f"the ImageNet weights of {backbone} are of depth_multiplier 1, not "
            f"{model_config.depth_multiplier:g}."
        )
    if model_config.last_block not in (None, 4):
        return "", (
            f"the ImageNet weights of {backbone} have no block{model_config.last_block}. "
            f"--tf_initial_checkpoint={name} --skip_mismatched takes the blocks that they "
            "have."
        )
    return name, ""


def _download(name: str) -> str:
    """Downloads weights unless they are in the cache; returns why that is not possible."""
    if zoo.is_cached(name):
        return ""
    print(f"Downloading the ImageNet weights {name} from {zoo.ENTRIES[name].url}.", flush=True)
    try:
        zoo.download(name, seconds_to_answer=_SECONDS_TO_REACH_A_SERVER)
    except UserError as error:
        return str(error)
    return ""
