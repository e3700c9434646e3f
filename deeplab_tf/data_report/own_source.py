"""A folder of images and labels, from any annotation tool, as a source of candidates."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from deeplab_tf.data import records
from deeplab_tf.data.annotations.common import AnnotatedImage
from deeplab_tf.data.own_data import OwnData
from deeplab_tf.data_report.images import Candidate
from deeplab_tf.data_report.images import MeasuredImage
from deeplab_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class OwnSource:
    """Images and labels as `deeplab_tf.data.own_data` found them."""

    data: OwnData

    def __str__(self) -> str:
        return str(self.data.root)

    @property
    def info(self) -> records.DatasetInfo:
        return self.data.info

    @property
    def num_examples(self) -> int:
        return sum(map(len, self.data.splits.values()))

    def candidates(self) -> Iterator[Candidate]:
        """Yields the images of all splits."""
        for split, images in self.data.splits.items():
            for image in images:
                label_name = str(image.label or image.source)
                read = functools.partial(_read, self.data, image)
                is_tile = image.tile is not None
                name = f"{image.image} (tile {image.name})" if is_tile else str(image.image)
                yield Candidate(split, name, label_name, read, is_tile=is_tile)


def _read(
    data: OwnData, image: AnnotatedImage, measured: MeasuredImage
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The pixels, uint8 [H, W, 3], and the ids, int [H, W], as records would hold them."""
    try:
        source = data.read_image(image)
        pixels = source.pixels()
    except UserError as error:
        measured.add_error(error, str(image.image))
        return None, None
    measured.encoding = data.label_encoding or ""
    try:
        return pixels, data.read_label_map(image, source)
    except UserError as error:
        measured.add_error(error, str(image.label or image.source), of_label=True)
        return pixels, None
