r"""Makes a run dir from official TF1 weights, for eval, predict and export.

    python -m deeplab_tf.import_checkpoint --checkpoint=PREFIX --flagfile=configs/X.flagfile \
        --run_dir=DIR
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
        "Official TF1 checkpoint: its prefix, such as model.ckpt-30000, or the name of a release "
        "(see deeplab_tf.zoo).",
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
        model_config=model_config,
        data_config=data_config,
        run_dir=arguments.run_dir,
        classes=arguments.classes,
    )
    print(report)
    print(f"the run is in {arguments.run_dir}")


if __name__ == "__main__":
    command_line.run(main)
