"""Builds the records of a dataset.

    python -m deeplab_tf.datasets.build --dataset=shapes --data_dir=DIR
    python -m deeplab_tf.datasets.build --dataset=folder --manual_dir=MY_DATA --data_dir=DIR

A build that was stopped resumes when the same command is run again. --beam_pipeline_options lets
Apache Beam write the shards on many machines: see docs/guides/beam.md.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import OwnDataConfig
from deeplab_tf.datasets.config import DATASETS
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import setting

build = command_line.lazy_function("deeplab_tf.datasets.building", "build")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    dataset: str = setting(REQUIRED, "Dataset to build.", choices=DATASETS, is_common=True)
    data_dir: str = setting(
        REQUIRED,
        "Folder to write the records to, in DATASET/VERSION.",
        is_path=True,
        is_common=True,
    )
    manual_dir: str | None = setting(
        None,
        "Folder of the raw images and labels. Without it, a message shows the layout that the "
        "dataset needs.",
        is_path=True,
        is_common=True,
    )
    num_shards: int = setting(4, "Number of shards for each split.", at_least=1)
    class_map: tuple[str, ...] = setting(
        (),
        "Merges and drops classes: car:vehicle,truck:vehicle,sky:ignore, or a file of such pairs.",
        default_help="the classes stay",
        is_path=True,
    )
    num_workers: int | None = setting(
        None, "Number of threads.", default_help="as many as CPU cores", at_least=1
    )
    beam_pipeline_options: tuple[str, ...] = config.beam_pipeline_options()
    splits: tuple[str, ...] = setting(
        (), "Splits to build.", default_help="all", example="train_fine,val_fine"
    )


def main(arguments: Arguments, own_data_config: OwnDataConfig) -> None:
    from deeplab_tf.data import own_data

    options = own_data.OwnDataOptions.of(own_data_config)
    class_map = ",".join(arguments.class_map)
    built = build(**dataclasses.asdict(arguments) | {"class_map": class_map}, own=options)
    counts = ", ".join(f"{count} {split}" for split, count in built.num_examples.items())
    train = command_line.shell_command(
        "deeplab_tf.train",
        data_dir=arguments.data_dir,
        dataset=arguments.dataset,
        run_dir="RUN_DIR",
    )
    print(
        f"{arguments.dataset}: {counts}, {built.info.num_classes} classes, in {built.folder}\n"
        f"Next: {train}"
    )


if __name__ == "__main__":
    command_line.run(main)
