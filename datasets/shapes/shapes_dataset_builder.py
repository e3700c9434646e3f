"""TFDS builder of `shapes`: the dataset that needs no download."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets.shapes import drawing

NUM_EXAMPLES = {"train": 600, "val": 80}


class Builder(segmentation.SegmentationBuilder):
    """Draws its pictures itself."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Six forms on patterned ground."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(drawing.CLASS_NAMES, drawing.COLORS, drawing.IGNORE_LABEL)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in NUM_EXAMPLES}

    def _generate_examples(self, split: str):
        for index in range(NUM_EXAMPLES[split]):
            image, label = drawing.draw(split, index)
            name = f"{split}_{index:05d}"
            yield name, segmentation.encode_example(
                name, drawing.encode_jpeg(image), "jpeg", label
            )
