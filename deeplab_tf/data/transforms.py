"""Pure operations on one example; image and label always move together.

An example is a dict with `image` [H, W, C] (uint8 or float32, 0..255) and `label` [H, W] (integer,
class ids or the ignore label). Images are interpolated, labels never are. What the operations
compute is that of the original's `preprocess_utils.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

Example = dict[str, tf.Tensor]
RandomOperation = Callable[[Example, tf.Tensor], Example]  # with a stateless seed, int [2]

_CROP_TRIES = 10  # of mmsegmentation, whose `cat_max_ratio` redraws crops so

# The networks that scale pixels to -1..1 see this padding as zero.
MEAN_PIXEL = (127.5, 127.5, 127.5)


def decode(image_bytes: tf.Tensor, num_channels: int = 3) -> tf.Tensor:
    """Decodes a JPEG or PNG to uint8 [H, W, C], to the pixels that OpenCV and Pillow see.

    Args:
        image_bytes: The file; for other than 3 channels, a grey PNG of bands one below the other.
        num_channels: C.
    """
    if num_channels != 3:
        rows = tf.io.decode_png(image_bytes, channels=1)  # [C*H, W, 1]
        bands = tf.reshape(rows, [num_channels, -1, tf.shape(rows)[1]])
        return tf.transpose(bands, [1, 2, 0])
    # By default TensorFlow decodes JPEGs with a rougher transform, whose colours are off by 1 or 2.
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(image_bytes, channels=3, expand_animations=False),
    )


def resize_bilinear(images: tf.Tensor, size) -> tf.Tensor:
    """Resizes [N, H, W, C] bilinearly with align_corners; returns float32."""
    return tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=True)


def resize_nearest(labels: tf.Tensor, size) -> tf.Tensor:
    """Resizes class ids [N, H, W] to the nearest neighbour with align_corners."""
    return tf.raw_ops.ResizeNearestNeighbor(
        images=labels[..., tf.newaxis], size=size, align_corners=True
    )[..., 0]


def resize_to_range_size(
    height, width, min_size: int, max_size: int | None, factor: int | None
) -> tf.Tensor:
    """Returns the size that the original's `resize_to_range` gives an image.

    The shorter side becomes `min_size`, unless the longer one would exceed `max_size`: then that
    becomes `max_size`.

    Args:
        height: Height of the image in pixels; a number or a scalar tensor.
        width: Its width.
        min_size: Wanted length of the shorter side in pixels.
        max_size: Bound of the longer side in pixels; None for none.
        factor: Both sides are rounded up to a multiple of it plus 1; None for no rounding.

    Returns:
        int32 [2], the new height and width.
    """
    sides = tf.cast(tf.stack([height, width]), tf.float32)
    # Floors of float32 products, as in the original: float64 gives other sizes.
    scale = tf.cast(min_size, tf.float32) / tf.reduce_min(sides)
    size = tf.cast(sides * scale, tf.int32)
    if max_size is not None:
        if factor:
            max_size = (max_size - 1) // factor * factor + 1
        smaller = tf.cast(sides * (tf.cast(max_size, tf.float32) / tf.reduce_max(sides)), tf.int32)
        size = tf.where(tf.reduce_max(size) > max_size, smaller, size)
    if factor:
        size += (factor - (size - 1) % factor) % factor
    return size


def resize(example: Example, size) -> Example:
    """Resizes an example to `size`, height and width; the image becomes float32."""
    return example | {
        "image": resize_bilinear(example["image"][tf.newaxis], size)[0],
        "label": resize_nearest(example["label"][tf.newaxis], size)[0],
    }


def rounded(example: Example) -> Example:
    """Rounds the image to whole levels, uint8."""
    return example | {"image": tf.cast(example["image"] + 0.5, tf.uint8)}


def pad_to(
    example: Example, height: int, width: int, ignore_label: int, pad_pixel=MEAN_PIXEL
) -> Example:
    """Pads an example at the bottom and right to at least height x width.

    The padding is the mean pixel, and the ignore label: it counts nowhere.
    """
    image, label = tf.cast(example["image"], tf.float32), example["label"]
    shape = tf.shape(label)
    paddings = [[0, tf.maximum(height - shape[0], 0)], [0, tf.maximum(width - shape[1], 0)]]
    image, label = tf.cond(
        tf.reduce_any(shape < [height, width]),
        lambda: (
            tf.pad(image - pad_pixel, paddings + [[0, 0]]) + pad_pixel,
            tf.pad(label, paddings, constant_values=ignore_label),
        ),
        lambda: (image, label),
    )
    return example | {"image": image, "label": label}


def cut(example: Example, top, left, height, width) -> Example:
    """Cuts a window out of an example."""
    size = tf.minimum(tf.shape(example["label"]) - [top, left], [height, width])
    return example | {
        "image": tf.slice(example["image"], [top, left, 0], [size[0], size[1], -1]),
        "label": tf.slice(example["label"], [top, left], size),
    }


def flipped(example: Example) -> Example:
    """Mirrors an example left to right."""
    return example | {key: tf.reverse(example[key], [1]) for key in ("image", "label")}


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Returns where windows begin along one side of an image.

    They are spread evenly: the first begins at 0, the last ends with the image.

    Args:
        size: Side of the image in pixels.
        window: Side of a window in pixels. One window is enough if it is as large as the image.
        overlap: Smallest share of a window that the next one covers too.
    """
    if window >= size:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((size - window) / step) + 1
    return [round(index * (size - window) / (count - 1)) for index in range(count)]


@dataclasses.dataclass(frozen=True)
class TrainingCrop:
    """The original's training augmentation: resize, scale, pad, crop, flip.

    Called with an example and random integers, it returns the crop as a TensorFlow graph.
    `fast_crop.py` computes the same outside of TensorFlow, from the same integers.

    Attributes:
        crop_size: Height and width of the crop in pixels.
        ignore_label: Label of the padding.
        min_resize_value: `min_size` of `resize_to_range_size`; None for no resizing.
        max_resize_value: Its `max_size`.
        resize_factor: Its `factor`.
        min_scale_factor: Smallest random scale.
        max_scale_factor: Largest random scale.
        scale_factor_step_size: Step between the scales; one that does not divide the range is
          stretched, as in the original. 0 draws any scale between.
        flip: Whether half of the examples are flipped left to right.
        pad_pixel: Colour of the padding, a value for each channel; rounded, for crops are uint8.
        max_class_share: A crop that one class fills to more than this share is drawn again, up to
          ten times. 1 for never; the original does not.

    Reference:
        `preprocess_image_and_label` of the original's `input_preprocess.py`.
    """

    crop_size: tuple[int, int]
    ignore_label: int
    min_resize_value: int | None = None
    max_resize_value: int | None = None
    resize_factor: int | None = None
    min_scale_factor: float = 0.5
    max_scale_factor: float = 2.0
    scale_factor_step_size: float = 0.25
    flip: bool = True
    pad_pixel: tuple[float, ...] = MEAN_PIXEL
    max_class_share: float = 1.0

    @functools.cached_property
    def scales(self) -> np.ndarray:
        """The scales that are drawn from, float32; empty where any between is."""
        smallest, largest = self.min_scale_factor, self.max_scale_factor
        step = self.scale_factor_step_size
        count = int((largest - smallest) / step + 1) if step else 0
        return np.linspace(smallest, largest, count).astype(np.float32)

    @property
    def num_tries(self) -> int:
        return _CROP_TRIES if self.max_class_share < 1 else 1

    @property
    def num_draws(self) -> int:
        """How many random integers a crop takes: for scale, flip, and the offset of every try."""
        return 2 + 2 * self.num_tries

    @functools.cached_property
    def pad_color(self) -> tuple[int, ...]:
        return tuple(int(value + 0.5) for value in self.pad_pixel)

    def __call__(self, example: Example, draws: tf.Tensor) -> Example:
        """Cuts a crop.

        Args:
            example: `image` uint8 [H, W, C], `label` uint8 [H, W]; other keys stay.
            draws: int32 [num_draws], any integers.

        Returns:
            The example, uint8, of `crop_size`.
        """
        height, width = self.crop_size
        if self.min_resize_value:
            size = tf.shape(example["label"])
            size = resize_to_range_size(
                size[0], size[1], self.min_resize_value, self.max_resize_value, self.resize_factor
            )
            example = rounded(resize(example, size))
        size = self._scaled_size(tf.shape(example["label"]), draws[0])
        top, left = tf.unstack(self._offset(example["label"], size, draws))
        example = rounded(cut(resize(example, size), top, left, height, width))
        # The original pads, then crops. A side that needs padding is not cropped, so that the
        # result is the same.
        example = pad_to(example, height, width, self.ignore_label, self.pad_color)
        if self.flip:
            unflipped = example
            example = tf.cond(
                draws[1] % 2 == 1, lambda: flipped(unflipped), lambda: dict(unflipped)
            )
        return example | {
            "image": tf.ensure_shape(
                tf.cast(example["image"], tf.uint8), [height, width, len(self.pad_color)]
            ),
            "label": tf.ensure_shape(example["label"], [height, width]),
        }

    def _scaled_size(self, size: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        if len(self.scales):
            scale = tf.constant(self.scales)[draw % len(self.scales)]
        else:
            share = tf.cast(draw % 2**20, tf.float32) / 2**20
            scale = self.min_scale_factor + (self.max_scale_factor - self.min_scale_factor) * share
        return tf.maximum(tf.cast(tf.cast(size, tf.float32) * scale, tf.int32), 1)

    def _offset(self, label: tf.Tensor, size: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Returns the crop's top and left in the image of `size` that the label is scaled to."""
        offsets = tf.reshape(draws[2:], [-1, 2]) % tf.maximum(size - self.crop_size + 1, 1)
        if self.num_tries == 1:
            return offsets[0]
        # Shares are counted on the label before scaling.
        scale = tf.cast(tf.shape(label), tf.float32) / tf.cast(size, tf.float32)
        begins = tf.cast(tf.cast(offsets, tf.float32) * scale, tf.int32)
        window = tf.cast(tf.math.ceil(tf.cast(self.crop_size, tf.float32) * scale), tf.int32)

        def fits(begin):
            part = tf.slice(label, begin, tf.minimum(tf.shape(label) - begin, window))
            counts = tf.math.bincount(tf.cast(part, tf.int32), minlength=256, maxlength=256)
            counts = tf.where(tf.range(256) == self.ignore_label, 0, counts)
            share = tf.reduce_max(counts) / tf.maximum(tf.reduce_sum(counts), 1)  # float64
            return (share > 0) & (share <= self.max_class_share)

        # The first that fits; the first of all where none does.
        fitting = tf.map_fn(fits, begins, fn_output_signature=tf.bool)
        return offsets[tf.argmax(tf.cast(fitting, tf.int32))]
