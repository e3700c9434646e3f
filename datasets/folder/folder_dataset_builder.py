"""TFDS builder of anybody's own pictures and labels."""

import pathlib
import re

import tensorflow_datasets as tfds

from deeplab_tf import records
from deeplab_tf.datasets import segmentation
from deeplab_tf.errors import UserError

IGNORE_LABEL = 255
_EXTENSIONS = (".jpg", ".jpeg", ".png")

LAYOUT = """Your own data is expected in --manual_dir like this:
  classes.txt              one class a line, the first has id 0: NAME, or NAME RED GREEN BLUE
  train.txt  val.txt       one picture a line, e.g. street_01; test.txt if you like
  images/street_01.jpg     JPEG or PNG
  labels/street_01.png     one-channel PNG of the same size: class ids, 255 where nothing counts"""


class Builder(segmentation.SegmentationBuilder):
    """Takes the class names from `classes.txt`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Images, labels, split lists and class names."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info(ignore_label=IGNORE_LABEL)  # the classes are not known yet

    def _split_generators(self, dl_manager):
        root = pathlib.Path(dl_manager.manual_dir)
        class_list = root / "classes.txt"
        if not class_list.is_file():
            raise UserError(f"there is no class list {class_list}.\n{LAYOUT}")
        class_names, colors = records.read_class_list(class_list)
        self.info.metadata.update(class_names=class_names, colors=colors)
        images = _files_by_stem(root / "images")
        labels = _files_by_stem(root / "labels")
        lists = segmentation.read_split_lists(
            root, ("train", "val", "test"), _how_to_split(root, len(labels))
        )
        return {
            split: self._generate_examples(_pairs(root / f"{split}.txt", lines, images, labels))
            for split, lines in lists.items()
        }


def _files_by_stem(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}.\n{LAYOUT}")
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _EXTENSIONS:
            continue
        if path.stem in files:
            raise UserError(
                f"{files[path.stem]} and {path.name} differ in the extension only, so that a list "
                "cannot tell them apart: rename one, with its label"
            )
        files[path.stem] = path
    return files


def _pairs(
    split_list: pathlib.Path,
    lines: list[str],
    images: dict[str, pathlib.Path],
    labels: dict[str, pathlib.Path],
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    pairs = []
    for line in lines:
        name = re.split(r"[/\\]", line)[-1]  # somebody's path, perhaps
        path = pathlib.Path(name)
        stem = path.stem if path.suffix.lower() in _EXTENSIONS else name  # a name may have dots
        for kind, files in (("image", images), ("label", labels)):
            if stem not in files:
                raise UserError(
                    f"{split_list} lists {line!r}, but there is no {kind} {stem} in "
                    f"{split_list.parent / kind}s: add it, or take it off the list"
                )
        pairs.append((images[stem], labels[stem]))
    return pairs


def _how_to_split(root: pathlib.Path, num_labels: int) -> str:
    # Not done silently: pictures of one scene belong into one split, which only the owner knows.
    num_val = max(num_labels // 5, 1)
    return (
        f"To put {num_val} of your {num_labels} pictures at random into val and the others into "
        f"train:\n  cd {root} && ls labels | sort -R > all.lst && head -n {num_val} all.lst > "
        f"val.txt && tail -n +{num_val + 1} all.lst > train.txt\n(pictures of one scene belong "
        "into one split; then write the lists yourself)"
    )
