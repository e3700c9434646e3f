"""Layouts of masks that each show a part of the labels of an image: one class, or one object.

masks/car/1.png, masks/1/car.png, masks/1_car.png      per class
ID/images/ID.png with ID/masks/*.png, masks/ID/1.png   per object
"""

import pathlib
import re
from collections.abc import Sequence

from deeplab_tf.data import layouts
from deeplab_tf.data import naming
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.listing import grouped
from deeplab_tf.errors import UserError


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
            f"or of classes: {listing.examples(masks)}. Give --format=masks_per_instance or "
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
    images, labels, _ = layouts.roles_of(listing)
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
