"""Which format a folder holds."""

import re
from collections.abc import Callable

from deeplab_tf.data.annotations import coco
from deeplab_tf.data.annotations import cvat
from deeplab_tf.data.annotations import label_images
from deeplab_tf.data.annotations import label_studio
from deeplab_tf.data.annotations import labelme
from deeplab_tf.data.annotations import masks
from deeplab_tf.data.annotations import yolo
from deeplab_tf.data.annotations.common import Annotations
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.listing import Listing
from deeplab_tf.errors import UserError

AUTO = "auto"

# Annotation files, from which label maps are drawn.
READERS: dict[str, Callable[[Listing, Options], Annotations]] = {
    "coco": coco.read,
    "labelme": labelme.read,
    "cvat": cvat.read,
    "yolo": yolo.read,
    "label_studio": label_studio.read,
    "masks_per_class": masks.read_per_class,
    "masks_per_instance": masks.read_per_instance,
}
# Label images, which are read as they are.
LABEL_IMAGES = ("cvat_masks", "voc", "masks")
FORMATS = (*READERS, *LABEL_IMAGES)

_EVIDENCE: dict[str, Callable[[Listing], str]] = {
    "coco": coco.evidence,
    "labelme": labelme.evidence,
    "cvat": cvat.evidence,
    "yolo": yolo.evidence,
    "label_studio": label_studio.evidence,
    "cvat_masks": label_images.evidence_cvat_masks,
    "voc": label_images.evidence_voc,
    "masks_per_instance": masks.evidence_per_instance,
    "masks_per_class": masks.evidence_per_class,
    "masks": label_images.evidence_masks,
}
# Label images are considered only where no annotation files are found: most annotation folders also
# hold label images, made by a converter.
_LAST = ("masks_per_instance", "masks_per_class", "masks")


def detect_format(listing: Listing) -> tuple[str, str]:
    """Tells which format a folder holds.

    Args:
        listing: The folder.

    Returns:
        One of `FORMATS`, and the evidence for it, for messages.

    Raises:
        UserError: No format fits, or two do; the message names what was found.
    """
    found = {}
    for name, evidence in _EVIDENCE.items():
        if found and name in _LAST:
            break
        if words := evidence(listing):
            found[name] = words
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        which = "; ".join(f"{words} (--format={name})" for name, words in found.items())
        raise UserError(
            f"{listing.root} holds labels in several formats: {which}. Say which one to read."
        )
    raise UserError(
        f"{listing.root} holds {listing.contents()}, but no labels in a known format. Known are: "
        "COCO, labelme, CVAT for images 1.1, YOLO segmentation and Label Studio files; label "
        "images in folders such as labels/ or masks/, or with names that end in _mask or _label."
        + _hint(listing)
    )


def _hint(listing: Listing) -> str:
    """Returns further advice."""
    if listing.with_ending(".zip", ".tar", ".gz", ".7z", ".rar"):
        return " Unpack the archives first."
    if listing.with_ending(".xml"):
        return (
            " XML files that begin with <annotation> are boxes of Pascal VOC, for detection, not "
            "for segmentation."
        )
    if suffix := _likely_suffix(listing):
        return f" If the names of label images end in {suffix}: --label_suffix={suffix}."
    return ""


def _likely_suffix(listing: Listing) -> str:
    """Returns an ending of names that half of the images have and the others lack, or ""."""
    stems = {path.stem for path in listing.images}
    ends = [
        stem[match.start() :]
        for stem in stems
        for match in re.finditer("[-_.]", stem)
        if stem[: match.start()] in stems
    ]
    return max(sorted(set(ends)), key=ends.count) if ends else ""
