"""CVAT's XML, "CVAT for images 1.1": polygons, boxes, ellipses, lines and painted masks.

Shapes are drawn by their `z_order`, as CVAT shows them; labels have the order of the task.
"""

import collections
import math
import pathlib
import xml.etree.ElementTree as ElementTree

from deeplab_tf import files
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import Annotations
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.annotations.common import collect
from deeplab_tf.data.annotations.fields import MAX_ANNOTATION_BYTES
from deeplab_tf.data.annotations.probing import edges
from deeplab_tf.data.annotations.shapes import Shape
from deeplab_tf.data.annotations.shapes import ShapeError
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.naming import split_of
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

_NOT_AREAS = ("points", "cuboid", "skeleton", "tag")


def evidence(listing: Listing) -> str:
    """Returns the evidence for this format, for messages; "" if there is none."""
    found = _annotation_files(listing)
    return f"{counted(len(found), 'XML file')} of CVAT ({listed(p.name for p in found)})" * (
        len(found) > 0
    )


def read(listing: Listing, options: Options) -> Annotations:
    """Reads all CVAT files of a folder.

    Raises:
        UserError: A file is damaged, or no image was found.
    """
    reader = _Reader(listing, options)
    for path in _annotation_files(listing):
        reader.add(path)
    return collect(
        reader.labels, reader.images, options, notes=reader.notes(), colors=reader.colors
    )


def _annotation_files(listing: Listing) -> list[pathlib.Path]:
    return [path for path in listing.with_ending(".xml") if b"<annotations" in edges(path)]


class _Reader:
    """Collects the images of several files."""

    def __init__(self, listing: Listing, options: Options):
        self.images: list[AnnotatedImage] = []
        self.labels: dict[str, None] = {}  # a set in order
        self.colors: dict[str, tuple[int, int, int]] = {}
        self._listing = listing
        self._options = options
        self._counts: collections.Counter = collections.Counter()
        self._missing: list[str] = []

    def notes(self) -> list[str]:
        """What was left out and decided."""
        notes = []
        if self._missing:
            notes.append(
                f"{counted(len(self._missing), 'image')} of the annotations not found, left out: "
                f"{listed(self._missing)}."
            )
        if count := self._counts["polyline"]:
            notes.append(
                f"{counted(count, 'polyline')} drawn {self._options.line_width} pixels wide "
                "(--line_width)."
            )
        for kind in _NOT_AREAS:
            if count := self._counts[kind]:
                notes.append(f"{counted(count, 'shape')} of the type {kind} left out: no area.")
        if count := self._counts["nameless"]:
            notes.append(f"{counted(count, 'shape')} without a label left out.")
        return notes

    def add(self, path: pathlib.Path) -> None:
        """Reads one file."""
        root = _parse(path)
        if root.find("track") is not None:
            raise UserError(
                f"{path} is a file of CVAT for video, whose shapes lie on frames: export the task "
                "as 'CVAT for images 1.1'."
            )
        for label in root.iter("label"):
            name = (label.findtext("name") or "").strip()
            if name:
                self.labels.setdefault(name)
                if color := _color(label.findtext("color")):
                    self.colors[name] = color
        for image in root.iter("image"):
            self._add_image(image, path)

    def _add_image(self, image: ElementTree.Element, path: pathlib.Path) -> None:
        name = image.get("name", "")
        if not name:
            raise UserError(f"{path}: image {image.get('id')} has no name. Export it again.")
        split = (
            split_of(image.get("subset") or "") or split_of(path.stem)
        ) or self._listing.split_of(path)
        file = self._listing.find_image(name, path, split)
        if file is None:
            self._missing.append(name)
            return
        try:
            width, height = (int(_number(image, key, 0)) for key in ("width", "height"))
        except ValueError as error:
            raise UserError(f"{path}, image {name}: {_reason(error)}. Export it again.") from error
        drawn = []
        for number, element in enumerate(image):
            where = f"{path}, image {name}, shape {number} ({element.tag})"
            try:
                drawn += self._shape(element, where)
            except (ShapeError, ValueError) as error:
                raise UserError(f"{where}: {_reason(error)}. Correct or delete it.") from error
        drawn.sort(key=lambda item: item[0])  # stable: equal ones keep their order
        self.images.append(
            AnnotatedImage(
                pathlib.PurePosixPath(name.replace("\\", "/")).with_suffix("").as_posix(),
                file,
                path,
                tuple(shape for _, shape in drawn),
                split or self._listing.split_of(file),
                (width, height) if width > 0 and height > 0 else None,
            )
        )

    def _shape(self, element: ElementTree.Element, where: str) -> list[tuple[int, Shape]]:
        kind = element.tag
        if kind in _NOT_AREAS:
            self._counts[kind] += 1
            return []
        geometry = _geometry(element, self._options.line_width)
        if geometry is None:
            return []
        label = element.get("label", "").strip()
        if not label:
            self._counts["nameless"] += 1
            return []
        self._counts[kind] += 1
        self.labels.setdefault(label)
        return [(int(_number(element, "z_order", 0)), Shape(label, geometry, where))]


def _geometry(element: ElementTree.Element, line_width: int) -> shapes.Geometry | None:
    kind = element.tag
    if kind == "polygon":
        return shapes.Polygons((_points(element, 3),))
    if kind == "polyline":
        return shapes.Drawing("linestrip", _points(element, 2), line_width)
    if kind == "box":
        left, top, right, bottom = (_number(element, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return shapes.rectangle(left, top, right, bottom, _number(element, "rotation", 0))
    if kind == "ellipse":
        x, y, radius_x, radius_y = (_number(element, key) for key in ("cx", "cy", "rx", "ry"))
        return shapes.ellipse(x, y, radius_x, radius_y, _number(element, "rotation", 0))
    if kind == "mask":
        counts = [int(count) for count in element.get("rle", "").split(",")]
        left, top, width, height = (
            int(_number(element, key)) for key in ("left", "top", "width", "height")
        )
        return shapes.runs(
            counts, height, width, by_column=False, top=top, left=left, covers_image=False
        )
    return None


def _points(element: ElementTree.Element, minimum: int):
    pairs = [pair.split(",") for pair in element.get("points", "").split(";") if pair.strip()]
    return shapes.to_points([[float(value) for value in pair] for pair in pairs], minimum=minimum)


def _number(element: ElementTree.Element, key: str, default: float | None = None) -> float:
    text = element.get(key)
    if text is None and default is not None:
        return default
    value = float(text) if text is not None else math.inf
    if not math.isfinite(value):
        raise ShapeError(f"the attribute {key!r} is missing or not a finite number")
    return value


def _reason(error: ValueError) -> str:
    return (
        str(error)
        if isinstance(error, ShapeError)
        else f"a number is damaged ({shortened(str(error))})"
    )


def _color(text: str | None) -> tuple[int, int, int] | None:
    try:
        value = int((text or "").removeprefix("#"), 16)
    except ValueError:
        return None
    return (value >> 16 & 255, value >> 8 & 255, value & 255)


def _parse(path: pathlib.Path) -> ElementTree.Element:
    text = files.read_text(path, "CVAT file", max_bytes=MAX_ANNOTATION_BYTES)
    # Entities can grow without bound, and CVAT writes none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{path} defines entities, which CVAT does not: export it again.")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not XML ({error}): export it again.") from error
