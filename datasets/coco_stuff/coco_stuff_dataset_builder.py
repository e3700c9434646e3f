"""TFDS builder of COCO-Stuff: the images of COCO 2017 with all things and stuff labelled."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf.data import class_ids
from deeplab_tf.data import label_files
from deeplab_tf.data import records
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets import source_files
from deeplab_tf.errors import UserError

# In the order of the ids in the label files: 91 things, then 91 kinds of stuff.
LABEL_NAMES = (
    # things
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "street sign",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "hat",
    "backpack",
    "umbrella",
    "shoe",
    "eye glasses",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "plate",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "mirror",
    "dining table",
    "window",
    "desk",
    "toilet",
    "door",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "blender",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
    "hair brush",
    # stuff
    "banner",
    "blanket",
    "branch",
    "bridge",
    "building-other",
    "bush",
    "cabinet",
    "cage",
    "cardboard",
    "carpet",
    "ceiling-other",
    "ceiling-tile",
    "cloth",
    "clothes",
    "clouds",
    "counter",
    "cupboard",
    "curtain",
    "desk-stuff",
    "dirt",
    "door-stuff",
    "fence",
    "floor-marble",
    "floor-other",
    "floor-stone",
    "floor-tile",
    "floor-wood",
    "flower",
    "fog",
    "food-other",
    "fruit",
    "furniture-other",
    "grass",
    "gravel",
    "ground-other",
    "hill",
    "house",
    "leaves",
    "light",
    "mat",
    "metal",
    "mirror-stuff",
    "moss",
    "mountain",
    "mud",
    "napkin",
    "net",
    "paper",
    "pavement",
    "pillow",
    "plant-other",
    "plastic",
    "platform",
    "playingfield",
    "railing",
    "railroad",
    "river",
    "road",
    "rock",
    "roof",
    "rug",
    "salad",
    "sand",
    "sea",
    "shelf",
    "sky-other",
    "skyscraper",
    "snow",
    "solid-other",
    "stairs",
    "stone",
    "straw",
    "structural-other",
    "table",
    "tent",
    "textile-other",
    "towel",
    "tree",
    "vegetable",
    "wall-brick",
    "wall-concrete",
    "wall-other",
    "wall-panel",
    "wall-stone",
    "wall-tile",
    "wall-wood",
    "water-other",
    "waterdrops",
    "window-blind",
    "window-other",
    "wood",
)
# Names that COCO keeps for things it has never labelled.
UNUSED = (
    "street sign",
    "hat",
    "shoe",
    "eye glasses",
    "plate",
    "mirror",
    "window",
    "desk",
    "door",
    "blender",
    "hair brush",
)
CLASS_NAMES = tuple(name for name in LABEL_NAMES if name not in UNUSED)
IGNORE_LABEL = 255

CLASS_IDS = np.full(256, IGNORE_LABEL, np.int32)  # by the id in a label file
CLASS_IDS[[LABEL_NAMES.index(name) for name in CLASS_NAMES]] = range(len(CLASS_NAMES))

SPLITS = {"train": "train2017", "val": "val2017"}

LAYOUT = """COCO-Stuff (164k) is expected in --manual_dir like this:
  train2017/  val2017/                                000000000009.jpg, ...; or in images/
  stuffthingmaps_trainval2017/{train2017,val2017}/    000000000009.png, ...; or in annotations/
A split without its folders is left out. Get train2017.zip, val2017.zip and
stuffthingmaps_trainval2017.zip from https://github.com/nightrome/cocostuff#downloads and unpack the
last in a folder of its own: its folders are called as those of the images"""


class Builder(segmentation.SegmentationBuilder):
    """Photographs of everyday scenes, 80 things and 91 kinds of stuff."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "COCO 2017 with things and stuff, 171 classes."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(
            CLASS_NAMES,
            records.default_colors(len(CLASS_NAMES)),
            IGNORE_LABEL,
            homepage="https://github.com/nightrome/cocostuff",
        )

    def _pairs(self, root: pathlib.Path) -> dict[str, list[source_files.Pair]]:
        images = root / "images" if (root / "images").is_dir() else root
        maps = root / "stuffthingmaps_trainval2017"
        maps = maps if maps.is_dir() else root / "annotations"
        found = {
            split: source_files.pairs_of_folders(images / folder, maps / folder)
            for split, folder in SPLITS.items()
        }
        pairs = {split: listed for split, listed in found.items() if listed}
        if not pairs:
            raise UserError(f"No split of COCO-Stuff is complete in {root}.\n{LAYOUT}")
        return pairs

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        label = label_files.read_label(path)
        class_ids.check_ids(label, len(LABEL_NAMES), IGNORE_LABEL, path)
        return CLASS_IDS[label]
