"""The images that an export is proved and calibrated with: records, files, or drawn ones."""

import dataclasses
import os
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.data import band_files
from deeplab_tf.data import class_presence
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.data.damaged_records import readable_errors
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.runs import run_dir as run_dirs

_DRAWN_SPLIT = "export"  # not a split of the dataset: no run has seen these images

# Below this number of images, the ranges of values of int8 depend on which images they are.
_FEW_CALIBRATION_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class ProofImage:
    """An image with or without its label map.

    Attributes:
        name: Name of the record or the drawing.
        image: uint8 [H, W, channels].
        label: int32 [H, W], class ids or the ignore label; None where there is none.
        seen_size: Height and width of the part at the top left that is not padding; None for all.
    """

    name: str
    image: np.ndarray
    label: np.ndarray | None
    seen_size: tuple[int, int] | None = None

    def without_padding(self, labels: np.ndarray) -> np.ndarray:
        """Cuts the padding off labels of the image, [H, W]."""
        height, width = self.seen_size or labels.shape
        return labels[:height, :width]


def from_records_or_drawn(
    run: run_dirs.Run, data_dir: str | None, number: int
) -> tuple[str, list[ProofImage]]:
    """Returns images that a run was not trained on, at their own size.

    Args:
        run: The run.
        data_dir: Records; the images are spread evenly over their validation split. By default the
            records of the run where they still exist; otherwise images are drawn as in `shapes`,
            with labels only for a run of these classes. For other runs they are as large as the
            training crops.
        number: How many, at most.

    Returns:
        Where the images come from, for messages; and the images.

    Raises:
        UserError: There are no such records, or they are damaged or of other classes.
    """
    source = _find_records(run, data_dir)
    if source is None:
        drawn = [_draw(run, index) for index in range(number)]
        return f"{number} drawn images, as in shapes: no records were given", drawn
    split = run.data_config.val_split or run.data_config.train_split
    source.shards(split)  # the error names the splits that there are
    numbers = _spread(source.num_examples[split], number)
    examples = input_pipeline.evaluation_examples(source, split, numbers=numbers)
    found = []
    with readable_errors():
        for example in examples.as_numpy_iterator():
            ignored = example["label"] == source.info.ignore_label
            label = np.where(ignored, run.dataset.ignore_label, example["label"])
            found.append(ProofImage(example["name"].decode(), example["image"], label))
    if not found:
        raise _none_is_readable(source, split)
    return f"{len(found)} images of the split {split!r} of {source.folder}", found


def from_files(run: run_dirs.Run, pattern: str, number: int) -> tuple[str, list[ProofImage]]:
    """Returns image files, at their own size and without labels.

    Args:
        run: The run, for the bands of its images.
        pattern: Glob of the files.
        number: How many, at most, spread evenly over the sorted files.

    Returns:
        Where the images come from, for messages; and the images.

    Raises:
        UserError: No file matches, or one cannot be read.
    """
    found = [
        ProofImage(os.path.basename(path), image, None)
        for path, image in _read_files(pattern, number, run.dataset, "proof_images")
    ]
    return f"{len(found)} images of {pattern}", found


def calibration_images(
    run: run_dirs.Run,
    data_dir: str | None,
    image_pattern: str | None,
    *,
    number: int,
    fit: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> list[np.ndarray]:
    """Returns images that show the ranges of values that a network meets.

    Images of the training split are chosen so that all classes come up about equally often, see
    `balanced_choice`. All labels are read, but only the chosen images.

    Args:
        run: The run.
        data_dir: Records; by default those of the run where they still exist.
        image_pattern: Image files to take in place of records, as a glob.
        number: How many, at most.
        fit: Called with each image, so that only one is held at its own size.

    Returns:
        uint8 [H, W, channels] each, without augmentation, as `fit` returns them.

    Raises:
        UserError: There are neither records nor files, or they cannot be used.
    """
    if image_pattern:
        read = _read_files(image_pattern, number, run.dataset, "calibration_images")
        return _warned_if_few([fit(image) for _, image in read])
    source = _find_records(run, data_dir)
    if source is None:
        raise UserError(
            "There are no images to calibrate with: the run's records "
            f"({run.data_config.data_dir or 'none'}) are missing. Give records with --data_dir, "
            "or about a hundred typical images with --calibration_images='PHOTOS/*.jpg'."
        )
    split = run.data_config.train_split
    numbers = balanced_choice(class_presence.class_presence(source, split), number)
    images = [fit(image) for image in _read_images(source, split, numbers)]
    if not images:
        raise _none_is_readable(source, split)
    if len(images) < len(numbers):
        print(
            f"warning: {len(numbers) - len(images)} of {len(numbers)} images to calibrate with are "
            f"damaged and left out; python -m deeplab_tf.check_data --data_dir={source.folder} "
            "names them.",
            file=sys.stderr,
            flush=True,
        )
    return _warned_if_few(images)


def _none_is_readable(source: records.Records, split: str) -> UserError:
    return UserError(
        f"None of the records chosen from the split {split!r} of {source.folder} can be read: see "
        f"python -m deeplab_tf.check_data --data_dir={source.folder}, and build them again."
    )


def _warned_if_few(images: list[np.ndarray]) -> list[np.ndarray]:
    if len(images) < _FEW_CALIBRATION_IMAGES:
        print(
            f"warning: int8 is calibrated with {len(images)} images only: values of other images "
            "may lie outside the ranges found. Give about a hundred typical ones, with --data_dir "
            "or --calibration_images='PHOTOS/*.jpg'.",
            file=sys.stderr,
            flush=True,
        )
    return images


def balanced_choice(presence: np.ndarray, number: int) -> list[int]:
    """Chooses images by the classes that they show, so that all come up about equally often.

    Each next image shows the class that came up least; of these images, the one whose other classes
    came up least.

    Args:
        presence: bool [N, C], which classes each image shows.
        number: How many to choose, at most.

    Returns:
        Different indices of images, in the order of the choice.
    """
    # In a fixed random order, since records that follow each other may be frames of one video.
    order = np.random.default_rng(0).permutation(len(presence))
    presence = presence[order]
    total, seen = presence.sum(axis=0), np.zeros(presence.shape[1])
    is_free, chosen = np.ones(len(presence), bool), []
    while len(chosen) < min(number, len(presence)):
        available = presence & is_free[:, np.newaxis]
        classes = np.flatnonzero(available.any(axis=0))
        if len(classes) == 0:  # the rest shows no class at all
            chosen += np.flatnonzero(is_free)[: number - len(chosen)].tolist()
            break
        # The least seen class, of several the rarest one.
        wanted = min(classes, key=lambda class_id: (seen[class_id], total[class_id]))
        gain = np.where(available[:, wanted], available @ (1 / (1 + seen)), -1)
        best = int(gain.argmax())
        chosen.append(best)
        is_free[best] = False
        seen += presence[best]
    return order[chosen].tolist()


def fitted(image: ProofImage, fitter: ImageFitter, ignore_label: int) -> ProofImage:
    """Fits an image and its label map to a network.

    Args:
        image: The image.
        fitter: How it is fitted; its pixels are then rounded.
        ignore_label: Label of the padding.

    Returns:
        The image as the network sees it.
    """
    images, placement = fitter.fit(image.image[np.newaxis])
    label = image.label
    if label is not None:
        label = fitter.fit_labels(label[np.newaxis], ignore_label)[0].numpy()
    height, width = placement.seen_size.numpy().tolist()
    pixels = tf.cast(images[0] + 0.5, tf.uint8).numpy()
    return ProofImage(image.name, pixels, label, (height, width))


def warn_if_shrunk(
    images: Sequence[ProofImage], size: tuple[int, int], output_stride: int, flag: str
) -> None:
    """Warns if a size is smaller than the images, since a network sees small things less well.

    Args:
        images: The images that an export is proved with.
        size: Height and width in pixels that the export shrinks images to.
        output_stride: The model's.
        flag: Name of the flag that sets the size.
    """
    largest = np.max([image.image.shape[:2] for image in images], axis=0)
    if (largest <= size).all():
        return
    whole = [side + (1 - side) % output_stride for side in np.maximum(largest, size).tolist()]
    print(
        f"warning: images of up to {largest[0]}x{largest[1]} (height, width) are shrunk to "
        f"{size[0]}x{size[1]}; --{flag}={whole[0]},{whole[1]} takes them as they are.",
        file=sys.stderr,
        flush=True,
    )


def _find_records(run: run_dirs.Run, data_dir: str | None) -> records.Records | None:
    """The records given, or those of the run; None where the run's do not exist any more.

    Raises:
        UserError: They cannot be used for this run.
    """
    folder, dataset = data_dir or run.data_config.data_dir, run.data_config.dataset
    if not data_dir and not (folder and files.as_path(folder).is_dir()):
        return None
    if not files.as_path(folder, dataset).is_dir():  # the dataset's own folder is given
        dataset = ""
    return training_data.find_own_records(
        run.data_config,
        run.model_config.num_classes,
        folder,
        dataset,
        in_channels=run.dataset.num_channels,
    )


def _spread(total: int, number: int) -> list[int]:
    """At most `number` of the integers below `total`, rising and evenly spread."""
    return np.linspace(0, total - 1, min(total, number)).round().astype(int).tolist()


def _draw(run: run_dirs.Run, index: int) -> ProofImage:
    image, label = drawing.draw(_DRAWN_SPLIT, index)
    if run.dataset.bands:
        image = image[..., [band % 3 for band in range(run.dataset.num_channels)]]
    if run.dataset.class_names == drawing.CLASS_NAMES:
        ignored = label == drawing.IGNORE_LABEL
        label = np.where(ignored, run.dataset.ignore_label, label.astype(np.int32))
        return ProofImage(f"drawing {index}", image, label)
    height, width = image.shape[:2]
    scale = min(side / own for side, own in zip(run.data_config.train_crop_size, (height, width)))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return ProofImage(f"drawing {index}", _resized(image, size), label=None)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # Channel by channel: OpenCV resizes four at most.
    channels = [cv2.resize(channel, size) for channel in np.moveaxis(image, -1, 0)]
    return np.stack(channels, axis=-1)


def _read_files(
    pattern: str, number: int, dataset: records.DatasetInfo, flag: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads some of the files that match a glob; gives the path and the image of each."""
    paths = files.expand(os.path.expanduser(pattern))
    if not paths:
        raise UserError(
            f"--{flag}={pattern}: no file matches; give a quoted glob such as 'photos/*.jpg'."
        )
    for index in _spread(len(paths), number):
        with files.local_copy(paths[index]) as copy:
            yield paths[index], band_files.read_image(copy, dataset)


def _read_images(source: records.Records, split: str, numbers: list[int]) -> Iterator[np.ndarray]:
    """Reads some images of a split; leaves out damaged ones, as training does."""
    examples = input_pipeline.evaluation_examples(source, split, numbers=numbers)
    with readable_errors():
        for example in examples.as_numpy_iterator():
            yield example["image"]
