"""Shapes of annotation files, and how they become label maps.

A shape knows the name of its class and its geometry; the geometry knows which pixels it covers.
Polygons are rasterised as the tool does that wrote them: by the rule of COCO's own tools, or, for
labelme, by the drawing functions of Pillow that its converter calls.
"""

import base64
import binascii
import dataclasses
import functools
import io
import math
import pathlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import PIL.Image
import PIL.ImageDraw

from deeplab_tf.data import image_files
from deeplab_tf.errors import UserError

_LOSSLESS = ("PNG", "BMP", "TIFF")
_POINT_RADIUS = 5  # pixels; labelme's converter
_MAX_COORDINATE = 1e9  # pixels
_MAX_SHARE_BETWEEN = 0.05  # of the pixels of a mask, that are neither dark nor bright
_CURVE_POINTS = 360  # of the polygon that stands for an ellipse


class ShapeError(ValueError):
    """A shape cannot be drawn; the message says why, and the caller adds where it is."""


@dataclasses.dataclass(frozen=True)
class Region:
    """The pixels that a shape covers: a mask, and where its top left corner lies."""

    top: int
    left: int
    mask: np.ndarray  # bool [h, w]


class Geometry(Protocol):
    """The area that a shape covers."""

    def region(self, height: int, width: int) -> Region:
        """Returns the covered pixels of an image of this size; those outside are left out.

        Raises:
            ShapeError: The shape does not fit an image of this size.
        """


@dataclasses.dataclass(frozen=True)
class Shape:
    """One annotation: a shape that was drawn or painted on an image."""

    label: str | None  # the name of its class; None where pixels do not count
    geometry: Geometry
    where: str  # for messages, such as "annotation 17"


def draw_label_map(
    shapes: Iterable[Shape],
    *,
    height: int,
    width: int,
    ids: Mapping[str, int],
    unlabeled: int,
    ignore_label: int,
) -> np.ndarray:
    """Draws shapes one over the other, in their order.

    Args:
        shapes: The first lies at the bottom.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        ids: The class id of every label.
        unlabeled: The id of pixels that no shape covers.
        ignore_label: The id of pixels that do not count.

    Returns:
        uint8 [H, W], or uint16 where an id needs it.

    Raises:
        UserError: A shape cannot be drawn; the message says where it stands.
    """
    largest = max(ignore_label, unlabeled, *ids.values())
    label_map = np.full((height, width), unlabeled, np.uint8 if largest < 256 else np.uint16)
    for shape in shapes:
        try:
            region = shape.geometry.region(height, width)
        except ShapeError as error:
            raise UserError(f"{shape.where}: {error}.") from error
        mask_height, mask_width = region.mask.shape
        window = label_map[
            region.top : region.top + mask_height, region.left : region.left + mask_width
        ]
        window[region.mask] = ignore_label if shape.label is None else ids[shape.label]
    return label_map


def to_points(values, *, minimum: int) -> np.ndarray:
    """Returns points as float64 [N, 2].

    Args:
        values: Pairs of numbers, or one list of x and y in turn.
        minimum: How many points there have to be.

    Raises:
        ShapeError: These are not points, or too few.
    """
    try:
        points = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeError("its points are not pairs of numbers") from error
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ShapeError("its points are not pairs of numbers")
    if not (np.abs(points) < _MAX_COORDINATE).all():  # NaN is caught, too
        raise ShapeError("a coordinate is not a number of pixels")
    if len(points) < minimum:
        raise ShapeError(f"it has {len(points)} points, and needs {minimum} at least")
    return points


@dataclasses.dataclass(frozen=True, eq=False)
class Polygons:
    """The union of polygons, rasterised as COCO's tools do.

    Args:
        rings: float [N, 2] each, x and y in pixels.
    """

    rings: tuple[np.ndarray, ...]

    def region(self, height: int, width: int) -> Region:
        """Returns the covered pixels; see `Geometry`."""
        coco_mask = _coco_mask()
        rings = [_clipped(ring, height, width) for ring in self.rings]
        box = _box(rings, height, width)
        if box is None:
            return _NOTHING
        top, left, bottom, right = box
        # Drawn within its box only, so that many small shapes on a large image stay cheap.
        shifted = [(ring - (left, top)).ravel().tolist() for ring in rings if len(ring) > 2]
        if not shifted:
            return _NOTHING
        encoded = coco_mask.frPyObjects(shifted, bottom - top, right - left)
        return Region(top, left, coco_mask.decode(coco_mask.merge(encoded)).astype(bool))


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    """A polygon in shares of the image's size.

    Args:
        points: float [N, 2], x and y in 0..1.
    """

    points: np.ndarray

    def region(self, height: int, width: int) -> Region:
        """Returns the covered pixels; see `Geometry`."""
        return Polygons((self.points * (width, height),)).region(height, width)


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """A shape as Pillow draws it, as labelme's converter does.

    Args:
        kind: "polygon", "rectangle", "circle" (centre and a point of the circle), "line",
          "linestrip" or "point".
        points: float [N, 2], x and y in pixels.
        line_width: Of lines, in pixels.
    """

    kind: str
    points: np.ndarray
    line_width: int = 10

    def region(self, height: int, width: int) -> Region:
        """Returns the covered pixels; see `Geometry`."""
        points, margin = self.points, 1
        if self.kind == "circle":
            margin += math.ceil(min(math.dist(*points), 2.0 * (height + width)))
        elif self.kind == "point":
            margin += _POINT_RADIUS
        elif self.kind in ("line", "linestrip"):
            margin += self.line_width
        if self.kind == "polygon":
            points = _clipped(points, height, width)
        box = _box([points], height, width, margin)
        if box is None or not len(points):
            return _NOTHING
        top, left, bottom, right = box
        canvas = PIL.Image.new("L", (right - left, bottom - top))
        self._draw(PIL.ImageDraw.Draw(canvas), points - (left, top))
        return Region(top, left, np.asarray(canvas) > 0)

    def _draw(self, draw: PIL.ImageDraw.ImageDraw, points: np.ndarray) -> None:
        limit = 2**24  # Pillow's coordinates are 32-bit integers
        x, y = points[0].clip(-limit, limit).tolist()
        flat = points.clip(-limit, limit).ravel().tolist()
        if self.kind == "polygon":
            draw.polygon(flat, fill=1, outline=1)
        elif self.kind == "rectangle":
            low, high = points.min(0).clip(-limit, limit), points.max(0).clip(-limit, limit)
            draw.rectangle([*low.tolist(), *high.tolist()], fill=1, outline=1)
        elif self.kind in ("line", "linestrip"):
            draw.line(flat, fill=1, width=self.line_width)
        else:
            radius = _POINT_RADIUS if self.kind == "point" else math.dist(*points)
            radius = min(radius, limit)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=1, outline=1)


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """A mask as the lengths of its runs: pixels outside, inside, outside, ... in turn.

    Args:
        counts: int64 [N], lengths of runs.
        height: Of the mask, in pixels.
        width: Of the mask, in pixels.
        by_column: Whether runs go down the columns (COCO), or along the rows (CVAT).
        top: Where the mask lies in the image, in pixels.
        left: Where the mask lies in the image, in pixels.
        covers_image: Whether the mask has to be as large as the image.
    """

    counts: np.ndarray
    height: int
    width: int
    by_column: bool = True
    top: int = 0
    left: int = 0
    covers_image: bool = True

    def region(self, height: int, width: int) -> Region:
        """Returns the covered pixels; see `Geometry`."""
        if self.covers_image and (self.height, self.width) != (height, width):
            raise ShapeError(
                f"its mask is {self.width}x{self.height} pixels, the image {width}x{height}"
            )
        if self.height > 2 * height + 2 or self.width > 2 * width + 2:
            raise ShapeError(
                f"its mask of {self.width}x{self.height} pixels is larger than the image"
            )
        inside = np.arange(len(self.counts)) % 2 == 1
        flat = np.repeat(inside, self.counts)
        if self.by_column:
            mask = flat.reshape(self.width, self.height).T
        else:
            mask = flat.reshape(self.height, self.width)
        return _within(mask, self.top, self.left, height, width)


def runs(
    counts: Sequence[int],
    height: int,
    width: int,
    **placement,
) -> Runs:
    """Returns `Runs` whose counts were checked against the size of the mask.

    Raises:
        ShapeError: They are not counts, or do not add up to the mask.
    """
    try:
        height, width = int(height), int(width)
        array = np.asarray(counts)
        if array.size and (array.dtype.kind not in "iu" or array.ndim != 1):
            raise ValueError
        array = array.astype(np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeError("its run lengths are not a list of integers") from error
    if array.size and array.min() < 0:
        raise ShapeError("a run length is negative")
    # Checked one by one first: the sum of hostile ones could wrap around.
    too_long = array.size and array.max() > max(height * width, 0)
    if height < 1 or width < 1 or too_long or array.sum() != height * width:
        raise ShapeError(f"its run lengths do not add up to its {width}x{height} pixels")
    return Runs(array, height, width, **placement)


@dataclasses.dataclass(frozen=True, eq=False)
class Bitmap:
    """A mask that is an image file of its own, held as base64 text.

    Args:
        text: base64 of a PNG; what is not 0 is covered.
        top: Where the mask lies in the image, in pixels.
        left: Where the mask lies in the image, in pixels.
    """

    text: str
    top: int
    left: int

    def region(self, height: int, width: int) -> Region:
        """Returns the covered pixels; see `Geometry`."""
        try:
            content = base64.b64decode(self.text, validate=True)
            with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.width > 2 * width + 2 or image.height > 2 * height + 2:
                    raise ShapeError(
                        f"its mask of {image.width}x{image.height} pixels is larger than the image"
                    )
                mask = np.asarray(image.convert("L")) > 0
        except (binascii.Error, OSError, SyntaxError, ValueError) as error:
            if isinstance(error, ShapeError):
                raise
            raise ShapeError("its mask is not the PNG that labelme writes") from error
        return _within(mask, self.top, self.left, height, width)


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """A mask in an image file: what is brighter than half of its range is covered.

    Args:
        path: An image of the size of the annotated one.
    """

    path: pathlib.Path

    def region(self, height: int, width: int) -> Region:
        """Returns the covered pixels; see `Geometry`."""
        try:
            with image_files.open_image(self.path, max_pixels=width * height) as image:
                if image.size != (width, height):
                    raise ShapeError(
                        f"the mask is {image.width}x{image.height} pixels, the image "
                        f"{width}x{height}"
                    )
                array = image_files.alpha_of_one_color(image)
                if array is None:
                    array = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
        except ShapeError:
            raise
        except Exception as error:  # Pillow raises errors of every kind on damaged files
            raise ShapeError(f"the mask cannot be read ({error}): replace it") from error
        largest = int(array.max(initial=0))
        # Compression and smooth edges make some values between; ids of classes make many.
        between = np.count_nonzero((array > largest // 4) & (array < largest - largest // 4))
        if between > _MAX_SHARE_BETWEEN * array.size:
            raise ShapeError(
                "a mask per class or per object holds two values, 0 and another one; this one "
                "holds more"
            )
        return Region(0, 0, array > (largest // 2 if largest > 1 else 0))


def rectangle(
    left: float, top: float, right: float, bottom: float, rotation: float = 0.0
) -> Polygons:
    """Returns a rectangle, turned clockwise about its centre by `rotation` in degrees.

    Raises:
        ShapeError: A coordinate is not a finite number.
    """
    corners = to_points([[left, top], [right, top], [right, bottom], [left, bottom]], minimum=4)
    return Polygons((rotated(corners, rotation, corners.mean(0)),))


def ellipse(
    center_x: float, center_y: float, radius_x: float, radius_y: float, rotation: float = 0.0
) -> Polygons:
    """Returns an ellipse, turned clockwise about its centre by `rotation` in degrees.

    Raises:
        ShapeError: A coordinate is not a finite number.
    """
    angles = np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False)
    center = to_points([[center_x, center_y]], minimum=1)[0]
    radii = to_points([[radius_x, radius_y]], minimum=1)[0]
    points = center + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Polygons((rotated(points, rotation, center),))


def rotated(points: np.ndarray, degrees: float, center: np.ndarray) -> np.ndarray:
    """Turns points clockwise (y points down) about a centre; float [N, 2]."""
    if not math.isfinite(degrees):
        raise ShapeError("its rotation is not a finite number")
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return (points - center) @ turn + center


def read_rgb(path: pathlib.Path) -> np.ndarray:
    """Returns the pixels of a lossless label image in colours, uint8 [H, W, 3].

    Raises:
        ShapeError: It cannot be read.
    """
    try:
        with image_files.open_image(path) as image:
            if image.format not in _LOSSLESS:
                raise ShapeError(f"{path} is a {image.format} file, which does not keep ids")
            return np.asarray(image.convert("RGB"))
    except ShapeError:
        raise
    except Exception as error:  # Pillow raises errors of every kind on damaged files
        raise ShapeError(f"{path} cannot be read ({error}): replace it") from error


_NOTHING = Region(0, 0, np.zeros((0, 0), bool))


@functools.cache
def _coco_mask():
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError(
            "Polygons are rasterised by pycocotools, which is not installed: "
            "pip install pycocotools"
        ) from error
    return mask


def _box(
    rings: Sequence[np.ndarray], height: int, width: int, margin: int = 1
) -> tuple[int, int, int, int] | None:
    """The pixels around points, within the image: top, left, bottom, right; None if there are none.

    The box begins at an integer, so that shapes are rasterised in it as in the whole image.
    """
    rings = [ring for ring in rings if len(ring)]
    if not rings:
        return None
    points = np.concatenate(rings).clip(-(2**40), 2**40)
    left, top = (np.floor(points.min(0)) - margin).astype(np.int64).tolist()
    right, bottom = (np.ceil(points.max(0)) + margin + 1).astype(np.int64).tolist()
    top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
    return (top, left, bottom, right) if top < bottom and left < right else None


def _within(mask: np.ndarray, top: int, left: int, height: int, width: int) -> Region:
    """Cuts off what lies outside the image."""
    rows = slice(max(-top, 0), max(height - top, 0))
    columns = slice(max(-left, 0), max(width - left, 0))
    return Region(max(top, 0), max(left, 0), mask[rows, columns])


def _clipped(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cuts a polygon at a frame far outside the image, so that no rule meets huge coordinates.

    Inside the image nothing changes: what is cut off, and the edges that the cut adds, lie outside.
    """
    for axis, size in ((0, width), (1, height)):
        for sign, bound in ((1.0, 2.0 * size + 64), (-1.0, size + 64.0)):
            inside = sign * points[:, axis] <= bound
            if inside.all():
                continue
            points = _cut(points, axis, sign * bound, inside)
            if not len(points):
                return points
    return points


def _cut(points: np.ndarray, axis: int, bound: float, inside: np.ndarray) -> np.ndarray:
    """One step of Sutherland and Hodgman's clipping: keeps the part of a polygon that is inside."""
    kept = []
    for index, point in enumerate(points):
        before = points[index - 1]
        if inside[index] != inside[index - 1]:
            share = (bound - before[axis]) / (point[axis] - before[axis])
            crossing = before + share * (point - before)
            crossing[axis] = bound
            kept.append(crossing)
        if inside[index]:
            kept.append(point)
    return np.asarray(kept, np.float64).reshape(-1, 2)
