"""Numbers of the permutohedral lattice, for both numba and TensorFlow."""

import math

import numpy as np


def scales(dimensions: int) -> np.ndarray:
    """Returns the factors that bring features onto the hyperplane of the lattice, float32 [d].

    Reference: Adams, Baek, Davis, Eurographics 2010, section 3: the diagonal of the matrix E, and
    the deviation of the filter.
    """
    deviation = np.float32(math.sqrt(2 / 3) * (dimensions + 1))
    axes = np.arange(1, dimensions + 1)
    return (1 / np.sqrt(axes * (axes + 1.0)) * deviation).astype(np.float32)


def gain(dimensions: int) -> np.float32:
    """Returns the factor that normalizes the weights of the blur (`alpha` in the authors' code)."""
    return np.float32(1 / (1 + 2.0**-dimensions))
