"""The permutohedral lattice of an image: high-dimensional Gaussian filtering in linear time.

Similar pixels are close to each other in the space of features. A filter adds the values of pixels
to the lattice points around them (splat), blurs along the axes of the lattice, and interpolates the
values at the pixels (slice).

Reference: Adams, Baek, Davis, Fast High-Dimensional Filtering Using the Permutohedral Lattice,
Eurographics 2010, section 3. The blur visits the axes in the order of the features, as the
authors' code of the fully-connected CRF does; another order changes 0.1 % of the labels.
"""

import builtins
import concurrent.futures
import functools
import math
import typing
from collections.abc import Sequence

import numpy as np

from deeplab_tf.crf import geometry
from deeplab_tf.crf import kernels
from deeplab_tf.errors import UserError

_ITEMS_AT_ONCE = 32768
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

    def map(self, function, *items) -> list:
        """Calls a function with every item, in the threads; returns the results in order."""
        return list((self._executor or builtins).map(function, *items))

    def run(self, kernel, starts, *arguments) -> list:
        """Runs a kernel on every range between two `starts`; returns the results in order."""
        kernel = functools.partial(kernel, *arguments)
        return self.map(kernel, starts[:-1], starts[1:])


def split(count: int) -> list[int]:
    """Splits `range(count)` into ranges of pixels or points; returns where they start, and its end.

    The ranges do not depend on the number of threads, and so neither does the result.
    """
    parts = -(-count // _ITEMS_AT_ONCE)
    return [count * part // parts for part in range(parts + 1)]


class Lattice(typing.NamedTuple):
    """An image's lattice of d dimensions, with M points for N pixels.

    Threads add to the lattice points of a block of pixels at a time. Values on the lattice have a
    row for each point, one of zeros for points that do not exist, and copies of points that several
    blocks use.

    Attributes:
        starts: int64 [blocks + 1], the pixels where the blocks start.
        corners: int32 [N, d + 1], the rows of the lattice points around every pixel.
        weights: float32 [N, d + 1], the barycentric coordinates of the pixel among them, divided by
            the root of the filtered image of ones.
        following: int32 [d + 1, M], the next lattice point along every axis; M if there is none.
        preceding: int32 [d + 1, M], the previous lattice point.
        copies: int32 [rows], the next copy of every row; 0 if there is none.
        first_points: int32 [blocks + 1], the first rows of points that belong to a block.
        first_copies: int32 [blocks + 1], the first rows of copies that belong to a block.
    """

    starts: np.ndarray
    corners: np.ndarray
    weights: np.ndarray
    following: np.ndarray
    preceding: np.ndarray
    copies: np.ndarray
    first_points: np.ndarray
    first_copies: np.ndarray

    @property
    def num_points(self) -> int:
        return self.following.shape[1]

    @property
    def gain(self) -> np.float32:
        """Factor of the blurred values."""
        return geometry.gain(len(self.following) - 1)

    def largest_row_sum(self) -> float:
        """Returns the largest sum of a row of the normalized kernel matrix."""
        num_pixels = len(self.corners)
        sums = np.zeros(len(self.copies), np.float32)
        kernels.splat_ones(self.corners, self.weights, sums, 0, num_pixels)
        sums = kernels.blur_one_channel(sums, self.following, self.preceding, self.copies)
        result = np.empty(num_pixels, np.float32)
        kernels.slice_one_channel(self.corners, self.weights, sums, result, 0, num_pixels)
        return float(result.max() * self.gain)


@functools.lru_cache(maxsize=1)
def build_of_positions(height: int, width: int, sigma: float) -> Lattice:
    """Builds the lattice of positions alone; kept, since the next image often has the same size."""
    return build(np.empty((height, width, 0), np.uint8), sigma, 1.0, Workers(1))


def build(image: np.ndarray, sigma_xy: float, sigma_rgb: float, workers: Workers) -> Lattice:
    """Builds the lattice of an image.

    Args:
        image: uint8 [H, W, 3]; or [H, W, 0] for a lattice of positions alone.
        sigma_xy: Standard deviation in pixels.
        sigma_rgb: Standard deviation in levels 0..255.
        workers: The threads to use.

    Raises:
        UserError: A deviation is so small that the lattice points cannot be distinguished.
    """
    height, width, num_colors = image.shape
    num_pixels, dimensions = height * width, 2 + num_colors
    sigmas = np.float32(sigma_xy), np.float32(sigma_rgb)
    highest = [(width - 1) / sigma_xy, (height - 1) / sigma_xy] + [255 / sigma_rgb] * num_colors
    lows, strides = _key_layout(highest)
    corners = np.empty((num_pixels, dimensions + 1), np.int32)
    weights = np.empty((num_pixels, dimensions + 1), np.float32)
    starts = split(num_pixels)
    keys = workers.run(
        *(kernels.number_points, starts, image.reshape(num_pixels, num_colors), width),
        *(*sigmas, geometry.scales(dimensions), lows, strides, corners, weights),
    )
    ends = np.cumsum([0, *(len(part) for part in keys)])
    point_keys, rows, copies, first_points, first_copies, table, shift = kernels.join_points(
        np.concatenate(keys), ends
    )
    following = np.empty((dimensions + 1, len(point_keys)), np.int32)
    preceding = np.full_like(following, len(point_keys))
    workers.run(
        *(kernels.find_neighbors, split(len(point_keys)), point_keys, strides, table, shift),
        *(following, preceding),
    )
    sums = np.zeros(len(copies), np.float32)
    workers.map(
        lambda start, stop, first, last: kernels.name_rows(
            corners, rows[first:last], weights, sums, start, stop
        ),
        *(starts[:-1], starts[1:], ends[:-1], ends[1:]),
    )
    sums = kernels.blur_one_channel(sums, following, preceding, copies)
    gain = geometry.gain(dimensions)
    workers.run(kernels.normalize, starts, corners, weights, sums, gain)
    return Lattice(
        *(np.array(starts), corners, weights, following, preceding),
        *(copies, first_points, first_copies),
    )


def _key_layout(features: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Packs the coordinates of a lattice point into one number, its key.

    Args:
        features: The highest value of each.

    Returns:
        Lower bounds of the coordinates / (d + 1), float32 [d + 1]; and what a step of d + 1 in a
        coordinate adds to the key, int64 [d + 1]. The last coordinate is left out, since the sum of
        all is 0.
    """
    dimensions = len(features)
    highest = np.array(features, np.float64) * geometry.scales(dimensions)
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
    return lows.astype(np.float32), np.array([*strides, 0], np.int64)
