"""TFDS builder of PASCAL-Context: the images of VOC 2010 with every pixel labelled."""

import pathlib

import tensorflow_datasets as tfds

from deeplab_tf.data import records
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets import source_files
from deeplab_tf.errors import UserError

# In the order of the class ids: the 59 frequent ones of 459 classes, and what is none of them.
CLASS_NAMES = (
    "background",
    "aeroplane",
    "bag",
    "bed",
    "bedclothes",
    "bench",
    "bicycle",
    "bird",
    "boat",
    "book",
    "bottle",
    "building",
    "bus",
    "cabinet",
    "car",
    "cat",
    "ceiling",
    "chair",
    "cloth",
    "computer",
    "cow",
    "cup",
    "curtain",
    "dog",
    "door",
    "fence",
    "floor",
    "flower",
    "food",
    "grass",
    "ground",
    "horse",
    "keyboard",
    "light",
    "motorbike",
    "mountain",
    "mouse",
    "person",
    "plate",
    "platform",
    "pottedplant",
    "road",
    "rock",
    "sheep",
    "shelves",
    "sidewalk",
    "sign",
    "sky",
    "snow",
    "sofa",
    "table",
    "track",
    "train",
    "tree",
    "truck",
    "tvmonitor",
    "wall",
    "water",
    "window",
    "wood",
)
IGNORE_LABEL = 255

LAYOUT = """PASCAL-Context is expected in --manual_dir like this (VOCdevkit or VOC2010 do as well):
  VOCdevkit/VOC2010/JPEGImages/                      2008_000002.jpg, ...
  VOCdevkit/VOC2010/SegmentationClassContext/        2008_000002.png, ...: ids 0..59
  VOCdevkit/VOC2010/ImageSets/SegmentationContext/   train.txt, val.txt
A split without its list is left out. Get VOC 2010 (VOCtrainval_03-May-2010.tar) from
http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ and trainval_merged.json from
https://cs.stanford.edu/~roozbeh/pascal-context/; make the labels and lists of these with
tools/dataset_converters/pascal_context.py of https://github.com/open-mmlab/mmsegmentation"""


class Builder(segmentation.SegmentationBuilder):
    """Photographs of everyday scenes, 59 classes of objects and stuff, and background."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "59 classes and background."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(
            CLASS_NAMES,
            records.default_colors(len(CLASS_NAMES)),
            IGNORE_LABEL,
            homepage="https://cs.stanford.edu/~roozbeh/pascal-context/",
        )

    def _pairs(self, root: pathlib.Path) -> dict[str, list[source_files.Pair]]:
        places = (root, root / "VOC2010", root / "VOCdevkit" / "VOC2010")
        annotated = [place for place in places if (place / "SegmentationClassContext").is_dir()]
        if not annotated:
            raise UserError(f"There is no SegmentationClassContext in {root}.\n{LAYOUT}")
        voc = annotated[0]
        images = source_files.files_by_stem(voc / "JPEGImages", ".jpg")
        labels = source_files.files_by_stem(voc / "SegmentationClassContext", ".png")
        lists = voc / "ImageSets" / "SegmentationContext"
        names = source_files.read_split_lists(lists, ("train", "val"), LAYOUT)
        return {
            split: source_files.pairs_of_names(
                lists / f"{split}.txt", names[split], images, labels, LAYOUT
            )
            for split in names
        }
