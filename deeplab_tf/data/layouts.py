"""Layouts of images and label files: which files belong together, and to which split.

    listing = list_folder("my_data")
    layout = pair_files(listing)

Roles follow from words in the names of folders and files (`images/`, `masks/`, `_mask`, `_L`),
splits by folders (`train/`, `trainannot/`, `valid/`) or by lists (`train.txt`, of VOC, of CamVid,
of ADE20K, with one column or two).
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Sequence

from deeplab_tf import files
from deeplab_tf.data import label_arrays
from deeplab_tf.data import naming
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.listing import grouped
from deeplab_tf.data.listing import num_common
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

_LIST_FOLDERS = frozenset(("imagesets", "lists", "segmentation", "sets", "splits"))


@dataclasses.dataclass(frozen=True)
class FilePair:
    """An image file and its label file."""

    name: str  # unique within its split
    image: pathlib.Path
    label: pathlib.Path
    split: str  # one of `SPLITS`, or "" if it is unknown


@dataclasses.dataclass(frozen=True)
class Layout:
    """What was found in a folder of images and label files."""

    pairs: tuple[FilePair, ...]
    notes: tuple[str, ...]  # what was found, and what was left out


def pair_files(listing: Listing, label_suffix: str = "") -> Layout:
    """Finds out which image and which label file belong together.

    Args:
        listing: The folder.
        label_suffix: What the names of label files end in, such as "_mask"; by default it is
          detected.

    Raises:
        UserError: There are no pairs, or an image has several label files.
    """
    images, labels, others = _roles(listing, label_suffix)
    notes = []
    if others:
        notes.append(f"Left out: {_examples(others, listing.root)}.")
    partners = _match(listing, images, labels, label_suffix)
    several = {image: found for image, found in partners.items() if len(found) > 1}
    if several:
        image, found = next(iter(several.items()))
        raise UserError(
            f"{counted(len(several), 'image')} in {listing.root} have several label files: "
            f"{image.relative_to(listing.root)} may belong to "
            f"{' or '.join(str(path.relative_to(listing.root)) for path in found[:4])}. Say "
            "which by the end of their names, for instance --label_suffix="
            f"{_suffix_of(found[0], image)}, or move the other ones elsewhere."
        )
    pairs = [
        FilePair(
            _name(listing, image),
            image,
            found[0],
            listing.split_of(image) or listing.split_of(found[0]),
        )
        for image, found in partners.items()
        if found
    ]
    _check_twins(pairs)
    if not pairs:
        raise UserError(_no_pairs(listing, images, labels))
    return _split_by_lists(listing, pairs, notes, images, labels)


def has_labels(listing: Listing) -> bool:
    """Whether some files are label images or arrays by their names."""
    return bool(_roles(listing, "")[1])


def masks_per_class(listing: Listing) -> dict[pathlib.Path, dict[str, pathlib.Path]]:
    """Returns the mask files of every image by class, where there is one file per class.

    They lie in a folder per class (`masks/car/1.png`), or the class ends their names
    (`masks/1_car.png`). Empty where label files are laid out otherwise.
    """
    images, labels, _ = _roles(listing, "")
    image_stems = grouped((path.stem, path) for path in images)
    found: dict[pathlib.Path, dict[str, pathlib.Path]] = {}
    for label in labels:
        for stem, name in naming.classes_of_mask(listing.parts(label), label.stem):
            candidates = [
                image
                for image in image_stems.get(stem, ())
                if listing.split_of(image) == listing.split_of(label)
            ]
            if len(candidates) == 1 and not naming.split_of(name):
                found.setdefault(candidates[0], {})[name] = label
                break
    if len({name for masks in found.values() for name in masks}) < 2:
        return {}
    return found


def instance_masks(listing: Listing) -> dict[pathlib.Path, list[pathlib.Path]]:
    """Returns the mask files of every image where each object has one (Data Science Bowl 2018).

    An image and its masks lie in a folder of their own: `ID/images/ID.png`, `ID/masks/*.png`.
    """
    folders: dict[pathlib.Path, tuple[list, list]] = {}
    for path in listing.images:
        kind = path.parent.name.lower()
        if kind in ("images", "image", "masks", "mask"):
            own = folders.setdefault(path.parent.parent, ([], []))
            own[kind.startswith("mask")].append(path)
    if len(folders) < 2 and listing.root in folders:
        return {}
    # Masks of instances have names of their own, those of whole images the image's.
    found = {
        images[0]: masks
        for images, masks in folders.values()
        if len(images) == 1 and {path.stem for path in masks} != {images[0].stem}
    }
    return found if any(found.values()) else {}


def lists_of(listing: Listing) -> dict[str, pathlib.Path]:
    """Returns the lists of images by their stem, as far as their places tell: `train.txt`."""
    return {
        path.stem: path
        for path in listing.with_ending(".txt", ".lst")
        if (parts := listing.parts(path)) == ()
        or (set(map(str.lower, parts)) <= _LIST_FOLDERS | {"segmentation"})
    }


def _check_twins(pairs: list[FilePair]) -> None:
    by_label: dict[pathlib.Path, FilePair] = {}
    for pair in pairs:
        twin = by_label.setdefault(pair.label, pair)
        if twin is not pair:
            raise UserError(
                f"{twin.image} and {pair.image} belong to one label file, {pair.label}: rename "
                "one of the two, and give it a label of its own."
            )


def _split_by_lists(
    listing: Listing,
    pairs: list[FilePair],
    notes: list[str],
    images: Sequence[pathlib.Path],
    labels: Sequence[pathlib.Path],
) -> Layout:
    """Takes the splits from lists, where there are some; images in none are left out."""
    by_split: dict[str, list[FilePair]] = {}
    index = _PairIndex(listing, pairs)
    for stem, path in sorted(lists_of(listing).items()):
        split = naming.split_of(stem)
        if not split:
            continue
        listed_pairs = _read_list(path, index, is_certain=stem.lower() in naming.SPLITS)
        if listed_pairs:
            by_split.setdefault(split, []).extend(
                dataclasses.replace(pair, split=split) for pair in listed_pairs
            )
            notes.append(
                f"{path.relative_to(listing.root)} lists {counted(len(listed_pairs), 'image')}."
            )
    if by_split:
        taken = {pair.image for split_pairs in by_split.values() for pair in split_pairs}
        unlisted = [pair.image for pair in pairs if pair.image not in taken]
        if unlisted:
            notes.append(f"In no split list, left out: {_examples(unlisted, listing.root)}.")
        pairs = [pair for split_pairs in by_split.values() for pair in split_pairs]
    else:
        paired = {pair.image for pair in pairs} | {pair.label for pair in pairs}
        for kind, paths, other in (("image", images, "label"), ("label", labels, "image")):
            if alone := [path for path in paths if path not in paired]:
                notes.append(
                    f"{counted(len(alone), kind)} without {other}, left out: "
                    f"{_examples(alone, listing.root)}."
                )
    return Layout(tuple(pairs), tuple(notes))


def _read_list(path: pathlib.Path, index: "_PairIndex", is_certain: bool) -> list[FilePair]:
    """The pairs that a list names; none if it is another kind of text, unless it is certain."""
    lines = [line.strip() for line in files.read_text(path, "split list").split("\n")]
    lines = [line for line in lines if line]
    if is_certain and not lines:
        raise UserError(f"{path} is empty: list the images of the split, or delete it.")
    found = [index.find(line) for line in lines]
    if not is_certain and not any(found):
        return []
    missing = [line for line, pair in zip(lines, found) if pair is None]
    if missing:
        raise UserError(
            f"{path} lists {shortened(missing[0])!r}, but there is no image with a label of that "
            f"name ({counted(len(missing), 'line')} of {len(lines)}): add it, or remove it from "
            "the list."
        )
    pairs = [pair for pair in found if pair is not None]
    image, count = collections.Counter(pair.image for pair in pairs).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path} lists {image} twice: remove one of the two.")
    return pairs


class _PairIndex:
    """Finds the pair that a line of a list means."""

    def __init__(self, listing: Listing, pairs: Sequence[FilePair]):
        self._root = listing.root
        self._by_stem = grouped((pair.image.stem, pair) for pair in pairs)
        self._by_name = {pair.name: [pair] for pair in pairs}

    def find(self, line: str) -> FilePair | None:
        columns = re.split(r"[\s,;]+", line)
        for name in dict.fromkeys((line, columns[0])):
            path = pathlib.PurePosixPath(naming.local_path(name))
            known_ending = path.suffix.lower() in naming.IMAGE_ENDINGS + naming.ARRAY_ENDINGS
            stem = path.stem if known_ending else path.name
            found = self._by_name.get(name) or self._by_stem.get(stem, [])
            if len(found) > 1:
                found = [
                    pair
                    for pair in found
                    if num_common(reversed(pair.image.parts), reversed(path.parts)) > 1
                    or num_common(
                        reversed(pair.image.parts[:-1]), reversed(path.parts[:-1])
                    ) > 0
                ]  # fmt: skip
            if len(found) == 1:
                return found[0]
        return None


def _roles(
    listing: Listing, label_suffix: str
) -> tuple[list[pathlib.Path], list[pathlib.Path], list[pathlib.Path]]:
    """Images, label files, and files that look like labels but are not."""
    by_role: dict[str, list[pathlib.Path]] = {"image": [], "label": [], "other": []}
    for path in listing.images:
        role = naming.role_of(listing.parts(path), path.stem) or "image"
        if label_suffix:
            is_label = path.stem.endswith(label_suffix)
            role = "label" if is_label else "other" if role == "label" else role
        by_role[role].append(path)
    arrays = []
    for path in listing.with_ending(*naming.ARRAY_ENDINGS):
        role = naming.role_of(listing.parts(path), path.stem)
        is_image = path.suffix.lower() != ".mat" and label_arrays.holds_image(path)
        if is_image and role in ("", "image"):
            by_role["image"].append(path)
        elif path.stem.endswith(label_suffix) and role != "other":
            arrays.append(path)
    with_image_label = {path.stem for path in by_role["label"]}
    by_role["label"] += [path for path in arrays if path.stem not in with_image_label]
    return by_role["image"], by_role["label"], by_role["other"]


def _match(
    listing: Listing,
    images: Sequence[pathlib.Path],
    labels: Sequence[pathlib.Path],
    label_suffix: str,
) -> dict[pathlib.Path, list[pathlib.Path]]:
    """The label files of every image."""
    by_key = collections.defaultdict(list)
    by_stem = collections.defaultdict(list)
    for label in labels:
        split = listing.split_of(label)
        for stem in naming.stems_of(label, label_suffix):
            by_key[split, naming.context_of(listing.parts(label)), stem].append(label)
            by_stem[split, stem].append(label)
    partners = {}
    stem_counts = collections.Counter((listing.split_of(path), path.stem) for path in images)
    for image in images:
        split, context = listing.split_of(image), naming.context_of(listing.parts(image))
        found: list[pathlib.Path] = []
        for stem in naming.stems_of(image, ""):
            found = by_key[split, context, stem]
            if not found and stem_counts[split, image.stem] == 1:
                found = by_stem[split, stem] or by_stem["", stem]
            if found:
                break
        partners[image] = list(dict.fromkeys(found))
    return partners


def _name(listing: Listing, image: pathlib.Path) -> str:
    """The image's name: with its folders, but for those of splits and roles."""
    parts = [
        part
        for part in listing.parts(image)
        if not naming.split_of(part) and naming.role_of([part]) != "image"
    ]
    return "/".join([*parts, image.stem])


def _no_pairs(
    listing: Listing, images: Sequence[pathlib.Path], labels: Sequence[pathlib.Path]
) -> str:
    if not images:
        return f"There is no image in {listing.root}; it holds {listing.contents()}."
    if not labels:
        return (
            f"There is no label file in {listing.root}: of {listing.contents()}, none lies in a "
            "folder such as labels/, masks/ or annotations/, and no name ends in _mask, _label or "
            "_L. If the names of the label files end otherwise, give --label_suffix=_END."
        )
    return (
        f"No image in {listing.root} has a label file of the same name: the images are "
        f"{_examples(images, listing.root)}; the label files "
        f"{_examples(labels, listing.root)}. Rename them, or say what the names of the label "
        "files end in: --label_suffix=_END."
    )


def _suffix_of(label: pathlib.Path, image: pathlib.Path) -> str:
    """What the name of a label file adds to that of its image, such as "_mask"."""
    common = num_common(label.stem, image.stem)
    return label.stem[len(label.stem[:common].rstrip("_-")) :] or "_END"


def _examples(paths: Sequence[pathlib.Path], root: pathlib.Path) -> str:
    return listed(path.relative_to(root).as_posix() for path in paths)
