"""Training that recomputes activations instead of keeping them: less memory, more time.

The calls of a network's layers are divided into segments. The forward pass keeps only what later
segments read. The backward pass runs each segment again before its gradients.

Reference: Training deep nets with sublinear memory cost, arXiv:1604.06174, section 4.
"""

import dataclasses
import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import tree

from deeplab_tf.models import activations
from deeplab_tf.models.activations import Call

# Limits of the memory inside a segment that are tried, as shares of all activations.
_SHARES = [2 ** (-step / 2) for step in range(2, 12)]
# Batch, height and width that are planned for where a trace leaves them open.
_USUAL_SIZES = (1, 513, 513)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the calls of a network are divided.

    Attributes:
        segments: The calls of each segment. The last one is not run again: its gradients come
            first, when its activations are still there.
        kept: Bytes that are kept at most: all that passes between segments, and the activations
            of one segment.
    """

    segments: tuple[tuple[Call, ...], ...]
    kept: int


def plan(calls: Sequence[Call]) -> Plan:
    """Divides calls so that the least memory is kept.

    Args:
        calls: The calls of a network in their order, with known shapes.
    """
    costs = _Costs(calls)
    plans = [_plan_within(costs, share * costs.total) for share in _SHARES]
    ends, kept = min(plans, key=lambda plan: plan[1])
    segments = tuple(
        tuple(calls[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)
    )
    return Plan(segments, kept)


class _Costs:
    """The bytes that segments keep.

    Attributes:
        total: All activations, without segments.
    """

    def __init__(self, calls: Sequence[Call]):
        produced = {id(call.output): index for index, call in enumerate(calls)}
        self._sizes = [activations.num_bytes(call.output) for call in calls]
        self._last_use = list(range(len(calls)))
        self._first_keeper = [len(calls)] * len(calls)
        self._besides = [0] * len(calls)
        for index, call in enumerate(calls):
            for tensor in call.inputs:
                if id(tensor) in produced:
                    self._last_use[produced[id(tensor)]] = index
            for key, size in call.kept():
                if isinstance(key, tuple):
                    self._besides[index] += size
                elif id(key) in produced:
                    producer = produced[id(key)]
                    self._first_keeper[producer] = min(self._first_keeper[producer], index)
        self.total = sum(
            size for size, keeper in zip(self._sizes, self._first_keeper) if keeper < len(calls)
        ) + sum(self._besides)

    def __len__(self) -> int:
        return len(self._sizes)

    def of_longer(self, start: int, end: int) -> tuple[int, int]:
        """What call `start` adds to the segment from `start + 1` to `end`.

        Returns:
            Bytes that it keeps inside the segment, and bytes that it hands on to later segments.
        """
        size = self._sizes[start]
        inside = self._besides[start] + (size if self._first_keeper[start] < end else 0)
        return inside, size if self._last_use[start] >= end else 0


def _plan_within(costs: _Costs, limit: float) -> tuple[list[int], int]:
    """Divides calls into segments that keep at most `limit` bytes inside, if a call alone does.

    Returns:
        The end of each segment, and the bytes kept at most.
    """
    handed_on = [0.0, *[math.inf] * len(costs)]  # by the segments up to a call
    starts, largest = [0] * (len(costs) + 1), [0] * (len(costs) + 1)
    for end in range(1, len(costs) + 1):
        inside = between = 0
        for start in range(end - 1, -1, -1):
            more_inside, more_between = costs.of_longer(start, end)
            inside, between = inside + more_inside, between + more_between
            if inside > limit and start < end - 1:
                break
            if handed_on[start] + between <= handed_on[end]:
                handed_on[end] = handed_on[start] + between
                starts[end], largest[end] = start, max(largest[start], inside)
    ends, end = [], len(costs)
    while end:
        ends.append(end)
        end = starts[end]
    return ends[::-1], int(handed_on[-1]) + largest[-1]


class RecomputingNetwork:
    """Computes what a network computes, and computes activations again for the gradients.

    Outputs, gradients and updates of variables are those of the network. A variable is updated
    once; random numbers, as of dropout, are the same both times.

    Args:
        network: A functional model with one input.
    """

    def __init__(self, network: keras.Model):
        self._network = network

    @tf.autograph.experimental.do_not_convert
    def __call__(self, image, training: bool = True):
        """Returns the outputs of the network for `[B, H, W, C]`."""
        shape = [size or usual for size, usual in zip(image.shape, _USUAL_SIZES)]
        symbol = keras.KerasTensor((*shape, image.shape[-1]), image.dtype)
        outputs, calls = activations.calls_of(self._network, symbol)
        *recomputed, last = plan(calls).segments
        last_use = {id(tensor): index for index, call in enumerate(calls) for tensor in call.inputs}
        last_use |= {id(tensor): len(calls) for tensor in tree.flatten(outputs)}
        values, end = {id(symbol): image}, 0
        for segment in recomputed:
            end += len(segment)
            used_later = [call.output for call in segment if last_use[id(call.output)] >= end]
            _run_recomputed(segment, values, used_later, training)
        _run(last, values, training)
        return tree.map_structure(lambda tensor: values[id(tensor)], outputs)


def _run(calls: Sequence[Call], values: dict, training: bool) -> None:
    """Runs calls on the values of their inputs, which are found by id, and adds their outputs."""
    for call in calls:
        args = tree.map_structure(lambda tensor: values[id(tensor)], call.args)
        values[id(call.output)] = call.layer(*args, **call.kwargs | {"training": training})


def _run_recomputed(
    calls: Sequence[Call], values: dict, outputs: Sequence[keras.KerasTensor], training: bool
) -> None:
    """As `_run`, for some of the outputs; the gradients run the calls again."""
    inner = {id(call.output) for call in calls}
    read = dict.fromkeys(id(tensor) for call in calls for tensor in call.inputs)
    inputs = {key: values[key] for key in read if key not in inner}
    differentiable = [key for key, value in inputs.items() if value.dtype.is_floating]
    layers_inside = dict.fromkeys(call.layer for call in calls)
    weights = [weight for layer in layers_inside for weight in layer.trainable_variables]
    states = [state for layer in layers_inside for state in layer.non_trainable_variables]
    states_before = [tf.identity(state.value) for state in states]

    def compute(arguments):
        local = inputs | dict(zip(differentiable, arguments))
        new_weights = zip(weights, arguments[len(differentiable) :], strict=True)
        with keras.StatelessScope([*new_weights, *zip(states, states_before)]) as scope:
            _run(calls, local, training)
        return [local[id(tensor)] for tensor in outputs], scope

    @tf.custom_gradient
    def segment(*arguments):
        results, scope = compute(arguments)
        for state, before in zip(states, states_before):
            value = scope.get_current_value(state)
            if value is not before:
                state.assign(value)

        def gradients(*upstream):
            with tf.control_dependencies(upstream):
                # Different tensors, so that TensorFlow does not use the first results again.
                arguments_again = [tf.identity(argument) for argument in arguments]
            with tf.GradientTape() as tape:
                tape.watch(arguments_again)
                results_again, _ = compute(arguments_again)
            return tape.gradient(
                results_again,
                arguments_again,
                list(upstream),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

        return results, gradients

    arguments = [*(inputs[key] for key in differentiable), *(weight.value for weight in weights)]
    for tensor, result in zip(outputs, segment(*arguments), strict=True):
        values[id(tensor)] = result
