"""Training crops at the speed of decoding: the pixels of `transforms.TrainingCrop`, in numba.

TensorFlow scales the whole image and then cuts; here only the pixels of the crop are computed,
in one go with padding and flip, and Python's lock is held for microseconds. The same draws give the
same crop: `transforms.TrainingCrop` defines it, and tests compare the two.
"""

import numpy as np

from deeplab_tf import fast
from deeplab_tf.data import transforms

compiled = fast.compiled(fastmath=True, error_model="numpy")


def try_out() -> None:
    """Calls every compiled function once, on four pixels: numba compiles them, or raises."""
    crop = transforms.TrainingCrop((3, 3), 255)
    image, label = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    _cut(image, label, (2, 2), (0, 0), crop.crop_size, False, crop)


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
        Image uint8 [*crop_size, C] and label uint8 [*crop_size].
    """
    if crop.min_resize_value:
        height, width = label.shape
        size = transforms.resize_to_range_size(
            height, width, crop.min_resize_value, crop.max_resize_value, crop.resize_factor
        ).numpy()
        image, label = _cut(image, label, size, (0, 0), size, False, crop)
    size = _scaled_size(np.array(label.shape), draws[0], crop)
    offset = _offset(label, size, draws, crop)
    flip = crop.flip and draws[1] % 2 == 1
    return _cut(image, label, size, offset, crop.crop_size, flip, crop)


def _scaled_size(size: np.ndarray, draw: np.int32, crop: transforms.TrainingCrop) -> np.ndarray:
    if len(crop.scales):
        scale = crop.scales[draw % len(crop.scales)]
    else:
        share = np.float32(draw % 2**20) / np.float32(2**20)
        smallest, largest = np.float32(crop.min_scale_factor), np.float32(crop.max_scale_factor)
        scale = smallest + (largest - smallest) * share
    return np.maximum((size.astype(np.float32) * scale).astype(np.int32), 1)


def _offset(
    label: np.ndarray, size: np.ndarray, draws: np.ndarray, crop: transforms.TrainingCrop
) -> np.ndarray:
    offsets = draws[2:].reshape(-1, 2) % np.maximum(size - crop.crop_size + 1, 1)
    if crop.num_tries == 1:
        return offsets[0]
    scale = np.array(label.shape, np.float32) / size.astype(np.float32)
    window = np.ceil(np.array(crop.crop_size, np.float32) * scale).astype(np.int32)
    for offset in offsets:
        top, left = (offset.astype(np.float32) * scale).astype(np.int32)
        part = label[top : top + window[0], left : left + window[1]]
        counts = np.bincount(part.reshape(-1), minlength=256)
        counts[crop.ignore_label] = 0
        if 0 < counts.max() / max(counts.sum(), 1) <= crop.max_class_share:
            return offset
    return offsets[0]


def _cut(image, label, size, offset, crop_size, flip: bool, crop: transforms.TrainingCrop):
    """Cuts a window of `crop_size` at `offset` out of the image as if scaled to `size`."""
    cut_image = np.empty((*crop_size, image.shape[2]), np.uint8)
    cut_label = np.empty(crop_size, np.uint8)
    rows, columns = (
        _sources(label.shape[axis], size[axis], offset[axis], crop_size[axis]) for axis in (0, 1)
    )
    pad_color = np.array(crop.pad_color, np.uint8)
    _sample_image(image, rows[:2], columns[:2], flip, pad_color, cut_image)
    _sample_label(label, rows[2], columns[2], flip, crop.ignore_label, cut_label)
    return cut_image, cut_label


def _sources(length: int, scaled_length: int, start: int, crop_length: int):
    """Where the pixels of a crop come from along one axis, when it is scaled with align_corners.

    Returns:
        The pixel before (int64) and the share of the one after it (float32), and the nearest pixel
        (int64): arrays of as many pixels as the crop gets of the image.
    """
    scale = np.float32(length - 1) / np.float32(max(scaled_length - 1, 1))
    count = min(crop_length, scaled_length - start)
    position = np.arange(start, start + count).astype(np.float32) * scale
    # A last pixel has none after it; its share of the one before is 0.
    before = np.minimum(position.astype(np.int64), max(length - 2, 0))
    nearest = np.minimum((position + np.float32(0.5)).astype(np.int64), length - 1)
    return before, position - before.astype(np.float32), nearest


@compiled
def _sample_image(image, rows, columns, flip, pad_color, cut_image):
    """Interpolates the pixels of a crop; rows and columns are the first two of `_sources`."""
    rows_before, row_shares = rows
    height, width = len(rows_before), len(columns[0])  # of what is not padding
    crop_height, crop_width, channels = cut_image.shape
    left = crop_width - width if flip else 0
    flat_image = image.reshape(image.shape[0], -1)
    pixels = cut_image.reshape(crop_height, -1)
    sources, shares = _flat_sources(columns, flip, channels)
    step = np.uint64(channels if image.shape[1] > 1 else 0)
    above = np.empty(channels * width, np.float32)
    below = np.empty(channels * width, np.float32)
    previous = -2
    for y in range(height):
        row = rows_before[y]
        if row == previous + 1:
            above, below = below, above
        elif row != previous:
            _interpolate_row(flat_image[row], sources, shares, step, above)
        if row != previous:
            next_row = min(row + 1, image.shape[0] - 1)
            _interpolate_row(flat_image[next_row], sources, shares, step, below)
            previous = row
        mixed = pixels[y, channels * left : channels * (left + width)]
        _mix_rows(above, below, row_shares[y], mixed)
        _fill(cut_image[y, :left], pad_color)
        _fill(cut_image[y, left + width :], pad_color)
    for y in range(height, crop_height):
        _fill(cut_image[y], pad_color)


@compiled
def _flat_sources(columns, flip, channels):
    """The first byte of every pixel's source in a row, and the share of the pixel after it."""
    columns_before, column_shares = columns
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
def _sample_label(label, rows, columns, flip, ignore_label, cut_label):
    """Picks the nearest pixels of a crop."""
    height, width = len(rows), len(columns)  # of what is not padding
    crop_height, crop_width = cut_label.shape
    left = crop_width - width if flip else 0
    sources = np.empty(width, np.uint64)
    for x in range(width):
        sources[width - 1 - x if flip else x] = columns[x]
    for y in range(height):
        if y > 0 and rows[y] == rows[y - 1]:
            cut_label[y] = cut_label[y - 1]
        else:
            _pick(label[rows[y]], sources, cut_label[y, left : left + width])
            cut_label[y, :left] = ignore_label
            cut_label[y, left + width :] = ignore_label
    for y in range(height, crop_height):
        cut_label[y] = ignore_label


@compiled
def _interpolate_row(row, sources, shares, step, result):
    channels = np.uint64(len(result) // len(sources))
    if channels != np.uint64(3):
        for x in range(np.uint64(len(sources))):
            for channel in range(channels):
                source = sources[x] + channel
                before = np.float32(row[source])
                after = np.float32(row[source + step])
                result[channels * x + channel] = before + (after - before) * shares[x]
        return
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for x in range(np.uint64(len(sources))):
        source, share, target = sources[x], shares[x], three * x
        after = source + step
        red = np.float32(row[source])
        green = np.float32(row[source + one])
        blue = np.float32(row[source + two])
        result[target] = red + (np.float32(row[after]) - red) * share
        result[target + one] = green + (np.float32(row[after + one]) - green) * share
        result[target + two] = blue + (np.float32(row[after + two]) - blue) * share


@compiled
def _mix_rows(above, below, share, result):
    for i in range(len(result)):
        value = above[i] + (below[i] - above[i]) * share
        result[i] = np.uint8(np.int32(value + np.float32(0.5)))


@compiled
def _pick(row, sources, result):
    for x in range(np.uint64(len(sources))):
        result[x] = row[sources[x]]


@compiled
def _fill(row, color):
    for x in range(len(row)):
        for channel in range(len(color)):
            row[x, channel] = color[channel]
