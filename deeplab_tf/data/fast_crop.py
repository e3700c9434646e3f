"""Training crops at the speed of decoding: the pixels of `transforms.TrainingCrop`, in numba.

TensorFlow scales the whole image and then cuts; here only the pixels of the crop are computed,
in one go with padding and flip, and Python's lock is held for microseconds. The same draws give the
same crop: `transforms.TrainingCrop` defines it, and tests compare the two.
"""

import numpy as np

from deeplab_tf import fast
from deeplab_tf.data import transforms
from deeplab_tf.data.pixel_vectors import LANES
from deeplab_tf.data.pixel_vectors import SPARE
from deeplab_tf.data.pixel_vectors import interpolate

compiled = fast.compiled(fastmath=True, error_model="numpy")
exact = fast.compiled(error_model="numpy")  # rounds as TensorFlow does


def try_out() -> None:
    """Calls every compiled function once, on four pixels: numba compiles them, or raises."""
    crop = transforms.TrainingCrop((3, 3), 255)
    image, label = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    _cut(image, label, (3, 3), (0, 0), False, crop, *blank(crop))


def blank(crop: transforms.TrainingCrop) -> tuple[np.ndarray, np.ndarray]:
    """Returns arrays for a crop: image uint8 [*crop_size, C] and label int32 [*crop_size]."""
    image = np.empty((*crop.crop_size, len(crop.pad_color)), np.uint8)
    return image, np.empty(crop.crop_size, np.int32)


def crop_example(
    image: np.ndarray, label: np.ndarray, draws: np.ndarray, crop: transforms.TrainingCrop
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a training crop.

    Args:
        image: uint8 [H, W, C].
        label: uint8 [H, W].
        draws: int32 [crop.num_draws], any integers.
        crop: What to do.

    Returns:
        Image uint8 [*crop_size, C] and label int32 [*crop_size].
    """
    cut_image, cut_label = blank(crop)
    crop_into(image, label, draws, crop, cut_image, cut_label)
    return cut_image, cut_label


def crop_into(
    image: np.ndarray,
    label: np.ndarray,
    draws: np.ndarray,
    crop: transforms.TrainingCrop,
    cut_image: np.ndarray,
    cut_label: np.ndarray,
) -> None:
    """Cuts a training crop, as `crop_example`, into arrays of its size."""
    if crop.min_resize_value:
        height, width = label.shape
        size = transforms.resize_to_range_size(
            height, width, crop.min_resize_value, crop.max_resize_value, crop.resize_factor
        ).numpy()
        resized = np.empty((*size, image.shape[2]), np.uint8), np.empty(size, np.uint8)
        _cut(image, label, tuple(map(int, size)), (0, 0), False, crop, *resized)
        image, label = resized
    size = _scaled_size(label.shape, draws[0], crop)
    offset = _offset(label, size, draws, crop)
    flip = crop.flip and draws[1] % 2 == 1
    _cut(image, label, size, offset, bool(flip), crop, cut_image, cut_label)


def _scaled_size(
    size: tuple[int, int], draw: np.int32, crop: transforms.TrainingCrop
) -> tuple[int, int]:
    scales = crop.scales
    if len(scales):
        scale = scales[draw % len(scales)]
    else:
        share = np.float32(draw % 2**20) / np.float32(2**20)
        smallest, largest = np.float32(crop.min_scale_factor), np.float32(crop.max_scale_factor)
        scale = smallest + (largest - smallest) * share
    height, width = (max(int(np.float32(side) * scale), 1) for side in size)
    return height, width


def _offset(
    label: np.ndarray, size: tuple[int, int], draws: np.ndarray, crop: transforms.TrainingCrop
) -> tuple[int, int]:
    rooms = [max(side - cut + 1, 1) for side, cut in zip(size, crop.crop_size)]
    offsets = [
        (int(down) % rooms[0], int(across) % rooms[1]) for down, across in draws[2:].reshape(-1, 2)
    ]
    if crop.num_tries == 1:
        return offsets[0]
    scale = np.array(label.shape, np.float32) / np.array(size, np.float32)
    window = np.ceil(np.array(crop.crop_size, np.float32) * scale).astype(np.int32)
    for offset in offsets:
        top, left = (np.array(offset, np.float32) * scale).astype(np.int32)
        part = label[top : top + window[0], left : left + window[1]]
        counts = np.bincount(part.reshape(-1), minlength=256)
        counts[crop.ignore_label] = 0
        if 0 < counts.max() / max(counts.sum(), 1) <= crop.max_class_share:
            return offset
    return offsets[0]


def _cut(image, label, size, offset, flip: bool, crop: transforms.TrainingCrop, *cut) -> None:
    """Cuts a window at `offset` out of the image as if scaled to `size`, into `cut`."""
    flat = image.reshape(len(image), -1)  # [H, W * C]
    padding = (np.array(crop.pad_color, np.uint8), crop.ignore_label)
    _cut_scaled(flat, label, size, offset, flip, padding, *cut)


@exact
def _cut_scaled(image, label, size, offset, flip, padding, cut_image, cut_label):
    """Computes a crop; `image` is [H, W * C]."""
    pad_color, ignore_label = padding
    crop_height, crop_width, channels = cut_image.shape
    pixels = cut_image.reshape(crop_height, -1)
    rows = _sources(label.shape[0], size[0], offset[0], crop_height)
    columns = _sources(label.shape[1], size[1], offset[1], crop_width)
    height, width = len(rows[0]), len(columns[0])  # of what is not padding
    left = crop_width - width if flip else 0
    if size[0] == label.shape[0] and size[1] == label.shape[1] and not flip:
        top, start = offset
        for y in range(height):
            source = image[top + y, channels * start : channels * (start + width)]
            _copy_row(source, pixels[y, : channels * width])
            _copy_row(label[top + y, start : start + width], cut_label[y, :width])
    else:
        _sample_image(image, rows, columns, flip, channels, pixels, channels * left)
        _sample_label(label, rows[2], columns[2], flip, cut_label, left)
    _pad(pixels, pad_color, height, channels * left, channels * (left + width))
    _pad(cut_label, np.array([ignore_label]), height, left, left + width)


@exact
def _sources(length, scaled_length, start, crop_length):
    """Where the pixels of a crop come from along one axis, when it is scaled with align_corners.

    Returns:
        The pixel before (int64) and the share of the one after it (float32), and the nearest pixel
        (int64): arrays of as many pixels as the crop gets of the image.
    """
    scale = np.float32(length - 1) / np.float32(max(scaled_length - 1, 1))
    count = min(crop_length, scaled_length - start)
    before, nearest = np.empty(count, np.int64), np.empty(count, np.int64)
    shares = np.empty(count, np.float32)
    for i in range(count):
        position = np.float32(np.float32(start + i) * scale)
        # A last pixel has none after it; its share of the one before is 0.
        before[i] = min(np.int64(position), max(length - 2, 0))
        shares[i] = position - np.float32(before[i])
        nearest[i] = min(np.int64(np.float32(position + np.float32(0.5))), length - 1)
    return before, shares, nearest


# Rows are sliced where they are used: numba then knows that their values follow each other.


@compiled
def _copy_row(row, result):
    for i in range(len(result)):
        result[i] = row[i]


@compiled
def _sample_image(image, rows, columns, flip, channels, pixels, left):
    """Interpolates the pixels of a crop; rows and columns are of `_sources`."""
    rows_before, row_shares, _ = rows
    sources, shares = _flat_sources(columns, flip, channels)
    length = channels * len(sources)
    step = np.uint64(channels if image.shape[1] > channels else 0)
    above, below = np.empty(length + SPARE, np.float32), np.empty(length + SPARE, np.float32)
    last_row = np.zeros(image.shape[1] + SPARE, np.uint8)  # the others have rows behind them
    last_row[: image.shape[1]] = image[-1]
    flat = image.reshape(-1)
    previous = -2
    for y in range(len(rows_before)):
        row = rows_before[y]
        if row == previous + 1:
            above, below = below, above
        elif row != previous:
            source = flat[row * image.shape[1] :] if row + 1 < image.shape[0] else last_row
            _interpolate_row(source, sources, shares, step, above)
        if row != previous:
            source = flat[(row + 1) * image.shape[1] :] if row + 2 < image.shape[0] else last_row
            _interpolate_row(source, sources, shares, step, below)
            previous = row
        _mix_rows(above, below, row_shares[y], pixels[y, left : left + length])


@compiled
def _flat_sources(columns, flip, channels):
    """The first byte of every pixel's source in a row, and the share of the pixel after it."""
    columns_before, column_shares, _ = columns
    width = len(columns_before)
    # Unsigned: signed indices are checked for counting from the end, pixel by pixel.
    sources = np.empty(width, np.uint64)
    shares = np.empty(width, np.float32)
    for x in range(width):
        target = width - 1 - x if flip else x
        sources[target] = channels * columns_before[x]
        shares[target] = column_shares[x]
    return sources, shares


@compiled
def _sample_label(label, rows, columns, flip, cut_label, left):
    """Picks the nearest pixels of a crop."""
    width = len(columns)
    sources = np.empty(width, np.uint64)
    for x in range(width):
        sources[width - 1 - x if flip else x] = columns[x]
    for y in range(len(rows)):
        target = cut_label[y, left : left + width]
        if y > 0 and rows[y] == rows[y - 1]:
            _copy_row(cut_label[y - 1, left : left + width], target)
        else:
            _pick(label[rows[y]], sources, target)


@compiled
def _pad(pixels, color, height, left, right):
    """Fills what is not inside of [:height, left:right] of an image, [h, w * C], with a colour."""
    padding = np.empty(pixels.shape[1], pixels.dtype)
    for i in range(len(padding)):
        padding[i] = color[i % len(color)]
    for y in range(len(pixels)):
        if y >= height:
            _copy_row(padding, pixels[y])
        else:
            _copy_row(padding[:left], pixels[y, :left])
            _copy_row(padding[right:], pixels[y, right:])


@compiled
def _interpolate_row(row, sources, shares, step, result):
    channels = np.uint64((len(result) - SPARE) // len(sources))
    groups = (channels + np.uint64(SPARE)) // np.uint64(LANES)
    # Backwards: what a group writes behind its pixel, the next groups and pixels write over.
    for group in range(groups):
        target = first = (groups - np.uint64(1) - group) * np.uint64(LANES)
        for x in range(np.uint64(len(sources))):
            source = sources[x] + first
            interpolate(row, source, source + step, shares[x], result, target)
            target += channels


@compiled
def _mix_rows(above, below, share, result):
    for i in range(len(result)):
        value = above[i] + (below[i] - above[i]) * share
        result[i] = np.uint8(np.int32(value + np.float32(0.5)))


@compiled
def _pick(row, sources, result):
    for x in range(np.uint64(len(sources))):
        result[x] = row[sources[x]]
