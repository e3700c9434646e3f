"""Label Studio's JSON and JSON-MIN: polygons, brushes, rectangles and ellipses, in percent.

Label Studio uploads `photo.jpg` as `1a2b3c4d-photo.jpg`: both names are tried. Tasks that nobody
has labelled are left out; an image that is labelled with nothing is all background.
"""

import collections
import dataclasses
import pathlib
import re

import numpy as np

from deeplab_tf import files
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import Annotations
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.annotations.common import collect
from deeplab_tf.data.annotations.common import labels_of
from deeplab_tf.data.annotations.fields import MAX_ANNOTATION_BYTES
from deeplab_tf.data.annotations.fields import field
from deeplab_tf.data.annotations.fields import size_field
from deeplab_tf.data.annotations.probing import edges
from deeplab_tf.data.annotations.probing import holds_all
from deeplab_tf.data.annotations.shapes import Shape
from deeplab_tf.data.annotations.shapes import ShapeError
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.naming import split_of
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

# The field of the labels, and one that only such a shape has.
_KINDS = {
    "polygonlabels": "points",
    "brushlabels": "rle",
    "ellipselabels": "radiusX",
    "rectanglelabels": "width",
}


def evidence(listing: Listing) -> str:
    """Returns the evidence for this format, for messages; "" if there is none."""
    found = _annotation_files(listing)
    return f"{counted(len(found), 'file')} of Label Studio ({listed(p.name for p in found)})" * (
        len(found) > 0
    )


def read(listing: Listing, options: Options) -> Annotations:
    """Reads all Label Studio files of a folder; classes are in alphabetical order.

    Raises:
        UserError: A file is damaged, or no image was found.
    """
    images: list[AnnotatedImage] = []
    missing: list[str] = []
    counts: collections.Counter = collections.Counter()
    for path in _annotation_files(listing):
        for number, task in enumerate(_tasks(path)):
            where = f"task {task.get('id', number) if isinstance(task, dict) else number}"
            name, results = _task(task, path, where, counts)
            if results is None:
                counts["unlabelled"] += 1
                continue
            image = _image(listing, name, results, path, where, counts)
            if image:
                images.append(image)
            else:
                missing.append(name)
    labels = sorted(labels_of(images))
    return collect(labels, images, options, notes=_notes(missing, counts))


def _notes(missing: list[str], counts: collections.Counter) -> list[str]:
    notes = []
    if missing:
        notes.append(
            f"{counted(len(missing), 'image')} of the annotations not found, left out: "
            f"{listed(missing)}."
        )
    if counts["unlabelled"]:
        notes.append(
            f"{counted(counts['unlabelled'], 'task')} that nobody has labelled, or that was "
            "skipped, left out."
        )
    if counts["double"]:
        notes.append(
            f"{counted(counts['double'], 'task')} with several annotations: the last one was taken."
        )
    if counts["other"]:
        notes.append(f"{counted(counts['other'], 'region')} without a label or an area left out.")
    return notes


def _image(
    listing: Listing,
    name: str,
    results: list,
    path: pathlib.Path,
    where: str,
    counts: collections.Counter,
) -> AnnotatedImage | None:
    """The image of a task with its shapes; None if there is no such image."""
    split = split_of(path.stem) or listing.split_of(path)
    file = listing.find_image(name, path, split)
    if file is None:
        return None
    drawn: list[Shape] = []
    sizes: list[tuple[int, int]] = []
    for index, result in enumerate(results):
        drawn += _shape(result, f"{path}, {where}, region {index}", sizes, counts)
    return AnnotatedImage(
        name=file.stem,
        image=file,
        source=path,
        shapes=tuple(drawn),
        split=split or listing.split_of(file),
        size=sizes[0] if sizes else None,
    )


def _annotation_files(listing: Listing) -> list[pathlib.Path]:
    return [
        path
        for path in listing.with_ending(".json")
        if edges(path).lstrip(b"\xef\xbb\xbf \r\n\t").startswith((b"[", b"{"))
        and holds_all(path, b'"original_width"')
    ]


def _tasks(path: pathlib.Path) -> list:
    """The tasks of a file: a list of them, or one with its annotation, as storages have it."""
    content = files.read_json(path, "Label Studio file", max_bytes=MAX_ANNOTATION_BYTES)
    if isinstance(content, dict):
        task = content.get("task")
        return [task | {"annotations": [content]} if isinstance(task, dict) else content]
    if not isinstance(content, list):
        raise UserError(f"{path} is not a list of tasks: export it again as JSON.")
    return content


def _task(
    task, path: pathlib.Path, where: str, counts: collections.Counter
) -> tuple[str, list | None]:
    """The name of the image and the regions; None if nobody has labelled it."""
    if not isinstance(task, dict):
        raise UserError(f"{path}, {where}: this is not a task. Export the project again as JSON.")
    if "annotations" in task or "completions" in task:
        data = field(task, "data", dict, path, where)
        key = "annotations" if "annotations" in task else "completions"
        annotations = [
            annotation
            for annotation in field(task, key, list, path, where)
            if isinstance(annotation, dict) and not annotation.get("was_cancelled")
        ]
        results = field(annotations[-1], "result", list, path, where) if annotations else None
        counts["double"] += len(annotations) > 1
        return _image_name(data, path, where), results
    # JSON-MIN: the regions are lists beside the image.
    results = [
        region
        for value in task.values()
        if isinstance(value, list)
        for region in value
        if isinstance(region, dict) and "original_width" in region
    ]
    return _image_name(task, path, where), results


def _image_name(data: dict, path: pathlib.Path, where: str) -> str:
    names = [value for value in data.values() if isinstance(value, str)]
    for name in [data.get("image"), *names]:
        if isinstance(name, str) and re.search(r"\.\w{3,5}($|\?)", name):
            return name
    raise UserError(f"{path}, {where}: no image is named. Export the project again as JSON.")


def _shape(
    result, where: str, sizes: list[tuple[int, int]], counts: collections.Counter
) -> list[Shape]:
    """The shape of a region; adds the image's size to `sizes`."""
    value = result.get("value", result) if isinstance(result, dict) else None
    if not isinstance(value, dict):
        raise UserError(f"{where}: this is not a region. Export the project again as JSON.")
    kind = next((kind for kind in _KINDS if kind in value), None)
    labels = value.get(kind or "labels")
    if kind is None and labels is not None:  # <Labels> and <Polygon>, in place of <PolygonLabels>
        kind = next((kind for kind, name in _KINDS.items() if name in value), None)
    if kind is None:
        counts["other"] += 1
        return []
    if result.get("image_rotation"):
        raise UserError(
            f"{where}: the image was turned by {shortened(str(result['image_rotation']))} degrees "
            "in Label Studio, so it is not clear where the region lies. Turn it back, and export "
            "the project again."
        )
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
        raise UserError(f"{where}: it has no label. Label it, or delete it.")
    size = size_field(result, "original_width", "original_height")
    if size is None:
        raise UserError(f"{where}: the size of the image is missing. Export the project again.")
    sizes.append(size)
    try:
        return [Shape(labels[0], _geometry(kind, value, *sizes[-1]), where)]
    except ShapeError as error:
        raise UserError(f"{where}: {error}. Correct or delete it.") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{where}: a value is missing or damaged ({shortened(repr(error))})."
        ) from error


def _geometry(kind: str, value: dict, width: int, height: int) -> shapes.Geometry:
    if kind == "polygonlabels":
        points = shapes.to_points(value["points"], minimum=3)
        return shapes.Polygons((points * (width / 100, height / 100),))
    if kind == "brushlabels":
        packed = bytes(value["rle"])
        return BrushRuns(packed)
    x, y = value["x"] * width / 100, value["y"] * height / 100
    rotation = float(value.get("rotation") or 0)
    if kind == "ellipselabels":
        radii = value["radiusX"] * width / 100, value["radiusY"] * height / 100
        return shapes.ellipse(x, y, *radii, rotation=rotation)
    right, bottom = x + value["width"] * width / 100, y + value["height"] * height / 100
    # Label Studio turns a rectangle about its top left corner.
    corners = shapes.to_points([[x, y], [right, y], [right, bottom], [x, bottom]], minimum=4)
    return shapes.Polygons((shapes.rotated(corners, rotation, corners[0]),))


@dataclasses.dataclass(frozen=True)
class BrushRuns:
    """A painted mask as Label Studio packs it: run lengths of the RGBA values of the image."""

    packed: bytes

    def region(self, height: int, width: int) -> shapes.Region:
        """Returns the covered pixels, those that are not transparent; see `shapes.Geometry`."""
        values = _unpacked(self.packed, 4 * height * width)
        return shapes.Region(0, 0, values.reshape(height, width, 4)[..., 3] > 0)


def _unpacked(packed: bytes, expected: int) -> np.ndarray:
    """Decodes the run lengths of thi.ng's rle-pack, which Label Studio uses; uint8 [N]."""
    bits = _Bits(packed)
    count, word_size = bits.read(32), bits.read(5) + 1
    run_sizes = [bits.read(4) + 1 for _ in range(4)]
    if count != expected:
        raise ShapeError(f"its brush mask has {count // 4} pixels, the image {expected // 4}")
    if word_size > 8:
        raise ShapeError("its brush mask is damaged")
    values = np.zeros(count, np.uint8)
    position = 0
    while position < count:
        is_run = bits.read(1)
        end = min(position + 1 + bits.read(run_sizes[bits.read(2)]), count)
        if is_run:
            values[position:end] = bits.read(word_size)
        else:
            values[position:end] = [bits.read(word_size) for _ in range(position, end)]
        position = end
    return values


class _Bits:
    """Reads numbers of some bits, the highest bit first."""

    def __init__(self, packed: bytes):
        self._packed = packed
        self._position = 0

    def read(self, size: int) -> int:
        end = self._position + size
        first, last = self._position // 8, (end + 7) // 8
        if last > len(self._packed):
            raise ShapeError("its brush mask is cut off")
        value = int.from_bytes(self._packed[first:last], "big") >> (last * 8 - end)
        self._position = end
        return value & ((1 << size) - 1)
