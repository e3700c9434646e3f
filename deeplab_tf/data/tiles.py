"""Tiles of images that are too large to be trained on as a whole."""

import dataclasses
import threading
import typing
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator

import numpy as np

from deeplab_tf.data import transforms
from deeplab_tf.data.annotations.common import AnnotatedImage

_CACHE_BYTES = 2**29


@dataclasses.dataclass(frozen=True)
class TileOptions:
    """How images are cut into tiles.

    Args:
        size: Height and width of a tile in pixels; empty for whole images.
        overlap: Smallest share of a tile that its neighbour covers, too.
    """

    size: tuple[int, ...] = ()
    overlap: float = 0.0


WHOLE_IMAGES = TileOptions()


def tiles_of(
    image: AnnotatedImage, size: tuple[int, int], options: TileOptions
) -> Iterator[AnnotatedImage]:
    """Yields the tiles of an image, from the top left; the image itself if it is small enough.

    Args:
        image: The image.
        size: Its width and height in pixels, upright.
        options: Size and overlap of the tiles, which are spread evenly.
    """
    width, height = size
    tile_height, tile_width = (min(pair) for pair in zip(options.size, (height, width)))
    tops = transforms.window_starts(height, tile_height, options.overlap)
    lefts = transforms.window_starts(width, tile_width, options.overlap)
    if len(tops) == len(lefts) == 1:
        yield image
        return
    for top in tops:
        for left in lefts:
            yield dataclasses.replace(
                image,
                name=f"{image.name}_{top:05d}_{left:05d}",
                tile=(slice(top, top + tile_height), slice(left, left + tile_width)),
            )


class PixelCache:
    """Keeps the last arrays that were read, so that the tiles of an image decode it once.

    Args:
        max_bytes: Of all arrays together; at least one is kept.
    """

    def __init__(self, max_bytes: int = _CACHE_BYTES):
        self._max_bytes = max_bytes
        self._arrays: dict[Hashable, typing.Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self):
        return PixelCache, (self._max_bytes,)  # without the arrays, in another process

    def get(self, key: Hashable, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns the array of a key; `read` is called where it is not kept."""
        with self._lock:  # threads that want the same array wait for the one that reads it
            if key in self._arrays:
                self._arrays[key] = array = self._arrays.pop(key)  # the newest is the last
                return array
            array = read()
            self._arrays[key] = array
            while len(self._arrays) > 1 and self._num_bytes() > self._max_bytes:
                del self._arrays[next(iter(self._arrays))]
            return array

    def _num_bytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())
