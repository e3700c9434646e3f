"""Label images: a file of class ids or colours per image, in any of the usual layouts.

Three formats differ in where the class names stand: `cvat_masks` (CVAT's and datumaro's
`labelmap.txt` beside `SegmentationClass/`), `voc` (`SegmentationClass/` without it), and `masks`,
all other folders.
"""

import pathlib

from deeplab_tf.data import class_lists
from deeplab_tf.data import layouts
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.naming import words_of
from deeplab_tf.data.wording import counted
from deeplab_tf.errors import UserError

LABEL_MAP = "labelmap.txt"
# In the order of the search; the file may lie in any folder.
CLASS_LISTS = (
    LABEL_MAP,
    "classes.txt",
    "class_names.txt",
    "labels.txt",
    "class_dict.csv",
    "_classes.csv",
    "classes.csv",
    "label_colors.txt",
)
_CLASS_WORDS = frozenset(
    ("categories", "class", "classes", "codes", "color", "colors", "colour", "colours", "label",
     "labels", "legend", "palette")
)  # fmt: skip
_LIST_WORDS = frozenset(
    ("code", "dict", "id", "ids", "list", "map", "mapping", "name", "names", "seg", "segmentation",
     "to")
)  # fmt: skip
_VOC_FOLDERS = ("segmentationclass", "segmentationclasspng", "segmentationclassraw")


def evidence_cvat_masks(listing: Listing) -> str:
    """Returns the evidence for CVAT's segmentation masks; "" if there is none."""
    if not _has_voc_folder(listing) or not _has_label_map(listing):
        return ""
    return f"SegmentationClass/ and CVAT's {LABEL_MAP}"


def evidence_voc(listing: Listing) -> str:
    """Returns the evidence for a folder like Pascal VOC's; "" if there is none."""
    if not _has_voc_folder(listing) or _has_label_map(listing):
        return ""
    return "SegmentationClass/, as in Pascal VOC"


def evidence_masks(listing: Listing) -> str:
    """Returns the evidence for images and label images in other folders; "" if there is none.

    Raises:
        UserError: There are label images, but it is not clear to which images they belong.
    """
    if _has_voc_folder(listing) or not layouts.has_labels(listing):
        return ""
    layout = layouts.pair_files(listing)
    return f"{counted(len(layout.pairs), 'image')} with a label image or array each"


def find_class_list(listing: Listing) -> pathlib.Path | None:
    """Returns the file of class names, the outermost of those that come first in `CLASS_LISTS`."""
    for name in CLASS_LISTS:
        found = [path for path in listing.files if path.name.lower() == name]
        if found:
            return min(found, key=lambda path: len(path.parts))
    others = [path for path in listing.with_ending(".txt", ".csv", ".json") if _may_list(path)]
    return min(others, key=lambda path: len(path.parts), default=None)


def _may_list(path: pathlib.Path) -> bool:
    """Whether a file is called like a class list, such as `label_class_dict.csv`, and is one."""
    words = set(words_of(path.stem))
    if not words <= _CLASS_WORDS | _LIST_WORDS or words.isdisjoint(_CLASS_WORDS):
        return False
    try:
        return bool(class_lists.read_class_list(path))
    except UserError:
        return False


def read_images(
    listing: Listing, label_suffix: str = ""
) -> tuple[tuple[AnnotatedImage, ...], tuple[str, ...]]:
    """Returns the images with their label files, and notes.

    Raises:
        UserError: There are none, or it is not clear which belong together.
    """
    layout = layouts.pair_files(listing, label_suffix)
    images = tuple(
        AnnotatedImage(
            name=pair.name,
            image=pair.image,
            source=pair.label,
            shapes=(),
            split=pair.split,
            label=pair.label,
        )
        for pair in layout.pairs
    )
    return images, layout.notes


def _has_voc_folder(listing: Listing) -> bool:
    return any(path.parent.name.lower() in _VOC_FOLDERS for path in listing.images)


def _has_label_map(listing: Listing) -> bool:
    return any(path.name.lower() == LABEL_MAP for path in listing.files)
