"""COCO's JSON: instances (polygons, run lengths, crowds) and panoptic segmentation.

What many tools write: CVAT, Label Studio, Roboflow, labelme2coco, datumaro, FiftyOne. The file may
lie beside the images or in `annotations/`; its name or its folder may tell the split
(`instances_train2017.json`, `valid/_annotations.coco.json`).
"""

import collections
import dataclasses
import functools
import os
import pathlib

import numpy as np

from deeplab_tf import files
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import Annotations
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.annotations.common import collect
from deeplab_tf.data.annotations.fields import MAX_ANNOTATION_BYTES
from deeplab_tf.data.annotations.fields import field
from deeplab_tf.data.annotations.fields import size_field
from deeplab_tf.data.annotations.probing import holds_all
from deeplab_tf.data.annotations.shapes import Shape
from deeplab_tf.data.annotations.shapes import ShapeError
from deeplab_tf.data.json_fields import as_color
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.naming import split_of
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

_OTHER_TASKS = ("captions", "person_keypoints", "image_info")  # of COCO's own files


def evidence(listing: Listing) -> str:
    """Returns the evidence for this format, for messages; "" if there is none."""
    found = _annotation_files(listing)
    return f"{counted(len(found), 'COCO file')} ({listed(p.name for p in found)})" if found else ""


def read(listing: Listing, options: Options) -> Annotations:
    """Reads all COCO files of a folder; classes follow the ids of the categories.

    Raises:
        UserError: A file is damaged, or no image was found.
    """
    reader = _Reader(listing, options)
    for path in _annotation_files(listing):
        reader.add(path)
    return collect(
        reader.labels(),
        reader.images,
        options,
        notes=reader.notes(),
        colors=reader.colors,
        unlabeled="ignore" if reader.is_panoptic else "background",
    )


def _annotation_files(listing: Listing) -> list[pathlib.Path]:
    found = [
        path
        for path in listing.with_ending(".json")
        if holds_all(path, b'"images"', b'"annotations"', b'"categories"')
        and not path.stem.startswith(_OTHER_TASKS)
    ]
    instances = [path for path in found if path.stem.startswith("instances")]
    return instances or found


class _Reader:
    """Collects the images of several files."""

    def __init__(self, listing: Listing, options: Options):
        self.images: list[AnnotatedImage] = []
        self.colors: dict[str, tuple[int, int, int]] = {}
        self.is_panoptic = False
        self._listing = listing
        self._options = options
        self._names: dict[str, int] = {}  # category id of every label, of the first file with it
        self._unused: set[str] = set()  # parents that Roboflow lists among the categories
        self._counts: collections.Counter = collections.Counter()
        self._missing: list[str] = []

    def labels(self) -> list[str]:
        """The labels in the order of their category ids."""
        drawn = {shape.label for image in self.images for shape in image.shapes}
        names = [name for name in self._names if name in drawn or name not in self._unused]
        return sorted(names, key=self._names.__getitem__)

    def notes(self) -> list[str]:
        """What was left out and decided."""
        notes = []
        ids = sorted(self._names.values())
        if ids and ids != list(range(ids[0], ids[0] + len(ids))):
            notes.append("The category ids have gaps: classes are numbered in their order.")
        if self._missing:
            notes.append(
                f"{counted(len(self._missing), 'image')} of the annotations not found, left out: "
                f"{listed(self._missing)}."
            )
        if count := self._counts["crowd"]:
            become = {"ignore": "left out of account", "class": "drawn as their class"}
            notes.append(
                f"{counted(count, 'crowd region')} {become[self._options.crowd]} (--crowd)."
            )
        if count := self._counts["lines"]:
            notes.append(f"{counted(count, 'polygon')} of one or two points left out: no area.")
        if count := self._counts["empty"]:
            notes.append(f"{counted(count, 'annotation')} without polygon or mask left out.")
        return notes

    def add(self, path: pathlib.Path) -> None:
        """Reads one file."""
        content = files.read_json(path, "COCO file", max_bytes=MAX_ANNOTATION_BYTES)
        categories = self._categories(content, path)
        shapes_by_image = collections.defaultdict(list)
        for number, annotation in enumerate(field(content, "annotations", list, path)):
            where = f"annotation {_id(annotation, number)}"
            image_id = _hashable(field(annotation, "image_id", object, path, where), path, where)
            if "segments_info" in annotation:
                self.is_panoptic = True
                drawn = self._panoptic(annotation, categories, path, where)
            else:
                drawn = self._instance(annotation, categories, path, where)
            shapes_by_image[image_id] += drawn
        split = split_of(path.stem) or self._listing.split_of(path)
        for number, image in enumerate(field(content, "images", list, path)):
            where = f"image {_id(image, number)}"
            image_id = _hashable(field(image, "id", object, path, where), path, where)
            self._add_image(image, shapes_by_image.pop(image_id, []), split, path, where)
        if shapes_by_image:
            raise UserError(
                f"{path}: {counted(sum(map(len, shapes_by_image.values())), 'annotation')} of "
                f"image ids that the file does not list: {listed(shapes_by_image)}. Export the "
                "annotations again."
            )

    def _add_image(
        self, image: dict, drawn: list[Shape], split: str, path: pathlib.Path, where: str
    ) -> None:
        name = field(image, "file_name", str, path, where)
        file = self._listing.find_image(name, path, split)
        if file is None:
            self._missing.append(shortened(name))
            return
        split = split or self._listing.split_of(file)
        crowds = [shape for shape in drawn if shape.label is None]
        others = [shape for shape in drawn if shape.label is not None]
        size = size_field(image, "width", "height")
        self.images.append(
            AnnotatedImage(
                pathlib.PurePosixPath(name.replace("\\", "/")).stem,
                file,
                path,
                tuple(crowds + others),  # what does not count lies below single objects
                split,
                size,
            )
        )

    def _categories(self, content, path: pathlib.Path) -> dict:
        """The name of every category id of a file."""
        names = {}
        parents = set()
        for number, category in enumerate(field(content, "categories", list, path)):
            where = f"category {_id(category, number)}"
            category_id = field(category, "id", int, path, where)
            name = field(category, "name", str, path, where).strip()
            if not name:
                raise UserError(f"{path}, {where}: the name is empty. Name the class.")
            if category_id in names:
                raise UserError(f"{path}, {where}: the id is that of {names[category_id]!r} too.")
            names[category_id] = name
            self._names.setdefault(name, category_id)
            parents.add(str(category.get("supercategory")))
            if color := as_color(category.get("color")):
                self.colors.setdefault(name, color)
            if category.get("supercategory") == "none":
                self._unused.add(name)
        self._unused &= parents
        return names

    def _instance(
        self, annotation: dict, categories: dict, path: pathlib.Path, where: str
    ) -> list[Shape]:
        label: str | None = _label(annotation, categories, path, where)
        segmentation = annotation.get("segmentation")
        if not segmentation or segmentation == [[]]:
            self._counts["empty"] += 1
            return []
        if annotation.get("iscrowd"):
            self._counts["crowd"] += 1
            label = None if self._options.crowd == "ignore" else label
        place = f"{path}, {where}"
        try:
            geometry, num_left_out = _geometry(segmentation)
            self._counts["lines"] += num_left_out
            return [Shape(label, geometry, place)]
        except ShapeError as error:
            raise UserError(f"{place}: {error}. Correct or delete it.") from error

    def _panoptic(
        self, annotation: dict, categories: dict, path: pathlib.Path, where: str
    ) -> list[Shape]:
        name = field(annotation, "file_name", str, path, where)
        folder = path.parent / path.stem  # panoptic_val2017.json, panoptic_val2017/
        file = next((f for f in (folder / name, path.parent / name) if os.path.isfile(f)), None)
        file = file or self._listing.find_image(name, folder / "x", split_of(path.stem))
        if file is None:
            raise UserError(
                f"{path}, {where}: there is no label image {shortened(name)} in {folder}."
            )
        drawn = []
        for segment in field(annotation, "segments_info", list, path, where):
            label: str | None = _label(segment, categories, path, where)
            if segment.get("iscrowd"):
                self._counts["crowd"] += 1
                label = None if self._options.crowd == "ignore" else label
            segment_id = field(segment, "id", int, path, where)
            drawn.append(Shape(label, Segment(file, segment_id), f"{path}, {where}"))
        return drawn


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment of a panoptic label image, whose colours are ids: R + 256 G + 65536 B."""

    path: pathlib.Path
    segment_id: int

    def region(self, height: int, width: int) -> shapes.Region:
        """Returns the covered pixels; see `shapes.Geometry`."""
        ids = _panoptic_ids(self.path)
        if ids.shape != (height, width):
            raise ShapeError(f"{self.path} is not of the size of the image, {width}x{height}")
        return shapes.Region(0, 0, ids == self.segment_id)


@functools.lru_cache(maxsize=4)  # an image has many segments
def _panoptic_ids(path: pathlib.Path) -> np.ndarray:
    rgb = shapes.read_rgb(path).astype(np.int32)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def _geometry(segmentation) -> tuple[shapes.Geometry, int]:
    """The area of an annotation, and how many of its polygons have none and are left out."""
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        counts = segmentation.get("counts")
        if not isinstance(size, list) or len(size) != 2:
            raise ShapeError("its run lengths have no size [height, width]")
        if isinstance(counts, str):
            counts = _decompressed(counts)
        if not isinstance(counts, list):
            raise ShapeError("its run lengths are not a list of integers")
        return shapes.runs(counts, size[0], size[1]), 0
    if not isinstance(segmentation, list):
        raise ShapeError("its segmentation is neither polygons nor run lengths")
    if all(isinstance(value, int | float) for value in segmentation):
        segmentation = [segmentation]  # one polygon, without the list around it
    rings = [shapes.to_points(ring, minimum=1) for ring in segmentation]
    areas = tuple(ring for ring in rings if len(ring) > 2)
    return shapes.Polygons(areas), len(rings) - len(areas)


def _decompressed(text: str) -> list[int]:
    """The counts of COCO's compressed run lengths: 5 bits per character, the lowest first."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ShapeError("its compressed run lengths are damaged")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:  # more bits follow
            continue
        if code & 16:  # negative
            value -= 1 << shift
        # From the third on, the difference to the count before the last is stored.
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ShapeError("its compressed run lengths are cut off")
    return counts


def _label(annotation: dict, categories: dict, path: pathlib.Path, where: str) -> str:
    category_id = field(annotation, "category_id", int, path, where)
    if category_id not in categories:
        raise UserError(
            f"{path}, {where}: there is no category {category_id}; the file lists "
            f"{listed(categories)}. Correct it, or export the annotations again."
        )
    return categories[category_id]


def _id(value, number: int):
    """Returns the name of an entry for messages: its id, or else its number in the list."""
    stated = value.get("id") if isinstance(value, dict) else None
    return f"number {number}" if stated is None else shortened(str(stated))


def _hashable(value, path: pathlib.Path, where: str):
    if not isinstance(value, int | str | float):
        raise UserError(f"{path}, {where}: the image id is neither a number nor a text.")
    return value
