"""The settings that a training chooses itself: they follow from its data and its devices.

A setting is chosen where it is None. What a run chose at its start is in its flags.txt, and holds
when the run resumes, whatever has become of data and devices.
"""

import dataclasses
import functools
import math
import subprocess
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.config import NO_WEIGHTS
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import decoding
from deeplab_tf.data import record_order
from deeplab_tf.data import record_reading
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.records import Records
from deeplab_tf.data_report import images
from deeplab_tf.data_report import statistics
from deeplab_tf.models import description
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import fine_detail

_MAX_RECORDS_READ = 500  # to measure sizes and classes of the training images
_MAX_LABELS_MEASURED = 20  # how fine they are
_LIKE_SIZES = 1.25  # largest ratio of shorter sides that are resized to one
_MAX_ENLARGED_PIXELS = 2**20  # of an image
_LARGEST_CROP_ON_CPU = 321  # pixels
_BATCH_SIZES = {"cpu": 4, "accelerator": 8}  # images per device
_MEMORY_SHARE = 0.6  # of the memory that is available, for a training step
_STEPS_PER_ROOT = 200  # see `_num_steps`
_MIN_STEPS, _MAX_STEPS = 200, 30000
_LONG_RUN = 10000  # steps
_MAX_WEIGHT = 5.0  # of a class
_NUM_VALIDATIONS, _PATIENCE = 10, 5


@dataclasses.dataclass(frozen=True)
class Configs:
    """The configs of a run."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig


@dataclasses.dataclass(frozen=True)
class Choice:
    """A value, and why."""

    value: Any
    reason: str


def choose(
    configs: Configs, sources: Sequence[Records], num_replicas: int, run_dir: str
) -> tuple[Configs, list[str]]:
    """Gives a value to every setting that has none.

    Args:
        configs: The settings as they were given.
        sources: The records to train on.
        num_replicas: Number of devices.
        run_dir: Folder of the run. If it holds one, its settings are taken.

    Returns:
        The settings, and lines for the user: what was chosen for a new run, and why.
    """
    is_new = not run_dirs.is_run_dir(run_dir)
    if not is_new:
        configs = _with_values_of(run_dirs.read(run_dir), configs)
    facts = _Facts(sources, configs, num_replicas)
    lines = []
    for config, name, rule in _RULES:
        is_open = is_new or name not in _ORIGINALS_IN_OLDER_RUNS
        if is_open and getattr(getattr(configs, config), name) is None:
            choice = rule(configs, facts)
            configs = _replace(configs, config, **_values(name, choice))
            if choice.reason:
                text = f"--{name}={_to_text(choice.value)}"
                lines.append(f"  {text:<36}  {choice.reason}")
    return configs, ["chosen settings:", *lines] if is_new and lines else []


def _values(name: str, choice: Choice) -> dict:
    values = {name: choice.value}
    if name == "training_number_of_steps":
        values["epochs"] = None  # the number of steps says it from here on
    return values


def _replace(configs: Configs, config: str, **values) -> Configs:
    changed = dataclasses.replace(getattr(configs, config), **values)
    return dataclasses.replace(configs, **{config: changed})


def _with_values_of(run: run_dirs.Run, configs: Configs) -> Configs:
    """Takes the settings that are not given from a run; given epochs are counted again."""
    stored = Configs(run.model_config, run.data_config, run.train_config)
    for config, name, _ in _RULES:
        is_given = getattr(getattr(configs, config), name) is not None
        if not is_given and not (name == "training_number_of_steps" and configs.train.epochs):
            configs = _replace(configs, config, **{name: getattr(getattr(stored, config), name)})
    return configs


def _to_text(value) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_to_text, value))
    return value if isinstance(value, str) else f"{value:g}"


class _Facts:
    """What is known about data and devices; it is measured when it is asked for."""

    def __init__(self, sources: Sequence[Records], configs: Configs, num_replicas: int):
        self._sources, self._split = sources, configs.data.train_split
        info = sources[0].info
        self._model_config = models.complete(configs.model, info.num_classes, info.num_channels)
        self.num_replicas = num_replicas

    @functools.cached_property
    def model(self) -> keras.Model:
        return models.build_outline(self._model_config)

    @functools.cached_property
    def num_images(self) -> int:
        return sum(source.num_records(self._split) for source in self._sources)

    @functools.cached_property
    def device(self) -> str:
        return "cpu" if not tf.config.list_logical_devices("GPU") + _tpus() else "accelerator"

    @property
    def memory(self) -> int | None:
        """Bytes of a device's memory that a training can have; None if they are not known."""
        if self.device == "cpu":
            return psutil.virtual_memory().available
        return None if _tpus() else _memory_of_smallest_gpu()

    @functools.cached_property
    def statistics(self) -> statistics.SplitStatistics:
        """Sizes and class shares of some training images."""
        source = self._sources[0]
        found = statistics.SplitStatistics(source.info.num_classes, source.info.ignore_label)
        for label in self._labels(_MAX_RECORDS_READ):
            height, width = label.shape
            found.sizes[width, height] += 1
            found.add_label(images.count_ids(label))
        return found

    @functools.cached_property
    def enlargement(self) -> float:
        """How much images are to be enlarged, as some label maps show it."""
        info = self._sources[0].info
        labels = [
            np.where(label == info.ignore_label, info.num_classes, label)
            for label in self._labels(_MAX_LABELS_MEASURED)
        ]
        return fine_detail.enlargement(labels, info.num_classes)

    def _labels(self, number: int) -> Iterator[np.ndarray]:
        """The label maps of the first training images, uint8 [H, W] each."""
        source = self._sources[0]
        some = record_order.each_once(source, self._split).take(number)
        for record in some.as_numpy_iterator():
            try:
                yield decoding.decode_label(
                    record_reading.parse_record(record["serialized"]).label,
                    source.limits.max_image_pixels,
                )
            except DataProblem:
                continue  # the training will name it


def _tpus() -> list:
    return tf.config.list_logical_devices("TPU")


def _memory_of_smallest_gpu() -> int | None:
    """Asks NVIDIA's driver, as TensorFlow reports only the memory in use."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return min(int(line) for line in answer.stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # another maker's GPU, or a container without the command


def _shorter_side(configs: Configs, facts: _Facts) -> Choice:
    """Enlarges small images with fine labels. A crop size that is given was found for a size."""
    sizes = facts.statistics.sizes
    if configs.data.train_crop_size is not None or not sizes:
        return Choice(None, "")
    shorter, longer = (max(side(size) for size in sizes) for side in (min, max))
    are_alike = shorter <= _LIKE_SIZES * min(map(min, sizes))
    factor = facts.enlargement if are_alike else 1.0
    if factor == 1 or factor**2 * shorter * longer > _MAX_ENLARGED_PIXELS:
        return Choice(None, "")
    return Choice(round(factor * shorter), f"enlarges images {factor:g} times, for fine labels")


def _crop_size(configs: Configs, facts: _Facts) -> Choice:
    largest = _LARGEST_CROP_ON_CPU if facts.device == "cpu" else statistics.LARGEST_CROP
    shortest_side = configs.data.min_resize_value
    proposed = facts.statistics.propose_crop_size(largest, shortest_side)
    if not proposed:
        return Choice((largest, largest), "")
    crop, reason = proposed
    if configs.data.quarter_turns:
        crop, reason = (min(crop), min(crop)), f"{reason}; square for --quarter_turns"
    return Choice(crop, reason)


def _batch_size(configs: Configs, facts: _Facts) -> Choice:
    parts = facts.num_replicas * configs.train.gradient_accumulation_steps
    per_device, reason = _BATCH_SIZES[facts.device], f"per {facts.device}"
    memory = facts.memory
    bytes_of_a_step = functools.cache(functools.partial(_bytes_of_a_step, configs, facts))
    while memory is not None and per_device > 1:
        if bytes_of_a_step(per_device) <= _MEMORY_SHARE * memory:
            break
        per_device //= 2
    # Workers may have different amounts of memory free, but must choose the same batch.
    per_device = min(distribution.of_all_workers(per_device))
    if memory is not None:
        needed = bytes_of_a_step(per_device)
        reason = f"takes about {needed / 2**30:.1f} GiB per {facts.device}"
    size = per_device * facts.num_replicas
    return Choice(parts * math.ceil(size / parts), reason)


def _bytes_of_a_step(configs: Configs, facts: _Facts, batch_size: int) -> int:
    described = description.describe(facts.model, configs.data.train_crop_size, batch_size)
    if configs.train.recompute_activations:
        return described.memory_if_recomputed.total
    return described.memory.total


def _patience(configs: Configs, _: _Facts) -> Choice:
    if configs.train.training_number_of_steps or configs.train.epochs:
        return Choice(0, "")  # a length that was asked for
    return Choice(_PATIENCE, "validations in a row without a better mIoU")


def _num_steps(configs: Configs, facts: _Facts) -> Choice:
    """Twice the images take 1.4 times the steps: each is seen less often, but all are seen."""
    batch, epochs = configs.train.train_batch_size, configs.train.epochs
    if epochs is not None:
        steps = math.ceil(epochs * facts.num_images / batch)
        return Choice(steps, f"{epochs:g} epochs of {facts.num_images} images")
    wanted = _STEPS_PER_ROOT * math.sqrt(facts.num_images)
    steps = int(np.clip(10 * round(wanted / 10), _MIN_STEPS, _MAX_STEPS))
    epochs = steps * batch / facts.num_images
    return Choice(steps, f"{epochs:.0f} epochs of {facts.num_images} images")


def _min_scale(configs: Configs, _: _Facts) -> Choice:
    """The papers' range is wide. A short run learns more from sizes near those of the images."""
    if configs.train.training_number_of_steps >= _LONG_RUN:
        return Choice(configs.data.scale_range[0], "")
    return Choice(min(0.75, configs.data.max_scale_factor or 0.75), "")


def _max_scale(configs: Configs, _: _Facts) -> Choice:
    if configs.train.training_number_of_steps >= _LONG_RUN:
        return Choice(configs.data.scale_range[1], "")
    return Choice(max(1.5, configs.data.min_scale_factor), "of images, at random, in a short run")


def _batch_norm_decay(configs: Configs, facts: _Facts) -> Choice:
    """The original's, which may differ between layers, unless the run is too short for it."""
    original = max((norm.momentum for norm in layers.batch_norms(facts.model)), default=0.0)
    of_steps = round(1 - 6 / max(12, configs.train.training_number_of_steps), 4)
    if of_steps >= original:
        return Choice(None, "")
    return Choice(of_steps, f"1 - 6 / steps; the original's {original:g} is for longer runs")


def _optimizer(configs: Configs, _: _Facts) -> Choice:
    """The papers' momentum, which takes many thousand steps from random weights.

    A learning rate that is given was found for an optimizer, most often the papers'.
    """
    if _starts_at_random(configs) and configs.train.base_learning_rate is None:
        return Choice("adamw", "learns faster from random weights than momentum")
    return Choice("momentum", "")


def _starts_at_random(configs: Configs) -> bool:
    return configs.train.tf_initial_checkpoint in ("", NO_WEIGHTS)


def _learning_rate(configs: Configs, facts: _Facts) -> Choice:
    if configs.train.optimizer == "momentum":
        rate = {"v1": 0.001, "v2": 0.004}.get(configs.model.version, 0.03)
    elif not _starts_at_random(configs):
        rate = 5e-4
    else:  # without batch norm, large steps do not converge
        rate = 3e-3 if layers.batch_norms(facts.model) else 3e-4
    rate *= math.sqrt(configs.train.train_batch_size / 4)
    reason = f"{configs.model.version} with {configs.train.optimizer}"
    reason += ", times the root of the batch size"
    if configs.train.is_quantized:
        rate, reason = rate / 10, f"a tenth of that of {reason}, to fine-tune"
    return Choice(float(f"{rate:.2g}"), reason)


def _warmup_steps(configs: Configs, _: _Facts) -> Choice:
    if configs.train.slow_start_step:
        return Choice(0, "")
    return Choice(min(1000, configs.train.training_number_of_steps // 20), "a twentieth of the run")


def _moving_average_decay(configs: Configs, _: _Facts) -> Choice:
    decay = round(1 - 15 / max(30, configs.train.training_number_of_steps), 4)
    return Choice(min(decay, 0.9999), "1 - 15 / steps")


def _class_weights(_: Configs, facts: _Facts) -> Choice:
    weights = statistics.median_frequency_weights(facts.statistics)
    roots = {i: min(_MAX_WEIGHT, math.sqrt(weight)) for i, weight in weights.items()}
    num_classes = facts.statistics.num_classes
    values = tuple(round(roots.get(i, 1.0), 2) for i in range(num_classes))
    return Choice(values, "roots of the median-frequency weights")


def _eval_every_steps(configs: Configs, _: _Facts) -> Choice:
    steps = configs.train.training_number_of_steps
    return Choice(math.ceil(steps / _NUM_VALIDATIONS), f"{_NUM_VALIDATIONS} validations")


def _save_every_steps(configs: Configs, _: _Facts) -> Choice:
    return Choice(min(500, configs.train.eval_every_steps), "")


# Settings that earlier versions did not choose: without a value, a run has the original's.
_ORIGINALS_IN_OLDER_RUNS = {
    "min_resize_value",
    "min_scale_factor",
    "max_scale_factor",
    "batch_norm_decay",
    "optimizer",
}

# In this order: later ones follow from earlier ones.
_RULES: tuple[tuple[str, str, Callable[[Configs, _Facts], Choice]], ...] = (
    ("data", "min_resize_value", _shorter_side),  # before the crop size is chosen
    ("data", "train_crop_size", _crop_size),
    ("train", "train_batch_size", _batch_size),
    ("train", "early_stopping_patience", _patience),  # before the number of steps is chosen
    ("train", "training_number_of_steps", _num_steps),
    ("data", "min_scale_factor", _min_scale),
    ("data", "max_scale_factor", _max_scale),
    ("model", "batch_norm_decay", _batch_norm_decay),
    ("train", "optimizer", _optimizer),  # before the learning rate is chosen
    ("train", "base_learning_rate", _learning_rate),
    ("train", "warmup_steps", _warmup_steps),
    ("train", "moving_average_decay", _moving_average_decay),
    ("train", "class_weights", _class_weights),
    ("train", "eval_every_steps", _eval_every_steps),
    ("train", "save_every_steps", _save_every_steps),
)
