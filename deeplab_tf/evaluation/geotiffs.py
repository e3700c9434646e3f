"""Labels of GeoTIFFs, in windows that are read when their turn comes."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data import band_files
from deeplab_tf.data import bands
from deeplab_tf.data import records
from deeplab_tf.drawing import geotiffs


class WindowedImage:
    """An image file as an array uint8 [H, W, channels] that is read where it is indexed.

    Args:
        file: The image.
        dataset: Describes the bands that are read, and how they are scaled.
    """

    def __init__(self, file: band_files.BandFile, dataset: records.DatasetInfo):
        self._file = file
        self._bands = dataset.bands or rgb_bands_of(file)
        self._numbers = band_files.numbers_for(file, self._bands)
        self.shape = (*file.size[::-1], len(self._numbers))

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (slice(*part.indices(side)[:2]) for part, side in zip(window, self.shape))
        values, is_nodata = self._file.read(rows, columns, self._numbers)
        return band_files.scaled(values, is_nodata, self._bands)

    def small(self, side: int) -> np.ndarray:
        """Returns the image made smaller, uint8 [h, w, channels]."""
        values, is_nodata = self._file.sample(side, self._numbers)
        return band_files.scaled(values, is_nodata, self._bands)


def rgb_bands_of(file: band_files.BandFile) -> tuple[bands.Band, ...]:
    """Returns the bands of an 8-bit GeoTIFF that a network for RGB images sees."""
    numbers: Sequence[int] = file.rgb or bands.default_rgb_bands(len(file.default_numbers))
    return tuple(bands.Band(number, str(number)) for number in numbers)


RowsOf = Callable[[WindowedImage], Iterator[geotiffs.Rows]]
