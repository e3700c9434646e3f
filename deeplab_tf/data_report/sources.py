"""Where images and labels come from: records, or folders of files."""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator

import tensorflow as tf

from deeplab_tf.data import label_files
from deeplab_tf.data import record_reading
from deeplab_tf.data import records
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data_report.images import Example
from deeplab_tf.data_report.images import Problem
from deeplab_tf.data_report.statistics import UNLISTED
from deeplab_tf.errors import UserError

WHOLE_FOLDER = "all"  # the split of images that no list and no folder divides
_SPLIT_NAMES = ("train", "val", "test")  # beginnings of the names of lists and of folders
# More than can be trained on: these others are found in order to be named.
_IMAGE_EXTENSIONS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Folders:
    """A folder of images and a folder of labels, of the same names up to the extension."""

    images: pathlib.Path
    labels: pathlib.Path
    info: records.DatasetInfo

    def __str__(self) -> str:
        return f"{self.images}, {self.labels}"

    @property
    def num_examples(self) -> int:
        return len(self._image_files[0])

    @functools.cached_property
    def _image_files(self):
        return _files(self.images, _IMAGE_EXTENSIONS)

    def examples(self) -> Iterator[Example]:
        """Yields images with their labels, by split; what lacks its partner comes without."""
        image_files, image_twins = self._image_files
        label_paths, label_twins = _files(
            self.labels, _IMAGE_EXTENSIONS + label_files.ARRAY_EXTENSIONS
        )
        splits = _listed_splits(self.images, list(image_files)) or {
            key: [_split_of_folder(key)] for key in image_files
        }
        for path, twin in image_twins + label_twins:
            problem = Problem("same_name", f"has the name of {twin.name}")
            yield Example("", str(path), None, None, problem)
        for key, image in image_files.items():
            for split in splits.get(key, [UNLISTED]):
                yield Example(split, str(image), image, label_paths.get(key))
        for key in sorted((splits.keys() | label_paths.keys()) - image_files.keys()):
            split = splits.get(key, [""])[0]
            problem = Problem("image_missing", f"in the list {split}.txt" if split else "")
            yield Example(split, str(label_paths.get(key, key)), None, None, problem)


@dataclasses.dataclass(frozen=True)
class Shards:
    """Records that were found."""

    source: records.Records

    def __str__(self) -> str:
        return self.source.folder

    @property
    def info(self) -> records.DatasetInfo:
        return self.source.info

    @property
    def num_examples(self) -> int:
        return sum(self.source.num_examples.values())

    def examples(self) -> Iterator[Example]:
        """Yields the records of all splits; those of a damaged shard up to the damage."""
        for split, shards in self.source.shard_paths.items():
            for shard, length in zip(shards, self.source.shard_lengths[split], strict=True):
                yield from _examples_of_shard(shard, split, length)


def find_folders(
    image_dir: str | os.PathLike, label_dir: str | os.PathLike, info: records.DatasetInfo
) -> Folders:
    """Finds images and labels.

    Raises:
        UserError: A folder is missing, or there is no image in it.
    """
    for flag, folder in (("--images", image_dir), ("--labels", label_dir)):
        if not os.path.isdir(folder):
            raise UserError(f"{flag}={folder} is no folder")
    found = Folders(pathlib.Path(image_dir), pathlib.Path(label_dir), info)
    if not found.num_examples:
        raise UserError(
            f"--images={image_dir}: no file in this folder, or in folders in it, ends in "
            f"{', '.join(_IMAGE_EXTENSIONS)}"
        )
    return found


def _examples_of_shard(shard: str, split: str, length: int) -> Iterator[Example]:
    count = 0
    try:
        for serialized in tf.data.TFRecordDataset(shard).as_numpy_iterator():
            yield _parse(serialized, split, f"{shard}, record {count}")
            count += 1
    except tf.errors.OpError as error:
        reason = error.message.split(";")[0].split("}} ")[-1].split(" [Op:")[0]
        problem = Problem("shard_damaged", f"{reason}; {count} whole records before")
        yield Example(split, shard, None, None, problem)
        return
    if count != length:
        problem = Problem("record_count", f"{count} records, not {length}")
        yield Example(split, shard, None, None, problem)


def _files(
    folder: pathlib.Path, extensions: tuple[str, ...]
) -> tuple[dict[str, pathlib.Path], list[tuple[pathlib.Path, pathlib.Path]]]:
    """The files by path within the folder, without extension; and (file, file of equal name)."""
    files, twins = {}, []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in extensions or path.name.startswith("."):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in files:
            twins.append((path, files[key]))
        else:
            files[key] = path
    return files, twins


def _listed_splits(image_dir: pathlib.Path, keys: list[str]) -> dict[str, list[str]]:
    """The splits of every image, by the lists beside the folder; empty if there is none.

    They are the lists of the dataset `folder`: `train.txt`, `val.txt`, an image a line. A list of
    which no image is in the folder is that of another one.
    """
    splits = collections.defaultdict(list)
    for path in sorted(image_dir.parent.glob("*.txt")):
        if path.stem.startswith(_SPLIT_NAMES):
            lines = path.read_text("utf-8", errors="replace").splitlines()
            listed = list(map(_name, filter(str.strip, lines)))
            if set(listed) & set(keys):
                for key in listed:
                    splits[key].append(path.stem)
    return dict(splits)


def _name(line: str) -> str:
    """The name of the image that a line of a list means."""
    name = line.strip().replace("\\", "/").rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    return stem if f"{dot}{extension.lower()}" in _IMAGE_EXTENSIONS else name


def _split_of_folder(key: str) -> str:
    folder, slash, _ = key.partition("/")
    return folder if slash and folder.startswith(_SPLIT_NAMES) else WHOLE_FOLDER


def _parse(serialized: bytes, split: str, place: str) -> Example:
    try:
        record = record_reading.parse_record(serialized)
    except DataProblem as problem:
        name = f"{split}: {problem.name}" if problem.name else place
        return Example(split, name, None, None, Problem(problem.kind, problem.detail))
    return Example(
        split,
        f"{split}: {record.name}" if record.name else place,
        record.image,
        record.label or None,
        stated_size=record.size,
    )
