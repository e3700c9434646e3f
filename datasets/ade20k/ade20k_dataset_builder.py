"""TFDS builder of ADE20K, as in the scene parsing challenge of 2016 (SceneParse150)."""

import pathlib

import tensorflow_datasets as tfds

from deeplab_tf.data import published_classes
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets import source_files
from deeplab_tf.errors import UserError

SPLITS = {"train": "training", "val": "validation"}

LAYOUT = """ADE20K is expected in --manual_dir as ADEChallengeData2016.zip unpacks:
  ADEChallengeData2016/images/{training,validation}/         ADE_train_00000001.jpg, ...
  ADEChallengeData2016/annotations/{training,validation}/    ADE_train_00000001.png, ...: 0..150
A split without its folders is left out. Get it from http://sceneparsing.csail.mit.edu (the whole
ADE20K, with more classes and other label files, is another dataset)"""


class Builder(segmentation.SegmentationBuilder):
    """Scenes indoors and outdoors, 150 classes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The scene parsing challenge of 2016."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.published_dataset_info(
            published_classes.ADE20K, homepage="http://sceneparsing.csail.mit.edu"
        )

    def _pairs(self, root: pathlib.Path) -> dict[str, list[source_files.Pair]]:
        if (root / "ADEChallengeData2016").is_dir():
            root = root / "ADEChallengeData2016"
        found = {
            split: source_files.pairs_of_folders(
                root / "images" / folder, root / "annotations" / folder
            )
            for split, folder in SPLITS.items()
        }
        pairs = {split: listed for split, listed in found.items() if listed}
        if not pairs:
            raise UserError(f"No split of ADE20K is complete in {root}.\n{LAYOUT}")
        return pairs
