"""Mean-field inference in the fully-connected CRF, in numba.

Reference: Krähenbühl, Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials, arXiv:1210.5644, section 3. As in the authors' code, the kernels are normalized
symmetrically, and a pixel gets a message from itself too.
"""

import math

import numpy as np

from deeplab_tf.crf import kernels
from deeplab_tf.crf import lattice
from deeplab_tf.crf.lattice import Lattice
from deeplab_tf.crf.lattice import Workers
from deeplab_tf.crf.vectors import LANES

_NEVER = -1e4  # the logarithm of a probability that stays 0
_PIXELS_AT_ONCE = 4096
_SAMPLED = 61  # a sample has every so many pixels; it divides no usual width


def infer(
    image: np.ndarray,
    probabilities: np.ndarray,
    *,
    parameters: dict,
    compatibility: np.ndarray | None,
    screen_classes: bool,
    return_energy: bool,
    num_threads: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Refines the segmentation of one image; the arguments are those of `dense_crf`, checked.

    Args:
        image: uint8 [H, W, 3].
        probabilities: float32 [H, W, C], positive.
        parameters: `iterations`, weights and sigmas, by name.
        compatibility: float32 [C, C] or None.
        screen_classes: Whether to leave out classes that cannot win a pixel.
        return_energy: Whether to compute energies.
        num_threads: Number of threads.

    Returns:
        Probabilities float32 [H, W, C]; energies, float64 [iterations + 1], or None.
    """
    height, width, num_classes = probabilities.shape
    with Workers(num_threads) as workers:
        gaussian = workers.start(
            lattice.build_of_positions, height, width, float(parameters["gaussian_sigma_xy"])
        )
        positions = lattice.positions(height, width, parameters["bilateral_sigma_xy"])
        colors = lattice.colors(image, parameters["bilateral_sigma_rgb"])
        bilateral = lattice.build(np.concatenate([positions, colors]), workers)
        lattices = [
            (bilateral, parameters["bilateral_weight"]),
            (gaussian(), parameters["gaussian_weight"]),
        ]
        probabilities = probabilities.reshape(-1, num_classes)
        # A row has at least so many channels, whether they are classes or not.
        classes = np.arange(num_classes)
        if screen_classes and num_classes > LANES:
            classes = _classes_that_may_win(probabilities, lattices, workers)
        if len(classes) < num_classes:
            probabilities = np.take(probabilities, classes, axis=1)
        field = _MeanField(probabilities, lattices, compatibility, workers)
        energies = _iterate(field, parameters["iterations"], return_energy)
        beliefs = field.beliefs[:, : len(classes)]
        if len(classes) < num_classes:
            kept, beliefs = beliefs, np.zeros((height * width, num_classes), np.float32)
            workers.run(_put_columns, len(kept), kept, classes, beliefs)
    beliefs = np.ascontiguousarray(beliefs).reshape(height, width, num_classes)
    return beliefs, energies


def _put_columns(values: np.ndarray, columns: np.ndarray, wide: np.ndarray, start, stop) -> None:
    wide[start:stop, columns] = values[start:stop]


def _iterate(field: "_MeanField", iterations: int, return_energy: bool) -> np.ndarray | None:
    """Updates a field; returns the energies before the first and after every update, if wanted."""
    energies = []
    for _ in range(iterations):
        field.filter()
        if return_energy:
            energies.append(field.energy())
        field.update()
    if not return_energy:
        return None
    field.filter()
    return np.array([*energies, field.energy()])


def try_out() -> None:
    """Calls every kernel once, on four pixels: numba compiles them, or raises an error."""
    image = np.zeros((2, 2, 3), np.uint8)
    probabilities = np.full((2, 2, LANES + 1), 1 / LANES, np.float32)
    probabilities[..., -1] = 1e-6  # to be screened
    kernels_of_one = {
        "iterations": 1,
        "bilateral_weight": 1.0,
        "bilateral_sigma_xy": 1.0,
        "bilateral_sigma_rgb": 1.0,
        "gaussian_weight": 1.0,
        "gaussian_sigma_xy": 1.0,
    }
    infer(
        image,
        probabilities,
        parameters=kernels_of_one,
        compatibility=None,
        screen_classes=True,
        return_energy=True,
        num_threads=1,
    )


def _classes_that_may_win(
    probabilities: np.ndarray, lattices: list[tuple[Lattice, float]], workers: Workers
) -> np.ndarray:
    """The ids of the classes that can become the most probable one at a pixel.

    The messages to a class are at most R q, where R sums weight * largest row sum over the kernels
    and q is the largest belief in the class. If the log-probability of a class is behind by at
    least g everywhere, q stays below a solution of q = exp(R q - g), and there is one below 1 / R
    if g >= 1 + log(R).
    """
    num_classes = probabilities.shape[1]
    weights = sum(weight for _, weight in lattices)
    if weights == 0:
        return np.unique(probabilities.argmax(axis=1))
    # The largest row sum of a normalized kernel is at least 1: often no class is far enough behind,
    # and a few pixels show it.
    least = 1 + math.log(weights)
    for step in (_SAMPLED, 1):
        behind = _behind(np.ascontiguousarray(probabilities[::step]), workers)
        if behind.max() < least:
            return np.arange(num_classes)
    sums = [workers.start(built.largest_row_sum) for built, _ in lattices]
    limit = sum(weight * row_sum() for (_, weight), row_sum in zip(lattices, sums, strict=True))
    return np.flatnonzero(behind < 1 + math.log(limit))


def _behind(probabilities: np.ndarray, workers: Workers) -> np.ndarray:
    """How far the log-probability of each class is behind the largest at least: float32 [C]."""
    num_pixels, num_classes = probabilities.shape
    blocks = np.empty((-(-num_pixels // _PIXELS_AT_ONCE), num_classes), np.float32)
    workers.run(
        *(kernels.find_leads, len(blocks), probabilities, _PIXELS_AT_ONCE, blocks), fewest=1
    )
    return np.log(blocks.min(axis=0))


class _MeanField:
    """The beliefs at the pixels of an image, and their updates.

    Attributes:
        beliefs: float32 [N, max(C, 8)], the distribution at every pixel; columns from C on are 0.
    """

    def __init__(self, probabilities, lattices, compatibility, workers):
        num_pixels, num_classes = probabilities.shape
        self._workers = workers
        self._num_classes = num_classes
        self._num_channels = max(num_classes, LANES)
        self._set_probabilities(probabilities)
        self._compatibility = compatibility
        self._costs = np.zeros(0, np.float32)
        if compatibility is not None:
            costs = np.zeros([self._num_channels] * 2, np.float32)
            costs[:num_classes, :num_classes] = compatibility
            self._costs = costs.reshape(-1)

        # Two halves with a row per lattice point, and a row of zeros after each lattice: a blur
        # reads from one half and writes to the other.
        num_rows = sum(built.num_points + 1 for built, _ in lattices)
        self._values = np.zeros(2 * num_rows * self._num_channels, np.float32)
        corners = sum(built.points.shape[1] for built, _ in lattices)
        self._points = np.empty((num_pixels, corners), np.int32)
        self._weights = np.empty((num_pixels, corners), np.float32)
        self._lattices = []
        row = column = 0
        for built, weight in lattices:
            halves = [
                self._values[start * self._num_channels :][
                    : (built.num_points + 1) * self._num_channels
                ]
                for start in (row, row + num_rows)
            ]
            self._lattices.append((built, halves))
            num_axes = len(built.following)
            workers.run(
                kernels.join_corners,
                num_pixels,
                *(built.points, built.weights, built.slice_scale * np.float32(weight)),
                row + (num_rows if num_axes % 2 else 0),
                *(self._points, self._weights, column),
            )
            row += built.num_points + 1
            column += num_axes

    def _set_probabilities(self, probabilities: np.ndarray) -> None:
        num_pixels, num_classes = probabilities.shape
        self.beliefs = np.empty((num_pixels, self._num_channels), np.float32)
        self._log_probabilities = np.empty_like(self.beliefs)

        def fill(start, stop):
            rows, part = slice(start, stop), probabilities[start:stop]
            # Not a product: BLAS would start threads of its own, which take time from ours.
            sums = part.sum(axis=1)
            np.divide(part, sums[:, None], out=self.beliefs[rows, :num_classes])
            np.log(part, out=self._log_probabilities[rows, :num_classes])
            self.beliefs[rows, num_classes:] = 0
            self._log_probabilities[rows, num_classes:] = _NEVER

        self._workers.run(fill, num_pixels)

    def filter(self) -> None:
        """Splats the beliefs onto the lattices and blurs them there."""
        beliefs, num_channels = self.beliefs.reshape(-1), self._num_channels
        self._workers.run_together(
            [
                (kernels.splat, built.num_points, beliefs, *built.entries, halves[0], num_channels)
                for built, halves in self._lattices
            ]
        )
        for axis in range(max(len(built.following) for built, _ in self._lattices)):
            self._workers.run_together(
                [
                    (
                        *(kernels.blur, built.num_points, halves[axis % 2], halves[1 - axis % 2]),
                        *(built.following[axis], built.preceding[axis], num_channels),
                    )
                    for built, halves in self._lattices
                    if axis < len(built.following)
                ]
            )

    def update(self) -> None:
        """Updates the beliefs with the values on the lattices."""
        self._workers.run(
            kernels.update,
            len(self.beliefs),
            *(self._log_probabilities.reshape(-1), self._points, self._weights, self._values),
            *(self._costs, self.beliefs.reshape(-1), self._num_channels),
        )

    def energy(self) -> float:
        """Returns the mean-field free energy of the beliefs that were filtered last."""
        messages = np.empty_like(self.beliefs)
        self._workers.run(
            kernels.slice_messages,
            len(self.beliefs),
            *(self._points, self._weights, self._values),
            *(messages.reshape(-1), self._num_channels),
        )
        used = slice(self._num_classes)
        beliefs = self.beliefs[:, used].astype(np.float64)
        log_beliefs = np.log(np.maximum(beliefs, np.finfo(np.float32).tiny))
        own = np.sum(beliefs * (log_beliefs - self._log_probabilities[:, used]))
        costs = self._compatibility
        if costs is None:
            costs = 1 - np.eye(self._num_classes)
        return float(own + np.sum(beliefs * (messages[:, used] @ costs)) / 2)
