"""Signs that a training does not learn, as far as a validation shows them."""

from collections.abc import Sequence

import numpy as np

from deeplab_tf.config import TrainConfig
from deeplab_tf.training import losses

_MAX_NAMES = 6  # of classes in a message
_GUESSING = 0.98  # of the loss of guessing: a loss above has learned nothing
ADVICE = (
    "To learn more: look for wrong labels with deeplab_tf.check_data; train for longer; start from "
    "trained weights with --tf_initial_checkpoint; or give rare classes more weight with "
    "--class_weights or --oversample_classes."
)


def only_prediction(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns the class that is predicted everywhere; empty if there are several.

    Args:
        matrix: Confusion matrix, int64 [C, C]; rows are labels.
        class_names: Name of each class.
    """
    predicted = np.flatnonzero(matrix.sum(0))
    return class_names[predicted[0]] if len(predicted) == 1 and len(class_names) > 1 else ""


def describe(
    matrix: np.ndarray,
    class_names: Sequence[str],
    config: TrainConfig,
    *,
    loss: float | None,
    step: int,
) -> list[str]:
    """Says what a model has not learned.

    Args:
        matrix: Confusion matrix of a validation, int64 [C, C]; rows are labels.
        class_names: Name of each class.
        config: The training.
        loss: Mean loss of the last steps; None if there was no step.
        step: The last of these steps, from 0.

    Returns:
        Sentences; empty without such a sign.
    """
    sentences = []
    only = only_prediction(matrix, class_names)
    missed = np.flatnonzero((matrix.sum(1) > 0) & (matrix.sum(0) == 0))
    if only:
        sentences.append(f"It predicts {only} everywhere.")
    elif len(missed):
        names = [class_names[i] for i in missed[:_MAX_NAMES]]
        more = f" and {len(missed) - _MAX_NAMES} more" if len(missed) > _MAX_NAMES else ""
        sentences.append(f"It never predicts {', '.join(names)}{more}.")
    guessing = loss_of_guessing(matrix, config, step)
    if loss is not None and guessing and loss > _GUESSING * guessing:
        sentences.append(
            f"Its loss of {loss:.3f} is not better than that of guessing by the shares of the "
            f"classes, {guessing:.3f}."
        )
    return sentences


def loss_of_guessing(matrix: np.ndarray, config: TrainConfig, step: int = 0) -> float | None:
    """Returns the cross-entropy of the best constant prediction, in nats.

    It is the entropy of the shares of the classes, or with class weights w and shares p the
    sum of w p log(sum(w p) / (w p)).

    Args:
        matrix: Confusion matrix, [C, C], whose rows have the shares of the classes.
        config: The training.
        step: On which the weights of the classes depend.

    Returns:
        The loss; None if there are no labels, or the loss is not cross-entropy of all pixels.
    """
    if losses.used_terms(config) != ["cross_entropy"] or config.top_k_percent_pixels < 1:
        return None
    shares = matrix.sum(1) / max(1, matrix.sum())
    weights = losses.class_weights_at(step, config).numpy()
    weighted = shares * weights if len(weights) else shares
    weighted = weighted[weighted > 0]
    if not len(weighted):
        return None
    return float(
        config.cross_entropy_weight * -(weighted * np.log(weighted / weighted.sum())).sum()
    )
