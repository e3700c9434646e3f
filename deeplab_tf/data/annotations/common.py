"""What all annotation formats are read into."""

import dataclasses
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from deeplab_tf.data.annotations.shapes import Shape
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError

RGB = tuple[int, int, int]

BACKGROUND = "background"
# Names that tools give to unlabelled pixels.
BACKGROUND_NAMES = (BACKGROUND, "_background_", "__background__", "unlabeled", "unlabelled")


@dataclasses.dataclass(frozen=True)
class Options:
    """How annotations become label maps.

    Args:
        unlabeled: Label of pixels that no shape covers: "background", a class of its own, or
          "ignore"; by default what is usual in the format.
        crowd: Label of COCO's crowd regions: "ignore", or "class" for their own class.
        line_width: Of lines, in pixels.
    """

    unlabeled: str | None = None
    crowd: str = "ignore"
    line_width: int = 10


@dataclasses.dataclass(frozen=True)
class EmbeddedImage:
    """An image that an annotation file holds itself.

    Args:
        path: The annotation file.
        read: Returns the bytes of the image file.
    """

    path: pathlib.Path
    read: Callable[[pathlib.Path], bytes]

    def read_bytes(self) -> bytes:
        """Returns the bytes of the image file, as a path does."""
        return self.read(self.path)

    def __str__(self) -> str:
        return f"{self.path} (the image in it)"


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image and the shapes on it.

    Args:
        name: Unique within its split; the image's file name without its extension, with folders
          before it where it needs them.
        image: The image file.
        source: The annotation file; the image's folder where there are several.
        shapes: In drawing order; the first lies at the bottom.
        label: The label file, in place of shapes.
        tile: Rows and columns of the image that are taken; None for all.
        split: "train", "val", "test", or "" where the layout says none.
        size: Width and height that the annotation file states, in pixels.
    """

    name: str
    image: pathlib.Path | EmbeddedImage
    source: pathlib.Path
    shapes: tuple[Shape, ...]
    split: str = ""
    size: tuple[int, int] | None = None
    label: pathlib.Path | None = None
    tile: tuple[slice, slice] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
    """The images of a folder with their shapes.

    Args:
        class_names: The index of a name is its class id.
        images: With their shapes, whose labels are among the class names.
        background: The class of pixels that no shape covers; None where these do not count.
        colors: RGB by class name, of the classes whose colour is known.
        notes: For the user: what was left out, and what was decided.
    """

    class_names: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    background: str | None
    colors: dict[str, RGB] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def labels_of(images: Iterable[AnnotatedImage]) -> set[str]:
    """Returns the labels of all shapes that count."""
    return {shape.label for image in images for shape in image.shapes if shape.label is not None}


def _check_once(images: Sequence[AnnotatedImage]) -> None:
    taken: dict[tuple, AnnotatedImage] = {}
    for image in images:
        other = taken.setdefault((image.split, str(image.image)), image)
        if other is not image:
            sources = " and ".join(dict.fromkeys((str(other.source), str(image.source))))
            raise UserError(
                f"The image {image.image} is annotated twice, in {sources}: leave one of the two "
                "out."
            )


def collect(
    labels: Iterable[str],
    images: Sequence[AnnotatedImage],
    options: Options,
    *,
    notes: Sequence[str] = (),
    colors: dict[str, RGB] | None = None,
    unlabeled: str = "background",
) -> Annotations:
    """Settles the classes: one per label, and the background.

    Args:
        labels: Names in the order of their ids; repeated ones count once.
        images: With their shapes.
        options: How unlabelled pixels are taken.
        notes: To pass on.
        colors: RGB by label, as far as known.
        unlabeled: What is usual in the format.

    Raises:
        UserError: There is no image, or no class, or an image is annotated twice.
    """
    names = list(dict.fromkeys(labels))
    notes = list(notes)
    if not images:
        raise UserError("No image of these annotations was found. " + " ".join(notes))
    _check_once(images)
    background = next((name for name in names if name.lower() in BACKGROUND_NAMES), None)
    if (options.unlabeled or unlabeled) == "ignore":
        background = None
        notes.append("Pixels that no shape covers do not count (--unlabeled=ignore).")
    elif background is None:
        background = BACKGROUND
        names.insert(0, background)
        notes.append("Pixels that no shape covers are the class `background`, with id 0.")
    drawn = labels_of(images)
    empty = [image for image in images if not image.shapes]
    if not drawn:
        raise UserError("There is no shape with a label in these annotations. " + " ".join(notes))
    if never := [name for name in names if name not in drawn and name != background]:
        notes.append(f"Classes without a single shape: {listed(never)}.")
    if empty:
        become = "taken for background" if background else "ignored"
        notes.append(
            f"{counted(len(empty), 'image')} without a shape, {become} as a whole: "
            f"{listed(image.name for image in empty)}."
        )
    return Annotations(tuple(names), tuple(images), background, colors or {}, tuple(notes))
