"""TFDS builder of Cityscapes, from the labels as they are distributed."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf.data import class_ids
from deeplab_tf.data import label_files
from deeplab_tf.data import published_classes
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets import source_files
from deeplab_tf.errors import UserError

IGNORE_LABEL = published_classes.CITYSCAPES.ignore_label

# Cityscapes' own id of every class; the others of its ids, 0..33, are not evaluated.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NUM_LABEL_IDS = 34
TRAIN_IDS = np.full(256, IGNORE_LABEL, np.int32)
TRAIN_IDS[list(LABEL_IDS)] = range(len(LABEL_IDS))

# Where the labels of a split lie; its images lie in the same folders of leftImg8bit.
SPLITS = {
    "train_fine": ("gtFine/train",),
    "val_fine": ("gtFine/val",),
    "trainval_fine": ("gtFine/train", "gtFine/val"),
    "train_coarse": ("gtCoarse/train", "gtCoarse/train_extra"),
    "trainval_coarse": ("gtCoarse/train", "gtCoarse/train_extra", "gtCoarse/val"),
    "test_fine": ("gtFine/test",),
}

LAYOUT = """Cityscapes is expected in --manual_dir as it unpacks:
  leftImg8bit/{train,val,test}/aachen/    aachen_000000_000019_leftImg8bit.png, ...
  gtFine/{train,val,test}/aachen/         aachen_000000_000019_gtFine_labelIds.png, ...
and, for the coarse splits:
  leftImg8bit/train_extra/augsburg/       augsburg_000000_000000_leftImg8bit.png, ...
  gtCoarse/{train,train_extra,val}/augsburg/   augsburg_000000_000000_gtCoarse_labelIds.png, ...
A split without one of its folders is left out; no labelTrainIds files are needed. Register at
https://www.cityscapes-dataset.com and get leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip
and, for the coarse splits, leftImg8bit_trainextra.zip, gtCoarse.zip"""


class Builder(segmentation.SegmentationBuilder):
    """Street scenes of 50 cities, 2048x1024, 19 classes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Fine and coarse labels."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.published_dataset_info(
            published_classes.CITYSCAPES, homepage="https://www.cityscapes-dataset.com"
        )

    def _pairs(self, root: pathlib.Path) -> dict[str, list[source_files.Pair]]:
        folders = {folder for folders in SPLITS.values() for folder in folders}
        parts = {folder: _pairs_of_folder(root, folder) for folder in folders}
        pairs = {
            split: [pair for folder in folders for pair in parts[folder]]
            for split, folders in SPLITS.items()
            if all(parts[folder] for folder in folders)
        }
        if not pairs:
            raise UserError(f"No split of Cityscapes is complete in {root}.\n{LAYOUT}")
        return pairs

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        label = label_files.read_label(path)
        class_ids.check_ids(label, NUM_LABEL_IDS, IGNORE_LABEL, path)
        return TRAIN_IDS[label]


def _pairs_of_folder(root: pathlib.Path, folder: str) -> list[source_files.Pair]:
    """Returns the pairs of e.g. gtFine/train, those of all cities."""
    kind, part = folder.split("/")
    if not (root / folder).is_dir():
        return []
    pairs = []
    for image in source_files.find_files(root / "leftImg8bit" / part, "*/*_leftImg8bit.png"):
        name = image.name.removesuffix("_leftImg8bit.png")
        label = root / folder / image.parent.name / f"{name}_{kind}_labelIds.png"
        pairs.append(source_files.Pair(name, image, label))
    return pairs
