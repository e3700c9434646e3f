"""Records: images and labels as TFRecord shards, and their description.

The keys are those of the original DeepLab. Beside the shards of a folder that
`deeplab_tf.datasets.build` wrote lie `dataset_info.json` (splits and counts) and `metadata.json`
(class names, colours, ignore label), so that nothing has to be typed twice. Bare shards from other
programs are read as well, given the number of classes.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from deeplab_tf import files
from deeplab_tf.data import bands as image_bands
from deeplab_tf.data import image_files
from deeplab_tf.data import kept_index
from deeplab_tf.data import shard_files
from deeplab_tf.data.json_fields import JsonObject
from deeplab_tf.data.json_fields import as_color
from deeplab_tf.data.json_fields import as_integer
from deeplab_tf.data.threads import map_in_threads
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

IGNORE_LABEL = 255  # of records that do not state one; VOC's and Cityscapes'
MAX_CLASSES = 256  # labels have 8 bits

_SMALLEST_DIFFERENCE = 20  # of two colours, as their distance in RGB
_INFO, _METADATA = "dataset_info.json", "metadata.json"
_TFDS_SHARD = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # where dataset_info.json is silent
_MAX_SPLITS, _MAX_SHARDS, _MAX_RECORDS, _MAX_BYTES = 1000, 100_000, 10**12, 10**18
# Control characters, line and paragraph separators, halves of characters.
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BUILD_AGAIN = "Build the records again, or copy this file again."


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What records say about their labels and images; a run dir keeps a copy.

    Attributes:
        name: Name of the data set.
        class_names: The index of a name is its class id.
        colors: RGB of each class.
        ignore_label: Label of pixels that do not count.
        bands: The channels of the images; empty for RGB.
        rgb_bands: Numbers, from 1, of the bands that display images as red, green and blue, and
            that take the pretrained weights of these.

    Raises:
        UserError: A class has a name that would not stay on a line of a list.
    """

    name: str
    class_names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore_label: int
    bands: tuple[image_bands.Band, ...] = ()
    rgb_bands: tuple[int, ...] = ()

    def __post_init__(self):
        for name in self.class_names:
            if not is_class_name(name):
                raise UserError(
                    f"{shortened(repr(name))} is not the name of a class: a name has 1 to 255 "
                    "characters on one line. Rename the class."
                )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        """The number of channels of the images."""
        return len(self.bands) or 3

    def displayed(self, image: np.ndarray) -> np.ndarray:
        """Returns an image, uint8 [H, W, num_channels], as it is displayed: [H, W, 3] in RGB."""
        return image_bands.as_rgb(image, self.rgb_bands) if self.bands else image

    def to_json(self) -> str:
        fields = dataclasses.asdict(self)
        del fields["bands"], fields["rgb_bands"]
        fields |= image_bands.to_fields(self.bands, self.rgb_bands)
        return json.dumps(fields, indent=2) + "\n"

    @classmethod
    def from_json(
        cls, text: str, where: str = "the dataset description", remedy: str = _BUILD_AGAIN
    ) -> "DatasetInfo":
        """Reads what `to_json` wrote.

        Args:
            text: The JSON.
            where: Name of the file, for messages.
            remedy: What to do if something is wrong, for messages.

        Raises:
            UserError: It is not JSON, or a field is missing or makes no sense.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}). {remedy}") from error
        fields = JsonObject(value, where, remedy)
        return cls(fields.text("name"), *_read_classes(fields), *image_bands.from_fields(fields))


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is tolerated in records while they are read.

    Attributes:
        max_image_pixels: Larger images and labels are refused before they are decoded.
        max_damaged_share: Share of damaged records beyond which reading stops; one is always
          tolerated, unless this is 0.
    """

    max_image_pixels: int = image_files.MAX_PIXELS
    max_damaged_share: float = 0.01


@dataclasses.dataclass(frozen=True)
class Records:
    """A folder of records that was found to be complete."""

    folder: str
    info: DatasetInfo
    shard_lengths: dict[str, list[int]]  # records in each shard, by split
    shard_paths: dict[str, list[str]]  # by split
    limits: Limits = Limits()

    @property
    def num_examples(self) -> dict[str, int]:
        """Records by split."""
        return {split: sum(lengths) for split, lengths in self.shard_lengths.items()}

    def num_records(self, split: str) -> int:
        """Returns the number of records of a split.

        Raises:
            UserError: There is no such split, or it holds no record.
        """
        self._check_split(split)
        return self.num_examples[split]

    def shards(self, split: str) -> list[str]:
        """Returns the shards of a split, in order, as TensorFlow opens them.

        They are copied first where `files.for_tensorflow` says so.

        Raises:
            UserError: There is no such split, or it holds no record.
        """
        self._check_split(split)
        return list(map_in_threads(files.for_tensorflow, self.shard_paths[split]))

    def _check_split(self, split: str) -> None:
        if split not in self.shard_paths:
            raise UserError(
                f"{self.folder} has no split {split!r}; it has {', '.join(self.shard_paths)}"
            )
        if not self.num_examples[split]:
            raise UserError(f"The split {split!r} of {self.folder} holds no record.")


def default_colors(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Returns VOC's colours: the bits of a class id, dealt out to R, G and B from the top bit."""

    def channel(class_id: int, bit: int) -> int:
        return sum(((class_id >> (3 * i + bit)) & 1) << (7 - i) for i in range(3))

    return tuple(
        (channel(class_id, 0), channel(class_id, 1), channel(class_id, 2))
        for class_id in range(num_classes)
    )


def is_class_name(name: object) -> bool:
    """Whether a value can be the name of a class, which lists have on a line of its own."""
    return isinstance(name, str) and 0 < len(name) <= 255 and not _NOT_IN_NAMES.search(name)


def distinct_colors(
    colors: Sequence[tuple[int, int, int]],
) -> tuple[tuple[int, int, int], ...]:
    """Returns colours for the eye: the same ones, or VOC's if some cannot be told apart.

    Label images often have colours such as (0, 0, 0) and (1, 1, 1), which are ids.
    """
    for number, color in enumerate(colors):
        for other in colors[:number]:
            if math.dist(color, other) < _SMALLEST_DIFFERENCE:
                return default_colors(len(colors))
    return tuple(colors)


def numbered_classes(name: str, num_classes: int, ignore_label: int | None = None) -> DatasetInfo:
    """Describes classes when only their number is known: `class_0`, `class_1`, ..."""
    return DatasetInfo(
        name=name,
        class_names=tuple(f"class_{class_id}" for class_id in range(num_classes)),
        colors=default_colors(num_classes),
        ignore_label=IGNORE_LABEL if ignore_label is None else ignore_label,
    )


def find_records(
    data_dir: str | os.PathLike,
    dataset: str = "",
    *,
    num_classes: int | None = None,
    ignore_label: int | None = None,
    limits: Limits = Limits(),
    must_be_complete: bool = True,
) -> Records:
    """Finds records in a folder and reads their description.

    Args:
        data_dir: The folder of the records, or the folder they were built in (there they lie in
          `<dataset>/<version>/`; the newest version is taken).
        dataset: Which dataset, where `data_dir` holds several.
        num_classes: For records without a description. They get the names `class_0`, ...
        ignore_label: In place of that of the records; by default 255 if they state none.
        limits: What is tolerated while they are read.
        must_be_complete: Whether shards that hold other than the stated number of records are an
          error.

    Returns:
        The records.

    Raises:
        UserError: There are no records, or not all of them, or it is not clear which.
    """
    path = files.as_path(data_dir).expanduser()
    build = f"Build some: python -m deeplab_tf.datasets.build --dataset=shapes --data_dir={path}"
    if not str(data_dir):
        raise UserError("--data_dir is missing: give the folder of the records. " + build)
    if not path.is_dir():
        raise UserError(f"There is no folder {path} to read records from. {build}")
    if ignore_label is not None and not 0 <= ignore_label <= 255:
        raise UserError(f"--ignore_label={ignore_label} must be between 0 and 255.")
    folders = {"": path} if (path / _INFO).exists() else _tfds_folders(path)
    if folders:
        folder = path if "" in folders else _choose(path, folders, dataset)
        return _read_tfds_folder(
            folder, num_classes, ignore_label, limits=limits, must_be_complete=must_be_complete
        )
    shard_paths = shard_files.find_bare_shards(path)
    if not shard_paths:
        raise UserError(
            f"There are no records in {path}: neither a {_INFO} in it or in <dataset>/<version>/ "
            f"below it, nor shards like train-00000-of-00004.tfrecord. {build}"
        )
    info = _undescribed(path, dataset or path.name, num_classes, ignore_label)
    shard_lengths = {split: _count(shards, split) for split, shards in shard_paths.items()}
    if must_be_complete:
        for split, shards in shard_paths.items():
            shard_files.check_empty_shards(dict(zip(shards, shard_lengths[split])))
    return Records(str(path), info, shard_lengths, shard_paths, limits)


def _count(shards: Sequence[str], split: str) -> list[int]:
    """Returns how many records each shard holds; those of an index need not be counted again."""
    kept = kept_index.read(shards, split, "lengths")
    if kept:
        return kept["lengths"].tolist()
    return [shard_files.count_records(shard) for shard in shards]


def _tfds_folders(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the newest version's folder by dataset name, for a data_dir or one dataset of it."""
    found = [info.parent for info in path.glob(f"*/{_INFO}")]
    found += [info.parent for info in path.glob(f"*/*/{_INFO}")]
    found = [folder for folder in found if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    found.sort(key=lambda folder: [int(number) for number in folder.name.split(".")])
    return {folder.resolve().parent.name: folder for folder in found}  # the newest comes last


def _choose(path: pathlib.Path, folders: dict[str, pathlib.Path], dataset: str) -> pathlib.Path:
    names = ", ".join(sorted(folders))
    if dataset and dataset not in folders:
        raise UserError(f"{path} has no dataset {dataset!r}; it has {names}")
    if not dataset and len(folders) > 1:
        raise UserError(f"{path} has several datasets: choose by --dataset one of {names}")
    return folders[dataset or next(iter(folders))]


def _read_tfds_folder(
    path: pathlib.Path,
    num_classes: int | None,
    ignore_label: int | None,
    *,
    limits: Limits,
    must_be_complete: bool,
) -> Records:
    where = str(path / _INFO)
    fields = JsonObject(
        files.read_json(path / _INFO, "description of the records"), where, _BUILD_AGAIN
    )
    name, file_format = fields.text("name"), fields.text("fileFormat", "tfrecord")
    if file_format != "tfrecord":
        raise UserError(
            f"The records in {path} are {file_format} files; build them as tfrecord files."
        )
    info = _read_info(path, name, num_classes, ignore_label)
    shard_lengths, shard_paths = {}, {}
    for split in fields.objects("splits", _MAX_SPLITS):
        split_name = split.text("name")
        lengths = _shard_lengths(split)
        shards = _shard_names(split, name, split_name, len(lengths))
        shard_lengths[split_name] = lengths
        shard_paths[split_name] = [str(path / shard) for shard in shards]
        shard_files.check_all_exist(shard_paths[split_name])
        if must_be_complete:
            num_bytes = split.integer("numBytes", 0, _MAX_BYTES, None)
            shard_files.check_lengths(shard_paths[split_name], lengths, num_bytes, where)
    return Records(str(path), info, shard_lengths, shard_paths, limits)


def _shard_lengths(split: JsonObject) -> list[int]:
    lengths = []
    stated = [as_integer(length) for length in split.items("shardLengths", _MAX_SHARDS)]
    for length in stated:
        if length is None or not 0 <= length <= _MAX_RECORDS:
            raise split.error(
                "shardLengths", stated, f"a list of whole numbers between 0 and {_MAX_RECORDS}"
            )
        lengths.append(length)
    return lengths


def _shard_names(split: JsonObject, dataset: str, split_name: str, count: int) -> list[str]:
    """Returns the file names of a split's shards, by the template that the description gives."""
    template = split.text("filepathTemplate", _TFDS_SHARD)
    # Not str.format: a template is not to ask for a name of gigabytes, nor for a place elsewhere.
    wanted = (
        "the name of a file in the same folder, with {DATASET}, {SPLIT}, {FILEFORMAT} and "
        "{SHARD_X_OF_Y} in it"
    )

    def fill(index: int) -> str:
        values = {
            "DATASET": dataset,
            "SPLIT": split_name,
            "FILEFORMAT": "tfrecord",
            "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
        }
        name = re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)
        if "{" in name or re.search(r"[/\\\0]", name) or name in (".", "..") or len(name) > 255:
            raise split.error("filepathTemplate", template, wanted)
        return name

    names = [fill(index) for index in range(count)]
    if len(set(names)) < count:
        raise split.error("filepathTemplate", template, wanted)
    return names


def _read_info(
    path: pathlib.Path, name: str, num_classes: int | None, ignore_label: int | None
) -> DatasetInfo:
    if not (path / _METADATA).exists():
        return _undescribed(path, name, num_classes, ignore_label)
    value = files.read_json(path / _METADATA, "description of the classes")
    fields = JsonObject(value, str(path / _METADATA), _BUILD_AGAIN)
    class_names, colors, own_ignore_label = _read_classes(fields)
    return DatasetInfo(
        fields.text("title", name),
        class_names,
        colors,
        own_ignore_label if ignore_label is None else ignore_label,
        *image_bands.from_fields(fields),
    )


def _read_classes(
    fields: JsonObject,
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...], int]:
    """Returns class names, colours and ignore label."""
    names = fields.items("class_names", MAX_CLASSES)
    if not names or not all(map(is_class_name, names)) or len(set(names)) < len(names):
        raise fields.error(
            "class_names", names, "a list of different names on one line each, at least one"
        )
    listed = fields.items("colors", MAX_CLASSES)
    colors = [color for color in map(as_color, listed) if color]
    if not len(names) == len(colors) == len(listed):
        raise fields.error("colors", listed, f"a list of {len(names)} colours [R, G, B] in 0..255")
    return tuple(names), tuple(colors), fields.integer("ignore_label", 0, 255)


def _undescribed(
    path: pathlib.Path, name: str, num_classes: int | None, ignore_label: int | None
) -> DatasetInfo:
    if num_classes is None:
        raise UserError(
            f"The records in {path} do not say how many classes they have (there is no "
            f"{_METADATA}): give --num_classes, and --ignore_label if it is not {IGNORE_LABEL}."
        )
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"--num_classes={num_classes} must be between 1 and {MAX_CLASSES}.")
    return numbered_classes(name, num_classes, ignore_label)
