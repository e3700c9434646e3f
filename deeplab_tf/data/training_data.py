"""The records and batches of a run, as its settings describe them."""

import functools
from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.config import DataConfig
from deeplab_tf.data import augmentations
from deeplab_tf.data import bands
from deeplab_tf.data import class_presence
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import record_order
from deeplab_tf.data import records
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError


def find_own_records(
    config: DataConfig,
    num_classes: int | None,
    data_dir: str = "",
    dataset: str = "",
    *,
    in_channels: int | None = None,
) -> records.Records:
    """Finds the records that the settings name, or others in their place.

    Args:
        config: The settings, with the limits of what is tolerated.
        num_classes: Classes of the model; None for those of the records.
        data_dir: Folder of other records; empty for those of the settings.
        dataset: Name of the dataset, where the folder holds several.
        in_channels: Channels of the images that the model takes; None for those of the records.

    Returns:
        The records.

    Raises:
        UserError: There are none, or they have another number of classes or channels.
    """
    source = records.find_records(
        data_dir or config.data_dir,
        dataset or ("" if data_dir else config.dataset),
        num_classes=num_classes,
        ignore_label=config.ignore_label,
        limits=records.Limits(config.max_image_pixels, config.max_damaged_share),
    )
    if num_classes not in (None, source.info.num_classes):
        raise UserError(
            f"The model has {num_classes} classes (--num_classes={num_classes}), but the records "
            f"in {source.folder} have {source.info.num_classes} classes. Give records of the same "
            "classes with --data_dir, or, to train, leave out --num_classes."
        )
    if in_channels not in (None, source.info.num_channels):
        raise UserError(
            f"The model takes images of {in_channels} channels (--in_channels={in_channels}), but "
            f"the records in {source.folder} have images of {source.info.num_channels}. Give "
            "records of the same bands with --data_dir, or, to train, leave out --in_channels."
        )
    return source


def check_bands(source: records.Records, info: records.DatasetInfo) -> None:
    """Checks that records have the bands of a run, scaled as those that it was trained on.

    Args:
        source: The records.
        info: What the run keeps about its records.

    Raises:
        UserError: They do not.
    """
    ours, theirs = ([(b.low, b.high) for b in each.bands] for each in (info, source.info))
    if ours != theirs:
        raise UserError(
            f"The images of the records in {source.folder} are not scaled to 8 bits as those of "
            "the run. Build them again with "
            + (bands.range_flag(info.bands) if ours else "the bands 1,2,3 of 8-bit images")
            + "."
        )


def find_training_records(
    config: DataConfig, num_classes: int | None, in_channels: int | None = None
) -> list[records.Records]:
    """Finds the records to train on: those of `data_dir`, then those that are mixed in.

    Args:
        config: The settings.
        num_classes: Classes of the model; None for those of the records.
        in_channels: Channels of its images; None for those of the records.

    Returns:
        The records; the first describe the run.

    Raises:
        UserError: There are none, they lack a split, nothing can be learned from them, or they do
            not fit the model or each other.
    """
    source = find_own_records(config, num_classes, in_channels=in_channels)
    _check_color_augmentation(config, source)
    for split in filter(None, (config.train_split, config.val_split)):
        source.shards(split)  # raises where there is no such split
    sources = [source]
    for folder in config.extra_data_dirs:
        sources.append(
            records.find_records(
                folder,
                num_classes=source.info.num_classes,
                ignore_label=config.ignore_label,
                limits=source.limits,
            )
        )
        sources[-1].shards(config.train_split)
        _check_alike(source, sources[-1])
    if len(config.data_weights) not in (0, len(sources)):
        raise UserError(
            f"--data_weights has {len(config.data_weights)} weights for {len(sources)} folders of "
            "records: give one for --data_dir and one for each of --extra_data_dirs."
        )
    _check_that_service_finds(sources, config)
    class_presence.check_there_is_something_to_learn(source, config.train_split)
    return sources


def _check_that_service_finds(sources: Sequence[records.Records], config: DataConfig) -> None:
    """Refuses records that a tf.data service on other machines cannot open."""
    for source in sources:
        if config.data_service and not files.is_read_by_tensorflow(source.folder):
            raise UserError(
                f"--data_service cannot read {source.folder}: TensorFlow has no file system for "
                "it, and a copy on this machine is not one on those of the service. Copy the "
                "records to gs:// or to a folder that all machines share, or leave out "
                "--data_service."
            )


# AutoGraph would take seconds to convert functions that have no control flow over tensors.
@tf.autograph.experimental.do_not_convert
def make_batches(
    sources: Sequence[records.Records],
    config: DataConfig,
    *,
    batch_size: int,
    pad_pixel: tuple[float, ...],
    seed: int,
    start_step: int,
    part: tuple[int, int] = (0, 1),
    on_damaged: Callable | None = None,
) -> tf.data.Dataset:
    """Returns `input_pipeline.training_batches` as the settings want them.

    Args:
        sources: What `find_training_records` found.
        config: The settings.
        batch_size: Examples per batch.
        pad_pixel: Colour of the padding, a value in 0..255 for each channel.
        seed: Of order and augmentation.
        start_step: Step of the first batch.
        part: Which part of every batch to make, from 0, and into how many it is divided.
        on_damaged: Told of damaged records; by default `DamagedRecords`.

    Returns:
        Dataset of batches.
    """
    ignore_label = sources[0].info.ignore_label
    height, width = config.train_crop_size
    crop = transforms.TrainingCrop(
        (height, width),
        ignore_label,
        config.min_resize_value,
        config.max_resize_value,
        config.resize_factor,
        *config.scale_range,
        config.scale_factor_step_size,
        config.random_flip,
        pad_pixel,
        config.crop_max_class_share,
    )
    repeats = []
    if config.oversample_classes:
        names = config.oversample_classes
        repeats = [
            class_presence.oversampling(source, config.train_split, names, config.oversample_factor)
            for source in sources
        ]
    return input_pipeline.training_batches(
        record_order.TrainingSet(sources, config.train_split, config.data_weights, repeats, seed),
        crop,
        augmentation(config, ignore_label, pad_pixel),
        batch_size=batch_size,
        start_step=start_step,
        part=part,
        on_damaged=on_damaged,
        data_service=config.data_service,
        cache_bytes=config.decoded_cache_mib * 2**20,
    )


def augmentation(
    config: DataConfig, ignore_label: int, pad_pixel: tuple[float, ...]
) -> list[transforms.RandomOperation]:
    """Returns the operations on crops that the settings ask for; none by default."""
    operations: list[transforms.RandomOperation] = []
    if config.vertical_flip:
        operations.append(augmentations.random_vertical_flip)
    if config.quarter_turns:
        operations.append(augmentations.random_quarter_turn)
    if config.elastic_shift:
        operations.append(
            functools.partial(
                augmentations.random_elastic,
                max_shift=config.elastic_shift,
                grid=config.elastic_grid,
            )
        )
    if config.max_rotation:
        operations.append(
            functools.partial(
                augmentations.random_rotation,
                max_degrees=config.max_rotation,
                ignore_label=ignore_label,
                pad_pixel=pad_pixel,
            )
        )
    jitter = (config.brightness, config.contrast, config.saturation, config.hue)
    if any(jitter):
        brightness, contrast, saturation, hue = jitter
        operations.append(
            functools.partial(
                augmentations.color_jitter,
                brightness=brightness,
                contrast=contrast,
                saturation=saturation,
                hue=hue,
            )
        )
    if config.max_blur_sigma:
        operations.append(
            functools.partial(augmentations.random_blur, max_sigma=config.max_blur_sigma)
        )
    return operations


def _check_alike(source: records.Records, other: records.Records) -> None:
    for what in ("num_classes", "ignore_label", "num_channels"):
        ours, theirs = getattr(source.info, what), getattr(other.info, what)
        if ours != theirs:
            raise UserError(
                f"{other.folder} cannot be mixed with {source.folder}: its {what} is {theirs}, not "
                f"{ours}. Build it again, with --class_map or --bands, so that both are alike."
            )
    check_bands(other, source.info)


def _check_color_augmentation(config: DataConfig, source: records.Records) -> None:
    """Refuses augmentation that needs red, green and blue for images of other bands."""
    if source.info.num_channels == 3:
        return
    for name in ("saturation", "hue"):
        if getattr(config, name):
            raise UserError(
                f"--{name}={getattr(config, name)} is for RGB images, but those in "
                f"{source.folder} have {source.info.num_channels} bands. Leave it out; "
                "--brightness and --contrast work for any bands."
            )
