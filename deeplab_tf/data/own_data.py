"""Your own images and labels, from any tool: found, divided into splits, read.

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
from collections.abc import Sequence

import numpy as np

from deeplab_tf.config import OwnDataConfig
from deeplab_tf.data import band_files
from deeplab_tf.data import frames
from deeplab_tf.data import image_files
from deeplab_tf.data import label_files
from deeplab_tf.data import layouts
from deeplab_tf.data import own_labels
from deeplab_tf.data import records
from deeplab_tf.data import sights
from deeplab_tf.data import source_images
from deeplab_tf.data import split_lists
from deeplab_tf.data import validation_split
from deeplab_tf.data.annotations import formats
from deeplab_tf.data.annotations import label_images
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.annotations.common import EmbeddedImage
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.listing import Listing
from deeplab_tf.data.listing import list_folder
from deeplab_tf.data.naming import SPLITS
from deeplab_tf.data.own_bands import NOTHING_SAID
from deeplab_tf.data.own_bands import BandOptions
from deeplab_tf.data.own_bands import find_bands
from deeplab_tf.data.threads import map_in_threads
from deeplab_tf.data.tiles import WHOLE_IMAGES
from deeplab_tf.data.tiles import PixelCache
from deeplab_tf.data.tiles import TileOptions
from deeplab_tf.data.tiles import tiles_of
from deeplab_tf.data.wording import counted
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

_DRAWING = Options()


@dataclasses.dataclass(frozen=True)
class OwnDataOptions:
    """What the user says about a folder of images and labels.

    Args:
        format: One of `formats.FORMATS`, or "auto".
        label_encoding: One of `label_files.ENCODINGS`, or None to detect it.
        label_suffix: What the names of label images end in; by default it is detected.
        classes: A class list; by default the one in the folder.
        val_share: Share of the images that become `val` where the data has no such split.
        drawing: How annotations become label maps.
        bands: Which bands of the images are taken, and how they are scaled.
        tiles: Whether images are cut into tiles.
        max_pixels: Larger images and labels are refused before they are decoded.
    """

    format: str = formats.AUTO
    label_encoding: str | None = None
    label_suffix: str = ""
    classes: str = ""
    val_share: float = 0.2
    drawing: Options = _DRAWING
    bands: BandOptions = NOTHING_SAID
    tiles: TileOptions = WHOLE_IMAGES
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
            bands=BandOptions(config.bands, config.band_range, config.rgb_bands),
            tiles=TileOptions(config.tile_size, config.tile_overlap),
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
            bands=self.bands.numbers,
            band_range=self.bands.ranges,
            rgb_bands=self.bands.rgb,
            tile_size=self.tiles.size,
            tile_overlap=self.tiles.overlap,
            max_image_pixels=self.max_pixels,
        )


@dataclasses.dataclass(frozen=True)
class OwnData:
    """A folder of images and labels that was understood.

    Args:
        root: The folder.
        format: One of `formats.FORMATS`.
        info: Class names, colours and ignore label; the bands of the images.
        splits: The images by split.
        notes: What was found, decided and left out, in sentences.
        background: The class of pixels that no shape covers; None where these do not count.
        label_encoding: Of label images, one of `label_files.ENCODINGS`; None for annotations.
        max_pixels: See `OwnDataOptions`.
        cache: Of images and label maps that are read tile by tile.
    """

    root: pathlib.Path
    format: str
    info: records.DatasetInfo
    splits: dict[str, tuple[AnnotatedImage, ...]]
    notes: tuple[str, ...]
    background: str | None = None
    label_encoding: str | None = None
    max_pixels: int = image_files.MAX_PIXELS
    cache: PixelCache = dataclasses.field(default_factory=PixelCache, compare=False)

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
        """Reads an image, or the tile of it; see `read`."""
        if self.info.bands:
            return self._read_bands(image)
        if image.tile is not None:
            pixels = self.cache.get(str(image.image), lambda: self._read_rgb(image, tell).pixels())
            return source_images.source_image_of_bands(pixels[image.tile])
        return self._read_rgb(image, tell)

    def _read_rgb(
        self, image: AnnotatedImage, tell: Callable[[str], None]
    ) -> source_images.SourceImage:
        content = label_files.read_bytes(image.image, "image")
        return source_images.read_source_image(
            content, str(image.image), max_pixels=self.max_pixels, tell=tell
        )

    def _read_bands(self, image: AnnotatedImage) -> source_images.SourceImage:
        assert isinstance(image.image, pathlib.Path)
        with band_files.open_bands(image.image, max_pixels=self.max_pixels) as file:
            numbers = band_files.numbers_for(file, self.info.bands)
            window = image.tile or band_files.whole(file)
            values, is_nodata = file.read(*window, numbers)
            orientation = 1 if image.tile else file.orientation
        pixels = band_files.scaled(values, is_nodata, self.info.bands)
        return source_images.source_image_of_bands(pixels, is_nodata, orientation)

    def frame_of(self, image: AnnotatedImage) -> frames.Frame:
        """Reads the size of a whole image from its header.

        Raises:
            UserError: It is missing, too large, or not an image.
        """
        if self.info.bands:
            assert isinstance(image.image, pathlib.Path)
            with band_files.open_bands(image.image, max_pixels=self.max_pixels) as file:
                return file.frame
        source = image.image
        if isinstance(source, pathlib.Path):
            return frames.read_frame(source, str(source), self.max_pixels)
        content = label_files.read_bytes(source, "image")
        return frames.read_frame(content, str(source), self.max_pixels)

    def read_label_map(
        self, image: AnnotatedImage, source: source_images.SourceImage
    ) -> np.ndarray:
        """Reads the label map of an image, or of a tile, that was read; see `read`."""
        if image.tile is None:
            label_map = self._read_label_map(image, source)
        else:
            label_map = self._read_label_of_tile(image)
        if source.is_nodata is not None and label_map.shape == source.is_nodata.shape:
            label_map = np.where(source.is_nodata, self.info.ignore_label, label_map)
        return label_map

    def _read_label_of_tile(self, image: AnnotatedImage) -> np.ndarray:
        def read() -> np.ndarray:
            frame = self.frame_of(image)
            label_map = self._read_label_map(image, frame)
            if label_map.shape != frame.size[::-1]:
                raise UserError(
                    f"label {image.label or image.source} has {label_map.shape[1]}x"
                    f"{label_map.shape[0]} pixels (width x height), but its image {image.image} "
                    f"has {frame.size[0]}x{frame.size[1]}."
                )
            if label_map.min() >= 0 and label_map.max() < 2**16:
                label_map = label_map.astype(np.uint16)  # wrong ids are still told
            return label_map

        assert image.tile is not None
        key = (str(image.image), str(image.label or image.source))
        return self.cache.get(key, read)[image.tile]

    def _read_label_map(self, image: AnnotatedImage, source: frames.Frame) -> np.ndarray:
        """The label map of a whole image of a known size."""
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
        UserError: It is not clear which files belong together, or something is missing.
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
            f"--format={format_} must be one of {', '.join((formats.AUTO, *formats.FORMATS))}."
        )
    found = f"Format {format_}: {evidence}."
    if format_ in formats.LABEL_IMAGES:
        data = _label_images(listing, format_, options)
    else:
        data = _annotations(listing, format_, options)
    data = _with_bands(data, options)
    data = _cut(_divide(data, options, refuse_leaks), options.tiles)
    return dataclasses.replace(data, notes=(found, *data.notes))


def _with_bands(data: OwnData, options: OwnDataOptions) -> OwnData:
    """Settles the bands of the images."""
    to_train = [image for name in ("train", "") for image in data.splits.get(name, ())]
    everything = [image for images in data.splits.values() for image in images]
    found = find_bands(to_train or everything, options.max_pixels, options.bands)
    info = dataclasses.replace(data.info, bands=found.bands, rgb_bands=found.rgb_bands)
    return dataclasses.replace(data, info=info, notes=(*data.notes, *found.notes))


def _cut(data: OwnData, options: TileOptions) -> OwnData:
    """Cuts images into tiles. They are divided before, so that an image is in one split."""
    if not options.size:
        return data

    def cut(image: AnnotatedImage) -> list[AnnotatedImage]:
        try:
            return list(tiles_of(image, data.frame_of(image).size, options))
        except UserError:
            return [image]  # what is wrong is told when it is read

    splits = {}
    for name, images in data.splits.items():
        cut_images = map_in_threads(cut, images)
        splits[name] = tuple(tile for tiles_of_image in cut_images for tile in tiles_of_image)
    counts = (
        f"{counted(len(images), 'image')} of {name} give {counted(len(splits[name]), 'tile')}"
        for name, images in data.splits.items()
    )
    size = "x".join(map(str, reversed(options.size)))
    note = f"Images are cut into tiles of up to {size} pixels: {'; '.join(counts)}."
    return dataclasses.replace(data, splits=splits, notes=(*data.notes, note))


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
    images, told = _split_by_lists(listing, annotations.images)
    default = records.default_colors(len(names))
    colors = [annotations.colors.get(name, color) for name, color in zip(names, default)]
    return OwnData(
        root=listing.root,
        format=format_,
        info=records.DatasetInfo(_title(listing.root), names, tuple(colors), records.IGNORE_LABEL),
        splits=_by_split(images),
        notes=(*annotations.notes, *told),
        background=annotations.background,
        max_pixels=options.max_pixels,
    )


def _split_by_lists(
    listing: Listing, images: Sequence[AnnotatedImage]
) -> tuple[Sequence[AnnotatedImage], list[str]]:
    """Takes the splits from lists, unless folders or annotation files tell several; and notes."""
    paths = [
        image.image.path if isinstance(image.image, EmbeddedImage) else image.image
        for image in images
    ]
    notes = []
    if alone := sorted(set(layouts.images_of(listing)) - set(paths)):
        notes.append(
            f"{counted(len(alone), 'image')} without annotations, left out: "
            f"{listing.examples(alone)}."
        )
    splits = [image.split for image in images]
    if len(set(splits)) > 1:
        return images, notes
    chosen, told = split_lists.listed_splits(
        listing, [image.name for image in images], paths, splits
    )
    divided = [dataclasses.replace(images[number], split=split) for number, split in chosen]
    return divided or images, notes + told


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
    class_list = label_images.find_class_list(listing)
    if class_list and not options.classes:
        notes = (*notes, f"Class names from {class_list.relative_to(listing.root)}.")
    if format_ == "cvat_masks":
        encoding = encoding or "color_map"  # palette files have the colours of the label map, too
    classes = own_labels.find_classes(
        [image.label for image in images if image.label],
        encoding,
        options.classes or class_list,
        options.max_pixels,
    )
    return OwnData(
        root=listing.root,
        format=format_,
        info=records.DatasetInfo(
            _title(listing.root), classes.names, classes.colors, records.IGNORE_LABEL
        ),
        splits=_by_split(images),
        notes=(*notes, *classes.notes),
        label_encoding=classes.encoding,
        max_pixels=options.max_pixels,
    )


def _title(root: pathlib.Path) -> str:
    """What the data is called: the folder's name, as text that any file can hold."""
    name = root.resolve().name.encode("utf-8", "backslashreplace").decode()
    return name[:100] or "own data"


def _by_split(images: Iterable[AnnotatedImage]) -> dict[str, tuple[AnnotatedImage, ...]]:
    """The images by split, those of none under "", with names that are unique and UTF-8."""
    by_split: dict[str, dict[str, AnnotatedImage]] = {}
    for image in images:
        own = by_split.setdefault(image.split, {})
        name = image.name.encode("utf-8", "backslashreplace").decode()
        if name in own:  # of another folder
            parent = image.source.parent.name or "other"
            name = f"{parent}/{name}".encode("utf-8", "backslashreplace").decode()
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
        notes.append(f"{counted(len(undivided), 'image')} in no split are used for training.")
    train = (*splits.get("train", ()), *undivided)
    if train:
        splits["train"] = train
    seen = {
        name: list(
            map_in_threads(lambda image: sights.see(image, data.max_pixels, data.info), images)
        )
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
