"""TFDS builder of `shapes`: the dataset that needs no download."""

import dataclasses
import pathlib

import tensorflow_datasets as tfds

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

    def _pairs(self, root: None) -> dict[str, list[Drawing]]:
        return {
            split: [Drawing(split, index) for index in range(count)]
            for split, count in NUM_EXAMPLES.items()
        }

    def read_example(self, pair: Drawing) -> dict[str, dict]:
        image, label = drawing.draw(pair.split, pair.index)
        return segmentation.encode_example(pair.name, drawing.encode_jpeg(image), "jpeg", label)
