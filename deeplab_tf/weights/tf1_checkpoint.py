"""Weights from checkpoints of the original, TensorFlow 1 DeepLab."""

import contextlib
import dataclasses
import os
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np

from deeplab_tf.errors import UserError
from deeplab_tf.layers import is_range
from deeplab_tf.layers import official_name
from deeplab_tf.weights import checkpoint_paths
from deeplab_tf.weights import checkpoint_values
from deeplab_tf.weights import keras_applications
from deeplab_tf.weights.checkpoint_values import CheckpointValues
from deeplab_tf.weights.checkpoint_values import few

# Scopes of a head. The logits of a classification network are within the backbone's scope.
_HEAD = ("logits/", "aspp0/", "decoder/")
Values = CheckpointValues | keras_applications.KerasApplicationsValues
_SKIP = "call load_tf1_checkpoint with skip_mismatched=True (flag: --skip_mismatched)"


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What happened to the variables of a checkpoint, by the original's names.

    Attributes:
        path: Path of the checkpoint.
        loaded: Variables that were loaded into the model.
        adapted: Loaded variables that were changed to fit, and how: the first convolution of a
            model for images of other than three channels; fc6 and fc7 of v1 and v2.
        skipped: Variables of the model that were left unchanged, and why.
        unused: Variables of the checkpoint that the model does not have, except the optimizer's.
        averaged: Loaded variables for which the checkpoint has only the moving average, which was
            taken.
    """

    path: str
    loaded: list[str]
    adapted: list[tuple[str, str]]
    skipped: list[tuple[str, str]]
    unused: list[str]
    averaged: list[str] = dataclasses.field(default_factory=list)

    def with_subsampled(
        self, sources: dict[str, str], shapes: dict[str, list[int]]
    ) -> "ImportReport":
        """Returns the report with what `fully_connected.fill` has filled."""
        adapted = [
            (name, f"subsampled from {source} {shapes[source]}") for name, source in sources.items()
        ]
        return dataclasses.replace(
            self,
            loaded=[*self.loaded, *sources],
            adapted=[*self.adapted, *adapted],
            unused=[name for name in self.unused if name not in sources.values()],
        )

    @property
    def quantization_ranges(self) -> list[str]:
        """Those of `unused` that are ranges of a training with simulated quantisation."""
        return [name for name in self.unused if checkpoint_values.is_quantization_range(name)]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} variables loaded from {self.path}"]
        if self.averaged:
            lines.append(f"{len(self.averaged)} of them are moving averages")
        lines += [f"adapted {name}: {how}" for name, how in self.adapted]
        lines += [f"skipped {name}: {why}" for name, why in self.skipped]
        ranges = self.quantization_ranges
        others = [name for name in self.unused if name not in set(ranges)]
        if ranges:
            lines.append(
                f"{len(ranges)} quantisation ranges of the checkpoint left out, since the model "
                f"computes in float: {few(ranges)}"
            )
        if others:
            lines.append(f"{len(others)} of the checkpoint not used: {few(others)}")
        return "\n".join(lines)


def load_tf1_checkpoint(
    model: keras.Model, path: str | os.PathLike, skip_mismatched: bool = False
) -> ImportReport:
    """Fills a model with the weights of a TensorFlow 1 checkpoint of the original.

    Everything is checked before any variable is set. In a model for images of other than three
    channels, the first convolution of the checkpoint is spread over the channels so that grey
    images give the same results as in the original.

    Args:
        model: A whole model, or a backbone alone (`model.get_layer("MobilenetV2")`).
        path: Prefix of the checkpoint (`.../model.ckpt`), one of its files, its folder, the archive
            it came in, or the name of a release (`python -m deeplab_tf.zoo list`). Where it has the
            moving average of a variable alone, that is taken. Or a file of Keras Applications,
            see `weights.keras_applications`.
        skip_mismatched: Whether to leave variables unchanged that the checkpoint lacks or has in
            another shape.

    Returns:
        A report with the names of the variables that were loaded, skipped and not used.

    Raises:
        UserError: If there is no checkpoint, it does not fit the model, or weights in it are NaN
            or infinite.

    Reference: the checkpoints of
    https://github.com/tensorflow/models/blob/master/research/deeplab/g3doc/model_zoo.md.

    Example:

    >>> import deeplab_tf
    >>> from deeplab_tf.weights import checkpoint_values
    >>> model = deeplab_tf.DeepLabV3("mobilenet_v2", num_classes=3, atrous_rates=())
    >>> names = {deeplab_tf.layers.official_name(weight): weight for weight in model.weights}
    >>> checkpoint_values.write("model.ckpt", names)
    >>> report = deeplab_tf.load_tf1_checkpoint(model, "model.ckpt")
    >>> len(report.loaded) == len(model.weights), report.skipped, report.unused
    (True, [], [])
    """
    with opened(path) as values:
        return fill(model, values, skip_mismatched)


@contextlib.contextmanager
def opened(source: str | os.PathLike) -> Iterator[Values]:
    """Opens weights for as long as the context lasts, see `checkpoint_paths.located`.

    Raises:
        UserError: There are none, or they are damaged.
    """
    with checkpoint_paths.located(source) as (prefix, origin):
        if prefix.lower().endswith(keras_applications.SUFFIXES):
            yield keras_applications.KerasApplicationsValues(prefix)
        else:
            yield CheckpointValues(prefix, origin)


def fill(
    model: keras.Model,
    values: Values,
    skip_mismatched: bool = False,
    *,
    rgb_bands: Sequence[int] = (),
) -> ImportReport:
    """Fills a model with the values of a checkpoint, see `load_tf1_checkpoint`.

    `rgb_bands` are those of `spread_over_channels`.
    """
    keys = _keys_of_weights(values)
    shapes = {name: values.shapes[key] for name, key in keys.items()}
    source = _Source(values.origin, shapes, lambda name: values.read(keys[name]))
    report = _fill(model, source, skip_mismatched, rgb_bands)
    averaged = [name for name in report.loaded if keys[name] != name]
    return dataclasses.replace(report, averaged=averaged)


def copy_weights(
    model: keras.Model,
    trained: keras.Model,
    origin: str,
    skip_mismatched: bool = False,
    *,
    rgb_bands: Sequence[int] = (),
) -> ImportReport:
    """Fills a model with the weights of another one, as `load_tf1_checkpoint` does from a file.

    Args:
        model: The model to fill.
        trained: A model of the same parts, such as one of another output stride.
        origin: What to call it in the report and in errors.
        skip_mismatched: See `load_tf1_checkpoint`.
        rgb_bands: See `spread_over_channels`.

    Returns:
        What was copied, skipped and not used.

    Raises:
        UserError: If it does not fit the model, or its weights are NaN or infinite.
    """
    weights = {official_name(weight): weight for weight in trained.weights}
    shapes = {name: list(weight.shape) for name, weight in weights.items()}
    source = _Source(origin, shapes, lambda name: weights[name].numpy())
    return _fill(model, source, skip_mismatched, rgb_bands)


class _Source(typing.NamedTuple):
    """Weights by official name.

    Attributes:
        origin: What to call them in messages.
        shapes: Shape of each weight.
        read: Returns a weight.
    """

    origin: str
    shapes: dict[str, list[int]]
    read: Callable[[str], np.ndarray]


def _fill(
    model: keras.Model, source: _Source, skip_mismatched: bool, rgb_bands: Sequence[int]
) -> ImportReport:
    """Matches variables by name and sets those that fit; checks everything before it sets any."""
    variables = {official_name(variable): variable for variable in model.weights}
    # A model that is fine-tuned for 8 bits finds the ranges of values itself.
    is_new = {name for name in variables if is_range(name) and name not in source.shapes}
    variables = {name: variables[name] for name in variables if name not in is_new}
    misfits = checkpoint_values.misfits(source.shapes, variables)
    in_channels = model.input_shape[-1]
    adapted = [
        name
        for name in misfits
        if _differ_in_channels(list(variables[name].shape), source.shapes.get(name), in_channels)
    ]
    misfits = {name: why for name, why in misfits.items() if name not in adapted}
    loaded = [name for name in variables if name not in misfits]
    _check_fit(model.name, source, misfits, loaded, skip_mismatched)

    values = {name: source.read(name) for name in loaded}
    checkpoint_values.check_finite(values.items(), source.origin)
    for name in adapted:
        values[name] = spread_over_channels(values[name], in_channels, rgb_bands)
    for name, value in values.items():
        variables[name].assign(value)
    unused = sorted(
        name
        for name in source.shapes
        if name not in variables and not checkpoint_values.is_of_training(name)
    )
    how = f"for {in_channels} channels, from the checkpoint's three"
    if rgb_bands and in_channels > 3:
        how += f" (red, green, blue: bands {', '.join(map(str, rgb_bands))}; others: their mean)"
    return ImportReport(
        path=source.origin,
        loaded=loaded,
        adapted=[(name, how) for name in adapted],
        skipped=list(misfits.items()),
        unused=unused,
    )


def _check_fit(
    model_name: str,
    source: _Source,
    misfits: dict[str, str],
    loaded: list[str],
    skip_mismatched: bool,
) -> None:
    """Refuses weights of another model, and misfits unless they are to be skipped."""
    if not loaded:
        raise UserError(
            f"{source.origin} has no variable of {model_name}: it holds "
            f"{few(sorted(source.shapes))}. Is it of another backbone?"
        )
    if misfits and not skip_mismatched:
        listed = few([f"{name}: {why}" for name, why in misfits.items()], separator="; ")
        raise UserError(
            f"{source.origin} does not fit {model_name}: {listed}. "
            f"{_remedy(misfits, source.shapes)}"
        )


def spread_over_channels(
    kernel: np.ndarray, in_channels: int, rgb_bands: Sequence[int] = ()
) -> np.ndarray:
    """Adapts a kernel for RGB images to images of another number of channels.

    With more than three channels, three keep the kernels of R, G and B, and the others get the mean
    of the three; with fewer, all get the mean. The result is scaled so that an image with equal
    channels gives the same features as before.

    Args:
        kernel: [H, W, 3, filters].
        in_channels: Channels of the images.
        rgb_bands: Numbers, from 1, of the channels that are R, G and B; by default 1, 2 and 3. A
            channel that is several of them gets their mean.

    Returns:
        [H, W, in_channels, filters].
    """
    mean = kernel.mean(axis=2)
    spread = np.stack([mean] * in_channels, axis=2)
    if in_channels >= 3:
        bands = tuple(rgb_bands) or (1, 2, 3)
        for band in set(bands):
            colors = [color for color in range(3) if bands[color] == band]
            spread[:, :, band - 1] = kernel[:, :, colors].mean(axis=2)
    return spread * np.float32(3 / in_channels)


def is_of_backbone(values: Values) -> bool:
    """Whether a checkpoint has no DeepLab head, such as those trained on ImageNet."""
    return not any(name.startswith(_HEAD) for name in values.shapes)


def _keys_of_weights(values: Values) -> dict[str, str]:
    """The key of each weight: its own name, or that of its moving average if there is no other."""
    suffix = f"/{checkpoint_values.AVERAGE}"
    averages = {key.removesuffix(suffix): key for key in values.shapes if key.endswith(suffix)}
    return averages | {key: key for key in values.shapes}


def _differ_in_channels(ours: list[int], theirs: list[int] | None, in_channels: int) -> bool:
    """Whether two kernels of a first convolution differ in the channels of the images only."""
    if theirs is None or len(ours) != 4 or len(theirs) != 4 or in_channels == 3:
        return False
    return (ours[2], theirs[2]) == (in_channels, 3) and all(
        ours[axis] == theirs[axis] for axis in (0, 1, 3)
    )


def _remedy(misfits: dict[str, str], shapes: dict[str, list[int]]) -> str:
    if not any(name.startswith(_HEAD) for name in shapes):
        return (
            "The checkpoint holds a backbone without a DeepLab head, such as those trained on "
            "ImageNet: give it as the weights of the backbone, load it into model.get_layer(...), "
            f"or {_SKIP}."
        )
    # MobileNetV3's decoder ends in the logits.
    if all(name.startswith(("logits/", "decoder/")) and name in shapes for name in misfits):
        return f"The checkpoint has other classes: {_SKIP} to leave the last layer unchanged."
    return (
        f"Build the model with the settings of the checkpoint, or {_SKIP} to leave what does not "
        "fit unchanged."
    )
