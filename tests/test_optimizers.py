"""The original's optimizer and gradient rules."""

import json

import keras
import pytest
import tensorflow as tf

from deeplab_tf import optimizers


def test_momentum_accumulates_gradients_before_the_learning_rate_is_applied():
    variable = keras.Variable([1.0])
    optimizer = optimizers.MomentumSGD(learning_rate=0.1, momentum=0.9)
    optimizer.build([variable])
    expected, accumulator = 1.0, 0.0
    for gradient, rate in ((2.0, 0.1), (-1.0, 0.01), (3.0, 0.5)):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant([gradient])], [variable])
        accumulator = 0.9 * accumulator + gradient
        expected -= rate * accumulator
        assert float(variable.value[0]) == pytest.approx(expected, rel=1e-6)


def test_weight_decay_and_multipliers_equal_the_original_for_every_variable(shared):
    recorded = json.loads(
        (shared / "oracles/training/regularization_and_multipliers.json").read_text()
    )
    for variant, facts in recorded.items():
        names = [
            entry["name"]
            for entry in json.loads((shared / f"oracles/{variant}/variables.json").read_text())
            if "moving_" not in entry["name"]
        ]
        assert sum(map(optimizers.is_regularized, names)) == facts["number_regularized"]
        multipliers = facts["gradient_multipliers_last_layer_10"]
        for name in names:
            expected = multipliers.get(name, 1.0)
            assert optimizers.gradient_multiplier(name, 10.0) == expected, name
