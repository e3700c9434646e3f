"""The source files of records: images and labels, found by names and lists."""

import dataclasses
import pathlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from deeplab_tf import files
from deeplab_tf.data import image_files
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image and its label."""

    name: str  # key and `image/filename` of the record, unique within the split
    image: pathlib.Path
    label: pathlib.Path

    def sources(self) -> tuple[pathlib.Path, ...]:
        """Returns the source files of the record."""
        return (self.image, self.label)


def find_files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Returns the files that match a glob, sorted, without what file managers leave behind."""
    return sorted(path for path in folder.glob(pattern) if not image_files.is_litter(path))


def files_by_stem(folder: pathlib.Path, ending: str) -> dict[str, pathlib.Path]:
    """Returns the files of a folder with an ending, by name without it."""
    return {path.stem: path for path in find_files(folder, f"*{ending}")}


def pairs_of_names(
    listed_in: pathlib.Path,
    names: Iterable[str],
    images: Mapping[str, pathlib.Path],
    labels: Mapping[str, pathlib.Path],
    remedy: str,
) -> list[Pair]:
    """Returns the pairs of a split list.

    Args:
        listed_in: The list, for messages.
        names: What it lists, without extensions.
        images: Image files by name.
        labels: Label files by name.
        remedy: What to do if one is missing.

    Raises:
        UserError: A name has no image or no label.
    """
    pairs = []
    for name in names:
        for kind, found in (("image", images), ("label", labels)):
            if name not in found:
                shown = shortened(name)
                raise UserError(
                    f"{listed_in} lists {shown!r}, but there is no {kind} {shown}: add it, or "
                    f"remove the line.\n{remedy}"
                )
        pairs.append(Pair(name, images[name], labels[name]))
    return pairs


def pairs_of_folders(images: pathlib.Path, labels: pathlib.Path) -> list[Pair]:
    """Returns the pairs of two folders, where JPEGs and label PNGs have the same names.

    There are none where the folder of the labels, or any image, is missing.
    """
    if not labels.is_dir():
        return []
    return [
        Pair(stem, path, labels / f"{stem}.png")
        for stem, path in files_by_stem(images, ".jpg").items()
    ]


def read_split_lists(
    folder: pathlib.Path, splits: Sequence[str], remedy: str
) -> dict[str, list[str]]:
    """Returns the lines of `<split>.txt` for every split that has this list.

    Args:
        folder: Where the lists are.
        splits: Names of the splits that may be there.
        remedy: What to do if none is.

    Raises:
        UserError: There is no list, or one is empty.
    """
    lines = {}
    for split in splits:
        path = folder / f"{split}.txt"
        if not path.exists():
            continue
        stripped = map(str.strip, files.read_text(path, "split list").split("\n"))
        lines[split] = [line for line in stripped if line]
        if not lines[split]:
            raise UserError(f"{path} is empty: list the images of the split, or delete it.")
    if not lines:
        wanted = ", ".join(f"{split}.txt" for split in splits)
        raise UserError(f"There is no split list ({wanted}) in {folder}.\n{remedy}")
    return lines
