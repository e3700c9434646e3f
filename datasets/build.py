"""Builds the records of a dataset: python -m deeplab_tf.datasets.build --dataset=shapes ..."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import tempfile

import tensorflow_datasets as tfds
from absl import flags

from deeplab_tf import command_line
from deeplab_tf import records
from deeplab_tf.errors import UserError

# Every dataset NAME is a folder with a TFDS builder: datasets/NAME/NAME_dataset_builder.py.
DATASETS = ("shapes", "camvid", "folder")


def build(
    dataset: str,
    data_dir: str | os.PathLike,
    manual_dir: str | os.PathLike | None = None,
    num_shards: int = 4,
) -> records.Records:
    """Builds the records of a dataset, unless they are there already.

    Args:
        dataset: One of `DATASETS`.
        data_dir: The records go to `<dataset>/<version>/` in it; nothing is there before all is.
        manual_dir: The raw pictures, for a dataset that does not draw its own.
        num_shards: Files per split; fewer where a split has fewer pictures.

    Returns:
        The records.

    Raises:
        UserError: Something is wrong with the raw pictures, or they are not where they should be.
    """
    builder = _builder_class(dataset)(data_dir=pathlib.Path(data_dir).expanduser())
    if builder.data_path.exists():
        print(f"{builder.data_path} is there already; delete it to build it anew.")
        return records.find_records(builder.data_path)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        _check_manual_dir(builder, manual_dir)
    elif manual_dir:
        raise UserError(f"{dataset} draws its own pictures: leave out --manual_dir={manual_dir}")
    print(f"Building {dataset} in {builder.data_path}")
    # Nothing is downloaded: TFDS gets a folder for that which goes away, and is not to speak of it.
    with tempfile.TemporaryDirectory() as nowhere, contextlib.redirect_stdout(None):
        builder.download_and_prepare(
            download_dir=nowhere,
            download_config=_DownloadConfig(manual_dir=manual_dir, num_shards=num_shards),
        )
    return records.find_records(builder.data_path)


def _builder_class(dataset: str) -> type[tfds.core.GeneratorBasedBuilder]:
    if dataset not in DATASETS:
        raise UserError(f"there is no dataset {dataset!r}; there is {', '.join(DATASETS)}")
    module = importlib.import_module(f"deeplab_tf.datasets.{dataset}.{dataset}_dataset_builder")
    return module.Builder


def _check_manual_dir(
    builder: tfds.core.GeneratorBasedBuilder, manual_dir: str | os.PathLike | None
) -> None:
    problem = None
    if not manual_dir:
        problem = "--manual_dir is missing"
    elif not os.path.isdir(manual_dir):
        problem = f"there is no folder --manual_dir={manual_dir}"
    elif not os.listdir(manual_dir):
        problem = f"the folder --manual_dir={manual_dir} is empty"
    if problem:
        raise UserError(f"{problem}.\n{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")


class _DownloadConfig(tfds.download.DownloadConfig):
    """Writes fewer shards where a split has fewer pictures, at which TFDS would give up."""

    def get_shard_config(self):
        shard_config = super().get_shard_config()

        class AtMostOnePerExample(type(shard_config)):
            def get_number_shards(self, total_size, num_examples, uses_precise_sharding=True):
                return min(self.num_shards, num_examples)

        return AtMostOnePerExample(**dataclasses.asdict(shard_config))


def define_flags() -> None:
    """Defines the flags of this command; not at import, as other commands have flags so named."""
    names = ", ".join(DATASETS)
    flags.DEFINE_string("dataset", None, f"One of {names} (required).", required=True)
    flags.DEFINE_string("data_dir", None, "Records go below it (required).", required=True)
    flags.DEFINE_string("manual_dir", None, "Raw pictures; without it, the error shows their tree.")
    flags.DEFINE_integer("num_shards", 4, "Files per split.", lower_bound=1)


def main(_) -> None:
    dataset, data_dir = flags.FLAGS.dataset, flags.FLAGS.data_dir
    built = build(dataset, data_dir, flags.FLAGS.manual_dir, flags.FLAGS.num_shards)
    counts = ", ".join(f"{count} {split}" for split, count in built.num_examples.items())
    print(
        f"{dataset}: {counts}, {built.info.num_classes} classes, in {built.folder}\n"
        "Next: python -m deeplab_tf.train --flagfile=configs/EXPERIMENT.flagfile "
        f"--data_dir={data_dir} --dataset={dataset} --run_dir=RUN_DIR"
    )


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
