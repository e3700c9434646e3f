"""Masks in image files: one per class, or one per object.

    masks/car/1.png, masks/road/1.png      per class, in folders
    masks/1/car.png, masks/1/road.png      per class, in a folder per image
    masks/1_car.png, masks/1_road.png      per class, by the end of the name
    ID/images/ID.png, ID/masks/*.png       per object (Data Science Bowl 2018)
    masks/ID/1.png, masks/ID_1.png         per object, by numbers

Where masks overlap, the class whose name comes later in the alphabet wins.
"""

import pathlib
from collections.abc import Mapping

from deeplab_tf.data import mask_layouts
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import Annotations
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.annotations.common import collect
from deeplab_tf.data.annotations.shapes import MaskFile
from deeplab_tf.data.annotations.shapes import Shape
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed

OBJECT = "object"  # the class of masks that are one per object


def evidence_per_class(listing: Listing) -> str:
    """Returns the evidence for masks per class; "" if there is none."""
    found = mask_layouts.masks_per_class(listing)
    if not found:
        return ""
    names = sorted({name for masks in found.values() for name in masks})
    return f"{counted(len(found), 'image')} with a mask per class ({listed(names)})"


def evidence_per_instance(listing: Listing) -> str:
    """Returns the evidence for masks per object; "" if there is none.

    Raises:
        UserError: They may be masks per class as well.
    """
    found = mask_layouts.instance_masks(listing)
    if not found:
        return ""
    mask_layouts.check_numbers_are_of_objects(listing)
    num_masks = sum(map(len, found.values()))
    return f"{counted(len(found), 'image')} with {num_masks} masks of single objects"


def read_per_class(listing: Listing, options: Options) -> Annotations:
    """Reads masks per class; classes are in alphabetical order.

    Raises:
        UserError: There are none.
    """
    found = mask_layouts.masks_per_class(listing)
    names = sorted({name for masks in found.values() for name in masks})
    drawn = {
        image: [(name, masks[name]) for name in names if name in masks]
        for image, masks in found.items()
    }
    return _collect(listing, drawn, names, options)


def read_per_instance(listing: Listing, options: Options) -> Annotations:
    """Reads masks per object, all of one class.

    Raises:
        UserError: There are none.
    """
    drawn = {
        image: [(OBJECT, mask) for mask in masks]
        for image, masks in mask_layouts.instance_masks(listing).items()
    }
    return _collect(listing, drawn, [OBJECT], options)


def _collect(
    listing: Listing,
    drawn: Mapping[pathlib.Path, list[tuple[str, pathlib.Path]]],
    names: list[str],
    options: Options,
) -> Annotations:
    images = [
        AnnotatedImage(
            name=image.stem,
            image=image,
            source=masks[0][1].parent if masks else image.parent,
            shapes=tuple(Shape(name, MaskFile(path), str(path)) for name, path in masks),
            split=listing.split_of(image),
        )
        for image, masks in drawn.items()
    ]
    return collect(names, images, options)
