"""Images and labels as people have them, whatever tool they used: found, divided, read.

    data = find_own_data("my_data", OwnDataOptions())
    image, label_map = data.read(data.splits["train"][0])

`datasets.build` and `check_data` both read through this module, so that they agree about what is
fit.
"""

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import cv2
import numpy as np

from deeplab_tf.config import OwnDataConfig
from deeplab_tf.data import image_files
from deeplab_tf.data import label_colors
from deeplab_tf.data import label_files
from deeplab_tf.data import near_duplicates
from deeplab_tf.data import records
from deeplab_tf.data import source_images
from deeplab_tf.data import validation_split
from deeplab_tf.data.annotations import formats
from deeplab_tf.data.annotations import label_images
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.class_lists import read_class_list
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.listing import list_folder
from deeplab_tf.data.naming import SPLITS
from deeplab_tf.data.wording import counted
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError

_DRAWING = Options()
_TOLD_MASKS = (
    "All labels hold 0 and 255 only, so they are read as masks of two classes, of which 255 is the "
    "second (--label_encoding=mask). If 255 means pixels that do not count, give "
    "--label_encoding=grey."
)
_AT_ONCE = 32  # labels that are read before the next decision
_LARGE = 512  # pixels of the shorter side
MASK_CLASSES = ("background", "foreground")  # of masks that come without a class list


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
        ids_by_color = {color: class_id for class_id, color in enumerate(self.info.colors)}
        return label_files.read_label(
            path, self.label_encoding, ids_by_color, max_pixels=self.max_pixels
        )

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
    annotations = formats.READERS[format_](listing, options.drawing)
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


def _label_images(listing: Listing, format_: str, options: OwnDataOptions) -> OwnData:
    images, notes = label_images.read_images(listing, options.label_suffix)
    class_list = options.classes or label_images.find_class_list(listing)
    encoding = options.label_encoding
    names: Sequence[str] = ()
    colors: Sequence[label_files.RGB] = ()
    if class_list:
        names, colors = read_class_list(class_list)
    if format_ == "cvat_masks":
        encoding = encoding or "color_map"  # palette files have the colours of the label map, too
    paths = [image.label for image in images if image.label]
    if not encoding:
        encoding = label_files.detect_encoding(paths, colors, max_pixels=options.max_pixels)
        if encoding == "grey" and _are_black_and_white(paths, options.max_pixels):
            if len(names) not in (0, 2):
                raise UserError(
                    f"{class_list} lists {counted(len(names), 'class')}, but all labels hold 0 and "
                    "255 only. If they are masks of two classes, list two names; if 255 means "
                    "pixels that do not count, give --label_encoding=grey."
                )
            encoding = "mask"
            notes = (*notes, _TOLD_MASKS)
    if encoding == "mask":
        _check_masks(paths, options.max_pixels)
    if encoding == "color_map" and len(set(colors)) < len(colors):
        twice = next(color for color in colors if colors.count(color) > 1)
        raise UserError(
            f"{class_list} gives the colour {twice} to two classes, so labels in colours cannot "
            "tell them apart. A class without a colour gets that of its id in Pascal VOC."
        )
    if not names:
        names, more = _numbered_names(paths, encoding, options.max_pixels)
        notes = (*notes, *more)
        colors = records.default_colors(len(names))
    return OwnData(
        root=listing.root,
        format=format_,
        info=records.DatasetInfo(
            listing.root.name, tuple(names), tuple(colors), records.IGNORE_LABEL
        ),
        splits=_by_split(images),
        notes=notes,
        label_encoding=encoding,
        max_pixels=options.max_pixels,
    )


def _are_black_and_white(paths: Sequence[pathlib.Path], max_pixels: int) -> bool:
    """Whether labels hold 0 and 255 only, and 255 at all."""
    found: set[int] = set()
    for start in range(0, len(paths), _AT_ONCE):
        for ids in _map_in_threads(
            lambda path: _ids(label_files.read_label(path, "grey", max_pixels=max_pixels)),
            paths[start : start + _AT_ONCE],
        ):
            found |= ids
        if not found <= {0, 255}:
            return False
    return 255 in found


def _check_masks(paths: Sequence[pathlib.Path], max_pixels: int) -> None:
    """Refuses masks that do not tell which of their values is background."""
    values: dict[int, pathlib.Path] = {}
    for path, found in zip(
        paths, _map_in_threads(lambda path: _mask_values(path, max_pixels), paths)
    ):
        for value in found:
            values.setdefault(value, path)
    if 0 not in values and len(values) > 1:
        listed_values = ", ".join(f"{value} in {path}" for value, path in list(values.items())[:3])
        raise UserError(
            "Masks have 0 or black for the background, and these have not, so a mask of a single "
            f"value is not clear: {listed_values}. Write the class names into classes.txt, and "
            "read values as ids (--label_encoding=grey) or as colours (--label_encoding=color_map)."
        )


def _mask_values(path: pathlib.Path, max_pixels: int) -> set[int]:
    pixels = label_files.load_label(path, max_pixels)
    if pixels.is_lossy:
        return {0}
    return _ids(label_colors.encode(pixels.rgb) if pixels.values is None else pixels.values)


def _numbered_names(
    paths: Sequence[pathlib.Path], encoding: str, max_pixels: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names for classes of which there is no list, and notes."""
    if encoding == "mask":
        return MASK_CLASSES, (
            f"No class list: the classes are called {' and '.join(MASK_CLASSES)}.",
        )
    found: set[int] = set()
    for ids in _map_in_threads(
        lambda path: _ids(label_files.read_label(path, encoding, max_pixels=max_pixels)), paths
    ):
        found |= ids
    found.discard(records.IGNORE_LABEL)
    if not found or min(found) < 0 or max(found) >= records.IGNORE_LABEL:
        raise UserError(
            f"There is no class list, and the labels hold the values {listed(sorted(found))}, "
            "which are not a numbering of classes. Write the class names into classes.txt beside "
            f"the images, one a line, the first with id 0."
        )
    number = max(found) + 1
    return tuple(f"class_{class_id}" for class_id in range(number)), (
        f"No class list: {counted(number, 'class')} called by their ids. To name them, write "
        "classes.txt beside the images, a name a line.",
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
    splits = {"train": train} | {name: images for name, images in splits.items() if name != "train"}
    if not train:
        splits.pop("train")
    seen = {
        name: list(_map_in_threads(lambda image: _see(image, data.max_pixels), images))
        for name, images in splits.items()
    }
    looks = {name: [sight.look for sight in own] for name, own in seen.items()}
    sights = [sight for own in seen.values() for sight in own]
    notes += _told_scaling(sights)
    unclear = [sight.name for sight in sights if sight.is_unclear]
    if unclear and data.format in formats.LABEL_IMAGES:
        notes.append(
            f"{counted(len(unclear), 'image')} turned by EXIF data, with label images whose size "
            f"fits either way, are turned together with these: {listed(unclear)}. If the labels "
            "were drawn on upright images, remove the tag first: exiftool -Orientation= FILE."
        )
    if train and "val" not in splits and options.val_share > 0:
        classes = _classes(data, train)
        division = validation_split.divide(
            [image.name for image in train], looks["train"], classes, options.val_share
        )
        for name, part in (("train", False), ("val", True)):
            is_own = [is_val == part for is_val in division.is_val]
            splits[name] = tuple(image for image, own in zip(train, is_own) if own)
        notes += division.notes
    else:
        notes += _leaks(splits, looks, refuse_leaks)
    order = [name for name in SPLITS if name in splits]
    return dataclasses.replace(
        data, splits={name: splits[name] for name in order}, notes=tuple(notes)
    )


def _leaks(
    splits: dict[str, tuple[AnnotatedImage, ...]],
    looks: dict[str, list[near_duplicates.Look]],
    refuse_leaks: bool,
) -> list[str]:
    """Says which images of one split are like one of another."""
    images = [(name, image) for name, own in splits.items() for image in own]
    pairs = near_duplicates.find_alike([look for name in splits for look in looks[name]])
    across = [
        (images[first], images[second], how)
        for first, second, how in pairs
        if images[first][0] != images[second][0]
    ]
    equal = [pair for pair in across if pair[2] == "equal"]
    if equal and refuse_leaks:
        (split, image), (other_split, other), _ = equal[0]
        raise UserError(
            f"{counted(len(equal), 'image')} are in two splits, which spoils validation: "
            f"{image.image} ({split}) equals {other.image} ({other_split}). Remove one of each."
        )
    across = [pair for pair in across if pair[2] != "equal"]
    if not across:
        return []
    (split, image), (other_split, other), how = across[0]
    return [
        f"{counted(len(across), 'pair')} of images in different splits show nearly the same, such "
        f"as {image.name} ({split}) and {other.name} ({other_split}, {how}): validation may look "
        "better than it is."
    ]


@dataclasses.dataclass(frozen=True)
class _Sight:
    """What was seen of an image before it is read for a record."""

    name: str
    look: near_duplicates.Look
    is_unclear: bool = False  # whether EXIF data turn it, and its size does not tell that
    told: str = ""  # how its pixels were scaled


def _see(image: AnnotatedImage, max_pixels: int) -> _Sight:
    """Looks at an image; what cannot be read is like no other, and told when it is read."""
    name = str(image.image)
    told: list[str] = []
    try:
        content = image.image.read_bytes()
        with image_files.open_image(content, name=name, max_pixels=max_pixels) as file:
            is_large_jpeg = file.format in ("JPEG", "MPO") and min(file.size) >= _LARGE
            is_unclear = source_images.is_turned_within_its_size(file)
        pixels = None
        if is_large_jpeg:  # decoded at an eighth of its size, which saves most of the time
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_COLOR_8)
        if pixels is None:
            pixels = image_files.read_image(
                content, name=name, max_pixels=max_pixels, tell=told.append
            )
    except (OSError, UserError):
        return _Sight(image.name, near_duplicates.Look(name.encode(), None))
    line = told[-1].removeprefix(f"{name}: ") if told else ""
    return _Sight(image.name, near_duplicates.Look.of(pixels), is_unclear, line)


def _told_scaling(sights: Sequence[_Sight]) -> list[str]:
    """Says how pixels of more than 8 bits were scaled, and whether that differs among images."""
    scaled = [sight for sight in sights if "are read as" in sight.told]
    if not scaled:
        return []
    ways = collections.Counter(sight.told.partition("are read as ")[2] for sight in scaled)
    listed_ways = ", ".join(f"{count} as {way}" for way, count in ways.most_common())
    differs = (
        " They are scaled in different ways: if they are of one camera, convert them to 8 bits "
        "yourself, all alike."
    )
    return [
        f"{counted(len(scaled), 'image')} of more than 8 bits are scaled to 8: {listed_ways}, such "
        f"as {scaled[0].name} ({scaled[0].told}).{differs * (len(ways) > 1)}"
    ]


def _classes(data: OwnData, images: Sequence[AnnotatedImage]) -> list[set[int]]:
    """The ids that occur in each image."""
    ids = {name: class_id for class_id, name in enumerate(data.info.class_names)}

    def of(image: AnnotatedImage) -> set[int]:
        if image.label is None:
            return {ids[shape.label] for shape in image.shapes if shape.label is not None}
        return _ids(data.read_label(image.label)) - {data.info.ignore_label}

    return list(_map_in_threads(of, images))


def _ids(label_map: np.ndarray) -> set[int]:
    return set(np.unique(label_map).tolist())


def _map_in_threads(function, items):
    """Yields the results in order; decoders leave Python's lock."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(function, items)
