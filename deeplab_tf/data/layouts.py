"""Layouts of images and label files: which files belong together, and to which split.

    listing = list_folder("my_data")
    layout = pair_files(listing)

Roles follow from words in the names of folders and files (`images/`, `masks/`, `_mask`, `_L`),
splits by folders (`train/`, `trainannot/`, `valid/`) or by lists, see `split_lists`.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Mapping
from collections.abc import Sequence

from deeplab_tf.data import image_files
from deeplab_tf.data import label_arrays
from deeplab_tf.data import naming
from deeplab_tf.data import split_lists
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.listing import num_common
from deeplab_tf.data.wording import counted
from deeplab_tf.errors import UserError

_MAX_COLORS = 64  # of a label image


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
    images, labels, others = roles_of(listing, label_suffix)
    notes = []
    if others:
        notes.append(f"Left out: {listing.examples(others)}.")
    partners = _match(listing, images, labels, label_suffix)
    suffix = "" if label_suffix or any(partners.values()) else _common_suffix(images, labels)
    if suffix:
        partners = _match(listing, images, labels, suffix)
        notes.append(f"The names of the label files end in {suffix} (--label_suffix).")
    _check_one_label(listing, partners)
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
    chosen, told = _split_by_lists(listing, pairs)
    told = told or _told_unpaired(listing, pairs, images, labels)
    return Layout(tuple(chosen or pairs), (*notes, *told))


def images_of(listing: Listing) -> list[pathlib.Path]:
    """Returns the files that are images by their names, not labels."""
    return roles_of(listing)[0]


def has_labels(listing: Listing) -> bool:
    """Whether some files are label images or arrays by their names."""
    return bool(roles_of(listing)[1])


def _check_one_label(
    listing: Listing, partners: Mapping[pathlib.Path, Sequence[pathlib.Path]]
) -> None:
    several = {image: found for image, found in partners.items() if len(found) > 1}
    if not several:
        return
    image, found = next(iter(several.items()))
    suffixes = dict.fromkeys(filter(None, (_suffix_of(path, image) for path in found[:4])))
    flags = " or ".join(f"--label_suffix={suffix}" for suffix in suffixes)
    raise UserError(
        f"{counted(len(several), 'image')} in {listing.root} have several label files: "
        f"{image.relative_to(listing.root)} may belong to "
        f"{' or '.join(str(path.relative_to(listing.root)) for path in found[:4])}. "
        + (f"Say which by the end of their names, {flags}, or m" if flags else "M")
        + "ove the other ones elsewhere."
    )


def _check_twins(pairs: list[FilePair]) -> None:
    by_label: dict[pathlib.Path, FilePair] = {}
    for pair in pairs:
        twin = by_label.setdefault(pair.label, pair)
        if twin is not pair:
            raise UserError(
                f"{twin.image} and {pair.image} belong to one label file, {pair.label}: rename "
                "one of the two, and give it a label of its own."
            )


def _split_by_lists(listing: Listing, pairs: list[FilePair]) -> tuple[list[FilePair], list[str]]:
    """Takes the splits from lists, where there are some; images in none are left out."""
    names, images, splits = zip(*((pair.name, pair.image, pair.split) for pair in pairs))
    chosen, notes = split_lists.listed_splits(listing, names, images, splits)
    return [dataclasses.replace(pairs[number], split=split) for number, split in chosen], notes


def _told_unpaired(
    listing: Listing,
    pairs: Sequence[FilePair],
    images: Sequence[pathlib.Path],
    labels: Sequence[pathlib.Path],
) -> list[str]:
    paired = {pair.image for pair in pairs} | {pair.label for pair in pairs}
    return [
        f"{counted(len(alone), kind)} without {other}, left out: {listing.examples(alone)}."
        for kind, paths, other in (("image", images, "label"), ("label", labels, "image"))
        if (alone := [path for path in paths if path not in paired])
    ]


def roles_of(
    listing: Listing, label_suffix: str = ""
) -> tuple[list[pathlib.Path], list[pathlib.Path], list[pathlib.Path]]:
    """Returns the images, the label files, and the files that look like labels but are not."""
    by_role: dict[str, list[pathlib.Path]] = {"image": [], "label": [], "other": []}
    for path in listing.images:
        role = naming.role_of(listing.inner_parts(path), path.stem) or "image"
        if label_suffix:
            is_label = path.stem.endswith(label_suffix)
            role = "label" if is_label else "other" if role == "label" else role
        by_role[role].append(path)
    arrays = []
    for path in listing.with_ending(*label_arrays.ENDINGS):
        role = naming.role_of(listing.inner_parts(path), path.stem)
        is_image = path.suffix.lower() != ".mat" and label_arrays.holds_image(path)
        if is_image and role in ("", "image"):
            by_role["image"].append(path)
        elif path.stem.endswith(label_suffix) and role != "other":
            arrays.append(path)
    with_image_label = {path.stem for path in by_role["label"]}
    by_role["label"] += [path for path in arrays if path.stem not in with_image_label]
    if not by_role["label"] and not label_suffix:
        by_role["label"] = _labels_among_images(by_role["image"]) or _labels_beside_photos(
            listing, by_role["image"]
        )
        labels = set(by_role["label"])
        by_role["image"] = [path for path in by_role["image"] if path not in labels]
    return by_role["image"], by_role["label"], by_role["other"]


def _labels_among_images(images: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Files in a folder of images whose names are that of an image and a word for labels."""
    stems = {path.stem for path in images}
    return [
        path
        for path in images
        if naming.role_of((), path.stem) == "label"
        and not stems.isdisjoint(naming.stems_of(path, "")[1:])
    ]


def _labels_beside_photos(listing: Listing, images: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The lossless files, if each has a JPEG of its name and they look like labels."""
    photos: set[tuple[str, str]] = set()
    others = []
    for path in images:
        if path.suffix.lower() in (".jfif", ".jpeg", ".jpg"):
            photos.add((listing.split_of(path), path.stem))
        else:
            others.append(path)
    are_beside = all((listing.split_of(path), path.stem) in photos for path in others)
    return others if others and are_beside and _has_few_colors(others[0]) else []


def _has_few_colors(path: pathlib.Path) -> bool:
    try:
        with image_files.open_image(path) as image:
            return bool(image.getcolors(_MAX_COLORS))
    except Exception:  # what is wrong is told when the file is read
        return False


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
    _add_rivals(listing, partners, labels, label_suffix)
    return partners


def _add_rivals(
    listing: Listing,
    partners: dict[pathlib.Path, list[pathlib.Path]],
    labels: Sequence[pathlib.Path],
    label_suffix: str,
) -> None:
    """Adds label files that have no image to those images whose labels they may be as well."""
    by_stem = collections.defaultdict(list)
    for image, found in partners.items():
        if found:
            for stem in naming.stems_of(image, ""):
                by_stem[listing.split_of(image), stem].append(image)
    taken = {label for found in partners.values() for label in found}
    for label in labels:
        if label in taken:
            continue
        images = {
            image
            for stem in naming.stems_of(label, label_suffix)
            for image in by_stem[listing.split_of(label), stem]
        }
        words = naming.words_of_context(listing.parts(label))
        if len(images) == 1 and words == naming.words_of_context(listing.parts(*images)):
            partners[images.pop()].append(label)


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
    if not images and labels:
        return (
            f"There is no image in {listing.root}, only label files: "
            f"{listing.examples(labels)}. Put the images into a folder images/ there."
        )
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
        f"{listing.examples(images)}; the label files "
        f"{listing.examples(labels)}. Rename them, or say what the names of the label "
        "files end in: --label_suffix=_END."
    )


def _suffix_of(label: pathlib.Path, image: pathlib.Path) -> str:
    """What the name of a label file adds to that of its image, such as "_mask"."""
    common = num_common(label.stem, image.stem)
    return label.stem[len(label.stem[:common].rstrip("_-")) :]


def _common_suffix(images: Sequence[pathlib.Path], labels: Sequence[pathlib.Path]) -> str:
    """Returns what the names of all label files add to those of images, such as "_P", or ""."""
    stems = {image.stem for image in images}
    suffixes = [
        {
            label.stem[match.start() :]
            for match in re.finditer("[-_. ]", label.stem)
            if label.stem[: match.start()] in stems
        }
        for label in labels
    ]
    return min(set.intersection(*suffixes), key=len, default="") if suffixes else ""
