"""Where images and labels come from: records, or folders of files."""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.data import decoding
from deeplab_tf.data import frames
from deeplab_tf.data import image_files
from deeplab_tf.data import label_arrays
from deeplab_tf.data import label_files
from deeplab_tf.data import record_reading
from deeplab_tf.data import records
from deeplab_tf.data import source_images
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data_report.images import Candidate
from deeplab_tf.data_report.images import MeasuredImage
from deeplab_tf.data_report.images import Problem
from deeplab_tf.data_report.statistics import UNLISTED
from deeplab_tf.errors import UserError

WHOLE_FOLDER = "all"  # the split of images that no list and no folder divides
_SPLIT_NAMES = ("train", "val", "test")  # beginnings of the names of lists and of folders


@dataclasses.dataclass(frozen=True)
class Folders:
    """A folder of images and a folder of labels, with the same names up to the extension.

    Attributes:
        images: Folder of images.
        labels: Folder of labels.
        info: The classes.
        encoding: One of `label_files.ENCODINGS`; None for what each file looks like.
        ids_by_color: For labels in colours.
        max_pixels: Larger images and labels are refused before they are decoded.
    """

    images: pathlib.Path
    labels: pathlib.Path
    info: records.DatasetInfo
    encoding: str | None = None
    ids_by_color: Mapping[label_files.RGB, int] | None = None
    max_pixels: int = image_files.MAX_PIXELS

    def __str__(self) -> str:
        return f"{self.images}, {self.labels}"

    @property
    def num_examples(self) -> int:
        return len(self._image_files[0])

    @functools.cached_property
    def _image_files(self):
        return _files(self.images, image_files.ENDINGS)

    def candidates(self) -> Iterator[Candidate]:
        """Yields images with their labels, by split; one without its partner comes alone."""
        images, image_twins = self._image_files
        labels, label_twins = _files(self.labels, image_files.ENDINGS + label_arrays.ENDINGS)
        splits = _listed_splits(self.images, list(images)) or {
            key: [_split_of_folder(key)] for key in images
        }
        for path, twin in image_twins + label_twins:
            problem = Problem("same_name", f"has the name of {twin.name}")
            yield Candidate("", str(path), problem=problem)
        for key, image in images.items():
            for split in splits.get(key, [UNLISTED]):
                if split != UNLISTED or key in labels:  # else nobody means to train on it
                    yield self._candidate(split, image, labels.get(key))
        for key in sorted((splits.keys() | labels.keys()) - images.keys()):
            split = splits.get(key, [""])[0]
            problem = Problem("image_missing", f"in the list {split}.txt" if split else "")
            yield Candidate(split, str(labels.get(key, key)), problem=problem)

    def _candidate(self, split: str, image: pathlib.Path, label: pathlib.Path | None) -> Candidate:
        def read(measured: MeasuredImage):
            pixels, upright = self._read_image(image, measured)
            return pixels, self._read_label(label, upright, measured)

        return Candidate(split, str(image), str(label or image), read)

    def _read_image(self, path: pathlib.Path, measured: MeasuredImage):
        """The pixels of the record, and a function that turns label maps likewise."""
        try:
            content = label_files.read_bytes(path, "image")
            source = source_images.read_source_image(content, str(path), max_pixels=self.max_pixels)
            return source.pixels(), source.upright
        except UserError as error:
            measured.add_error(error, str(path))
            return None, lambda label_map: label_map

    def _read_label(self, path: pathlib.Path | None, upright, measured: MeasuredImage):
        if path is None:
            measured.add("label_missing")
            return None
        try:
            pixels = label_files.load_label(path, self.max_pixels)
            label = label_files.label_ids(pixels, path, self.encoding, self.ids_by_color)
        except UserError as error:
            measured.add_error(error, str(path), of_label=True)
            return None
        measured.encoding = self.encoding or pixels.encodings(self.ids_by_color or {})[0]
        return upright(label)


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

    def candidates(self) -> Iterator[Candidate]:
        """Yields the records of all splits; those of a damaged shard up to the damage."""
        for split, shards in self.source.shard_paths.items():
            for shard, length in zip(shards, self.source.shard_lengths[split], strict=True):
                yield from self._of_shard(shard, split, length)

    def _of_shard(self, shard: str, split: str, length: int) -> Iterator[Candidate]:
        count = 0
        try:
            dataset = tf.data.TFRecordDataset(files.for_tensorflow(shard))
            for serialized in dataset.as_numpy_iterator():
                yield self._candidate(serialized, split, f"{shard}, record {count}")
                count += 1
        except tf.errors.OpError as error:
            reason = error.message.split(";")[0].split("}} ")[-1].split(" [Op:")[0]
            problem = Problem("shard_damaged", f"{reason}; {count} whole records before")
            yield Candidate(split, shard, problem=problem)
            return
        if count != length:
            problem = Problem("record_count", f"{count} records, not {length}")
            yield Candidate(split, shard, problem=problem)

    def _candidate(self, serialized: bytes, split: str, place: str) -> Candidate:
        try:
            record = record_reading.parse_record(serialized)
        except DataProblem as problem:
            name = f"{split}: {problem.name}" if problem.name else place
            return Candidate(split, name, name, problem=Problem(problem.kind, problem.detail))
        name = f"{split}: {record.name}" if record.name else place
        max_pixels, num_channels = self.source.limits.max_image_pixels, self.info.num_channels
        read = functools.partial(_read_record, record, max_pixels, num_channels)
        return Candidate(split, name, name, read)


def find_folders(
    images: str | os.PathLike, labels: str | os.PathLike, info: records.DatasetInfo, **reading
) -> Folders:
    """Finds images and labels.

    Args:
        images: Folder of images; one in remote storage is copied first.
        labels: Folder of labels; the same holds for it.
        info: The classes.
        **reading: Further attributes of `Folders`.

    Raises:
        UserError: A folder is missing, or there is no image in it.
    """
    for flag, folder in (("--images", images), ("--labels", labels)):
        if not files.as_path(folder).is_dir():
            raise UserError(f"{flag}={folder} is not a folder.")
    if files.is_remote(images):
        for path in files.as_path(images).parent.glob("*.txt"):
            files.cached_copy(path)  # a list of a split, whose copy lies beside that of the images
    found = Folders(files.cached_copy(images), files.cached_copy(labels), info, **reading)
    if not found.num_examples:
        raise UserError(
            f"--images={images}: no file in this folder, or in folders in it, ends in "
            f"{', '.join(image_files.ENDINGS)}."
        )
    return found


def _read_record(
    record: record_reading.Record, max_pixels: int, num_channels: int, measured: MeasuredImage
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the image and label that training would see."""
    image = label = None
    try:
        image = decoding.decode_image_strictly(record.image, max_pixels, num_channels)
        if frames.is_turned(record.image):
            measured.add("exif_rotation")
    except DataProblem as problem:
        measured.add(problem.kind, problem.detail)
    if image is not None and not _states(record, image):
        height, width = record.size
        measured.add("size_field", f"states {width}x{height}")
    if not record.label:
        measured.add("label_missing")
        return image, None
    try:
        label = decoding.decode_label(record.label, max_pixels)
        measured.encoding = decoding.label_encoding(record.label)
    except DataProblem as problem:
        measured.add_of_label(problem.kind, problem.detail)
    return image, label


def _states(record: record_reading.Record, image: np.ndarray) -> bool:
    """Whether the size that a record states, if any, is that of its image."""
    return all(stated in (0, side) for stated, side in zip(record.size, image.shape[:2]))


def _files(
    folder: pathlib.Path, extensions: tuple[str, ...]
) -> tuple[dict[str, pathlib.Path], list[tuple[pathlib.Path, pathlib.Path]]]:
    """The files by path within the folder, without extension; and (file, file of equal name)."""
    found, twins = {}, []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in extensions or image_files.is_litter(path):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            twins.append((path, found[key]))
        else:
            found[key] = path
    return found, twins


def _listed_splits(image_dir: pathlib.Path, keys: list[str]) -> dict[str, list[str]]:
    """The splits of every image, by the lists beside the folder; empty if there is none.

    They are the lists of the dataset `folder`: `train.txt`, `val.txt`, an image a line. A list of
    which no image is in the folder is that of another one.
    """
    splits = collections.defaultdict(list)
    for path in sorted(image_dir.parent.glob("*.txt")):
        if path.stem.startswith(_SPLIT_NAMES):
            lines = files.read_text(path, "split list").split("\n")
            listed = list(map(_name, filter(str.strip, lines)))
            if set(listed) & set(keys):
                for key in listed:
                    splits[key].append(path.stem)
    return dict(splits)


def _name(line: str) -> str:
    """The name of the image that a line of a list means."""
    name = line.strip().replace("\\", "/").rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    return stem if f"{dot}{extension.lower()}" in image_files.ENDINGS else name


def _split_of_folder(key: str) -> str:
    folder, slash, _ = key.partition("/")
    return folder if slash and folder.startswith(_SPLIT_NAMES) else WHOLE_FOLDER
