"""Lists of splits: `train.txt`, `val.txt`, an image a line, as VOC, CamVid and darknet have them.

A line is the name or the path of an image, on this machine or another; behind it may stand the path
of its label.
"""

import collections
import pathlib
import re
from collections.abc import Sequence

from deeplab_tf import files
from deeplab_tf.data import image_files
from deeplab_tf.data import label_arrays
from deeplab_tf.data import naming
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.listing import grouped
from deeplab_tf.data.listing import num_common
from deeplab_tf.data.wording import counted
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

_LIST_FOLDERS = frozenset((
    "imageset", "imagesets", "list", "lists", "segmentation", "set", "sets", "split", "splits",
))  # fmt: skip


def listed_splits(
    listing: Listing, names: Sequence[str], images: Sequence[pathlib.Path], splits: Sequence[str]
) -> tuple[list[tuple[int, str]], list[str]]:
    """Returns the images that lists name, and their splits.

    Args:
        listing: The folder.
        names: Of the images.
        images: Their files.
        splits: Of the images as their folders tell them, or "".

    Returns:
        Index and split of each image, by split; empty if there are no lists. And notes.

    Raises:
        UserError: A list names an image that is not there, or names one twice.
    """
    by_split: dict[str, dict[int, None]] = {}  # sets in order
    notes = []
    index = _Index(names, images)
    for stem, path in sorted(_lists_of(listing).items()):
        split = naming.split_of(stem)
        # Labels of a test split often are not published.
        is_certain = stem.lower() in ("train", "val")
        found = _read_list(path, index, images, is_certain) if split else []
        if found:
            by_split.setdefault(split, {}).update(dict.fromkeys(found))
            notes.append(f"{path.relative_to(listing.root)} lists {counted(len(found), 'image')}.")
    if not by_split:
        return [], []
    chosen = set().union(*by_split.values())
    others = [number for number in range(len(images)) if number not in chosen]
    if others and "train" not in by_split:
        by_split["train"] = {number: None for number in others if splits[number] in ("", "train")}
        others = [number for number in others if number not in by_split["train"]]
        notes.append(
            f"No list names images to train on, so the other {len(by_split['train'])} become train."
        )
    if others:
        left_out = listing.examples(images[number] for number in others)
        notes.append(f"In no split list, left out: {left_out}.")
    return [(number, split) for split, own in by_split.items() for number in own], notes


def _lists_of(listing: Listing) -> dict[str, pathlib.Path]:
    """The lists of images by their stem, as far as their places tell."""
    # Folders around everything, as archives have them, do not count.
    known = _LIST_FOLDERS | set(map(str.lower, listing.around))
    labels = {path.with_suffix(".txt") for path in listing.images}  # of YOLO, beside images
    return {
        path.stem: path
        for path in listing.with_ending(".txt", ".lst")
        if set(map(str.lower, listing.parts(path))) <= known and path not in labels
    }


def _read_list(
    path: pathlib.Path, index: "_Index", images: Sequence[pathlib.Path], is_certain: bool
) -> list[int]:
    """The images that a list names; none if it is another kind of text, unless it is certain."""
    lines = [line.strip() for line in files.read_text(path, "split list").split("\n")]
    lines = [line for line in lines if line]
    if is_certain and not lines:
        raise UserError(f"{path} is empty: list the images of the split, or delete it.")
    found = [index.find(line) for line in lines]
    if not is_certain and all(number is None for number in found):
        return []
    missing = [line for line, number in zip(lines, found) if number is None]
    if missing:
        raise UserError(
            f"{path} lists {shortened(missing[0])!r}, but there is no image with a label of that "
            f"name ({counted(len(missing), 'line')} of {len(lines)}): add it, or remove it from "
            "the list."
        )
    numbers = [number for number in found if number is not None]
    number, count = collections.Counter(numbers).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path} lists {images[number]} twice: remove one of the two.")
    return numbers


class _Index:
    """Finds the image that a line of a list means."""

    def __init__(self, names: Sequence[str], images: Sequence[pathlib.Path]):
        self._images = images
        self._by_stem = grouped((image.stem, number) for number, image in enumerate(images))
        self._by_name = {name: [number] for number, name in enumerate(names)}

    def find(self, line: str) -> int | None:
        columns = re.split(r"[\s,;]+", line)
        for name in dict.fromkeys((line, columns[0])):
            path = pathlib.PurePosixPath(naming.local_path(name))
            known_ending = path.suffix.lower() in image_files.ENDINGS + label_arrays.ENDINGS
            stem = path.stem if known_ending else path.name
            found = self._by_name.get(name) or self._by_stem.get(stem, [])
            if len(found) > 1:
                found = [number for number in found if self._is_path_of(path, number)]
            if len(found) == 1:
                return found[0]
        return None

    def _is_path_of(self, path: pathlib.PurePosixPath, number: int) -> bool:
        image = self._images[number]
        has_ending = num_common(reversed(image.parts), reversed(path.parts)) > 1
        folders = reversed(image.parts[:-1]), reversed(path.parts[:-1])
        return has_ending or num_common(*folders) > 0
