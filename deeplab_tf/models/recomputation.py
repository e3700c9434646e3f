"""Training that recomputes activations instead of keeping them: less memory, more time.

The calls of a network's layers are divided into segments. The forward pass keeps only what later
segments read. The backward pass runs each segment again before its gradients.

Reference: Training deep nets with sublinear memory cost, arXiv:1604.06174, section 4.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import tree

from deeplab_tf.models import activations
from deeplab_tf.models import segments
from deeplab_tf.models.activations import Call

# Batch, height and width that are planned for where a trace leaves them open.
_USUAL_SIZES = (1, 513, 513)


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
        *recomputed, last = segments.plan(calls).segments
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
