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
from deeplab_tf.data.listing import grouped
from deeplab_tf.data.listing import num_common
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
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
    images, labels, others = _roles(listing, label_suffix)
    notes = []
    if others:
        notes.append(f"Left out: {_examples(others, listing.root)}.")
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
    return _roles(listing, "")[0]


def has_labels(listing: Listing) -> bool:
    """Whether some files are label images or arrays by their names."""
    return bool(_roles(listing, "")[1])


def masks_per_class(listing: Listing) -> dict[pathlib.Path, dict[str, pathlib.Path]]:
    """Returns the mask files of every image by class, where there is one file per class.

    They lie in a folder per class (`masks/car/1.png`) or per image (`masks/1/car.png`), or the
    class ends their names (`masks/1_car.png`). Empty where label files are laid out otherwise.
    """
    found = _masks_by_name(listing)
    names = {name for masks in found.values() for name in masks}
    return found if len(names) > 1 and "" not in names else {}


def instance_masks(listing: Listing) -> dict[pathlib.Path, list[pathlib.Path]]:
    """Returns the mask files of every image where each object has one.

    An image and its masks lie in a folder of their own (`ID/images/ID.png`, `ID/masks/*.png`, as in
    the Data Science Bowl 2018), or the masks of an image have numbers: `masks/ID/1.png`,
    `masks/ID_1.png`.
    """
    return _masks_in_folders_of_images(listing) or {
        image: list(masks.values()) for image, masks in _numbered_masks(listing).items()
    }


def check_numbers_are_of_objects(listing: Listing) -> None:
    """Checks that the numbers of an image's masks count objects, and cannot be ids of classes.

    Raises:
        UserError: All images have the same numbers, or some are left out.
    """
    if _masks_in_folders_of_images(listing):
        return
    found = _numbered_masks(listing)
    names = [name for masks in found.values() for name in masks]
    if _are_names_of_objects(names):
        return
    numbers = [sorted(naming.without_number(name)[1] for name in own) for own in found.values()]
    are_counted = all(own == list(range(own[0], own[0] + len(own))) for own in numbers)
    if found and (not are_counted or len(set(map(tuple, numbers))) == 1):
        masks = [path for own in found.values() for path in own.values()]
        raise UserError(
            f"It is not clear whether the numbers of masks in {listing.root} are those of objects "
            f"or of classes: {_examples(masks, listing.root)}. Give --format=masks_per_instance or "
            "--format=masks_per_class."
        )


def _masks_in_folders_of_images(listing: Listing) -> dict[pathlib.Path, list[pathlib.Path]]:
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
        for folder, (images, masks) in folders.items()
        if len(images) == 1
        and not any(images[0].stem in naming.stems_of(path, "") for path in masks)
        and (masks or any((folder / name).is_dir() for name in ("masks", "mask")))
    }
    return found if any(found.values()) else {}


def _numbered_masks(listing: Listing) -> dict[pathlib.Path, dict[str, pathlib.Path]]:
    """The masks of every image whose names count objects, if an image has several of them."""
    found = _masks_by_name(listing)
    names = [name for masks in found.values() for name in masks]
    are_numbers = len({naming.without_number(name)[0] for name in names}) == 1
    if "" in names and any(map(str.isdigit, names)):  # labels of other images
        are_numbers = False
    is_fit = are_numbers or _are_names_of_objects(names)
    return found if is_fit and any(len(masks) > 1 for masks in found.values()) else {}


def _are_names_of_objects(names: Sequence[str]) -> bool:
    """Whether the names are of masks of single objects, such as hashes: no two images share one."""
    have_digits = all(re.search(r"\d", name) for name in names)
    return have_digits and len(set(names)) == len(names)


def _masks_by_name(listing: Listing) -> dict[pathlib.Path, dict[str, pathlib.Path]]:
    """The masks of every image by what their names or folders add to that of the image."""
    images, labels, _ = _roles(listing, "")
    image_stems = grouped((path.stem, path) for path in images)
    scenes = {part for path in images for part in listing.parts(path)}  # folders, not classes
    found: dict[pathlib.Path, dict[str, pathlib.Path]] = {}
    for label in labels:
        for stem, name in naming.names_of_mask(listing.inner_parts(label), label):
            candidates = [
                image
                for image in image_stems.get(stem, ())
                if listing.split_of(image) == listing.split_of(label)
            ]
            if len(candidates) == 1 and not naming.split_of(name) and name not in scenes:
                found.setdefault(candidates[0], {})[name] = label
                break
    return found


def _check_one_label(
    listing: Listing, partners: Mapping[pathlib.Path, Sequence[pathlib.Path]]
) -> None:
    several = {image: found for image, found in partners.items() if len(found) > 1}
    if not several:
        return
    image, found = next(iter(several.items()))
    suffix = next(filter(None, (_suffix_of(path, image) for path in found)), "")
    by_suffix = f"Say which by the end of their names, for instance --label_suffix={suffix}, or m"
    raise UserError(
        f"{counted(len(several), 'image')} in {listing.root} have several label files: "
        f"{image.relative_to(listing.root)} may belong to "
        f"{' or '.join(str(path.relative_to(listing.root)) for path in found[:4])}. "
        f"{by_suffix if suffix else 'M'}ove the other ones elsewhere."
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
        f"{counted(len(alone), kind)} without {other}, left out: {_examples(alone, listing.root)}."
        for kind, paths, other in (("image", images, "label"), ("label", labels, "image"))
        if (alone := [path for path in paths if path not in paired])
    ]


def _roles(
    listing: Listing, label_suffix: str
) -> tuple[list[pathlib.Path], list[pathlib.Path], list[pathlib.Path]]:
    """Images, label files, and files that look like labels but are not."""
    by_role: dict[str, list[pathlib.Path]] = {"image": [], "label": [], "other": []}
    for path in listing.images:
        role = naming.role_of(listing.inner_parts(path), path.stem) or "image"
        if label_suffix:
            is_label = path.stem.endswith(label_suffix)
            role = "label" if is_label else "other" if role == "label" else role
        by_role[role].append(path)
    arrays = []
    for path in listing.with_ending(*naming.ARRAY_ENDINGS):
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
            f"{_examples(labels, listing.root)}. Put the images into a folder images/ there."
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
        f"{_examples(images, listing.root)}; the label files "
        f"{_examples(labels, listing.root)}. Rename them, or say what the names of the label "
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


def _examples(paths: Sequence[pathlib.Path], root: pathlib.Path) -> str:
    return listed(path.relative_to(root).as_posix() for path in paths)
