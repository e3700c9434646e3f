"""The batches of a run, as a function of the step: a run that resumes needs no other state."""

from collections.abc import Iterator
from collections.abc import Sequence

import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.errors import UserError
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs


def check_batch_size(config: TrainConfig, strategy: tf.distribute.Strategy) -> None:
    """Checks that every device gets an equal part of a batch.

    Raises:
        UserError: It does not.
    """
    replicas = strategy.num_replicas_in_sync
    parts = replicas * config.gradient_accumulation_steps
    if config.train_batch_size % parts:
        raise UserError(
            f"--train_batch_size={config.train_batch_size} must be a multiple of {parts}: the "
            f"devices of --strategy={config.strategy} ({replicas}) times "
            f"--gradient_accumulation_steps={config.gradient_accumulation_steps}."
        )


def distributed(
    strategy: tf.distribute.Strategy,
    sources: Sequence[records.Records],
    run: run_dirs.Run,
    first_step: int,
) -> Iterator:
    """Returns an endless iterator of distributed batches of `image` and `label`.

    Args:
        strategy: The devices.
        sources: The records to train on.
        run: The run.
        first_step: Number of the first step, from 0.
    """

    def make(part: tuple[int, int]) -> tf.data.Dataset:
        batches = _from_step(sources, run, first_step, part)
        # Some accelerators take numbers only. `image_names` finds the names again.
        return batches.map(lambda batch: {key: batch[key] for key in ("image", "label")})

    return distribution.distribute_batches(strategy, make)


def image_names(sources: Sequence[records.Records], run: run_dirs.Run, step: int) -> list[str]:
    """Returns the names of the images of a step, which is counted from 0."""
    batches = _from_step(sources, run, step).take(run.train_config.gradient_accumulation_steps)
    return [name.decode() for batch in batches.as_numpy_iterator() for name in batch["name"]]


def _from_step(
    sources: Sequence[records.Records],
    run: run_dirs.Run,
    first_step: int,
    part: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Parts of batches from a step on: one batch for each of those that a step accumulates."""
    config = run.train_config
    batches = config.gradient_accumulation_steps
    return training_data.make_batches(
        sources,
        run.data_config,
        batch_size=config.train_batch_size // batches,
        pad_pixel=backbones.pad_pixel(run.model_config.backbone, run.model_config.in_channels),
        seed=config.seed,
        start_step=first_step * batches,
        part=part,
    )
