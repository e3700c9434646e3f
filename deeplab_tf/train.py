"""Trains a model.

    python -m deeplab_tf.train --data_dir=RECORDS --run_dir=DIR
    python -m deeplab_tf.train --flagfile=configs/X.flagfile --data_dir=RECORDS --run_dir=DIR

A new training starts from the ImageNet weights of its backbone, if they are in the cache or can be
downloaded, and says so. --tf_initial_checkpoint names other weights, or none.

The same command again resumes from the last checkpoint. Watch the training with
`tensorboard --logdir=DIR`.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig

print_metrics = command_line.lazy_function("deeplab_tf.evaluation.evaluate", "print_metrics")
train = command_line.lazy_function("deeplab_tf.training.loop", "train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    run_dir: str = config.run_dir()


def main(
    arguments: Arguments,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
) -> None:
    result = train(model_config, data_config, train_config, arguments.run_dir)
    if result:
        print_metrics(result)
    print(f"the run is in {arguments.run_dir}")


if __name__ == "__main__":
    command_line.run(main)
