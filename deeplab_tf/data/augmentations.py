"""Augmentation beyond the original's, for few training images; all of it is optional.

As in `transforms.py`, an example is a dict with `image` [H, W, C] (0..255) and `label` [H, W],
random operations take a stateless seed, int [2], and image and label always move together. Examples
keep their size and their other keys; images become float32. Their cost grows with the size of the
image: apply them to the crop.
"""

import math

import tensorflow as tf

from deeplab_tf.data import transforms

# Shares of red, green and blue in the brightness of a pixel (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


def color_jitter(
    example: transforms.Example,
    seed: tf.Tensor,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> transforms.Example:
    """Changes the colours of the image at random; the label stays.

    Every strength x but that of the hue is the range of a factor, 1 - x to 1 + x but not below 0;
    a strength of 0 changes nothing.

    Args:
        example: The example.
        seed: Stateless seed, int [2].
        brightness: Strength; the factor multiplies all pixels.
        contrast: Strength; the factor multiplies the difference to the image's mean grey, or, in
            other than RGB images, to the mean of each band.
        saturation: Strength; the factor multiplies the difference to the pixel's own grey. For RGB
            images only.
        hue: Largest turn of the hue either way, as a share of the colour circle, up to 0.5. For RGB
            images only.

    Returns:
        The example with its image float32 in 0..255.

    Reference:
        `ColorJitter` of torchvision. Here the order is fixed, as listed, and values are clipped
        once, at the end: so the first three are one matrix.
    """
    draws = tf.random.stateless_uniform([4], seed, -1.0, 1.0)
    image = tf.cast(example["image"], tf.float32)
    if brightness or contrast or saturation:
        factors = tf.maximum(1.0 + draws[:3] * [brightness, contrast, saturation], 0.0)
        if image.shape[-1] == 3:
            image = adjust_color(image, *tf.unstack(factors))
        else:
            image = adjust_bands(image, factors[0], factors[1])
    if hue:
        image = tf.raw_ops.AdjustHue(images=image, delta=draws[3] * hue)
    return example | {"image": image}


def adjust_color(image: tf.Tensor, brightness, contrast, saturation) -> tf.Tensor:
    """Applies three factors to an image, float32 [H, W, 3]; 1 leaves it as it is."""
    grey = tf.tile(tf.constant(_LUMA)[:, tf.newaxis], [1, 3])  # all channels the luma
    saturate = saturation * tf.eye(3) + (1.0 - saturation) * grey
    mean_grey = tf.tensordot(tf.reduce_mean(image, [0, 1]), grey, 1)  # saturation keeps it
    matrix = brightness * contrast * saturate
    # A 1x1 convolution and its bias, because TensorFlow runs them as one.
    adjusted = tf.nn.conv2d(image[tf.newaxis], matrix[tf.newaxis, tf.newaxis], 1, "VALID")
    adjusted = tf.nn.bias_add(adjusted, brightness * (1.0 - contrast) * mean_grey)[0]
    return tf.clip_by_value(adjusted, 0.0, 255.0)


def adjust_bands(image: tf.Tensor, brightness, contrast) -> tf.Tensor:
    """Applies two factors to each band of an image, float32 [H, W, C]."""
    mean = tf.reduce_mean(image, [0, 1])
    image = brightness * (contrast * image + (1.0 - contrast) * mean)
    return tf.clip_by_value(image, 0.0, 255.0)


def random_blur(
    example: transforms.Example, seed: tf.Tensor, *, max_sigma: float, probability: float = 0.5
) -> transforms.Example:
    """Blurs the image of some examples with a Gaussian; the label stays.

    Args:
        example: The example; its sides are longer than 3 `max_sigma`.
        seed: Stateless seed, int [2].
        max_sigma: Largest standard deviation in pixels; it is drawn from 0 to here.
        probability: Share of the examples that are blurred.

    Returns:
        The example with its image float32.
    """
    image = tf.cast(example["image"], tf.float32)
    chance, share = tf.unstack(tf.random.stateless_uniform([2], seed))
    image = tf.cond(
        chance < probability,
        lambda: blur(image, max_sigma * (1.0 - share)),  # the share may be 0, a deviation not
        lambda: image,
    )
    return example | {"image": image}


def blur(image: tf.Tensor, sigma) -> tf.Tensor:
    """Blurs an image, float32 [H, W, C], with a Gaussian of `sigma` pixels, mirrored outside."""
    radius = tf.cast(tf.math.ceil(3.0 * sigma), tf.int32)
    offsets = tf.cast(tf.range(-radius, radius + 1), tf.float32)
    weights = tf.nn.softmax(-0.5 * (offsets / sigma) ** 2)
    column = tf.tile(weights[:, tf.newaxis, tf.newaxis, tf.newaxis], [1, 1, image.shape[-1], 1])
    row = tf.transpose(column, [1, 0, 2, 3])
    padded = tf.pad(image, [[radius, radius], [radius, radius], [0, 0]], "REFLECT")
    blurred = tf.nn.depthwise_conv2d(padded[tf.newaxis], column, [1, 1, 1, 1], "VALID")
    blurred = tf.nn.depthwise_conv2d(blurred, row, [1, 1, 1, 1], "VALID")[0]
    return tf.ensure_shape(blurred, image.shape)


def random_rotation(
    example: transforms.Example,
    seed: tf.Tensor,
    max_degrees: float,
    ignore_label: int,
    pad_pixel=transforms.MEAN_PIXEL,
) -> transforms.Example:
    """Rotates an example about its centre by up to `max_degrees` either way."""
    degrees = tf.random.stateless_uniform([], seed, -max_degrees, max_degrees)
    return rotate(example, degrees, ignore_label, pad_pixel)


def rotate(
    example: transforms.Example, degrees, ignore_label: int, pad_pixel=transforms.MEAN_PIXEL
) -> transforms.Example:
    """Rotates an example counterclockwise about its centre; its size stays.

    The image is interpolated bilinearly, the label takes the nearest pixel. Pixels from outside get
    the padding's colour and the ignore label. They do not bleed into other pixels: bilinear
    interpolation sees the border repeated.

    Args:
        example: The example.
        degrees: The angle; a number or a scalar tensor.
        ignore_label: Label of what comes from outside.
        pad_pixel: Its colour.

    Returns:
        The example with its image float32.
    """
    image, label = tf.cast(example["image"], tf.float32), example["label"]
    height, width = tf.unstack(tf.cast(tf.shape(label), tf.float32))
    x, y = (width - 1.0) / 2.0, (height - 1.0) / 2.0  # the centre
    radians = tf.cast(degrees, tf.float32) * (math.pi / 180.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    # From the coordinates of the result to those of the source; the last two: no perspective.
    transform = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, 0.0, 0.0]

    def project(images, interpolation, fill_mode, fill_value):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=[transform],
            output_shape=tf.shape(label),
            interpolation=interpolation,
            fill_mode=fill_mode,
            fill_value=fill_value,
        )[0]

    image = project(image[tf.newaxis], "BILINEAR", "NEAREST", 0.0)
    # No label is -1: the ignored pixels of the image itself keep their colours.
    rotated = project(
        tf.cast(label, tf.int32)[tf.newaxis, ..., tf.newaxis], "NEAREST", "CONSTANT", -1.0
    )
    is_inside = rotated >= 0
    # A product takes half the time of `tf.where` over the three channels.
    image = (image - pad_pixel) * tf.cast(is_inside, tf.float32) + pad_pixel
    label = tf.cast(tf.where(is_inside, rotated, ignore_label)[..., 0], label.dtype)
    return example | {"image": image, "label": label}


def random_vertical_flip(example: transforms.Example, seed: tf.Tensor) -> transforms.Example:
    """Mirrors half of the examples top to bottom; dtypes stay."""
    flips = tf.random.stateless_uniform([], seed) < 0.5
    return example | {
        key: tf.cond(
            flips, lambda key=key: tf.reverse(example[key], [0]), lambda key=key: example[key]
        )
        for key in ("image", "label")
    }


def random_quarter_turn(example: transforms.Example, seed: tf.Tensor) -> transforms.Example:
    """Turns a square example by 0, 90, 180 or 270 degrees; dtypes stay."""
    turns = tf.random.stateless_uniform([], seed, 0, 4, tf.int32)
    label = example["label"][..., tf.newaxis]
    return example | {
        "image": tf.ensure_shape(tf.image.rot90(example["image"], turns), example["image"].shape),
        "label": tf.ensure_shape(tf.image.rot90(label, turns), label.shape)[..., 0],
    }


def random_elastic(
    example: transforms.Example, seed: tf.Tensor, max_shift: float, grid: int
) -> transforms.Example:
    """Distorts an example smoothly, as tissue and membranes are under a microscope.

    The points of a coarse grid are shifted at random, and all pixels between them by what bicubic
    interpolation gives. The image is interpolated bilinearly, the label takes the nearest pixel.
    Pixels from outside repeat the border.

    Args:
        example: The example, of a static size.
        seed: Stateless seed, int [2].
        max_shift: Largest shift of a grid point in pixels, in each direction.
        grid: Distance between the grid points in pixels.

    Returns:
        The example with its image float32.

    Reference:
        The random displacements on a coarse grid of U-Net, section 3.1 (arXiv 1505.04597).
    """
    height, width = example["label"].shape
    points = [math.ceil(side / grid) + 1 for side in (height, width)]
    shifts = tf.random.stateless_uniform([1, *points, 2], seed, -max_shift, max_shift)
    shifts = tf.image.resize(shifts, [height, width], "bicubic")[0]
    rows = tf.range(height, dtype=tf.float32)[:, tf.newaxis] + shifts[..., 0]
    columns = tf.range(width, dtype=tf.float32)[tf.newaxis] + shifts[..., 1]
    rows = tf.clip_by_value(rows, 0.0, height - 1.0)  # [H, W]
    columns = tf.clip_by_value(columns, 0.0, width - 1.0)
    nearest = tf.cast(tf.round(tf.stack([rows, columns], -1)), tf.int32)
    return example | {
        "image": _interpolated(tf.cast(example["image"], tf.float32), rows, columns),
        "label": tf.gather_nd(example["label"], nearest),
    }


def _interpolated(image: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Samples an image [H, W, C] bilinearly at positions inside of it, [H, W] each."""
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., tf.newaxis], (columns - left)[..., tf.newaxis]
    last_row, last_column = (side - 1 for side in image.shape[:2])

    def pixels(row_offset: int, column_offset: int):
        at_rows = tf.minimum(tf.cast(top, tf.int32) + row_offset, last_row)
        at_columns = tf.minimum(tf.cast(left, tf.int32) + column_offset, last_column)
        return tf.gather_nd(image, tf.stack([at_rows, at_columns], -1))

    above = pixels(0, 0) * (1.0 - right) + pixels(0, 1) * right
    below = pixels(1, 0) * (1.0 - right) + pixels(1, 1) * right
    return above * (1.0 - down) + below * down
