r"""Makes a run dir from trained weights, for eval, predict and export.

    python -m deeplab_tf.import_checkpoint --checkpoint=NAME --run_dir=DIR
    python -m deeplab_tf.import_checkpoint --checkpoint=PATH --run_dir=DIR \
        --flagfile=configs/X.flagfile

NAME is a name of released weights (`python -m deeplab_tf.zoo list`). The network, its classes and
their colours follow from it. A flag that describes another network is an error; one that leaves the
weights as they are, such as --output_stride=8, replaces the setting of the release.

PATH is a TensorFlow 1 checkpoint of the original, whose network the other flags describe.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import setting

import_checkpoint = command_line.lazy_function("deeplab_tf.runs.imported_run", "import_checkpoint")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    checkpoint: str = setting(
        REQUIRED,
        "Name of released weights, see `python -m deeplab_tf.zoo list`; or a TensorFlow 1 "
        "checkpoint: its prefix such as model.ckpt-30000, a file of it, its folder or its archive.",
        is_path=True,
        is_common=True,
    )
    run_dir: str = config.run_dir()
    classes: str = config.classes(
        "that of the released weights, of data_dir or of dataset, or numbers"
    )


def main(
    arguments: Arguments,
    model_config: ModelConfig,
    data_config: DataConfig,
    _: TrainConfig,  # so that the flagfiles of trainings can be given
) -> None:
    report = import_checkpoint(
        arguments.checkpoint,
        model_config=model_config,
        data_config=data_config,
        run_dir=arguments.run_dir,
        classes=arguments.classes,
    )
    print(report)
    print(f"the run is in {arguments.run_dir}")


if __name__ == "__main__":
    command_line.run(main)
