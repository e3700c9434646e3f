"""Images and labels as people have them, whatever tool they used: found, divided, read.

    data = find_own_data("my_data", OwnDataOptions())
    image, label_map = data.read(data.splits["train"][0])

`datasets.build` and `check_data` both read through this module, so that they agree about what is
fit.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterable

import numpy as np

from deeplab_tf.config import OwnDataConfig
from deeplab_tf.data import image_files
from deeplab_tf.data import label_files
from deeplab_tf.data import own_labels
from deeplab_tf.data import records
from deeplab_tf.data import sights
from deeplab_tf.data import source_images
from deeplab_tf.data import validation_split
from deeplab_tf.data.annotations import formats
from deeplab_tf.data.annotations import label_images
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.listing import list_folder
from deeplab_tf.data.naming import SPLITS
from deeplab_tf.data.threads import map_in_threads
from deeplab_tf.data.wording import counted
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

_DRAWING = Options()


@dataclasses.dataclass(frozen=True)
class OwnDataOptions:
    """What a person says about a folder of images and labels.

    Args:
        format: One of `formats.FORMATS`, or "auto".
        label_encoding: One of `label_files.ENCODINGS`, or None: told from the files.
        label_suffix: What the names of label images end in; by default told from the names.
        classes: A class list; by default the one in the folder.
        val_share: Share of the images that become `val` where the data has no such split.
        drawing: How annotations become label maps.
        max_pixels: Larger images and labels are refused before they are decoded.
    """

    format: str = formats.AUTO
    label_encoding: str | None = None
    label_suffix: str = ""
    classes: str = ""
    val_share: float = 0.2
    drawing: Options = _DRAWING
    max_pixels: int = image_files.MAX_PIXELS

    @classmethod
    def of(cls, config: OwnDataConfig) -> "OwnDataOptions":
        """Returns the options that the flags describe."""
        return cls(
            format=config.format,
            label_encoding=None if config.label_encoding == "auto" else config.label_encoding,
            label_suffix=config.label_suffix,
            classes=config.classes,
            val_share=config.val_share,
            drawing=Options(config.unlabeled, config.crowd, config.line_width),
            max_pixels=config.max_image_pixels,
        )

    def config(self) -> OwnDataConfig:
        """Returns the flags that describe the options."""
        return OwnDataConfig(
            format=self.format,
            label_encoding=self.label_encoding or "auto",
            label_suffix=self.label_suffix,
            classes=str(self.classes),
            val_share=self.val_share,
            unlabeled=self.drawing.unlabeled,
            crowd=self.drawing.crowd,
            line_width=self.drawing.line_width,
            max_image_pixels=self.max_pixels,
        )


@dataclasses.dataclass(frozen=True)
class OwnData:
    """A folder of images and labels that was understood.

    Args:
        root: The folder.
        format: One of `formats.FORMATS`.
        info: Class names, colours and ignore label.
        splits: The images by split.
        notes: What was found, decided and left out, in sentences.
        background: The class of pixels that no shape covers; None where these do not count.
        label_encoding: Of label images, one of `label_files.ENCODINGS`; None for annotations.
        max_pixels: See `OwnDataOptions`.
    """

    root: pathlib.Path
    format: str
    info: records.DatasetInfo
    splits: dict[str, tuple[AnnotatedImage, ...]]
    notes: tuple[str, ...]
    background: str | None = None
    label_encoding: str | None = None
    max_pixels: int = image_files.MAX_PIXELS

    def read(
        self, image: AnnotatedImage, tell: Callable[[str], None] = lambda line: None
    ) -> tuple[source_images.SourceImage, np.ndarray]:
        """Reads an image and its label map, both upright.

        Args:
            image: One of `splits`.
            tell: Called with a line if pixels had to be scaled.

        Returns:
            The image, and class ids [H, W], which are not checked.

        Raises:
            UserError: A file is damaged, or the two do not fit each other.
        """
        source = self.read_image(image, tell)
        return source, self.read_label_map(image, source)

    def read_image(
        self, image: AnnotatedImage, tell: Callable[[str], None] = lambda line: None
    ) -> source_images.SourceImage:
        """Reads an image; see `read`."""
        content = label_files.read_bytes(image.image, "image")
        return source_images.read_source_image(
            content, str(image.image), max_pixels=self.max_pixels, tell=tell
        )

    def read_label_map(
        self, image: AnnotatedImage, source: source_images.SourceImage
    ) -> np.ndarray:
        """Reads the label map of an image that was read; see `read`."""
        if image.label is not None:
            return source.upright(self.read_label(image.label))
        # A tool shows images upright, and its shapes lie so, unless the size that it states says
        # otherwise.
        size = source.size
        if image.size not in (None, source.size):
            size = source.stored_size
        if image.size not in (None, size):
            raise UserError(
                f"{image.source} says that {image.image} has {image.size[0]}x{image.size[1]} "
                f"pixels (width x height), but it has {source.size[0]}x{source.size[1]}: the image "
                "was resized after it was annotated. Give the original one."
            )
        label_map = self._draw(image, size)
        return label_map if size == source.size else source.upright(label_map)

    def read_label(self, path: pathlib.Path) -> np.ndarray:
        """Returns the class ids of a label file, as it is stored, int [H, W]."""
        return label_files.read_label(
            path, self.label_encoding, self._ids_by_color, max_pixels=self.max_pixels
        )

    def ids_in(self, image: AnnotatedImage) -> set[int]:
        """Returns the ids of the classes that occur in an image; none if it cannot be read."""
        if image.label is None:
            labels = {shape.label for shape in image.shapes}
            return {i for i, name in enumerate(self.info.class_names) if name in labels}
        encoding = self.label_encoding or ""
        ids = own_labels.ids_in(image.label, encoding, self.max_pixels, self._ids_by_color)
        return ids - {self.info.ignore_label}

    @property
    def _ids_by_color(self) -> dict[label_files.RGB, int]:
        return {color: class_id for class_id, color in enumerate(self.info.colors)}

    def _draw(self, image: AnnotatedImage, size: tuple[int, int]) -> np.ndarray:
        ids = {name: class_id for class_id, name in enumerate(self.info.class_names)}
        ignore_label = self.info.ignore_label
        return shapes.draw_label_map(
            image.shapes,
            height=size[1],
            width=size[0],
            ids=ids,
            unlabeled=ignore_label if self.background is None else ids[self.background],
            ignore_label=ignore_label,
        )


def find_own_data(
    root: str | os.PathLike, options: OwnDataOptions, *, refuse_leaks: bool = True
) -> OwnData:
    """Finds out what a folder holds: its format, its classes, its splits.

    Args:
        root: The folder.
        options: What is known already.
        refuse_leaks: Whether one image in two splits is an error.

    Raises:
        UserError: It is not clear what belongs together, or something is missing.
    """
    listing = list_folder(root)
    format_, evidence = options.format, "--format"
    if format_ == formats.AUTO:
        if options.label_suffix:
            format_, evidence = "masks", "--label_suffix"
        else:
            format_, evidence = formats.detect_format(listing)
    if format_ not in formats.FORMATS:
        raise UserError(
            f"--format={format_}: there is {', '.join((formats.AUTO, *formats.FORMATS))}."
        )
    found = f"Format {format_}: {evidence}."
    if format_ in formats.LABEL_IMAGES:
        data = _label_images(listing, format_, options)
    else:
        data = _annotations(listing, format_, options)
    data = _divide(data, options, refuse_leaks)
    return dataclasses.replace(data, notes=(found, *data.notes))


def _annotations(listing: Listing, format_: str, options: OwnDataOptions) -> OwnData:
    for flag, value in (
        ("--label_encoding", options.label_encoding),
        ("--label_suffix", options.label_suffix),
        ("--classes", options.classes),
    ):
        if value:
            raise UserError(
                f"{flag}={value} is for label images, but {listing.root} is read as {format_}: "
                "leave it out, or give --format=masks."
            )
    try:
        annotations = formats.READERS[format_](listing, options.drawing)
        _check_names(annotations.class_names)
    except UserError as error:
        if str(listing.root) in str(error):
            raise
        raise UserError(f"{listing.root}: {error}") from error
    names = annotations.class_names
    if len(names) > records.IGNORE_LABEL:
        raise UserError(
            f"There are {len(names)} classes in {listing.root}; at most {records.IGNORE_LABEL} "
            "are possible."
        )
    default = records.default_colors(len(names))
    colors = [annotations.colors.get(name, color) for name, color in zip(names, default)]
    return OwnData(
        root=listing.root,
        format=format_,
        info=records.DatasetInfo(listing.root.name, names, tuple(colors), records.IGNORE_LABEL),
        splits=_by_split(annotations.images),
        notes=annotations.notes,
        background=annotations.background,
        max_pixels=options.max_pixels,
    )


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not records.is_class_name(name):
            raise UserError(
                f"the class name {shortened(repr(name))} is empty, longer than 255 characters, or "
                "not on one line. Rename the class."
            )


def _label_images(listing: Listing, format_: str, options: OwnDataOptions) -> OwnData:
    images, notes = label_images.read_images(listing, options.label_suffix)
    encoding = options.label_encoding
    if format_ == "cvat_masks":
        encoding = encoding or "color_map"  # palette files have the colours of the label map, too
    classes = own_labels.find_classes(
        [image.label for image in images if image.label],
        encoding,
        options.classes or label_images.find_class_list(listing),
        options.max_pixels,
    )
    return OwnData(
        root=listing.root,
        format=format_,
        info=records.DatasetInfo(
            listing.root.name, classes.names, classes.colors, records.IGNORE_LABEL
        ),
        splits=_by_split(images),
        notes=(*notes, *classes.notes),
        label_encoding=classes.encoding,
        max_pixels=options.max_pixels,
    )


def _by_split(images: Iterable[AnnotatedImage]) -> dict[str, tuple[AnnotatedImage, ...]]:
    """The images by split, those of none under "", with names that are unique."""
    by_split: dict[str, dict[str, AnnotatedImage]] = {}
    for image in images:
        own = by_split.setdefault(image.split, {})
        name = image.name
        if name in own:  # of another folder
            parent = image.source.parent.name or "other"
            name = f"{parent}/{name}"
            while name in own:
                name += "_"
        own[name] = dataclasses.replace(image, name=name)
    order = [split for split in (*SPLITS, "") if split in by_split]
    return {split: tuple(by_split[split].values()) for split in order}


def _divide(data: OwnData, options: OwnDataOptions, refuse_leaks: bool) -> OwnData:
    """Settles which images are for validation, and refuses those that are in two splits."""
    splits = dict(data.splits)
    notes = list(data.notes)
    undivided = splits.pop("", ())
    if undivided and splits:
        notes.append(f"{counted(len(undivided), 'image')} of no split are taken for train.")
    train = (*splits.get("train", ()), *undivided)
    if train:
        splits["train"] = train
    seen = {
        name: list(map_in_threads(lambda image: sights.see(image, data.max_pixels), images))
        for name, images in splits.items()
    }
    everything = [sight for own in seen.values() for sight in own]
    notes += sights.told_scaling(everything)
    if data.format in formats.LABEL_IMAGES:
        notes += sights.told_turns(everything)
    looks = {name: [sight.look for sight in own] for name, own in seen.items()}
    notes += sights.find_leaks(splits, looks, refuse_leaks)
    if train and "val" not in splits and options.val_share > 0:
        division = validation_split.divide(
            [image.name for image in train],
            looks["train"],
            list(map_in_threads(data.ids_in, train)),
            options.val_share,
        )
        for name, part in (("train", False), ("val", True)):
            is_own = [is_val == part for is_val in division.is_val]
            splits[name] = tuple(image for image, own in zip(train, is_own) if own)
        notes += division.notes
    order = [name for name in SPLITS if name in splits]
    return dataclasses.replace(
        data, splits={name: splits[name] for name in order}, notes=tuple(notes)
    )
