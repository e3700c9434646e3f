"""Descriptions of models: their layers and parts, and the cost of these."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from collections.abc import Sequence

import keras
from keras import tree

from deeplab_tf import layers
from deeplab_tf.models import activations
from deeplab_tf.models import segments
from deeplab_tf.models.activations import CONVOLUTIONS
from deeplab_tf.models.activations import Call
from deeplab_tf.models.activations import num_bytes

_RESIZES = (layers.ResizeLike, layers.ScaleImage)


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer, or a part of a model.

    Attributes:
        name: Scope in the original.
        part: The block, branch or head that it belongs to.
        output_shape: Height, width and channels.
        parameters: Number of trainable weights; moving statistics do not count.
        multiply_adds: Multiply-adds for one image as the papers count them; see `describe`.
        computed_multiply_adds: Multiply-adds for one image that are computed here.
        receptive_field: Height and width, in pixels of the input, that one output pixel depends on;
            infinite if it depends on the whole input.
        activations: Bytes of the whole batch that are kept for the backward pass.
    """

    name: str
    part: str
    output_shape: tuple[int, int, int]
    parameters: int
    multiply_adds: int
    computed_multiply_adds: int
    receptive_field: tuple[float, float]
    activations: int


@dataclasses.dataclass(frozen=True)
class TrainingMemory:
    """The memory of a training step, in bytes."""

    weights: int
    gradients: int
    momentum: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Description:
    """The layers and parts of a model, and the memory of a training step.

    Attributes:
        name: Name of the model.
        input_shape: Height, width and channels of an image.
        batch_size: Images of a training step.
        layers: A row for each layer.
        parts: A row for each part.
        memory: The memory of a training step.
        calls: The calls of the layers for one image.
    """

    name: str
    input_shape: tuple[int, int, int]
    batch_size: int
    layers: tuple[Row, ...]
    parts: tuple[Row, ...]
    memory: TrainingMemory
    calls: Sequence[Call] = dataclasses.field(repr=False)

    @functools.cached_property
    def memory_if_recomputed(self) -> TrainingMemory:
        """The memory of a training step with `--recompute_activations`."""
        kept = self.batch_size * segments.plan(self.calls).kept
        return dataclasses.replace(self.memory, activations=kept)

    @property
    def total(self) -> Row:
        """The sums over all layers, with the output and the receptive field of the model."""
        return _merge("total", self.layers)

    def to_text(self, list_layers: bool = False) -> str:
        """Returns tables for a terminal of 100 columns, with a row for each part or each layer."""
        total = self.total
        lines = [
            f"{self.name}, input {_shape(self.input_shape)}",
            "",
            _line("", "", "", "multiply-", "receptive", "kept"),
            _line("", "output", "parameters", "adds [B]", "field [px]", "[MiB]"),
        ]
        if list_layers:
            for part, rows in _group(self.layers, "part").items():
                lines += [part, *(_row_line(f"  {_name_within_part(row)}", row) for row in rows)]
        else:
            lines += [_row_line(row.name, row) for row in self.parts]
        lines += [
            _row_line("total", total),
            "",
            f"{total.parameters / 1e6:.2f} M parameters, {total.multiply_adds / 1e9:.2f} B "
            "multiply-adds as the papers count them.",
        ]
        if total.computed_multiply_adds < total.multiply_adds:
            lines += [
                f"{total.computed_multiply_adds / 1e9:.2f} B are computed here. The papers' "
                "figures include the padding",
                "of atrous convolution in TensorFlow 1.",
            ]
        lines.append("")
        lines.append(f"Memory of a training step of {self.batch_size} images, estimated [MiB]:")
        lines.append(f"{'':<14}{'':>12}{'with --recompute_activations':>32}")
        sizes, others = (
            {**dataclasses.asdict(memory), "total": memory.total}
            for memory in (self.memory, self.memory_if_recomputed)
        )
        for name, size in sizes.items():
            lines.append(f"  {name:<12}{size / 2**20:>12,.1f}{others[name] / 2**20:>32,.1f}")
        lines.append(
            "A process on a CPU needs up to 50 % more, and another 700 MiB for TensorFlow."
        )
        return "\n".join(lines)


def describe(model: keras.Model, input_size: Sequence[int], batch_size: int) -> Description:
    """Lists the layers of a model and their cost at an input size.

    Multiply-adds are those of convolutions: each weight of a kernel counts once for each pixel of
    the output; biases, batch norm, activations, pooling and resizing do not count. The papers' tool
    saw atrous convolution on maps that were padded to a multiple of the rate r, so a side of H
    pixels counts as r * ceil(H / r) there, and here. The totals of arXiv:1802.02611 and
    arXiv:1801.04381 are up to 0.3 % higher because the tool counted other operations too: half a
    multiply-add for an addition of maps, 2.5 for a weight (initializer and weight decay). With
    these, they agree to 0.01 B, except ResNet-101 with decoder at output stride 16, whose 101.28 B
    contradict the rows beside it. Those of arXiv:1905.02244, at output stride 16, are 4 to 6 %
    higher.

    The receptive field is that of the branch that sees most. A kernel of size k at rate r widens it
    by (k - 1) * r times the distance between neighbours of the kernel's input, in pixels of the
    image; resizing, which reads two neighbours, widens it by that distance once.

    The memory is an estimate for float32 on a single device. Activations are what TensorFlow keeps
    for the gradients: the inputs of convolutions and batch norms, and the outputs of ReLUs. The
    workspace holds images and labels, the logits, their probabilities and their gradient, and the
    weights in the order that the kernels want. On a CPU, steps took 7 to 17 % more because of gaps
    in the allocator's memory, and processes grew by 34 to 43 % more from start to peak, with the
    graph and Python's objects (`benchmarks/train_step.py`).

    Args:
        model: A functional model of one input, `[B, H, W, C]`, such as `build_model` returns.
        input_size: Height and width of an image in pixels.
        batch_size: Images of a training step.

    Returns:
        The rows of all layers and parts, and the memory of a training step.

    Example:

    >>> import deeplab_tf
    >>> from deeplab_tf.describe import describe
    >>> model = deeplab_tf.DeepLabV3("mobilenet_v2", num_classes=21, atrous_rates=())
    >>> round(describe(model, (513, 513), batch_size=16).total.multiply_adds / 1e9, 2)
    2.74
    """
    height, width = input_size
    input_shape = (height, width, model.input.shape[-1])
    image = keras.KerasTensor((1, *input_shape))
    outputs, calls = activations.calls_of(model, image)
    recorder = _Recorder(image, batch_size)
    for call in calls:
        recorder.add(call)
    rows = recorder.rows
    label_bytes = 4 * height * width
    # The loss holds the logits, their probabilities and their gradient.
    loss_bytes = num_bytes(image) + label_bytes + 3 * sum(map(num_bytes, tree.flatten(outputs)))
    memory = _training_memory(model, rows, batch_size * loss_bytes)
    layer_rows = tuple(
        # Of a layer that runs at several scales, the largest map is shown.
        _merge(name, sorted(calls, key=lambda row: math.prod(row.output_shape)))
        for name, calls in _group(rows, "name").items()
    )
    part_rows = tuple(_merge_parts(layer_rows))
    return Description(model.name, input_shape, batch_size, layer_rows, part_rows, memory, calls)


def _training_memory(model: keras.Model, rows: Sequence[Row], loss_bytes: int) -> TrainingMemory:
    gradients = 4 * _size(model.trainable_variables)
    return TrainingMemory(
        weights=4 * _size(model.weights),
        gradients=gradients,
        momentum=gradients,
        activations=sum(row.activations for row in rows),
        workspace=gradients + loss_bytes,
    )


@dataclasses.dataclass(frozen=True)
class _View:
    """The receptive field of a pixel of a map, down and across, in pixels of the image."""

    extent: tuple[float, float] = (1, 1)
    step: tuple[float, float] = (1, 1)  # distance between the fields of neighbours


class _Recorder:
    """Makes a row of each call of a layer.

    Args:
        image: The input of the model.
        batch_size: Images of a training step.

    Attributes:
        rows: The rows. Parameters and activations that calls share are in the row of the first one.
    """

    def __init__(self, image: keras.KerasTensor, batch_size: int):
        self.rows: list[Row] = []
        self._batch_size = batch_size
        self._views: dict[keras.KerasTensor, _View] = {image: _View()}
        self._layers_seen: set[keras.layers.Layer] = set()
        self._kept: set[object] = set()

    def add(self, call: Call) -> None:
        """Adds a row; those before must have been added."""
        layer, maps, output = call.layer, call.inputs, call.output
        self._views[output] = _view(layer, maps, [self._views[tensor] for tensor in maps], output)
        new = {key: size for key, size in call.kept() if key not in self._kept}
        self._kept.update(new)
        variables = [] if layer in self._layers_seen else layer.trainable_variables
        self._layers_seen.add(layer)
        name = _official_scope(layer)
        self.rows.append(
            Row(
                name=name,
                part=_part(name, call.model_name),
                output_shape=tuple(output.shape[1:]),
                parameters=_size(variables),
                multiply_adds=_multiply_adds(layer, output, is_padded=True),
                computed_multiply_adds=_multiply_adds(layer, output, is_padded=False),
                receptive_field=self._views[output].extent,
                activations=self._batch_size * sum(new.values()),
            )
        )


def _view(layer, maps: list, views: list[_View], output) -> _View:
    """Returns the receptive field of a layer's output, from those of its inputs."""
    if isinstance(layer, layers.ResizeLike):
        views = views[:1]  # The second map only gives its size.
    extent = [max(sides) for sides in zip(*(view.extent for view in views))]
    step = [min(sides) for sides in zip(*(view.step for view in views))]
    sides = maps[0].shape[1:3]
    if isinstance(layer, _RESIZES):
        for axis, (side, new_side) in enumerate(zip(sides, output.shape[1:3])):
            if side != new_side and side > 1:
                extent[axis] += step[axis]
                step[axis] *= (side - 1) / max(new_side - 1, 1)
    window, strides = _window(layer, sides)
    return _View(
        tuple(seen + (size - 1) * gap for seen, size, gap in zip(extent, window, step)),
        tuple(stride * gap for stride, gap in zip(strides, step)),
    )


def _window(layer, sides: Sequence[int]) -> tuple[Sequence[float], Sequence[int]]:
    """Returns the window of a layer on a map with these sides, and its strides."""
    if isinstance(layer, CONVOLUTIONS):
        spread = zip(layer.kernel_size, layer.dilation_rate)
        return [(size - 1) * rate + 1 for size, rate in spread], layer.strides
    if isinstance(layer, layers.AtrousMaxPool2D):
        return [2 * layer.rate + 1] * 2, (1, 1)
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return (math.inf, math.inf), (1, 1)
    if isinstance(layer, layers.ImagePooling):
        window = layer.window(sides)
        whole = all(size >= side for size, side in zip(window, sides))
        return (math.inf, math.inf) if whole else window, layer.strides
    if isinstance(layer, (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)):
        return layer.pool_size, layer.strides
    return (1, 1), (1, 1)


def _multiply_adds(layer, output, is_padded: bool) -> int:
    """Returns a convolution's multiply-adds, on the map or on a padded one as in the papers."""
    if not isinstance(layer, CONVOLUTIONS):
        return 0
    sides = output.shape[1:3]
    if is_padded and max(layer.kernel_size) > 1:
        sides = map(_round_up, sides, layer.dilation_rate)
    return math.prod(sides) * math.prod(layer.kernel.shape)


def _merge_parts(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields a row for each part; one without parameters joins the next that has some."""
    waiting = []
    for part, group in _group(rows, "part").items():
        waiting += group
        if any(row.parameters for row in waiting):
            yield _merge(part, waiting)
            waiting = []
    if waiting:
        yield _merge(waiting[-1].part, waiting)


def _group(rows: Sequence[Row], field: str) -> dict[str, list[Row]]:
    """Groups rows by the value of a field, in the order of first rows."""
    groups = {}
    for row in rows:
        groups.setdefault(getattr(row, field), []).append(row)
    return groups


def _merge(name: str, rows: Sequence[Row]) -> Row:
    """Sums rows; the output is that of the last."""
    summed = ("parameters", "multiply_adds", "computed_multiply_adds", "activations")
    sums = {field: sum(getattr(row, field) for row in rows) for field in summed}
    return dataclasses.replace(rows[-1], name=name, **sums)


def _row_line(name: str, row: Row) -> str:
    height, width = row.receptive_field
    field = f"{height:.0f}" if height == width else f"{height:.0f}x{width:.0f}"
    return _line(
        name,
        _shape(row.output_shape),
        f"{row.parameters:,}" if row.parameters else "",
        f"{row.multiply_adds / 1e9:.3f}" if row.multiply_adds else "",
        "all" if math.isinf(height) else field,
        f"{row.activations / 2**20:,.1f}" if row.activations else "",
    )


def _line(name: str, output: str, parameters: str, multiply_adds: str, field: str, kept: str):
    """Returns a line of the table; a long name loses its beginning."""
    name = name if len(name) <= 40 else "  ..." + name[-35:]
    line = f"{name:<40}{output:>13}{parameters:>12}{multiply_adds:>11}{field:>12}{kept:>10}"
    return line.rstrip()


def _name_within_part(row: Row) -> str:
    """Returns a layer's name without the common beginning of the names in its part."""
    name = row.name.removeprefix(row.part + "/").removeprefix(row.part.rpartition("/")[0] + "/")
    return re.sub("/(xception_module|bottleneck_v1)", "", name)


def _official_scope(layer: keras.layers.Layer) -> str:
    """Returns the original's scope; the dot in `image_at_0.5` is not a separator."""
    return re.sub(r"\.(?!\d)", "/", layer.name)


def _part(scope: str, model_name: str) -> str:
    """Returns the part of a scope: `xception_65/entry_flow/block1`, `aspp1` or `decoder`."""
    separable = "_depthwise|_pointwise"
    pattern = rf"({model_name}/)?((entry|middle|exit)_flow/)?.+?(?={separable}|/|$)"
    match = re.match(pattern, scope)
    return match[0] if match else scope


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _size(variables: Sequence[keras.Variable]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
