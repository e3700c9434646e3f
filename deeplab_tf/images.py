"""Pure operations on one example; image and label always move together.

An example is a dict with `image` [H, W, 3] (uint8 or float32, 0..255) and `label` [H, W] (int32,
class ids or the ignore label). Images are interpolated, labels never are. The random operations
take a stateless seed, int [2], and follow the original's `preprocess_utils.py`.
"""

from collections.abc import Callable

import tensorflow as tf

Example = dict[str, tf.Tensor]
RandomOperation = Callable[[Example, tf.Tensor], Example]

# The networks that scale pixels to -1..1 see this padding as zero.
MEAN_PIXEL = (127.5, 127.5, 127.5)


def resize_bilinear(pictures: tf.Tensor, size) -> tf.Tensor:
    """Resizes [N, H, W, C] bilinearly with align_corners; returns float32."""
    return tf.raw_ops.ResizeBilinear(images=pictures, size=size, align_corners=True)


def resize_nearest(labels: tf.Tensor, size) -> tf.Tensor:
    """Resizes class ids [N, H, W] to the nearest neighbour with align_corners."""
    return tf.raw_ops.ResizeNearestNeighbor(
        images=labels[..., tf.newaxis], size=size, align_corners=True
    )[..., 0]


def resize_to_range_size(
    height, width, min_size: int, max_size: int | None, factor: int | None
) -> tf.Tensor:
    """Returns the size that the original's `resize_to_range` gives a picture.

    The shorter side becomes `min_size`, unless the longer one would exceed `max_size`: then that
    becomes `max_size`.

    Args:
        height: Height of the picture in pixels; a number or a scalar tensor.
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


def resize_to_range(
    example: Example, min_size: int, max_size: int | None, factor: int | None
) -> Example:
    """Resizes an example to the size of `resize_to_range_size`."""
    shape = tf.shape(example["label"])
    return _resize(example, resize_to_range_size(shape[0], shape[1], min_size, max_size, factor))


def random_scale(
    example: Example, seed: tf.Tensor, min_scale: float, max_scale: float, step: float
) -> Example:
    """Resizes an example by one of the scales min_scale, min_scale + step, ..., max_scale.

    A step that does not divide the range is stretched, as in the original; a step of 0 draws any
    scale between.
    """
    if step:
        scales = tf.linspace(min_scale, max_scale, int((max_scale - min_scale) / step + 1))
        drawn = tf.random.stateless_uniform([], seed, 0, tf.size(scales), tf.int32)
        scale = tf.cast(scales[drawn], tf.float32)
    else:
        scale = tf.random.stateless_uniform([], seed, min_scale, max_scale)
    sides = tf.cast(tf.shape(example["label"]), tf.float32)
    return _resize(example, tf.cast(sides * scale, tf.int32))


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


def random_crop(example: Example, seed: tf.Tensor, height: int, width: int) -> Example:
    """Cuts a random window of at most height x width out of an example."""
    shape = tf.shape(example["label"])
    size = tf.minimum(shape, [height, width])
    room = shape - size + 1
    top, left = tf.unstack(tf.random.stateless_uniform([2], seed, 0, 2**30, tf.int32) % room)
    return example | {
        "image": tf.slice(example["image"], [top, left, 0], [size[0], size[1], 3]),
        "label": tf.slice(example["label"], [top, left], size),
    }


def random_flip(example: Example, seed: tf.Tensor) -> Example:
    """Flips an example left to right, half of the time."""
    image, label = example["image"], example["label"]
    image, label = tf.cond(
        tf.random.stateless_uniform([], seed) < 0.5,
        lambda: (tf.reverse(image, [1]), tf.reverse(label, [1])),
        lambda: (image, label),
    )
    return example | {"image": image, "label": label}


def official_augmentation(
    crop_size: tuple[int, int],
    ignore_label: int,
    min_resize_value: int | None = None,
    max_resize_value: int | None = None,
    resize_factor: int | None = None,
    min_scale_factor: float = 0.5,
    max_scale_factor: float = 2.0,
    scale_factor_step_size: float = 0.25,
    flip: bool = True,
    pad_pixel=MEAN_PIXEL,
) -> list[RandomOperation]:
    """Returns the original's training augmentation, as a list to be applied in this order.

    Args:
        crop_size: Height and width of the crop in pixels.
        ignore_label: Label of the padding.
        min_resize_value: `min_size` of `resize_to_range`; None for no resizing.
        max_resize_value: `max_size` of `resize_to_range`.
        resize_factor: `factor` of `resize_to_range`.
        min_scale_factor: Smallest scale of `random_scale`.
        max_scale_factor: Its largest scale.
        scale_factor_step_size: Its step.
        flip: Whether half of the examples are flipped.
        pad_pixel: Colour of the padding.

    Returns:
        Functions (example, seed) -> example.

    Reference:
        `preprocess_image_and_label` of the original's `input_preprocess.py`.
    """
    height, width = crop_size
    operations: list[RandomOperation] = []
    if min_resize_value:
        operations.append(
            lambda example, seed: resize_to_range(
                example, min_resize_value, max_resize_value, resize_factor
            )
        )
    operations += [
        lambda example, seed: random_scale(
            example, seed, min_scale_factor, max_scale_factor, scale_factor_step_size
        ),
        # The original pads, then crops. A side that needs padding is not cropped, so that the
        # result is the same, and large pictures are not copied once more.
        lambda example, seed: random_crop(example, seed, height, width),
        lambda example, seed: _with_shape(
            pad_to(example, height, width, ignore_label, pad_pixel), height, width
        ),
    ]
    if flip:
        operations.append(random_flip)
    return operations


def _with_shape(example: Example, height: int, width: int) -> Example:
    """Tells the graph what cropping and padding have come to."""
    return example | {
        "image": tf.ensure_shape(example["image"], [height, width, 3]),
        "label": tf.ensure_shape(example["label"], [height, width]),
    }


def _resize(example: Example, size) -> Example:
    return example | {
        "image": resize_bilinear(example["image"][tf.newaxis], size)[0],
        "label": resize_nearest(example["label"][tf.newaxis], size)[0],
    }
