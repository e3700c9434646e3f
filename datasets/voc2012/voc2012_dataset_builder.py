"""TFDS builder of Pascal VOC 2012, and of its training images with the labels of SBD."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf.data import label_files
from deeplab_tf.data import records
from deeplab_tf.datasets import segmentation
from deeplab_tf.errors import UserError

# In the order of the class ids; their colours are VOC's, which are the default.
CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
IGNORE_LABEL = 255  # "void": borders, and what is hard to tell

# --manual_dir may be VOC2012 itself, VOCdevkit, or the folder that holds VOCdevkit.
PLACES = (".", "VOC2012", "VOCdevkit", "VOCdevkit/VOC2012")

LAYOUT = """Pascal VOC 2012 is expected in --manual_dir as it unpacks:
  VOCdevkit/VOC2012/JPEGImages/                2007_000032.jpg, ...
  VOCdevkit/VOC2012/SegmentationClass/         2007_000032.png, ...
  VOCdevkit/VOC2012/ImageSets/Segmentation/    train.txt, val.txt, trainval.txt
and, for the split train_aug, one of these in --manual_dir, VOCdevkit or VOC2012:
  SegmentationClassAug/                        2008_000002.png, ...: ids
  benchmark_RELEASE/dataset/cls/               2008_000002.mat, ...: SBD as it unpacks
A split without its files is left out. Get VOC (VOCtrainval_11-May-2012.tar) from
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and SBD (benchmark.tgz) from
http://home.bharathh.info/pubs/codes/SBD/download.html"""


class Builder(segmentation.SegmentationBuilder):
    """Photographs of everyday scenes, 20 kinds of objects and background."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "VOC 2012 with the training labels of SBD."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(
            CLASS_NAMES,
            records.default_colors(len(CLASS_NAMES)),
            IGNORE_LABEL,
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        )

    def _pairs(self, root: pathlib.Path) -> dict[str, list[segmentation.Pair]]:
        lists = _find(root, "ImageSets/Segmentation")
        if not lists:
            raise UserError(f"there is no ImageSets/Segmentation in {root}.\n{LAYOUT}")
        voc = lists.parent.parent
        images = _files_by_stem(voc / "JPEGImages", ".jpg")
        own_labels = _files_by_stem(voc / "SegmentationClass", ".png")
        names = segmentation.read_split_lists(lists, ("train", "val", "trainval"), LAYOUT)
        pairs = {
            split: segmentation.pairs_of_names(
                lists / f"{split}.txt", names[split], images, own_labels, LAYOUT
            )
            for split in names
        }
        if more_labels := _augmented_labels(root):
            all_labels = more_labels | own_labels  # VOC's own are finer, and have their borders
            given = [lists / name for name in ("train_aug.txt", "trainaug.txt")]
            if train_aug := next(filter(pathlib.Path.is_file, given), None):
                lines = segmentation.read_split_lists(lists, (train_aug.stem,), LAYOUT)
                # DrSleep's list has "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png".
                train_aug_names = [
                    pathlib.PurePath(line.split()[0]).stem for line in lines[train_aug.stem]
                ]
            elif {"train", "val"} <= names.keys():
                train_aug = next(iter(more_labels.values())).parent
                # SBD was split another way: VOC's validation images are in it, with labels.
                train_aug_names = sorted({*more_labels, *names["train"]} - {*names["val"]})
            else:
                raise UserError(
                    f"train_aug is what VOC's train.txt and SBD list, without VOC's val.txt, but "
                    f"{lists} does not have both lists: add them, or train_aug.txt"
                )
            pairs["train_aug"] = segmentation.pairs_of_names(
                train_aug, train_aug_names, images, all_labels, LAYOUT
            )
        return pairs

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        if path.suffix != ".mat":
            return label_files.read_label(path)
        variables = label_files.load_mat(path)
        if "GTcls" not in variables:
            raise UserError(f"label {path} is none of SBD's folder cls: it has no GTcls")
        return variables["GTcls"][0, 0].Segmentation.astype(np.int32)


def _find(root: pathlib.Path, folder: str) -> pathlib.Path | None:
    candidates = (root / place / folder for place in PLACES)
    return next(filter(pathlib.Path.is_dir, candidates), None)


def _files_by_stem(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
    return {path.stem: path for path in folder.glob(f"*{suffix}")}


def _augmented_labels(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the label files beyond VOC's own by name; none where they are not there."""
    if folder := _find(root, "SegmentationClassAug"):
        return _files_by_stem(folder, ".png")
    if folder := _find(root, "benchmark_RELEASE/dataset/cls"):
        return _files_by_stem(folder, ".mat")
    return {}
