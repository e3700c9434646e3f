"""What all dataset builders share: pairs of image and label, and the records made of them.

A builder (`datasets/<name>/<name>_dataset_builder.py`) finds the pairs, and reads labels that are
no plain id PNGs; this module checks them and makes records, under the keys of the original DeepLab.
"""

import abc
import dataclasses
import io
import pathlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf import command_line
from deeplab_tf.data import class_ids
from deeplab_tf.data import label_files
from deeplab_tf.data import source_images
from deeplab_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image and its label."""

    name: str  # key and `image/filename` of the record, unique within the split
    image: pathlib.Path
    label: pathlib.Path

    def sources(self) -> tuple[pathlib.Path, ...]:
        """Returns the files that the record is made of."""
        return (self.image, self.label)


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose records have the keys, and the file names, of the original DeepLab.

    A dataset gives `_info` (through `dataset_info`), `_pairs`, and `_read_label` where its labels
    are no plain id PNGs.
    """

    _class_map: label_files.ClassMap | None = None

    @abc.abstractmethod
    def _pairs(self, root: pathlib.Path) -> dict[str, list[Pair]]:
        """Returns the pairs by split, of the splits whose files are there.

        Args:
            root: The folder of the raw images.

        Raises:
            UserError: None is there, or not as it should be.
        """

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        """Returns the class ids of a label file, int32 `[H, W]`."""
        return label_files.read_label(path)

    def _read(self, pair: Pair) -> tuple[source_images.SourceImage, np.ndarray]:
        """Returns an image and its class ids, int [H, W], both upright."""
        content = label_files.read_bytes(pair.image, "image")
        image = source_images.read_source_image(content, str(pair.image))
        return image, image.upright(self._read_label(pair.label))

    def check_command(self, pair: Pair) -> str:
        """Returns the command that lists all that is wrong, not only the first."""
        return command_line.shell_command(
            "deeplab_tf.check_data", images=pair.image.parent, labels=pair.label.parent
        )

    def find_pairs(
        self, root: str | pathlib.Path | None, class_map: str | None = None
    ) -> dict[str, list[Pair]]:
        """Returns the pairs by split, and settles the classes.

        Args:
            root: The folder of the raw images; none for a dataset that draws its own.
            class_map: How classes are merged or dropped, see `label_files.parse_class_map`.

        Raises:
            UserError: Nothing is there, or not as it should be.
        """
        pairs = self._pairs(root and pathlib.Path(root))
        for listed in pairs.values():
            seen = set()
            for pair in listed:
                if pair.name in seen:
                    raise UserError(f"{pair.image} is listed twice in one split: take it off once")
                seen.add(pair.name)
        metadata = self.info.metadata
        self._raw_classes = dict(metadata)  # labels are checked before their classes are mapped
        if class_map:
            self._class_map = label_files.parse_class_map(
                class_map, metadata["class_names"], metadata["colors"], metadata["ignore_label"]
            )
            metadata.update(
                class_names=list(self._class_map.class_names),
                colors=[list(color) for color in self._class_map.colors],
                ignore_label=self._class_map.ignore_label,
            )
        return pairs

    def fingerprint(self) -> str:
        """Tells what records are made of besides the files: version, classes."""
        return repr((self.info.full_name, self._raw_classes, self._class_map))

    def read_example(self, pair: Pair) -> dict[str, dict]:
        """Reads an image and its label, checks them, and returns one example for TFDS to write.

        Raises:
            UserError: One of the files is missing or damaged, or does not fit the other.
        """
        image, label = self._read(pair)
        class_ids.check_ids(
            label,
            len(self._raw_classes["class_names"]),
            self._raw_classes["ignore_label"],
            pair.label,
        )
        label_size = (label.shape[1], label.shape[0])
        if label_size != image.size:
            raise UserError(
                "image and label differ in size (width x height): {}x{} in {}, {}x{} in {}; a "
                "label has one pixel per pixel of its image".format(
                    *image.size, pair.image, *label_size, pair.label
                )
            )
        if self._class_map:
            label = self._class_map.apply(label)
        return encode_example(pair.name, image.content, image.format, label.astype(np.uint8))

    def _get_filename_template(self, split_name: str):
        # `<split>-00000-of-00004.tfrecord`: what DeepLab readers find by `<split>-*`. TFDS keeps
        # the template in dataset_info.json and reads the folder back by it.
        template = super()._get_filename_template(split_name)
        return template.replace(template="{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}")

    def _split_generators(self, dl_manager):
        # For `tfds build`; `deeplab_tf.datasets.build` writes the same records in parallel.
        root = dl_manager.manual_dir if self.MANUAL_DOWNLOAD_INSTRUCTIONS else None
        pairs = self.find_pairs(root)
        return {split: self._generate_examples(listed) for split, listed in pairs.items()}

    def _generate_examples(self, pairs: Iterable[Pair]):
        """Yields key and example of pairs."""
        for pair in pairs:
            yield pair.name, self.read_example(pair)

    def dataset_info(
        self,
        class_names: Sequence[str] = (),
        colors: Sequence[tuple[int, int, int]] = (),
        ignore_label: int = 255,
        **kwargs,
    ) -> tfds.core.DatasetInfo:
        """Returns what `_info` has to return.

        Args:
            class_names: One per class id; may be set later, by `self.info.metadata.update`.
            colors: RGB per class.
            ignore_label: Label of pixels that do not count.
            **kwargs: For `tfds.core.DatasetInfo`, e.g. `homepage`.
        """
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": {
                        # No encoding is given: the bytes of a file stay as they are.
                        "encoded": tfds.features.Image(),
                        "filename": tfds.features.Text(),
                        "format": tfds.features.Text(),
                        "height": np.int64,
                        "width": np.int64,
                        "channels": np.int64,
                        "segmentation": {
                            "class": {
                                "encoded": tfds.features.Image(
                                    shape=(None, None, 1), encoding_format="png", use_colormap=True
                                ),
                                "format": tfds.features.Text(),
                            }
                        },
                    }
                }
            ),
            metadata=tfds.core.MetadataDict(
                class_names=list(class_names),
                colors=[list(color) for color in colors],
                ignore_label=ignore_label,
            ),
            **kwargs,
        )


def encode_example(
    name: str, image_bytes: bytes, image_format: str, label: np.ndarray
) -> dict[str, dict]:
    """Returns one example for TFDS to write.

    Args:
        name: Of the image, without extension.
        image_bytes: JPEG or PNG, written as it is.
        image_format: "jpeg" or "png".
        label: uint8 `[H, W]`, class ids and the ignore label.
    """
    height, width = label.shape
    return {
        "image": {
            "encoded": io.BytesIO(image_bytes),
            "filename": name,
            "format": image_format,
            "height": height,
            "width": width,
            "channels": 3,
            "segmentation": {
                "class": {
                    "encoded": io.BytesIO(cv2.imencode(".png", label)[1].tobytes()),
                    "format": "png",
                }
            },
        }
    }


def pairs_of_names(
    listed_in: pathlib.Path,
    names: Iterable[str],
    images: Mapping[str, pathlib.Path],
    label_files: Mapping[str, pathlib.Path],
    remedy: str,
) -> list[Pair]:
    """Returns the pairs of a split list.

    Args:
        listed_in: The list, for messages.
        names: What it lists, without extensions.
        images: Image files by name.
        label_files: Label files by name.
        remedy: What to do if one is not there.

    Raises:
        UserError: A name has no image or no label.
    """
    pairs = []
    for name in names:
        for kind, files in (("image", images), ("label", label_files)):
            if name not in files:
                raise UserError(
                    f"{listed_in} lists {name!r}, but there is no {kind} {name}: add it, or take "
                    f"it off the list.\n{remedy}"
                )
        pairs.append(Pair(name, images[name], label_files[name]))
    return pairs


def pairs_of_folders(images: pathlib.Path, label_files: pathlib.Path) -> list[Pair]:
    """Returns the pairs of two folders, where JPEGs and label PNGs have the same names.

    None where the folder of the labels, or any image, is missing.
    """
    if not label_files.is_dir():
        return []
    return [
        Pair(path.stem, path, label_files / f"{path.stem}.png")
        for path in sorted(images.glob("*.jpg"))
    ]


def read_split_lists(
    folder: pathlib.Path, splits: Sequence[str], remedy: str
) -> dict[str, list[str]]:
    """Returns the lines of `<split>.txt` for every split that has such a list.

    Args:
        folder: Where the lists are.
        splits: Names of the splits that may be there.
        remedy: What to do if none is.

    Raises:
        UserError: There is no list, or one is empty.
    """
    lists = {split: folder / f"{split}.txt" for split in splits}
    lines = {}
    for split, path in lists.items():
        if not path.exists():
            continue
        lines[split] = [line.strip() for line in path.read_text("utf-8").splitlines()]
        lines[split] = [line for line in lines[split] if line]
        if not lines[split]:
            raise UserError(f"{path} is empty: list the images of the split, or delete it")
    if not lines:
        wanted = ", ".join(path.name for path in lists.values())
        raise UserError(f"there is no split list ({wanted}) in {folder}.\n{remedy}")
    return lines
