"""TFDS builder of Pascal VOC 2012, and of its training images with the labels of SBD."""

import pathlib

import tensorflow_datasets as tfds

from deeplab_tf.data import published_classes
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets import source_files
from deeplab_tf.datasets.source_files import Pair
from deeplab_tf.errors import UserError

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
        return self.published_dataset_info(
            published_classes.VOC2012,
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        )

    def _pairs(self, root: pathlib.Path) -> dict[str, list[Pair]]:
        lists = _find(root, "ImageSets/Segmentation")
        if not lists:
            raise UserError(f"There is no ImageSets/Segmentation in {root}.\n{LAYOUT}")
        voc = lists.parent.parent
        images = source_files.files_by_stem(voc / "JPEGImages", ".jpg")
        labels = source_files.files_by_stem(voc / "SegmentationClass", ".png")
        names = source_files.read_split_lists(lists, ("train", "val", "trainval"), LAYOUT)
        pairs = {
            split: source_files.pairs_of_names(
                lists / f"{split}.txt", names[split], images, labels, LAYOUT
            )
            for split in names
        }
        if more_labels := _augmented_labels(root):
            listed_in, augmented_names = _augmented_names(lists, names, more_labels)
            all_labels = more_labels | labels  # VOC's own are finer, and have their borders
            pairs["train_aug"] = source_files.pairs_of_names(
                listed_in, augmented_names, images, all_labels, LAYOUT
            )
        return pairs


def _find(root: pathlib.Path, folder: str) -> pathlib.Path | None:
    candidates = (root / place / folder for place in PLACES)
    return next(filter(pathlib.Path.is_dir, candidates), None)


def _augmented_labels(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the label files beyond VOC's own by name; none where they are missing."""
    if folder := _find(root, "SegmentationClassAug"):
        return source_files.files_by_stem(folder, ".png")
    if folder := _find(root, "benchmark_RELEASE/dataset/cls"):
        return source_files.files_by_stem(folder, ".mat")
    return {}


def _augmented_names(
    lists: pathlib.Path, names: dict[str, list[str]], labels: dict[str, pathlib.Path]
) -> tuple[pathlib.Path, list[str]]:
    """Returns the images of train_aug, and the list or folder that says so."""
    for stem in ("train_aug", "trainaug"):
        path = lists / f"{stem}.txt"
        if path.is_file():
            lines = source_files.read_split_lists(lists, (stem,), LAYOUT)[stem]
            # DrSleep's list has "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png".
            return path, [pathlib.PurePath(line.split()[0]).stem for line in lines]
    if not {"train", "val"} <= names.keys():
        raise UserError(
            f"train_aug is what VOC's train.txt and SBD list, without VOC's val.txt, but {lists} "
            "does not have both lists: add them, or train_aug.txt."
        )
    # SBD was split another way: VOC's validation images are in it, with labels.
    return next(iter(labels.values())).parent, sorted({*labels, *names["train"]} - {*names["val"]})
