"""From the logits of a network to the labels of an image, some rows at a time.

The logits of all classes at the size of the image would be by far the largest tensor of a
prediction: 1.2 GiB for 150 classes and 1024x2048 pixels.
"""

import tensorflow as tf

from deeplab_tf.data import transforms
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.evaluation.fitting import Placement

STRIP_BYTES = 2**25  # of the logits of a strip


def labels_of_logits(
    logits: tf.Tensor, padded_size: tf.Tensor, placement: Placement, *, fitter: ImageFitter
) -> tf.Tensor:
    """Resizes logits to an image, and returns the class with the largest one at each pixel.

    It is `fitter.undo` of the logits at `padded_size`, but for rounding, and then the argmax.

    Args:
        logits: Float `[N, h, w, C]`, at any stride.
        padded_size: Height and width of the image that the network saw, int32 [2].
        placement: Where the image lies in it.
        fitter: What fitted the image.

    Returns:
        Class ids, int32 [N, H, W], at the image's own size.
    """
    height, width = tf.unstack(placement.own_size)
    bytes_of_row = 4 * tf.shape(logits)[0] * width * tf.shape(logits)[3]
    step = tf.maximum(STRIP_BYTES // bytes_of_row, 1)

    def label_strip(start, labels):
        rows = tf.range(start, tf.minimum(start + step, height))
        strip = _rows_of_image(logits, rows, padded_size, fitter, placement)
        label = tf.argmax(strip, axis=-1, output_type=tf.int32)  # [N, rows, W]
        return start + step, tf.concat([labels, label], axis=1)

    none = tf.zeros([tf.shape(logits)[0], 0, width], tf.int32)
    # One strip after another: side by side, they would take the memory of the whole.
    _, labels = tf.while_loop(
        lambda start, _: start < height,
        label_strip,
        (0, none),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None] * 3)),
        parallel_iterations=1,
    )
    return labels


def _rows_of_image(
    logits: tf.Tensor,
    rows: tf.Tensor,
    padded_size: tf.Tensor,
    fitter: ImageFitter,
    placement: Placement,
) -> tf.Tensor:
    """The logits of some rows of the image, float32 [N, rows, W, C]."""
    logits = tf.cast(logits, tf.float32)
    if fitter.resize_range is None:
        strip = _resize_rows(logits, rows, padded_size[0])
        return _resize_columns(strip, padded_size[1])[:, :, : placement.own_size[1]]
    # The logits of the padded image are resized once more, to the image's own size.
    seen_height, seen_width = tf.unstack(placement.seen_size)
    lower, upper, _ = _neighbours(rows, seen_height, placement.own_size[0])
    first = lower[0]
    strip = _resize_rows(logits, tf.range(first, upper[-1] + 1), padded_size[0])
    strip = _resize_columns(strip, padded_size[1])[:, :, :seen_width]
    strip = _resize_rows(strip, rows, placement.own_size[0], seen_height, first)
    return _resize_columns(strip, placement.own_size[1])


def _resize_rows(
    values: tf.Tensor,
    rows: tf.Tensor,
    new_height: tf.Tensor,
    height: tf.Tensor | None = None,
    first: tf.Tensor | int = 0,
) -> tf.Tensor:
    """Some rows of a map that is resized to a new height, bilinear with aligned corners.

    Args:
        values: float32 [N, h, w, C]: the map, or the part of it that these rows need.
        rows: Numbers of the rows in the resized map, int32 [n].
        new_height: Height of the resized map.
        height: Height of the map; by default that of `values`.
        first: Number of the first row of `values` in the map.

    Returns:
        float32 [N, n, w, C].
    """
    height = tf.shape(values)[1] if height is None else height
    lower, upper, share = _neighbours(rows, height, new_height)
    above, below = (tf.gather(values, one - first, axis=1) for one in (lower, upper))
    return above + (below - above) * share[:, tf.newaxis, tf.newaxis]


def _neighbours(rows: tf.Tensor, height: tf.Tensor, new_height: tf.Tensor):
    """The rows of a map that rows of the resized map lie between, and the share of the lower."""
    scale = tf.cast(height - 1, tf.float32) / tf.cast(tf.maximum(new_height - 1, 1), tf.float32)
    positions = tf.cast(rows, tf.float32) * scale
    lower = tf.minimum(tf.cast(positions, tf.int32), height - 1)
    upper = tf.minimum(lower + 1, height - 1)
    return lower, upper, positions - tf.cast(lower, tf.float32)


def _resize_columns(values: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    return transforms.resize_bilinear(values, [tf.shape(values)[1], width])
