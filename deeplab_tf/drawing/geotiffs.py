"""Label maps as GeoTIFFs that lie where their images lie, written band of rows by band of rows."""

import contextlib
import json
import pathlib
import typing
import warnings
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from deeplab_tf.data import band_files
from deeplab_tf.drawing import palettes

ENDING = ".tif"
OVERLAY_SIDE = 2048  # of the overlay, pixels at most

Rows = tuple[slice, np.ndarray]  # rows of an image, and their class ids, int32 [rows, W]


def write(
    path: str,
    source: band_files.RasterFile,
    rows_of_labels: Iterable[Rows],
    *,
    class_names: Sequence[str],
    colors: palettes.Colors,
    ignore_label: int,
) -> None:
    """Writes class ids with the coordinate system and the transform of an image.

    The file has one band, with the class colours as its palette (up to 256 classes) and the class
    names as its tag `class_names`, in JSON. Where the image holds no data, the ignore label stands,
    which is the file's value for that.

    Args:
        path: File to write.
        source: The image, a GeoTIFF.
        rows_of_labels: Class ids from top to bottom.
        class_names: Name per class.
        colors: RGB per class.
        ignore_label: Label where the image holds no data.

    Raises:
        OSError: The file cannot be written.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    dtype = "uint8" if len(class_names) <= 256 else "uint16"
    profile = {"dtype": dtype, "nodata": ignore_label} | _place(source)
    width, height = source.size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            target = rasterio.open(
                path, "w", driver="GTiff", width=width, height=height, count=1,
                compress="deflate", bigtiff="if_safer", **profile,
            )  # fmt: skip
        with target:
            if dtype == "uint8":
                table = palettes.color_table(colors, 256)
                target.write_colormap(1, dict(enumerate(map(tuple, table.tolist()))))
            target.update_tags(class_names=json.dumps(list(class_names)))
            for rows, labels in rows_of_labels:
                is_nodata = source.nodata(rows)
                if is_nodata is not None:
                    labels = np.where(is_nodata, ignore_label, labels)
                window = Window(0, rows.start, width, rows.stop - rows.start)
                target.write(labels.astype(dtype), 1, window=window)
    except RasterioError as error:
        raise OSError(str(error)) from error


def read_small(path: str, side: int = OVERLAY_SIDE) -> np.ndarray:
    """Reads the class ids of a written file, made smaller by leaving out pixels, int32 [h, w]."""
    with contextlib.closing(band_files.RasterFile(pathlib.Path(path))) as file:
        values, _ = file.sample(side, (1,))
    return values[..., 0].astype(np.int32)


def _place(source: band_files.RasterFile) -> dict[str, typing.Any]:
    """Where an image lies, as rasterio takes it."""
    dataset = source.dataset
    points, system = dataset.gcps
    if points:
        return {"gcps": points, "crs": system}
    place = {"crs": dataset.crs, "transform": dataset.transform}
    return place | ({"rpcs": dataset.rpcs} if dataset.rpcs else {})
