"""labelme's JSON files: one per image, the image beside it or within.

Label maps equal those of labelme's own converter (`labelme2voc`), which draws with Pillow: lines 10
pixels wide, points with a radius of 5. `__ignore__` does not count, and `_background_` is the
background; `labels.txt`, if there is one, gives the order of the classes.
"""

import base64
import binascii
import collections
import pathlib

from deeplab_tf import files
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import Annotations
from deeplab_tf.data.annotations.common import EmbeddedImage
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.annotations.common import collect
from deeplab_tf.data.annotations.common import labels_of
from deeplab_tf.data.annotations.fields import MAX_ANNOTATION_BYTES
from deeplab_tf.data.annotations.fields import field
from deeplab_tf.data.annotations.fields import size_field
from deeplab_tf.data.annotations.probing import edges
from deeplab_tf.data.annotations.shapes import Shape
from deeplab_tf.data.annotations.shapes import ShapeError
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

IGNORED = "__ignore__"
_LABEL_LISTS = ("labels.txt", "classes.txt", "class_names.txt")
# The number of points of every kind of shape: at least, and at most.
_NUM_POINTS = {
    "polygon": (3, None),
    "rectangle": (2, 2),
    "circle": (2, 2),
    "line": (2, 2),
    "linestrip": (2, None),
    "point": (1, 1),
    "mask": (2, 2),
    "oriented_rectangle": (4, 4),
    "rotation": (4, 4),
}
_TURNED = ("oriented_rectangle", "rotation")  # of labelme, of X-AnyLabeling


def evidence(listing: Listing) -> str:
    """Returns the evidence for this format, for messages; "" if there is none."""
    found = _annotation_files(listing)
    if not found:
        return ""
    return f"{counted(len(found), '.json file')} of labelme beside {len(listing.images)} images"


def read(listing: Listing, options: Options) -> Annotations:
    """Reads all labelme files of a folder.

    Classes are in the order of `labels.txt`, or else of the alphabet.

    Raises:
        UserError: A file is damaged, or no image was found.
    """
    images, missing = [], []
    counts: collections.Counter = collections.Counter()
    for path in _annotation_files(listing):
        content = files.read_json(path, "labelme file", max_bytes=MAX_ANNOTATION_BYTES)
        image = _image(content, path, listing)
        if image is None:
            missing.append(path.name)
            continue
        drawn = []
        for number, shape in enumerate(field(content, "shapes", list, path)):
            drawn += _shape(shape, f"shape {number}", path, options, counts)
        images.append(
            AnnotatedImage(
                "/".join([*_folders(listing, path), path.stem]),
                image,
                path,
                tuple(drawn),
                listing.split_of(path) or _split_of_image(listing, image),
                size_field(content, "imageWidth", "imageHeight"),
            )
        )
    notes = []
    if missing:
        notes.append(f"{counted(len(missing), 'file')} without image left out: {listed(missing)}.")
    if counts["line"]:
        notes.append(
            f"{counted(counts['line'], 'line')} drawn {options.line_width} pixels wide "
            "(--line_width)."
        )
    return collect(_labels(listing, images), images, options, notes=notes)


def _annotation_files(listing: Listing) -> list[pathlib.Path]:
    def is_one(path: pathlib.Path) -> bool:
        content = edges(path)
        words = (b'"shapes"', b'"imagePath"', b'"imageData"')
        return sum(word in content for word in words) > 1

    return [path for path in listing.with_ending(".json") if is_one(path)]


def _labels(listing: Listing, images: list[AnnotatedImage]) -> list[str]:
    used = labels_of(images)
    for name in _LABEL_LISTS:
        path = listing.root / name
        if path not in listing.files:
            continue
        labels = [line.strip() for line in files.read_text(path, "label list").split("\n")]
        labels = [label for label in labels if label and label != IGNORED]
        if unknown := sorted(used - set(labels)):
            raise UserError(
                f"{path} does not list {listed(unknown)}, which shapes are labelled with: add it, "
                "or correct the label in labelme."
            )
        return labels
    return sorted(used, key=lambda label: (label != "_background_", label))


def _image(content, path: pathlib.Path, listing: Listing) -> pathlib.Path | EmbeddedImage | None:
    if not isinstance(content, dict):
        raise UserError(f"{path} is not an object of labelme. Save it again in labelme.")
    name = content.get("imagePath")
    if isinstance(name, str) and name:
        beside = path.parent / name.replace("\\", "/")
        if beside in listing.images:
            return beside
        if found := listing.find_image(name, path, listing.split_of(path)):
            return found
    if content.get("imageData"):
        return EmbeddedImage(path, _embedded_bytes)
    # Both files were renamed, and the name of the image within was not.
    return listing.find_image(path.name, path, listing.split_of(path))


def _split_of_image(listing: Listing, image: pathlib.Path | EmbeddedImage) -> str:
    return "" if isinstance(image, EmbeddedImage) else listing.split_of(image)


def _embedded_bytes(path: pathlib.Path) -> bytes:
    content = files.read_json(path, "labelme file", max_bytes=MAX_ANNOTATION_BYTES)
    try:
        return base64.b64decode(field(content, "imageData", str, path))
    except (binascii.Error, ValueError) as error:
        raise UserError(
            f"{path}: the field 'imageData' is not the image in base64 ({error}). Put the image "
            "beside the file."
        ) from error


def _shape(
    shape, where: str, path: pathlib.Path, options: Options, counts: collections.Counter
) -> list[Shape]:
    label = field(shape, "label", str, path, where).strip()
    kind = shape.get("shape_type") or "polygon"
    place = f"{path}, {where} ({label})"
    if not isinstance(kind, str) or kind not in _NUM_POINTS:
        raise UserError(
            f"{place}: its type is {shortened(repr(kind))}; there is {', '.join(_NUM_POINTS)}. "
            "Draw it again."
        )
    counts["line"] += kind in ("line", "linestrip")
    geometry: shapes.Geometry
    try:
        values = field(shape, "points", list, path, where)
        points = shapes.to_points(values, minimum=_NUM_POINTS[kind][0])
        if kind == "rectangle" and len(points) == 4:  # all corners, of X-AnyLabeling
            kind = "rotation"
        high = _NUM_POINTS[kind][1]
        if high and len(points) > high:
            raise ShapeError(f"a {kind} has {high} points, not {len(points)}")
        if kind == "mask":
            left, top = points[0].astype(int).tolist()
            geometry = shapes.Bitmap(field(shape, "mask", str, path, where), top, left)
        else:
            kind = "polygon" if kind in _TURNED else kind
            geometry = shapes.Drawing(kind, points, options.line_width)
    except ShapeError as error:
        raise UserError(f"{place}: {error}. Correct or delete it in labelme.") from error
    return [Shape(None if label == IGNORED else label, geometry, place)]


def _folders(listing: Listing, path: pathlib.Path) -> tuple[str, ...]:
    parts = listing.parts(path)
    split = listing.split_of(path)
    return parts[1:] if split and parts else parts
