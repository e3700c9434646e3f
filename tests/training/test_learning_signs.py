"""What a validation says about a model that does not learn."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.config import TrainConfig
from deeplab_tf.training import learning_signs
from deeplab_tf.training import losses

NAMES = ("sky", "road", "pole")
LEARNS = np.array([[50, 1, 0], [2, 30, 1], [1, 1, 14]])


@pytest.mark.parametrize(
    "matrix, loss, expected",
    [
        (LEARNS, 0.2, []),
        (LEARNS, None, []),
        ([[60, 0, 0], [30, 0, 0], [10, 0, 0]], None, ["It predicts sky everywhere."]),
        ([[60, 0, 0], [1, 29, 0], [5, 5, 0]], None, ["It never predicts pole."]),
        ([[60, 0, 0], [1, 29, 0], [0, 0, 0]], None, []),  # there is no pole
        (
            [[60, 0, 0], [1, 29, 0], [5, 4, 1]],
            0.9,
            [
                "Its loss of 0.900 is not better than that of guessing by the shares of the "
                "classes, 0.898."
            ],
        ),
    ],
)
def test_what_was_not_learned_is_named(matrix, loss, expected):
    signs = learning_signs.describe(np.array(matrix), NAMES, TrainConfig(), loss=loss, step=9)
    assert signs == expected


def test_many_classes_that_are_never_predicted_are_not_all_listed():
    matrix = np.zeros((20, 20), int)
    matrix[:, 0], matrix[1, 1] = 10, 10
    names = list("abcdefghijklmnopqrst")
    (sentence,) = learning_signs.describe(matrix, names, TrainConfig(), loss=None, step=9)
    assert sentence == "It never predicts c, d, e, f, g, h and 12 more."


@pytest.mark.parametrize("weights", [(), (0.5, 1.0, 4.0)])
def test_the_loss_of_guessing_is_the_smallest_loss_of_a_constant(weights):
    counts = np.array([60, 30, 10])
    label = tf.constant([[np.repeat([0, 1, 2], counts)]])

    def loss_of(probabilities):
        logits = np.broadcast_to(np.log(probabilities), [1, 1, 100, 3])
        total, count = losses.cross_entropy(tf.constant(logits), label, 255, weights)
        return float(total / count)

    smallest = learning_signs.loss_of_guessing(np.diag(counts), TrainConfig(class_weights=weights))
    best = counts * np.array(weights or [1.0])
    assert loss_of(best / best.sum()) == pytest.approx(smallest, rel=1e-5)
    for other in ([0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0.3, 0.2, 0.5]):
        assert loss_of(np.array(other)) > smallest


def test_guessing_has_no_weights_behind_their_last_step():
    weights = {"class_weights": (0.5, 1.0, 4.0)}
    config = TrainConfig(**weights, class_weights_steps=10)
    guessing = [learning_signs.loss_of_guessing(LEARNS, config, step) for step in (9, 10)]
    settings = (TrainConfig(**weights), TrainConfig())
    assert guessing == [learning_signs.loss_of_guessing(LEARNS, one) for one in settings]


@pytest.mark.parametrize(
    "settings", [{"focal_weight": 1.0}, {"top_k_percent_pixels": 0.5}, {"cross_entropy_weight": 0}]
)
def test_other_losses_are_not_compared_with_guessing(settings):
    config = TrainConfig(**{"dice_weight": 1.0} | settings)
    assert learning_signs.loss_of_guessing(LEARNS, config) is None
