"""Mean-field inference in the fully-connected CRF, in numba.

Reference: Krähenbühl, Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials, arXiv:1210.5644, section 3. As in the authors' code, the kernels are normalized
symmetrically, and a pixel gets a message from itself too.
"""

import math
import time

import numpy as np

from deeplab_tf.crf import kernels
from deeplab_tf.crf import lattice
from deeplab_tf.crf.lattice import Lattice
from deeplab_tf.crf.lattice import Workers
from deeplab_tf.crf.vectors import LANES

_PIXELS_AT_ONCE = 4096
_SAMPLED = 61  # a sample has every so many pixels; it divides no usual width
_NAP = 5e-5  # seconds
_LINE = 16  # float32 numbers of a line of the cache


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
        bilateral = lattice.build(
            image,
            parameters["bilateral_sigma_xy"],
            parameters["bilateral_sigma_rgb"],
            workers,
        )
        lattices = [
            (bilateral, parameters["bilateral_weight"]),
            (gaussian(), parameters["gaussian_weight"]),
        ]
        probabilities = probabilities.reshape(-1, num_classes)
        classes = np.arange(num_classes)
        if screen_classes and num_classes > LANES:
            classes = _classes_that_may_win(probabilities, lattices, workers)
        if len(classes) < num_classes:
            probabilities = np.take(probabilities, classes, axis=1)
        field = _MeanField(probabilities, lattices, compatibility, workers)
        energies = _iterate(field, parameters["iterations"], return_energy)
        beliefs = field.beliefs
        if len(classes) < num_classes:
            kept, beliefs = beliefs, np.zeros((height * width, num_classes), np.float32)
            workers.run(_put_columns, lattice.split(len(kept)), kept, classes, beliefs)
    return beliefs.reshape(height, width, num_classes), energies


def _put_columns(values: np.ndarray, columns: np.ndarray, wide: np.ndarray, start, stop) -> None:
    wide[start:stop, columns] = values[start:stop]


def _iterate(field: "_MeanField", iterations: int, return_energy: bool) -> np.ndarray | None:
    """Updates a field; returns the energies before the first and after every update, if wanted."""
    if return_energy:
        energies = []
        for _ in range(iterations + 1):  # the first only fills in the probabilities
            field.update(wants_beliefs=True)
            energies.append(field.energy())
        return np.array(energies)
    for _ in range(iterations):
        field.update()
    field.update(wants_beliefs=True, is_last=True)
    return None


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
        *(kernels.find_leads, range(len(blocks) + 1), probabilities, _PIXELS_AT_ONCE, blocks)
    )
    return np.log(blocks.min(axis=0))


class _MeanField:
    """The beliefs at the pixels of an image, and their updates.

    Attributes:
        beliefs: float32 [N, C], the distribution at every pixel after the last update that wanted
            it.
    """

    def __init__(self, probabilities, lattices, compatibility, workers):
        num_pixels, num_classes = probabilities.shape
        num_channels = kernels.count_channels(num_classes)
        num_lanes = -(-num_classes // LANES) * LANES
        self._workers = workers
        self._compatibility = compatibility
        self.beliefs = np.empty((num_pixels, num_classes), np.float32)
        self._has_messages = False
        built = tuple(one for one, _ in lattices)
        self._field = kernels.Field(
            num_channels=num_channels,
            num_lanes=num_lanes,
            log_probabilities=_logarithms(probabilities, workers),
            costs=_padded_costs(compatibility, num_lanes),
            lattices=built,
            values=tuple(_rows(one, num_channels) for one in built),
            sums=tuple(_rows(one, num_channels) for one in built),
            gains=tuple(np.float32(weight) * one.gain for one, weight in lattices),
        )
        self._tasks = kernels.list_tasks(built)
        self._num_updates = len(built[0].starts) - 1  # the first of the tasks

    def update(self, *, wants_beliefs: bool = False, is_last: bool = False) -> None:
        """Updates the beliefs, and filters them unless it is for the last time."""
        tasks = self._tasks[: self._num_updates] if is_last else self._tasks
        counters, finished = np.zeros(1, np.int64), np.zeros(len(tasks), np.int64)
        beliefs = self.beliefs if wants_beliefs else self.beliefs[:0]

        def work(_) -> None:
            task = -1
            while True:
                task = kernels.work(
                    *(tasks, counters, finished, task, self._field),
                    *(beliefs, self._has_messages, is_last),
                )
                if task < 0:
                    return
                time.sleep(_NAP)

        self._workers.map(work, range(self._workers.num_threads))
        if not is_last:
            self._has_messages = True
            self._field = _with_filtered_values(self._field)

    def energy(self) -> float:
        """Returns the mean-field free energy of the beliefs that were filtered last."""
        num_pixels, num_classes = self.beliefs.shape
        messages = np.zeros((num_pixels, self._field.num_lanes), np.float32)
        for built, values in zip(self._field.lattices, self._field.values, strict=True):
            kernels.add_messages(
                *(built.corners, built.weights, values, self._field.num_channels),
                *(messages.reshape(-1), self._field.num_lanes, 0, num_pixels),
            )
        beliefs = self.beliefs.astype(np.float64)
        log_beliefs = np.log(np.maximum(beliefs, np.finfo(np.float32).tiny))
        logs = self._field.log_probabilities[: beliefs.size].reshape(beliefs.shape)
        own = np.sum(beliefs * (log_beliefs - logs))
        costs = self._compatibility
        if costs is None:
            costs = 1 - np.eye(num_classes)
        return float(own + np.sum(beliefs * (messages[:, :num_classes] @ costs)) / 2)


def _with_filtered_values(field: kernels.Field) -> kernels.Field:
    """Returns a field whose `values` are what the last axis was blurred to."""
    pairs = zip(field.lattices, field.values, field.sums, strict=True)
    values, sums = zip(
        *((a, b) if len(built.following) % 2 else (b, a) for built, a, b in pairs), strict=True
    )
    return field._replace(values=values, sums=sums)


def _logarithms(probabilities: np.ndarray, workers: Workers) -> np.ndarray:
    """Returns the logarithms of [N, C], and a vector of zeros after them."""
    num_pixels, num_classes = probabilities.shape
    logarithms = np.zeros(num_pixels * num_classes + LANES, np.float32)

    def fill(start, stop):
        part = slice(start * num_classes, stop * num_classes)
        np.log(probabilities[start:stop].reshape(-1), out=logarithms[part])

    workers.run(fill, lattice.split(num_pixels))
    return logarithms


def _padded_costs(compatibility: np.ndarray | None, num_lanes: int) -> np.ndarray:
    """Returns a compatibility matrix as flat rows of lanes; nothing for None."""
    if compatibility is None:
        return np.zeros(0, np.float32)
    padding = (0, num_lanes - len(compatibility))
    return np.pad(compatibility, (padding, padding)).reshape(-1)


def _rows(built: Lattice, num_channels: int) -> np.ndarray:
    """Returns rows for the values on a lattice; that for points that do not exist is 0."""
    count = len(built.copies) * num_channels
    array = np.empty(count + _LINE, np.float32)
    rows = array[-(array.ctypes.data // array.itemsize) % _LINE :][:count]
    rows[built.num_points * num_channels :][:num_channels] = 0
    return rows
