"""TFDS builder of anybody's own images and labels."""

import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

from deeplab_tf.data import label_files
from deeplab_tf.data import records
from deeplab_tf.datasets import segmentation
from deeplab_tf.errors import UserError

IGNORE_LABEL = 255
_IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
_LABEL_EXTENSIONS = (*_IMAGE_EXTENSIONS, *label_files.ARRAY_EXTENSIONS)

LAYOUT = """Your own data is expected in --manual_dir like this:
  classes.txt              one class a line, the first has id 0: NAME, or NAME RED GREEN BLUE
  train.txt  val.txt       one image a line, e.g. street_01; test.txt if you like
  images/street_01.jpg     JPEG or PNG
  labels/street_01.png     PNG of the same size: class ids, 255 where nothing counts; or the colours
                           of classes.txt; or an array: .npy, .npz, .mat"""


class Builder(segmentation.SegmentationBuilder):
    """Takes the class names and their colours from `classes.txt`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Images, labels, split lists and class names."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(ignore_label=IGNORE_LABEL)  # the classes are not known yet

    def _pairs(self, root: pathlib.Path) -> dict[str, list[segmentation.Pair]]:
        class_list = root / "classes.txt"
        if not class_list.is_file():
            raise UserError(f"there is no class list {class_list}.\n{LAYOUT}")
        class_names, colors = records.read_class_list(class_list)
        self.info.metadata.update(class_names=class_names, colors=colors)
        image_files = _files_by_stem(root / "images", _IMAGE_EXTENSIONS)
        label_paths = _files_by_stem(root / "labels", _LABEL_EXTENSIONS)
        lists = segmentation.read_split_lists(
            root, ("train", "val", "test"), _how_to_split(root, len(label_paths))
        )
        pairs = {
            split: _listed(root / f"{split}.txt", lines, image_files, label_paths)
            for split, lines in lists.items()
        }
        if not self.label_encoding:
            paths = [pair.label for listed in pairs.values() for pair in listed]
            self.label_encoding = label_files.detect_encoding(paths, colors)
        self._ids_by_color = {color: class_id for class_id, color in enumerate(colors)}
        if self.label_encoding == "color_map" and len(self._ids_by_color) < len(colors):
            twice = next(color for color in colors if colors.count(color) > 1)
            raise UserError(
                f"{class_list} gives the colour {twice} to two classes, so that labels in colours "
                "cannot tell them apart; a class without a colour gets that of its id in Pascal VOC"
            )
        return pairs

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        return label_files.read_label(path, self.label_encoding, self._ids_by_color)


def _files_by_stem(folder: pathlib.Path, extensions: tuple[str, ...]) -> dict[str, pathlib.Path]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}.\n{LAYOUT}")
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in extensions:
            continue
        if path.stem in files:
            raise UserError(
                f"{files[path.stem]} and {path.name} differ in the extension only, so that a list "
                "cannot tell them apart: rename one, with its label"
            )
        files[path.stem] = path
    return files


def _listed(
    split_list: pathlib.Path,
    lines: list[str],
    image_files: dict[str, pathlib.Path],
    label_files: dict[str, pathlib.Path],
) -> list[segmentation.Pair]:
    pairs = []
    for line in lines:
        name = re.split(r"[/\\]", line)[-1]  # somebody's path, perhaps
        path = pathlib.Path(name)
        # A name may have dots.
        stem = path.stem if path.suffix.lower() in _LABEL_EXTENSIONS else name
        for kind, files in (("image", image_files), ("label", label_files)):
            if stem not in files:
                raise UserError(
                    f"{split_list} lists {line!r}, but there is no {kind} {stem} in "
                    f"{split_list.parent / kind}s: add it, or take it off the list"
                )
        pairs.append(segmentation.Pair(stem, image_files[stem], label_files[stem]))
    return pairs


def _how_to_split(root: pathlib.Path, num_labels: int) -> str:
    # Not done silently: images of one scene belong into one split, which only the owner knows.
    num_val = max(num_labels // 5, 1)
    return (
        f"To put {num_val} of your {num_labels} images at random into val and the others into "
        f"train:\n  cd {root} && ls labels | sort -R > all.lst && head -n {num_val} all.lst > "
        f"val.txt && tail -n +{num_val + 1} all.lst > train.txt\n(images of one scene belong "
        "into one split; then write the lists yourself)"
    )
