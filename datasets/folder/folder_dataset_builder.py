"""TFDS builder of your own images and labels, from any annotation tool."""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf import command_line
from deeplab_tf.data import bands
from deeplab_tf.data import own_data
from deeplab_tf.data import records
from deeplab_tf.data import source_images
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import EmbeddedImage
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets.source_files import Pair

LAYOUT = """Your own data is expected in --manual_dir: images, and their labels as one of
  annotation files   of COCO, labelme, CVAT for images, YOLO segmentation, Label Studio
  label images       in a folder such as labels/ or masks/, or named like street_01_mask.png
  masks              one per class, or one per object
Splits are folders (train/, val/) or lists (train.txt, val.txt); without them, --val_share of the
images becomes val. Class names stand in the annotation files, or in classes.txt: NAME, or NAME RED
GREEN BLUE, one class a line. See datasets/folder/README.md."""


@dataclasses.dataclass(frozen=True)
class OwnPair(Pair):
    """An image and what is known of its label."""

    annotated: AnnotatedImage = dataclasses.field(repr=False)

    def sources(self) -> tuple[pathlib.Path, ...]:
        """Returns the source files of the record."""
        drawn_from = {
            shape.geometry.path
            for shape in self.annotated.shapes
            if hasattr(shape.geometry, "path")
        }
        return (self.image, self.label, *sorted(drawn_from))


class Builder(segmentation.SegmentationBuilder):
    """Takes classes and splits from what lies in the folder."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Images and labels, of any annotation tool."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    SETTLED = (*segmentation.SegmentationBuilder.SETTLED, "options", "_data")
    options = own_data.OwnDataOptions()

    def _info(self) -> tfds.core.DatasetInfo:
        # The classes are not known yet.
        return self.dataset_info(ignore_label=records.IGNORE_LABEL)

    def _pairs(self, root: pathlib.Path) -> dict[str, list[Pair]]:
        data = own_data.find_own_data(root, self.options)
        self._data = dataclasses.replace(data, splits={})  # the pairs hold the images
        info = data.info
        self.info.metadata.update(
            title=info.name,
            class_names=list(info.class_names),
            colors=[list(color) for color in info.colors],
            notes=list(data.notes),  # among them how images were scaled
            **bands.to_fields(info.bands, info.rgb_bands),
        )
        self.bands = (info.bands, info.rgb_bands)
        for note in data.notes:
            print(note)
        return {split: [_pair(image) for image in images] for split, images in data.splits.items()}

    def find_pairs(
        self, root: str | pathlib.Path | None, class_map: str | None = None
    ) -> dict[str, list[Pair]]:
        pairs = super().find_pairs(root, class_map)
        # Label images have been read with their own colours; these are for the eye.
        colors = records.distinct_colors(self.classes.colors)
        self.info.metadata.update(colors=[list(color) for color in colors])
        return pairs

    def fingerprint(self) -> str:
        """Returns what records depend on besides the files: version, classes, options."""
        return super().fingerprint() + repr((self.options, self._data.format))

    def check_command(self, pair: Pair) -> str:
        """Returns the command that lists every problem, not only the first."""
        return command_line.shell_command(
            "deeplab_tf.check_data", self.options.config(), data=self._data.root
        )

    def _read(self, pair: Pair) -> tuple[source_images.SourceImage, np.ndarray]:
        assert isinstance(pair, OwnPair)
        return self._data.read(pair.annotated)


def _pair(image: AnnotatedImage) -> OwnPair:
    path = image.image.path if isinstance(image.image, EmbeddedImage) else image.image
    return OwnPair(image.name, path, image.label or image.source, image)
