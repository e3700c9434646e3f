"""The numbers of the permutohedral lattice that numba's and TensorFlow's form share."""

import math

import numpy as np


def scales(dimensions: int) -> np.ndarray:
    """float32 [d], the factors of the features on their way onto the lattice's hyperplane.

    Reference: Adams, Baek, Davis, Eurographics 2010, section 3: the diagonal of the matrix E, and
    the deviation of the filter.
    """
    deviation = np.float32(math.sqrt(2 / 3) * (dimensions + 1))
    axes = np.arange(1, dimensions + 1)
    return (1 / np.sqrt(axes * (axes + 1.0)) * deviation).astype(np.float32)


def gain(dimensions: int) -> np.float32:
    """What makes up for the sum of the blur's weights (`alpha` in the authors' code)."""
    return np.float32(1 / (1 + 2.0**-dimensions))
