"""What all dataset builders share: how pairs of image and label are checked and become records.

A builder (`datasets/<name>/<name>_dataset_builder.py`) finds the pairs, and reads labels that are
not plain class ids; this module checks them, and makes records under the keys of the original
DeepLab.
"""

import abc
import io
import pathlib
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf import files
from deeplab_tf.data import bands as image_bands
from deeplab_tf.data import label_files
from deeplab_tf.data import record_reading
from deeplab_tf.data import record_writing
from deeplab_tf.data import records
from deeplab_tf.data import source_images
from deeplab_tf.data.class_map import ClassMap
from deeplab_tf.data.class_map import parse_class_map
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.datasets.source_files import Pair
from deeplab_tf.errors import UserError


class SegmentationBuilder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """A TFDS builder whose records have the keys, and the file names, of the original DeepLab.

    A dataset gives `_info` (through `dataset_info`), `_pairs`, and `_read_label` where its labels
    are not plain class ids.
    """

    # The bands of the images and the numbers of those for R, G and B; empty for RGB images.
    bands: tuple[tuple[image_bands.Band, ...], tuple[int, ...]] = ((), ())
    _class_map: ClassMap | None = None

    # Attributes that `find_pairs` sets and that reading a pair needs.
    SETTLED: tuple[str, ...] = ("bands", "_class_map", "_raw_info")

    def __getstate__(self) -> dict:
        """Keeps what `find_pairs` settled, for workers of Apache Beam; TFDS would forget it."""
        settled = {name: getattr(self, name) for name in self.SETTLED if hasattr(self, name)}
        return super().__getstate__() | {"settled": settled, "metadata": dict(self.info.metadata)}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.info.metadata.update(state["metadata"])
        self.__dict__.update(state["settled"])

    @abc.abstractmethod
    def _pairs(self, root) -> dict:
        """Returns the pairs by split, of the splits whose files are there.

        Args:
            root: The folder of the raw images, a pathlib.Path; None for a dataset that draws its
                own.

        Returns:
            A list of `Pair` per split, or of what takes its place in `read_pair`.

        Raises:
            UserError: There are none, or something is missing.
        """

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        """Returns the class ids of a label file, int [H, W]."""
        return label_files.read_label(path)

    def _read(self, pair: Pair) -> tuple[source_images.SourceImage, np.ndarray]:
        """Returns an image and its class ids, int [H, W], both upright."""
        content = label_files.read_bytes(pair.image, "image")
        image = source_images.read_source_image(content, str(pair.image))
        return image, image.upright(self._read_label(pair.label))

    def check_command(self, pair: Pair) -> str:
        """Returns the command that lists every problem, not only the first.

        Empty where `check_data` cannot read the data set as it is distributed.
        """
        return ""

    def find_pairs(
        self, root: str | pathlib.Path | None, class_map: str | None = None
    ) -> dict[str, list[Pair]]:
        """Returns the pairs by split, and settles the classes.

        Args:
            root: The folder of the raw images; None for a dataset that draws its own.
            class_map: How classes are merged or dropped, see `class_map.parse_class_map`.

        Raises:
            UserError: There are none, something is missing, or a name comes twice in a split.
        """
        pairs = self._pairs(pathlib.Path(root) if root else None)
        for listed in pairs.values():
            seen = set()
            for pair in listed:
                if pair.name in seen:
                    raise UserError(f"{pair.image} is listed twice in one split: remove one line.")
                seen.add(pair.name)
                if not files.is_unicode(pair.name):
                    raise UserError(
                        f"{pair.image} has a name that is not UTF-8: rename the image and its "
                        "label."
                    )
        self._raw_info = self.classes  # labels are checked before their classes are mapped
        if class_map:
            raw = self._raw_info
            self._class_map = parse_class_map(
                class_map, raw.class_names, raw.colors, raw.ignore_label
            )
            self.info.metadata.update(
                class_names=list(self._class_map.class_names),
                colors=[list(color) for color in self._class_map.colors],
                ignore_label=self._class_map.ignore_label,
            )
        return pairs

    def published_dataset_info(
        self, classes: records.DatasetInfo, **kwargs
    ) -> tfds.core.DatasetInfo:
        """Returns what `_info` has to return for classes of `data.published_classes`."""
        return self.dataset_info(
            classes.class_names, classes.colors, classes.ignore_label, **kwargs
        )

    @property
    def classes(self) -> records.DatasetInfo:
        """The classes of the records; settled by `find_pairs`."""
        metadata = self.info.metadata
        return records.DatasetInfo(
            self.info.name,
            tuple(metadata["class_names"]),
            tuple(map(tuple, metadata["colors"])),
            metadata["ignore_label"],
            *self.bands,
        )

    def fingerprint(self) -> str:
        """Returns what records depend on besides the files: version, classes."""
        return repr((self.info.full_name, self._raw_info, self._class_map))

    def read_pair(self, pair) -> tuple[source_images.SourceImage, np.ndarray]:
        """Reads an image and its label, and checks them.

        Returns:
            The image, and uint8 [H, W], the class ids of the records.

        Raises:
            UserError: One of the files is missing or damaged, or does not fit the other.
        """
        image, label = self._read(pair)
        try:
            record_reading.check_fit(image.size[::-1], label, self._raw_info, str(pair.image))
        except DataProblem as problem:
            raise problem.named(str(pair.label)) from None
        if self._class_map:
            label = self._class_map.apply(label)
        return image, label.astype(np.uint8)

    def read_example(self, pair: Pair) -> dict[str, dict]:
        """Reads an image and its label, and returns one example for TFDS to write; see above."""
        return encode_example(pair.name, *self.read_pair(pair))

    def filename_template(self, split: str) -> tfds.core.ShardedFileTemplate:
        """Returns how shards are called: `<split>-00000-of-00004.tfrecord`, as DeepLab does.

        TFDS keeps the template in dataset_info.json and reads the folder back by it.
        """
        return self._get_filename_template(split)

    def _get_filename_template(self, split_name: str) -> tfds.core.ShardedFileTemplate:
        # Private in TFDS, which asks for it: setup.py has an upper bound for this one method.
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
    name: str, image: source_images.SourceImage, label: np.ndarray
) -> dict[str, dict]:
    """Returns one example for TFDS to write.

    Args:
        name: Of the image, without extension.
        image: Its bytes are written as they are.
        label: uint8 [H, W], class ids and the ignore label.
    """
    height, width = label.shape
    return {
        "image": {
            "encoded": io.BytesIO(image.content),
            "filename": name,
            "format": image.format,
            "height": height,
            "width": width,
            "channels": image.num_channels,
            "segmentation": {
                "class": {
                    "encoded": io.BytesIO(record_writing.encode_label(label)),
                    "format": "png",
                }
            },
        }
    }
