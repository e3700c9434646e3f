"""The permutohedral lattice of an image: high-dimensional Gaussian filtering in linear time.

Similar pixels are close to each other in the space of features. A filter adds the values of pixels
to the lattice points around them (splat), blurs along the axes of the lattice, and interpolates the
values at the pixels (slice).

Reference: Adams, Baek, Davis, Fast High-Dimensional Filtering Using the Permutohedral Lattice,
Eurographics 2010, section 3. The blur visits the axes in the order of the features, as the
authors' code of the fully-connected CRF does; another order changes 0.1 % of the labels.
"""

import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from deeplab_tf.crf import geometry
from deeplab_tf.crf import kernels
from deeplab_tf.errors import UserError

_FEWEST_PER_THREAD = 4096
_LARGEST_KEY = 2**62


class Workers:
    """Runs kernels on ranges of pixels or lattice points, in several threads; a context manager."""

    def __init__(self, num_threads: int):
        self.num_threads = num_threads
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None

    def __enter__(self):
        if self.num_threads > 1:
            self._executor = concurrent.futures.ThreadPoolExecutor(self.num_threads)
        return self

    def __exit__(self, *error):
        if self._executor:
            self._executor.shutdown()

    def start(self, function, *arguments):
        """Starts a function in a thread; returns a function that waits for its result."""
        if self._executor:
            return self._executor.submit(function, *arguments).result
        return functools.partial(function, *arguments)

    def run(self, kernel, count: int, *arguments, fewest: int = _FEWEST_PER_THREAD) -> None:
        """Runs a kernel on `range(count)`, at least `fewest` items per thread."""
        self.run_together([(kernel, count, *arguments)], fewest)

    def run_together(self, jobs: Sequence[tuple], fewest: int = _FEWEST_PER_THREAD) -> None:
        """Runs kernels that do not depend on each other; the threads wait for each other once.

        Args:
            jobs: A kernel, the number of its items, and its arguments.
            fewest: Items that a thread has of the longest job, at least.
        """
        longest = max(count for _, count, *_ in jobs)
        parts = max(1, min(self.num_threads, longest // fewest))

        def run_part(part: int) -> None:
            for kernel, count, *arguments in jobs:
                kernel(*arguments, count * part // parts, count * (part + 1) // parts)

        waits = [self.start(run_part, part) for part in range(1, parts)]
        run_part(0)
        for wait in waits:
            wait()


@dataclasses.dataclass(frozen=True)
class Lattice:
    """An image's lattice of d dimensions, with M points for N pixels.

    Attributes:
        points: int32 [N, d + 1], the lattice points around every pixel.
        weights: float32 [N, d + 1], the barycentric coordinates of the pixel among them.
        following: int32 [d + 1, M], the next lattice point along every axis; M if there is none.
        preceding: int32 [d + 1, M], the previous lattice point.
        normalization: float32 [N], 1 / sqrt(the filtered image of ones).
        entries: The pixels of every lattice point and their normalized weights, as
            `kernels.sort_entries` returns them, scaled by the normalization.
    """

    points: np.ndarray
    weights: np.ndarray
    following: np.ndarray
    preceding: np.ndarray
    normalization: np.ndarray
    entries: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def num_points(self) -> int:
        return self.following.shape[1]

    @property
    def slice_scale(self) -> np.ndarray:
        """Factor of the sum over the lattice points of every pixel, float32 [N]."""
        return self.normalization * geometry.gain(len(self.following) - 1)

    def largest_row_sum(self) -> float:
        """Returns the largest sum of a row of the normalized kernel matrix."""
        filtered = kernels.filter_channel(
            self.normalization, self.points, self.weights, self.following, self.preceding
        )
        return float(np.max(filtered * self.slice_scale))


def positions(height: int, width: int, sigma: float) -> np.ndarray:
    """Returns x and y of every pixel in units of `sigma` pixels, float32 [2, H * W]."""
    y, x = np.divmod(np.arange(height * width, dtype=np.int32), np.int32(width))
    return np.stack([x, y]).astype(np.float32) / np.float32(sigma)


def colors(image: np.ndarray, sigma: float) -> np.ndarray:
    """Returns R, G and B of every pixel in units of `sigma` levels, float32 [3, H * W]."""
    return image.reshape(-1, 3).T.astype(np.float32) / np.float32(sigma)


@functools.lru_cache(maxsize=1)
def build_of_positions(height: int, width: int, sigma: float) -> Lattice:
    """Builds the lattice of positions alone; kept, since the next image often has the same size."""
    return build(positions(height, width, sigma), Workers(1))


def build(features: np.ndarray, workers: Workers) -> Lattice:
    """Builds the lattice of an image.

    Args:
        features: float32 [d, N], at least 0, in units of the standard deviations.
        workers: The threads to use.

    Raises:
        UserError: A deviation is so small that the lattice points cannot be distinguished.
    """
    dimensions, num_pixels = features.shape
    lows, strides, num_keys = _key_layout(features)
    keys = np.empty((num_pixels, dimensions + 1), np.int64)
    weights = np.empty((num_pixels, dimensions + 1), np.float32)
    workers.run(
        kernels.find_simplices,
        num_pixels,
        *(features, geometry.scales(dimensions), lows, strides, keys, weights),
    )
    points, point_keys, table, shift = kernels.number_points(keys, num_keys)
    num_points = len(point_keys)
    following = np.empty((dimensions + 1, num_points), np.int32)
    preceding = np.empty_like(following)
    workers.run(kernels.find_neighbors, num_points, point_keys, strides, table, shift, following)
    workers.run(kernels.invert_neighbors, dimensions + 1, following, preceding, fewest=1)
    entries = workers.start(kernels.sort_entries, points, weights, num_points)
    ones = np.ones(num_pixels, np.float32)
    filtered = kernels.filter_channel(ones, points, weights, following, preceding)
    normalization = 1 / np.sqrt(filtered * geometry.gain(dimensions) + np.float32(1e-20))
    starts, entry_pixels, entry_weights = entries()
    workers.run(
        kernels.scale_entries, len(entry_pixels), entry_pixels, normalization, entry_weights
    )
    return Lattice(
        *(points, weights, following, preceding, normalization),
        entries=(starts, entry_pixels, entry_weights),
    )


def _key_layout(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Packs the coordinates of a lattice point into one number, its key.

    Returns:
        Lower bounds of the coordinates / (d + 1), float32 [d + 1]; what a step of d + 1 in a
        coordinate adds to the key, int64 [d + 1]; and the number of keys. The last coordinate is
        left out, since the sum of all is 0.
    """
    dimensions = len(features)
    highest = features.max(axis=1).astype(np.float64) * geometry.scales(dimensions)
    # A coordinate is the sum of the later features minus a multiple of the previous one.
    uppers = [highest[i:].sum() for i in range(dimensions)]
    lowers = [-i * highest[i - 1] if i else 0.0 for i in range(dimensions + 1)]
    # Room for rounding, for a step back onto the plane, and for the coordinates of neighbors.
    lows = np.floor(np.array(lowers) / (dimensions + 1)) - 3
    strides, num_keys = [], dimensions + 1
    for lower, upper in zip(lows[:-1], uppers, strict=True):
        strides.append(num_keys)
        num_keys *= math.ceil(upper / (dimensions + 1)) + 4 - int(lower)
    if num_keys > _LARGEST_KEY:
        raise UserError(
            "the deviations (sigmas) of the CRF are too small for an image of this size; "
            "pass larger ones, in pixels and in levels 0..255"
        )
    return lows.astype(np.float32), np.array([*strides, 0], np.int64), num_keys
