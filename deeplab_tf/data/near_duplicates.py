"""Finds duplicate images: copies, also resized, compressed again, brightened or mirrored.

An image is reduced to a grey square of 16x16 values with mean 0 and norm 1; two images are alike if
these squares, or one of them mirrored, correlate. What has no contrast is compared by its bytes.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import cv2
import numpy as np

_SIDE = 16  # values per side of the square
MIN_CORRELATION = 0.98
_FLAT = 2.0  # standard deviation, of 0..255, below which there is nothing to compare
_AT_ONCE = 2**24  # comparisons, which take 64 MiB


@dataclasses.dataclass(frozen=True)
class Look:
    """What is kept of an image to find duplicates of it."""

    digest: bytes  # equal for equal pixels
    square: np.ndarray | None  # float32 [256]; None of an image without contrast

    @classmethod
    def of(cls, image: np.ndarray) -> "Look":
        """Reduces an image, uint8 [H, W, 3] or [H, W]."""
        digest = hashlib.blake2b(
            np.ascontiguousarray(image).data, digest_size=16, salt=b"%d" % image.shape[1]
        ).digest()
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        square = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        if square.std() < _FLAT:
            return cls(digest, None)
        square -= square.mean()
        return cls(digest, (square / np.linalg.norm(square)).ravel())


def find_alike(looks: Sequence[Look]) -> list[tuple[int, int, str]]:
    """Returns pairs of duplicate images.

    Args:
        looks: Of all images.

    Returns:
        Index of the first, index of the second, and how they are alike: "equal", "nearly equal" or
        "mirrored". Sorted; `first < second`.
    """
    pairs: dict[tuple[int, int], str] = {}
    first_by_digest: dict[bytes, int] = {}
    for index, look in enumerate(looks):
        first = first_by_digest.setdefault(look.digest, index)
        if first != index:
            pairs[first, index] = "equal"
    found = [(index, look.square) for index, look in enumerate(looks) if look.square is not None]
    indices = [index for index, _ in found]
    if not indices:
        return sorted((*pair, how) for pair, how in pairs.items())
    squares = np.stack([square for _, square in found])  # [N, 256]
    images = squares.reshape(-1, _SIDE, _SIDE)
    versions = {
        "nearly equal": images,
        "mirrored": images[:, :, ::-1],
        "mirrored ": images[:, ::-1],  # upside down
    }
    for how, version in versions.items():
        others = version.reshape(len(indices), -1).T
        num_rows = max(_AT_ONCE // len(indices), 1)
        for start in range(0, len(indices), num_rows):
            # With later ones only: the relation is symmetric for mirrored images, too.
            correlation = squares[start : start + num_rows] @ others[:, start:]
            rows, columns = np.nonzero(correlation > MIN_CORRELATION)
            for row, column in zip((rows + start).tolist(), (columns + start).tolist()):
                if row < column:
                    pairs.setdefault((indices[row], indices[column]), how.strip())
    return sorted((*pair, how) for pair, how in pairs.items())


def groups(num_images: int, pairs: Sequence[tuple[int, int, str]]) -> list[list[int]]:
    """Returns groups of images; each image is linked by a pair to another one of its group."""
    parents = list(range(num_images))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for first, second, _ in pairs:
        parents[root(second)] = root(first)
    members: dict[int, list[int]] = {}
    for index in range(num_images):
        members.setdefault(root(index), []).append(index)
    return list(members.values())
