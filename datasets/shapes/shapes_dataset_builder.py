"""TFDS builder of `shapes`: the dataset that needs no download."""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf.data import source_images
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets.shapes import drawing

NUM_EXAMPLES = {"train": 600, "val": 80}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What an image is drawn from, in place of a pair of files."""

    split: str
    index: int

    @property
    def name(self) -> str:
        return f"{self.split}_{self.index:05d}"

    def sources(self) -> tuple[pathlib.Path, ...]:
        return ()


class Builder(segmentation.SegmentationBuilder):
    """Draws its images itself."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Six forms on patterned ground."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(drawing.CLASS_NAMES, drawing.COLORS, drawing.IGNORE_LABEL)

    def _pairs(self, root) -> dict[str, list[Drawing]]:
        return {
            split: [Drawing(split, index) for index in range(count)]
            for split, count in NUM_EXAMPLES.items()
        }

    def read_pair(self, pair: Drawing) -> tuple[source_images.SourceImage, np.ndarray]:
        """Draws an image and its label."""
        image, label = drawing.draw(pair.split, pair.index)
        size = label.shape[1], label.shape[0]
        content = drawing.encode_jpeg(image)
        return source_images.SourceImage(
            content=content, format="jpeg", size=size, stored_size=size
        ), label
