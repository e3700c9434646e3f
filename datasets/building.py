"""Building the records of a dataset."""

import importlib
import os
import pathlib
from collections.abc import Sequence

from deeplab_tf import files
from deeplab_tf.data import own_data
from deeplab_tf.data import records
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets import shards
from deeplab_tf.datasets.config import DATASETS
from deeplab_tf.errors import UserError

_NOWHERE = os.path.join(os.path.dirname(__file__), "not_a_folder")


def build(
    dataset: str,
    data_dir: str | os.PathLike,
    manual_dir: str | os.PathLike | None = None,
    *,
    class_map: str | None = None,
    splits: Sequence[str] = (),
    own: own_data.OwnDataOptions | None = None,
    **sharding,
) -> records.Records:
    """Builds the records of a dataset, unless they exist already.

    A build that was interrupted resumes when it is started again: finished shards are kept as long
    as their sources have not changed.

    Args:
        dataset: One of `DATASETS`.
        data_dir: The records go to `<dataset>/<version>/` in it, which appears when it is whole.
        manual_dir: The raw images, for a dataset that does not draw its own. Those in remote
          storage are copied first, see `files.cached_copy`.
        class_map: Merges or drops classes, see `class_map.parse_class_map`.
        splits: Which to build; by default all that are there.
        own: What is known about the images and labels, for `folder`.
        **sharding: `num_shards`, `num_workers` and `beam_pipeline_options` of
            `shards.write_shards`.

    Returns:
        The records.

    Raises:
        UserError: Something is wrong with the raw images, they are not where they should be, or
          the records cannot be written.
    """
    builder_class = _builder_class(dataset)
    parent = files.as_path(data_dir).expanduser()
    # TFDS only knows some kinds of remote storage: it describes the records, and writes nothing.
    builder = builder_class(data_dir=_NOWHERE if files.is_remote(parent) else parent)
    folder = parent.joinpath(*builder.data_path.parts[-2:])  # <dataset>/<version>
    if shards.is_complete(folder):
        print(f"{folder} exists already; delete it to build it again.")
        return records.find_records(folder)
    root = files.as_path(manual_dir).expanduser() if manual_dir else None
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        _check_manual_dir(builder, root)
    elif root:
        raise UserError(f"{dataset} draws its own images: leave out --manual_dir={manual_dir}.")
    if own and own != own_data.OwnDataOptions():
        if dataset != "folder":
            raise UserError(
                f"The layout of {dataset} is known: leave out the flags for the dataset "
                "`folder` (--format, --label_encoding, --label_suffix, --classes, --val_share, "
                "--unlabeled, --crowd, --line_width, --bands, --tile_size and the like)."
            )
        builder.options = own
    pairs = builder.find_pairs(files.cached_copy(root) if root else None, class_map)
    if missing := [split for split in splits if split not in pairs]:
        raise UserError(f"--splits asks for {missing[0]!r}, but {dataset} has {', '.join(pairs)}.")
    pairs = {split: pairs[split] for split in splits or pairs}
    print(f"Building {dataset} in {folder}")
    shards.write_shards(builder, folder, pairs, **sharding)
    return records.find_records(folder)


def _builder_class(dataset: str) -> type[segmentation.SegmentationBuilder]:
    if dataset not in DATASETS:
        raise UserError(f"There is no dataset {dataset!r}; choose one of {', '.join(DATASETS)}.")
    module = importlib.import_module(f"deeplab_tf.datasets.{dataset}.{dataset}_dataset_builder")
    return module.Builder


def _check_manual_dir(
    builder: segmentation.SegmentationBuilder, manual_dir: pathlib.Path | None
) -> None:
    problem = None
    if not manual_dir:
        problem = "--manual_dir is missing"
    elif not manual_dir.is_dir():
        problem = f"There is no folder --manual_dir={manual_dir}"
    elif not any(manual_dir.iterdir()):
        problem = f"The folder --manual_dir={manual_dir} is empty"
    if problem:
        raise UserError(f"{problem}.\n{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
