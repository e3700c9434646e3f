"""From the flags of the data to the batches of a training run."""

import functools
from collections.abc import Callable

import tensorflow as tf

from deeplab_tf.config import DataConfig
from deeplab_tf.data import augmentations
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import records
from deeplab_tf.data import transforms
from deeplab_tf.errors import UserError


def find_records(config: DataConfig, num_classes: int | None) -> list[records.Records]:
    """Finds the records to train on: those of `data_dir`, then those that are mixed in.

    Args:
        config: The flags.
        num_classes: Classes of the model; None for those of the records.

    Returns:
        The records; the first describe the run.

    Raises:
        UserError: There are none, they lack a split, or they do not fit the model or each other.
    """
    source = records.find_records(config.data_dir, config.dataset, num_classes, config.ignore_label)
    if num_classes not in (None, source.info.num_classes):
        raise UserError(
            f"--num_classes={num_classes}, but the records in {source.folder} have "
            f"{source.info.num_classes} classes. Leave the flag out to take theirs."
        )
    for split in filter(None, (config.train_split, config.val_split)):
        source.shards(split)  # raises where there is no such split
    sources = [source]
    for folder in filter(None, config.extra_data_dirs.split(",")):
        sources.append(
            records.find_records(
                folder, num_classes=source.info.num_classes, ignore_label=config.ignore_label
            )
        )
        sources[-1].shards(config.train_split)
        _check_alike(source, sources[-1])
    if len(config.data_weights) not in (0, len(sources)):
        raise UserError(
            f"--data_weights has {len(config.data_weights)} weights for {len(sources)} folders of "
            "records: give one for --data_dir and one for each of --extra_data_dirs."
        )
    return sources


def training_batches(
    sources: list[records.Records],
    config: DataConfig,
    batch_size: int,
    pad_pixel: tuple[float, float, float],
    seed: int,
    start_step: int,
    on_damaged: Callable | None = None,
) -> tf.data.Dataset:
    """Returns `input_pipeline.training_batches` as the flags want them.

    Args:
        sources: What `find_records` found.
        config: The flags.
        batch_size: Examples per batch.
        pad_pixel: Colour of the padding, RGB in 0..255.
        seed: Of order and augmentation.
        start_step: Step of the first batch.
        on_damaged: Told of damaged records; by default `input_pipeline.DamagedRecords`.

    Returns:
        Dataset of batches.
    """
    crop = transforms.TrainingCrop(
        config.train_crop_size,
        sources[0].info.ignore_label,
        config.min_resize_value,
        config.max_resize_value,
        config.resize_factor,
        config.min_scale_factor,
        config.max_scale_factor,
        config.scale_factor_step_size,
        config.random_flip,
        pad_pixel,
        config.crop_max_class_share,
    )
    repeats = []
    if config.oversample_classes:
        names = config.oversample_classes.split(",")
        repeats = [
            input_pipeline.oversampling(source, config.train_split, names, config.oversample_factor)
            for source in sources
        ]
    if on_damaged is None:
        num_examples = sum(source.num_examples[config.train_split] for source in sources)
        on_damaged = input_pipeline.DamagedRecords(num_examples, config.max_damaged_share)
    return input_pipeline.training_batches(
        sources,
        config.train_split,
        batch_size,
        crop,
        augmentation(config, sources[0].info.ignore_label, pad_pixel),
        seed,
        start_step,
        config.data_weights,
        repeats,
        on_damaged,
        config.data_service,
    )


def augmentation(
    config: DataConfig, ignore_label: int, pad_pixel: tuple[float, float, float]
) -> list[transforms.RandomOperation]:
    """Returns the operations on crops that the flags ask for; none by default."""
    operations: list[transforms.RandomOperation] = []
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
    for what in ("num_classes", "ignore_label"):
        ours, theirs = getattr(source.info, what), getattr(other.info, what)
        if ours != theirs:
            raise UserError(
                f"{other.folder} cannot be mixed with {source.folder}: its {what} is {theirs}, not "
                f"{ours}. Build it again with --class_map, so that both have the same classes."
            )
