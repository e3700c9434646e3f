"""Checks of what an artefact returns, which may be anything."""

from collections.abc import Callable

import numpy as np

from deeplab_tf.errors import UserError

LABELS = "labels.txt"  # of exports: class names, one a line, in the order of the ids
_REMEDY = "Give an artefact that was exported from this run, or export the run again."


def reason(error: Exception) -> str:
    """Returns the first line of an error's message, or the kind of the error if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0] if lines else type(error).__name__)


def printable(text: str, length: int = 300) -> str:
    """Returns a text of unknown origin without control characters, and not too long."""
    text = "".join(character if character.isprintable() else "?" for character in text[:length])
    return text + " ..." * (len(text) == length)


def checked(
    label_of: Callable[[np.ndarray], np.ndarray], path: str, num_classes: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Makes a function from image to class ids refuse what cannot be the class ids of an image.

    Args:
        label_of: Function of an image, uint8 [H, W, channels]; it may raise and return anything.
        path: The artefact, for messages.
        num_classes: Number of classes of the run.

    Returns:
        A function of an image that returns its class ids, int32 [H, W], or raises a `UserError`.
    """

    def label_or_error(image):
        try:
            label = np.asarray(label_of(image))
        except UserError:
            raise
        except Exception as error:  # an artefact may raise errors of any kind
            raise UserError(
                f"{path} cannot label an image of {image.shape[0]}x{image.shape[1]} pixels "
                f"(height x width): {reason(error)}."
            ) from error
        if label.shape != image.shape[:2] or label.dtype.kind not in "iu":
            raise UserError(
                f"{path} returns {label.dtype} {list(label.shape)} for an image of "
                f"{list(image.shape)}, not class ids [height, width]. {_REMEDY}"
            )
        low, high = label.min(), label.max()
        if low < 0 or high >= num_classes:
            raise UserError(
                f"{path} finds the class {low if low < 0 else high}, but the run has {num_classes} "
                f"classes. {_REMEDY}"
            )
        return label.astype(np.int32)

    return label_or_error


def check_scores(scores: np.ndarray, size: tuple[int, int], path: str, num_classes: int) -> None:
    """Refuses what cannot be the scores of an image's classes.

    Args:
        scores: Anything; float [H, W, num_classes] is right.
        size: Height and width of the image.
        path: The artefact, for messages.
        num_classes: Number of classes of the run.

    Raises:
        UserError: The shape is wrong, or a score is NaN or infinite.
    """
    if scores.shape != (*size, num_classes) or scores.dtype.kind != "f":
        raise UserError(
            f"{path} returns {scores.dtype} {list(scores.shape)} for an image of {list(size)} "
            f"pixels, not scores [height, width, {num_classes}]. {_REMEDY}"
        )
    if not np.isfinite(scores).all():
        raise UserError(f"{path} returns scores that are NaN or infinite. {_REMEDY}")
