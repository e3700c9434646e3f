"""Records: images and labels as TFRecord shards, and what these say of themselves.

The keys are those of the original DeepLab. Beside the shards of a folder that
`deeplab_tf.datasets.build` wrote lie `dataset_info.json` (splits and counts) and `metadata.json`
(class names, colours, ignore label), so that nothing has to be typed twice. Bare shards of others
are read as well, given the number of classes.
"""

import dataclasses
import json
import os
import pathlib
import re
import struct

import tensorflow as tf

from deeplab_tf.errors import UserError

IGNORE_LABEL = 255  # of records that do not say; VOC's and Cityscapes'

# Both `train-00000-of-00004.tfrecord` (DeepLab) and `name-train.tfrecord-00000-of-00004` (TFDS).
_SHARD = re.compile(
    r"(?P<split>.+?)(\.tfrecord)?-(?P<index>\d{5})-of-(?P<count>\d{5})(\.tfrecord)?"
)
_TFDS_SHARD = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # where dataset_info.json is silent


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What records say of themselves; a run dir keeps a copy."""

    name: str
    class_names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]  # RGB per class
    ignore_label: int

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "DatasetInfo":
        fields = json.loads(text)
        return cls(
            name=fields["name"],
            class_names=tuple(fields["class_names"]),
            colors=tuple(tuple(color) for color in fields["colors"]),
            ignore_label=fields["ignore_label"],
        )


@dataclasses.dataclass(frozen=True)
class Records:
    """A folder of records that was found to be complete."""

    folder: str
    info: DatasetInfo
    shard_lengths: dict[str, list[int]]  # records in each shard, by split
    shard_paths: dict[str, list[str]]  # by split

    @property
    def num_examples(self) -> dict[str, int]:
        """Records by split."""
        return {split: sum(lengths) for split, lengths in self.shard_lengths.items()}

    def shards(self, split: str) -> list[str]:
        """Returns the shards of a split, in order.

        Raises:
            UserError: There is no such split.
        """
        if split not in self.shard_paths:
            raise UserError(
                f"{self.folder} has no split {split!r}; there is {', '.join(self.shard_paths)}"
            )
        return self.shard_paths[split]


def default_colors(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Returns VOC's colours: the bits of a class id, dealt out to R, G and B from the top bit."""

    def channel(class_id: int, bit: int) -> int:
        return sum(((class_id >> (3 * i + bit)) & 1) << (7 - i) for i in range(3))

    return tuple(
        (channel(class_id, 0), channel(class_id, 1), channel(class_id, 2))
        for class_id in range(num_classes)
    )


def numbered_classes(name: str, num_classes: int, ignore_label: int | None = None) -> DatasetInfo:
    """Describes classes of which nothing but the number is known: `class_0`, `class_1`, ..."""
    return DatasetInfo(
        name=name,
        class_names=tuple(f"class_{class_id}" for class_id in range(num_classes)),
        colors=default_colors(num_classes),
        ignore_label=IGNORE_LABEL if ignore_label is None else ignore_label,
    )


def parse_example(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses one record; what it lacks gets the defaults of the original reader.

    Args:
        serialized: string scalar, a `tf.train.Example`.

    Returns:
        Scalars: `image_bytes` (string, JPEG or PNG), `label_bytes` (string, one-channel PNG of
        class ids; empty where there is no label), `name` (string), `height` and `width` (int64,
        pixels).
    """
    features = tf.io.parse_single_example(
        serialized,
        {
            "image/encoded": tf.io.FixedLenFeature((), tf.string, ""),
            "image/segmentation/class/encoded": tf.io.FixedLenFeature((), tf.string, ""),
            "image/filename": tf.io.FixedLenFeature((), tf.string, ""),
            "image/height": tf.io.FixedLenFeature((), tf.int64, 0),
            "image/width": tf.io.FixedLenFeature((), tf.int64, 0),
        },
    )
    return {
        "image_bytes": features["image/encoded"],
        "label_bytes": features["image/segmentation/class/encoded"],
        "name": features["image/filename"],
        "height": features["image/height"],
        "width": features["image/width"],
    }


def find_records(
    data_dir: str | os.PathLike,
    dataset: str = "",
    num_classes: int | None = None,
    ignore_label: int | None = None,
) -> Records:
    """Finds records in a folder and reads what they say of themselves.

    Args:
        data_dir: The folder of the records, or the folder they were built in (there they lie in
          `<dataset>/<version>/`; the newest version is taken).
        dataset: Which dataset, where `data_dir` holds several.
        num_classes: For records that do not say it themselves. They get the names `class_0`, ...
        ignore_label: In place of what the records say; 255 where they say nothing.

    Returns:
        The records. Bare shards are counted by hopping from one record to the next, which takes
        milliseconds per thousand and reads no image.

    Raises:
        UserError: There are no records, or not all of them, or it is not clear which.
    """
    path = pathlib.Path(data_dir).expanduser()
    build = f"Build some: python -m deeplab_tf.datasets.build --dataset=shapes --data_dir={path}"
    if not str(data_dir):
        raise UserError("--data_dir is missing: give the folder of the records. " + build)
    if not path.is_dir():
        raise UserError(f"there is no folder {path} to read records from. {build}")
    if (path / "dataset_info.json").exists():
        return _read_tfds_folder(path, num_classes, ignore_label)
    if folders := _tfds_folders(path):
        return _read_tfds_folder(_choose(path, folders, dataset), num_classes, ignore_label)
    if shard_paths := _bare_shards(path):
        return Records(
            folder=str(path),
            info=_undescribed(path, dataset or path.name, num_classes, ignore_label),
            shard_lengths={
                split: [count_records(shard) for shard in shards]
                for split, shards in shard_paths.items()
            },
            shard_paths=shard_paths,
        )
    raise UserError(
        f"no records in {path}: neither a dataset_info.json in it or in <dataset>/<version>/ below "
        f"it, nor shards like train-00000-of-00004.tfrecord. {build}"
    )


def count_records(shard: str) -> int:
    """Counts the records of a TFRecord file by their headers.

    Raises:
        UserError: The file ends in the middle of a record.
    """
    # A record is its length (uint64), a checksum (4 bytes), the bytes, a checksum (4 bytes).
    count, position, size = 0, 0, os.path.getsize(shard)
    with open(shard, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(8)
            if len(header) == 8:
                position += 8 + 4 + struct.unpack("<Q", header)[0] + 4
            if len(header) < 8 or position > size:
                raise UserError(f"{shard} is cut off, or no TFRecord file: copy or build it again")
            count += 1
    return count


def _tfds_folders(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the newest version's folder by dataset name, for a data_dir or one dataset of it."""
    found = [info.parent for info in path.glob("*/dataset_info.json")]
    found += [info.parent for info in path.glob("*/*/dataset_info.json")]
    found = [folder for folder in found if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    found.sort(key=lambda folder: [int(number) for number in folder.name.split(".")])
    return {folder.resolve().parent.name: folder for folder in found}  # the newest comes last


def _choose(path: pathlib.Path, folders: dict[str, pathlib.Path], dataset: str) -> pathlib.Path:
    names = ", ".join(sorted(folders))
    if dataset and dataset not in folders:
        raise UserError(f"{path} holds no dataset {dataset!r}; there is {names}")
    if not dataset and len(folders) > 1:
        raise UserError(f"{path} holds several datasets: choose by --dataset one of {names}")
    return folders[dataset or next(iter(folders))]


def _read_tfds_folder(
    path: pathlib.Path, num_classes: int | None, ignore_label: int | None
) -> Records:
    about = json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))
    name, file_format = about["name"], about.get("fileFormat", "tfrecord")
    if file_format != "tfrecord":
        raise UserError(
            f"the records in {path} are {file_format} files; build them as tfrecord files"
        )
    metadata_file = path / "metadata.json"
    if metadata_file.exists():
        metadata = json.loads(metadata_file.read_text(encoding="utf-8"))
        info = DatasetInfo(
            name=name,
            class_names=tuple(metadata["class_names"]),
            colors=tuple(tuple(color) for color in metadata["colors"]),
            ignore_label=metadata["ignore_label"] if ignore_label is None else ignore_label,
        )
    else:
        info = _undescribed(path, name, num_classes, ignore_label)
    shard_lengths, shard_paths = {}, {}
    for split in about["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        template = split.get("filepathTemplate") or _TFDS_SHARD
        shard_lengths[split["name"]] = lengths
        shard_paths[split["name"]] = [
            str(
                path
                / template.format(
                    DATASET=name,
                    SPLIT=split["name"],
                    FILEFORMAT=file_format,
                    SHARD_X_OF_Y=f"{index:05d}-of-{len(lengths):05d}",
                )
            )
            for index in range(len(lengths))
        ]
        _check_all_there(shard_paths[split["name"]])
    return Records(str(path), info, shard_lengths, shard_paths)


def _bare_shards(path: pathlib.Path) -> dict[str, list[str]]:
    """Returns the shards by split; what stands before `-00000-of-00010` is taken for the split."""
    shard_paths = {}
    for file in sorted(path.iterdir()):
        match = _SHARD.fullmatch(file.name)
        if not match or match["split"] in shard_paths:
            continue
        count = int(match["count"])
        shard_paths[match["split"]] = [
            str(
                file.with_name(
                    file.name.replace(
                        f"{match['index']}-of-{match['count']}", f"{index:05d}-of-{count:05d}"
                    )
                )
            )
            for index in range(count)
        ]
        _check_all_there(shard_paths[match["split"]])
    return shard_paths


def _check_all_there(shards: list[str]) -> None:
    missing = [shard for shard in shards if not os.path.exists(shard)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(shards)} shards are missing, {missing[0]} for one: "
            "copy or build the records again"
        )


def _undescribed(
    path: pathlib.Path, name: str, num_classes: int | None, ignore_label: int | None
) -> DatasetInfo:
    if num_classes is None:
        raise UserError(
            f"the records in {path} do not say how many classes they have (there is no "
            "metadata.json): give --num_classes, and --ignore_label if it is not "
            f"{IGNORE_LABEL}"
        )
    return numbered_classes(name, num_classes, ignore_label)
