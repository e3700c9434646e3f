"""YOLO segmentation: a text file per image, a line per object, `CLASS X1 Y1 X2 Y2 ...`.

Coordinates are shares of the image's size. The class names stand in `data.yaml` (Ultralytics,
Roboflow) or in `obj.names` (darknet). An image in `images/` has its text in `labels/`; otherwise
the two lie side by side.
"""

import pathlib

from deeplab_tf import files
from deeplab_tf.data import class_lists
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import Annotations
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.annotations.common import collect
from deeplab_tf.data.annotations.common import labels_of
from deeplab_tf.data.annotations.shapes import Shape
from deeplab_tf.data.annotations.shapes import ShapeError
from deeplab_tf.data.json_fields import as_integer
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.listing import grouped
from deeplab_tf.data.naming import role_of
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError

_NAME_LISTS = ("obj.names", "classes.txt", "classes.names", "names.txt", "labels.txt")
_MAX_CLASSES = 1000
_OUTSIDE = 0.5  # how far outside the image a coordinate may lie, in image sizes


def evidence(listing: Listing) -> str:
    """Returns the evidence for this format, for messages; "" if there is none."""
    found = _label_files(listing)
    if not any(map(_looks_like_labels, found.values())):
        return ""
    return f"{counted(len(found), '.txt file')} of YOLO beside {len(listing.images)} images"


def read(listing: Listing, options: Options) -> Annotations:
    """Reads the label file of every image.

    Raises:
        UserError: A file is damaged, or holds boxes, which are not segmentation.
    """
    names, notes = _class_names(listing)
    found = _label_files(listing)
    images, missing = [], []
    for image in listing.images:
        path = found.get(image)
        drawn = _read_shapes(path, names) if path else []
        if path is None:
            missing.append(image.name)
        split = listing.split_of(image)
        images.append(AnnotatedImage(image.stem, image, path or image.parent, tuple(drawn), split))
    if missing:
        notes.append(f"{counted(len(missing), 'image')} without a label file: {listed(missing)}.")
    labels = names or [f"class_{i}" for i in range(_num_classes(images))]
    return collect(labels, images, options, notes=notes)


def _label_files(listing: Listing) -> dict[pathlib.Path, pathlib.Path]:
    """The text file of every image that has one."""
    texts = set(listing.with_ending(".txt"))
    found = {}
    for image in listing.images:
        for path in _places(image):
            if path in texts:
                found[image] = path
                break
    return found or _label_files_elsewhere(listing)


def _label_files_elsewhere(listing: Listing) -> dict[pathlib.Path, pathlib.Path]:
    """The text files of the names of images, whatever the folder of images is called."""
    texts = grouped(
        ((listing.split_of(path), path.stem), path)
        for path in listing.with_ending(".txt")
        if role_of(listing.inner_parts(path)) == "label"
    )
    found = {
        image: texts.get((listing.split_of(image), image.stem), []) for image in listing.images
    }
    return {image: paths[0] for image, paths in found.items() if len(paths) == 1}


def _places(image: pathlib.Path) -> list[pathlib.Path]:
    """Where the label file of an image may lie."""
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    for index in range(len(parts) - 2, -1, -1):  # Ultralytics' rule: the last `images`
        if parts[index].lower() == "images":
            return [pathlib.Path(*parts[:index], "labels", *parts[index + 1 :]), beside]
    return [beside]


def _looks_like_labels(path: pathlib.Path) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(4096).splitlines()
        words = lines[0].split() if lines else []
        return len(words) >= 5 and all(map(_is_number, words)) and _class_id(words[0]) is not None
    except OSError:
        return False


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _class_id(word: str) -> int | None:
    """Returns the class id that begins a line, perhaps written as 0.0; None if it is none."""
    number = float(word) if _is_number(word) else -1.0
    return int(number) if 0 <= number < _MAX_CLASSES and number.is_integer() else None


def _read_shapes(path: pathlib.Path, names: list[str]) -> list[Shape]:
    drawn = []
    lines = files.read_text(path, "YOLO label file").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        words = line.split()
        class_id = _class_id(words[0])
        if not all(map(_is_number, words)) or class_id is None:
            raise UserError(
                f"{where}: {line[:40]!r} is not a class id and coordinates. Correct the line."
            )
        if len(words) == 5:
            raise UserError(
                f"{where}: this is a box (class, centre, width and height), so these are labels "
                "for detection. Semantic segmentation needs the outline of every object: export "
                "the data as YOLO segmentation, or as COCO."
            )
        if names and class_id >= len(names):
            raise UserError(
                f"{where}: the class id is {class_id}, but there are {len(names)} class names "
                f"({listed(names)}). Correct the line, or add the name."
            )
        try:
            points = shapes.to_points([float(word) for word in words[1:]], minimum=3)
            if points.min() < -_OUTSIDE or points.max() > 1 + _OUTSIDE:
                raise ShapeError(
                    f"its coordinates lie in {points.min():g}..{points.max():g}; they are shares "
                    "of the image's size, in 0..1"
                )
        except ShapeError as error:
            raise UserError(f"{where}: {error}. Correct or delete the line.") from error
        label = names[class_id] if names else f"class_{class_id}"
        drawn.append(Shape(label, shapes.Scaled(points), where))
    return drawn


def _class_names(listing: Listing) -> tuple[list[str], list[str]]:
    """The class names by id, and notes."""
    for path in listing.with_ending(".yaml", ".yml"):
        names = _names_in_yaml(path)
        if names:
            return names, [f"Class names from {path.relative_to(listing.root)}."]
    for path in listing.files:
        if path.name.lower() in _NAME_LISTS and not _looks_like_labels(path):
            listed, _ = class_lists.read_class_list(path)
            return list(listed), [f"Class names from {path.relative_to(listing.root)}."]
    return [], [
        "No class names (data.yaml or obj.names) lie here: classes are called by their number."
    ]


def _names_in_yaml(path: pathlib.Path) -> list[str]:
    import yaml

    text = files.read_text(path, "YOLO data file")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path} is not YAML ({reason}): correct it.") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        names = {as_integer(class_id): name for class_id, name in names.items()}
        if not names.keys() == set(range(len(names))):
            raise UserError(f"{path}: the ids of `names` are not 0, 1, 2, ... without a gap.")
        names = [names[class_id] for class_id in range(len(names))]
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        raise UserError(f"{path}: `names` is not a list of class names: correct it.")
    names = [str(name).strip() for name in names]
    if len(set(names)) < len(names):
        raise UserError(f"{path} has the class name {_double(names)!r} twice: rename one.")
    return names


def _double(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _num_classes(images: list[AnnotatedImage]) -> int:
    ids = [int(label.removeprefix("class_")) for label in labels_of(images)]
    return 1 + max(ids, default=-1)
