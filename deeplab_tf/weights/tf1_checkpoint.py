"""Weights from checkpoints of the original, TensorFlow 1 DeepLab."""

import dataclasses
import os
from collections.abc import Callable

import keras
import numpy as np

from deeplab_tf.errors import UserError
from deeplab_tf.layers import official_name
from deeplab_tf.weights import checkpoint_paths
from deeplab_tf.weights import checkpoint_values
from deeplab_tf.weights.checkpoint_values import CheckpointValues
from deeplab_tf.weights.checkpoint_values import few

# Behind every backbone's scope; the logits of a classification network are within it.
_HEAD = ("logits/", "aspp0/", "decoder/")
_SKIP = "call load_tf1_checkpoint with skip_mismatched=True (flag: --skip_mismatched)"


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What happened to the variables of a checkpoint, by the original's names.

    Attributes:
        path: Path of the checkpoint.
        loaded: Variables that were loaded into the model.
        adapted: Loaded variables that were changed to fit, and how: the first convolution of a
            model for images of other than three channels.
        skipped: Variables of the model that were left unchanged, and why.
        unused: Variables of the checkpoint that the model does not have, except the optimizer's.
        averaged: Loaded variables of which the checkpoint has the moving average alone, which was
            taken.
    """

    path: str
    loaded: list[str]
    adapted: list[tuple[str, str]]
    skipped: list[tuple[str, str]]
    unused: list[str]
    averaged: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} variables loaded from {self.path}"]
        if self.averaged:
            lines.append(f"{len(self.averaged)} of them are moving averages")
        lines += [f"adapted {name}: {how}" for name, how in self.adapted]
        lines += [f"skipped {name}: {why}" for name, why in self.skipped]
        if self.unused:
            lines.append(f"{len(self.unused)} of the checkpoint not used: {few(self.unused)}")
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
            moving average of a variable alone, that is taken.
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
    with checkpoint_paths.located(path) as (prefix, origin):
        return fill(model, CheckpointValues(prefix, origin), skip_mismatched)


def fill(
    model: keras.Model, values: CheckpointValues, skip_mismatched: bool = False
) -> ImportReport:
    """Fills a model with the values of a checkpoint, see `load_tf1_checkpoint`."""
    keys = _keys_of_weights(values)
    shapes = {name: values.shapes[key] for name, key in keys.items()}

    def read(name: str) -> np.ndarray:
        return values.read(keys[name])

    report = _fill(model, values.origin, shapes, read, skip_mismatched)
    averaged = [name for name in report.loaded if keys[name] != name]
    return dataclasses.replace(report, averaged=averaged)


def copy_weights(
    model: keras.Model, trained: keras.Model, origin: str, skip_mismatched: bool = False
) -> ImportReport:
    """Fills a model with the weights of one of ours, as `load_tf1_checkpoint` does from a file.

    Args:
        model: The model to fill.
        trained: A model of the same parts, such as one of another output stride.
        origin: What to call it in the report and in errors.
        skip_mismatched: As of `load_tf1_checkpoint`.

    Returns:
        What was copied, skipped and not used.

    Raises:
        UserError: If it does not fit the model, or its weights are NaN or infinite.
    """
    weights = {official_name(weight): weight for weight in trained.weights}
    shapes = {name: list(weight.shape) for name, weight in weights.items()}

    def read(name: str) -> np.ndarray:
        return weights[name].numpy()

    return _fill(model, origin, shapes, read, skip_mismatched)


def _fill(
    model: keras.Model,
    origin: str,
    shapes: dict[str, list[int]],
    read: Callable[[str], np.ndarray],
    skip_mismatched: bool,
) -> ImportReport:
    """Matches variables by name, then sets those that fit; all is checked before any is set."""
    variables = {official_name(variable): variable for variable in model.weights}
    problems, adapted = [], []
    for name, variable in variables.items():
        ours, theirs = list(variable.shape), shapes.get(name)
        if _sees_other_channels(ours, theirs, model.input_shape[-1]):
            adapted.append((name, f"for {ours[2]} channels, from the checkpoint's three"))
        elif theirs is None:
            problems.append((name, f"{ours} in the model, missing in the checkpoint"))
        elif theirs != ours:
            problems.append((name, f"{ours} in the model, {theirs} in the checkpoint"))
    skipped = {name for name, _ in problems}
    loaded = [name for name in variables if name not in skipped]
    if not loaded:
        raise UserError(
            f"{origin} has no variable of {model.name}: it holds {few(sorted(shapes))}. Is it of "
            "another backbone?"
        )
    if problems and not skip_mismatched:
        listed = "; ".join(f"{name}: {why}" for name, why in problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{origin} does not fit {model.name}: {listed}{more}. {_remedy(problems, shapes)}"
        )

    values = {name: read(name) for name in loaded}
    checkpoint_values.check_finite(values.items(), origin)
    for name, _ in adapted:
        values[name] = spread_over_channels(values[name], variables[name].shape[2])
    for name, value in values.items():
        variables[name].assign(value)
    unused = sorted(
        name
        for name in shapes
        if name not in variables and not checkpoint_values.is_of_training(name)
    )
    return ImportReport(origin, loaded, adapted, problems, unused)


def spread_over_channels(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    """Makes a kernel over R, G and B one over another number of channels.

    R, G and B keep theirs where there are more channels, which get the mean of the three; fewer
    all get the mean. The whole is scaled so that an image whose channels are all equal is seen as
    before.

    Args:
        kernel: [H, W, 3, filters].
        in_channels: Channels of the images.

    Returns:
        [H, W, in_channels, filters].
    """
    rgb = kernel if in_channels >= 3 else kernel[:, :, :0]
    others = [kernel.mean(axis=2, keepdims=True)] * (in_channels - rgb.shape[2])
    return np.concatenate([rgb, *others], axis=2) * np.float32(3 / in_channels)


def is_of_backbone(values: CheckpointValues) -> bool:
    """Whether a checkpoint has no DeepLab head, as those trained on ImageNet."""
    return not any(name.startswith(_HEAD) for name in values.shapes)


def _keys_of_weights(values: CheckpointValues) -> dict[str, str]:
    """The key of every value by the name of its weight: that of its average, if it has no other."""
    suffix = f"/{checkpoint_values.AVERAGE}"
    averages = {key.removesuffix(suffix): key for key in values.shapes if key.endswith(suffix)}
    return averages | {key: key for key in values.shapes}


def _sees_other_channels(ours: list[int], theirs: list[int] | None, in_channels: int) -> bool:
    """Whether two shapes are of first convolutions that differ in the images' channels alone."""
    if theirs is None or len(ours) != 4 or in_channels == 3:
        return False
    return (ours[2], theirs[2]) == (in_channels, 3) and all(
        ours[axis] == theirs[axis] for axis in (0, 1, 3)
    )


def _remedy(problems: list[tuple[str, str]], shapes: dict) -> str:
    if not any(name.startswith(_HEAD) for name in shapes):
        return (
            "The checkpoint holds a backbone without a DeepLab head, such as those trained on "
            "ImageNet: give it as the weights of the backbone, load it into model.get_layer(...), "
            f"or {_SKIP}."
        )
    # MobileNetV3's decoder ends in the logits.
    if all(name.startswith(("logits/", "decoder/")) and name in shapes for name, _ in problems):
        return f"The checkpoint has other classes: {_SKIP} to leave the last layer unchanged."
    return (
        f"Build the model with the settings of the checkpoint's, or {_SKIP} to leave what does not "
        "fit unchanged."
    )
