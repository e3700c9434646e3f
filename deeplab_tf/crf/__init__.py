"""Fully-connected CRF: sharpens the borders of DeepLab v1 and v2.

Reference: Krähenbühl, Koltun, arXiv:1210.5644; DeepLab v1, arXiv:1412.7062, section 2.2; DeepLab
v2, arXiv:1606.00915, section 3.3.
"""

import concurrent.futures
import functools
import os
import typing

import numpy as np

from deeplab_tf import fast
from deeplab_tf.errors import UserError

# Arguments of `dense_crf` that the released models of a paper were used with.
PRESETS = {
    "v1": {
        "iterations": 10,
        "bilateral_weight": 4.0,
        "bilateral_sigma_xy": 49.0,
        "bilateral_sigma_rgb": 5.0,
        "gaussian_weight": 3.0,
        "gaussian_sigma_xy": 3.0,
    },
    "v2": {
        "iterations": 10,
        "bilateral_weight": 4.0,
        "bilateral_sigma_xy": 67.0,
        "bilateral_sigma_rgb": 3.0,
        "gaussian_weight": 3.0,
        "gaussian_sigma_xy": 1.0,
    },
}
_SUM_TOLERANCE = 0.01
# Zero probabilities get the smallest positive one, as their energy would be infinite.
_SMALLEST_PROBABILITY = np.finfo(np.float32).tiny


def dense_crf(
    image: np.ndarray,
    probabilities: np.ndarray,
    iterations: int = 10,
    bilateral_weight: float = 4.0,
    bilateral_sigma_xy: float = 49.0,
    bilateral_sigma_rgb: float = 5.0,
    gaussian_weight: float = 3.0,
    gaussian_sigma_xy: float = 3.0,
    *,
    compatibility: np.ndarray | None = None,
    screen_classes: bool = False,
    return_energy: bool = False,
    num_threads: int | None = None,
):
    """Refines a segmentation by mean-field inference in a fully-connected CRF.

    Every pixel is connected to every other. The bilateral kernel connects nearby pixels of similar
    colour; the Gaussian kernel connects nearby pixels of any colour. The defaults are those of
    DeepLab v1. The only approximation is the permutohedral lattice of the paper, unless
    `screen_classes` adds another.

    Runs in numba where it is installed (`pip install 'deeplab_tf[fast]'`), and otherwise as the
    TensorFlow graph of `deeplab_tf.crf.graph`, which takes several times as long. The first call
    on a machine compiles for 10 to 20 seconds; numba keeps the machine code.

    An image takes about 250 + 16 C bytes per pixel and 60 + 8 C bytes per lattice point, where C
    counts as at least 8. Photographs have 0.3 to 2 lattice points per pixel; the limit is 9. The
    lattice of positions, less than 100 bytes per pixel, is kept for the next image of that size.

    Args:
        image: uint8 [H, W, 3], RGB; or a batch [B, H, W, 3].
        probabilities: float [H, W, C] or [B, H, W, C] that sums to one over the classes: softmax
            of logits at the size of the image, or `unary_from_labels`.
        iterations: Mean-field updates.
        bilateral_weight: Weight of the appearance kernel, at least 0.
        bilateral_sigma_xy: Standard deviation of the appearance kernel in pixels.
        bilateral_sigma_rgb: Standard deviation of the appearance kernel in levels 0..255.
        gaussian_weight: Weight of the smoothness kernel, at least 0.
        gaussian_sigma_xy: Standard deviation of the smoothness kernel in pixels.
        compatibility: float [C, C], symmetric: the cost of a pair of labels, times the kernels.
            None is the Potts model: 1 for different labels, 0 for equal ones.
        screen_classes: Leave out classes that are too improbable everywhere to win a pixel; their
            probabilities are returned as zero. This saves time where few classes are present. It
            is an approximation: the other probabilities change by about 0.001, rarely by 0.03, and
            about one label in 100,000 changes. For the Potts model only. Of up to 8 classes, and
            in the TensorFlow graph, none is left out: that would save no time.
        return_energy: Also return the energies. Doubles the time.
        num_threads: Number of threads; None for one per core. They share the images of a batch.
            The results do not depend on it.

    Returns:
        Probabilities, float32 [H, W, C] or [B, H, W, C]. With `return_energy`, a pair of the
        probabilities and the mean-field free energies before the first and after every update,
        float64 [iterations + 1] or [B, iterations + 1]: the expected cost of the labels and of
        their pairs, minus the entropy.

    Raises:
        UserError: The image or the probabilities have another shape or type, or a weight or
            deviation is out of range.

    Reference: arXiv:1210.5644, sections 2 and 3.

    Example:

    >>> import deeplab_tf
    >>> import numpy as np
    >>> image = np.zeros((8, 8, 3), np.uint8)
    >>> labels = np.zeros((8, 8), np.uint8)
    >>> labels[4, 4] = 1  # a single pixel in a map of another class
    >>> probabilities = deeplab_tf.unary_from_labels(labels, num_classes=2, certainty=0.6)
    >>> int(deeplab_tf.dense_crf(image, probabilities)[4, 4].argmax())
    0
    """
    image, probabilities = np.asarray(image), np.asarray(probabilities)
    check_sizes(image, probabilities.shape)
    parameters: dict[str, typing.Any] = {
        "iterations": iterations,
        "bilateral_weight": bilateral_weight,
        "bilateral_sigma_xy": bilateral_sigma_xy,
        "bilateral_sigma_rgb": bilateral_sigma_rgb,
        "gaussian_weight": gaussian_weight,
        "gaussian_sigma_xy": gaussian_sigma_xy,
    }
    check_parameters(**parameters)
    num_classes = probabilities.shape[-1]
    compatibility = check_compatibility(compatibility, num_classes)
    if screen_classes and compatibility is not None:
        raise UserError(
            "screen_classes=True requires the Potts model: pass either it or a compatibility matrix"
        )
    probabilities = _check_probabilities(probabilities)
    if num_threads is None:
        num_threads = num_cores()
    if num_threads < 1:
        raise UserError(f"num_threads is {num_threads}; pass at least 1, or None for one per core")

    in_numba = fast.load("deeplab_tf.crf.mean_field")
    infer = functools.partial(
        in_numba.infer if in_numba else _infer_in_tensorflow,
        parameters=parameters,
        compatibility=compatibility,
        screen_classes=screen_classes,
        return_energy=return_energy,
    )
    infer_all = infer if image.ndim == 3 else functools.partial(_infer_batch, infer)
    beliefs, energies = infer_all(image, probabilities, num_threads=num_threads)
    return (beliefs, energies) if return_energy else beliefs


def _infer_batch(infer, images: np.ndarray, probabilities: np.ndarray, num_threads: int):
    """Refines the segmentations of a batch; the threads share its images."""
    at_once = min(num_threads, len(images))
    with concurrent.futures.ThreadPoolExecutor(at_once) as executor:
        each = [
            executor.submit(infer, *pair, num_threads=num_threads // at_once)
            for pair in zip(images, probabilities, strict=True)
        ]
        return map(np.array, zip(*(one.result() for one in each), strict=True))


def unary_from_labels(
    labels: np.ndarray, num_classes: int, certainty: float, ignore_label: int = 255
) -> np.ndarray:
    """Makes probabilities for `dense_crf` from a label map.

    Args:
        labels: Integers [H, W] or [B, H, W], class ids or the ignore label.
        num_classes: C, at least 2.
        certainty: Probability that a label is right, above 1 / C and below 1. The other classes
            share the rest.
        ignore_label: Pixels with this label get the same probability for every class.

    Returns:
        float32 [H, W, C] or [B, H, W, C].

    Raises:
        UserError: The certainty or a label is out of range.

    Example:

    >>> import deeplab_tf
    >>> import numpy as np
    >>> labels = np.array([[1, 255]], np.uint8)
    >>> deeplab_tf.unary_from_labels(labels, num_classes=2, certainty=0.75)
    array([[[0.25, 0.75],
            [0.5 , 0.5 ]]], dtype=float32)
    """
    labels = np.asarray(labels)
    if num_classes < 2:
        raise UserError(f"num_classes is {num_classes}; it must be at least 2")
    if not 1 / num_classes < certainty < 1:
        raise UserError(
            f"certainty is {certainty}; it must be above 1 / num_classes = "
            f"{1 / num_classes:.3g} and below 1"
        )
    is_known = labels != ignore_label
    known = labels[is_known]
    unknown = known[(known < 0) | (known >= num_classes)]
    if unknown.size or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels must be integers 0..{num_classes - 1} or the ignore label {ignore_label}; "
            f"got {labels.dtype} with {np.unique(unknown)[:5].tolist()}"
        )
    probabilities = np.full((*labels.shape, num_classes), 1 / num_classes, np.float32)
    probabilities[is_known] = (1 - certainty) / (num_classes - 1)
    probabilities[is_known, known] = certainty
    return probabilities


def check_batch(images, probabilities) -> None:
    """Raises a UserError unless these are a batch of images and their probabilities."""
    check_sizes(images, probabilities.shape)
    if len(images.shape) != 4:
        raise UserError(
            f"the images are {list(images.shape)}; pass a batch [B, H, W, 3], such as image[None]"
        )


def check_sizes(image, probabilities_shape) -> None:
    """Raises a UserError unless the shapes match; sizes that a graph does not know pass."""
    image_shape = tuple(image.shape)
    dtype = getattr(image.dtype, "as_numpy_dtype", image.dtype)
    probabilities_shape = tuple(probabilities_shape)
    if len(image_shape) not in (3, 4) or image_shape[-1] != 3 or np.dtype(dtype) != np.uint8:
        raise UserError(
            f"the image must be RGB, uint8 [H, W, 3] or [B, H, W, 3]; got "
            f"{np.dtype(dtype).name} {list(image_shape)}: convert it, for example with "
            'PIL.Image.convert("RGB"), and cast levels 0..255 to uint8'
        )
    known = [
        pair
        for pair in zip(image_shape[:-1], probabilities_shape[:-1], strict=False)
        if None not in pair
    ]
    if len(probabilities_shape) != len(image_shape) or any(a != b for a, b in known):
        raise UserError(
            f"the probabilities {list(probabilities_shape)} do not fit the image "
            f"{list(image_shape)}: resize them to the image first, one distribution per pixel"
        )
    if 0 in image_shape:
        raise UserError(f"the image {list(image_shape)} is empty")
    if probabilities_shape[-1] is None or probabilities_shape[-1] < 2:
        raise UserError(
            f"the probabilities have {probabilities_shape[-1]} class(es); a CRF needs at least 2: "
            "for a foreground probability p pass [1 - p, p]"
        )


def check_parameters(iterations: int, **kernels: float) -> None:
    """Raises a UserError for weights, deviations or iterations that are out of range."""
    if int(iterations) != iterations or iterations < 0:
        raise UserError(f"iterations is {iterations}; it must be an integer of at least 0")
    for name, value in kernels.items():
        if "sigma" in name and not 0 < value < np.inf:
            raise UserError(f"{name} is {value}; it must be positive")
        if "weight" in name and not 0 <= value < np.inf:
            raise UserError(f"{name} is {value}; it must be positive, or 0 to leave the kernel out")


def check_compatibility(compatibility, num_classes: int) -> np.ndarray | None:
    """Returns the compatibility matrix as float32 [C, C], or None."""
    if compatibility is None:
        return None
    compatibility = np.asarray(compatibility, np.float32)
    if compatibility.shape != (num_classes, num_classes):
        raise UserError(
            f"the compatibility matrix is {list(compatibility.shape)}, but the probabilities have "
            f"{num_classes} classes; pass [{num_classes}, {num_classes}]"
        )
    if not np.isfinite(compatibility).all() or not np.allclose(compatibility, compatibility.T):
        raise UserError(
            "the compatibility matrix must be finite and symmetric, because a pair of pixels has "
            "no order; pass (matrix + matrix.T) / 2"
        )
    return compatibility


def _check_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Returns the probabilities as positive float32; raises a UserError if they are not any."""
    if not np.issubdtype(probabilities.dtype, np.floating):
        raise UserError(
            f"the probabilities are {probabilities.dtype}; pass floats that sum to one. For a "
            "label map call unary_from_labels(labels, num_classes, certainty)"
        )
    probabilities = np.ascontiguousarray(probabilities, np.float32)
    sums = probabilities.sum(axis=-1)  # not a product: BLAS threads would go on spinning
    is_wrong = ~(np.abs(sums - 1) <= _SUM_TOLERANCE)
    if is_wrong.any():
        where = tuple(int(i) for i in np.argwhere(is_wrong)[0])
        raise UserError(
            f"the probabilities at {int(is_wrong.sum())} pixel(s) do not sum to one, first at "
            f"{where}: {sums[where]}; apply softmax to logits, and look for NaN"
        )
    if probabilities.min() < 0:
        raise UserError(
            f"the smallest probability is {probabilities.min()}; apply softmax to logits"
        )
    return np.maximum(probabilities, _SMALLEST_PROBABILITY)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _infer_in_tensorflow(image, probabilities, *, screen_classes, num_threads, **settings):
    # Threads and screening only save time, so this form ignores them.
    from deeplab_tf.crf import graph

    del screen_classes, num_threads
    beliefs, energies = graph.infer(image, probabilities, **settings)
    return beliefs.numpy(), energies.numpy()
