"""Prints the parts of a model and their cost.

    python -m deeplab_tf.describe --flagfile=configs/X.flagfile [--layers]
    python -m deeplab_tf.describe --environment [--flagfile=RUN/flags.txt]

The first form lists shapes, parameters, multiply-adds and receptive fields, part by part, for one
image of --train_crop_size (513,513 if it is not given), and the memory of a training step with
--train_batch_size images (8 if it is not given). The second form prints what a bug report needs:
versions, devices, environment variables, and the flags given.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.settings import setting

# If the flags do not say.
_NUM_CLASSES = 21  # PASCAL VOC's
_BATCH_SIZE = 8  # images

describe = command_line.lazy_function("deeplab_tf.models.description", "describe")
describe_environment = command_line.lazy_function(
    "deeplab_tf.runs.environment", "describe_environment"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    layers: bool = setting(
        False, "Whether to list every layer instead of the parts of the model.", is_common=True
    )
    environment: bool = setting(
        False,
        "Whether to print versions, devices, environment variables and the flags given, for a bug "
        "report, instead of a model.",
        is_common=True,
    )


def main(
    arguments: Arguments,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
) -> None:
    from deeplab_tf import models

    if arguments.environment:
        print(describe_environment(model_config, data_config, train_config))
        return
    if model_config.num_classes is None:
        print(f"--num_classes is not given; describing a model of {_NUM_CLASSES} classes.\n")
        model_config = dataclasses.replace(model_config, num_classes=_NUM_CLASSES)
    model = models.build_outline(model_config)
    crop = data_config.train_crop_size or config.ORIGINAL_CROP_SIZE
    description = describe(model, crop, train_config.train_batch_size or _BATCH_SIZE)
    print(description.to_text(list_layers=arguments.layers))


if __name__ == "__main__":
    command_line.run(main)
