"""The loops of the fully-connected CRF in numba: lattice construction and mean-field updates.

Every kernel whose arguments end in `start, stop` works on that range of pixels or lattice points
only, so that several threads can share the work.
"""

import typing

import numpy as np

from deeplab_tf.crf.vectors import LANES
from deeplab_tf.crf.vectors import atomic_add
from deeplab_tf.crf.vectors import atomic_load
from deeplab_tf.crf.vectors import compiled
from deeplab_tf.crf.vectors import exp
from deeplab_tf.crf.vectors import fill
from deeplab_tf.crf.vectors import inlined
from deeplab_tf.crf.vectors import load
from deeplab_tf.crf.vectors import maximum
from deeplab_tf.crf.vectors import maximum_of_lanes
from deeplab_tf.crf.vectors import prefetch
from deeplab_tf.crf.vectors import store
from deeplab_tf.crf.vectors import sum_of_lanes

_EMPTY = -1
_PIXELS_AT_ONCE = 128  # while a lattice is built
_ROWS_AT_ONCE = 32  # pixels, in an update
_POINTS_AT_ONCE = 4096
_POSITIONS_AT_ONCE = 1024  # points; in the cache while they are blurred along several axes
_SPARE_RANGES = 1  # of points, that are listed between a task and one that needs it
_AHEAD = 12  # how many rows ahead to prefetch
_GROUP = 2 * LANES  # channels whose sums are kept in registers at once
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbouring keys
_LOOKS = 50_000  # of a waiting thread: less than a millisecond
_NEVER = -1e4  # the logarithm of a probability that stays 0


@compiled
def _fill_features(image, width, sigma_xy, sigma_rgb, first, count, features):
    """Writes the features of `count` pixels: x, y and, in a lattice of 5 dimensions, the colour."""
    for p in range(count):
        features[0, p] = np.float32((first + p) % width) / sigma_xy
        features[1, p] = np.float32((first + p) // width) / sigma_xy
    for channel in range(len(features) - 2):
        for p in range(count):
            features[2 + channel, p] = np.float32(image[first + p, channel]) / sigma_rgb


@compiled
def _elevate(features, scales, count, elevated, total):
    """Maps `count` pixels onto the plane of coordinates that sum to 0."""
    d = len(features)
    total[:] = 0
    for i in range(d, 0, -1):
        for p in range(count):
            scaled = features[i - 1, p] * scales[i - 1]
            elevated[i, p] = total[p] - np.float32(i) * scaled
            total[p] += scaled
    elevated[0] = total


@compiled
def _find_nearest_points(elevated, count, whole, total):
    """Finds the nearest point whose coordinates are multiples of d + 1; it may lie off the plane.

    `whole` gets its coordinates / (d + 1), `total` their sum.
    """
    shrink = np.float32(1) / np.float32(len(elevated))
    total[:] = 0
    for i in range(len(elevated)):
        for p in range(count):
            whole[i, p] = np.rint(elevated[i, p] * shrink)
            total[p] += whole[i, p]


@compiled
def _rank_remainders(elevated, whole, count, rank):
    """Ranks the remainders in descending order, which determines the simplex of a pixel."""
    size = np.float32(len(elevated))
    rank[:] = 0
    for i in range(len(elevated) - 1):
        for j in range(i + 1, len(elevated)):
            for p in range(count):
                remainder_i = elevated[i, p] - whole[i, p] * size
                remainder_j = elevated[j, p] - whole[j, p] * size
                less = np.int32(remainder_i < remainder_j)
                rank[i, p] += less
                rank[j, p] += np.int32(1) - less


@compiled
def _move_onto_plane(whole, rank, count, total):
    """Moves the nearest points onto the plane."""
    d = len(whole) - 1
    one = np.float32(1)
    for i in range(d + 1):
        for p in range(count):
            rank[i, p] += np.int32(total[p])
            if rank[i, p] < 0:
                rank[i, p] += np.int32(d + 1)
                whole[i, p] += one
            elif rank[i, p] > d:
                rank[i, p] -= np.int32(d + 1)
                whole[i, p] -= one


@compiled
def _find_simplices(elevated, whole, rank, lows, strides, count, keys, weights):
    """Finds the simplex around each of `count` pixels: the keys of its corners, and its weights.

    All coordinates of corner r equal r modulo d + 1; the weights are barycentric coordinates.
    """
    d = len(elevated) - 1
    size = np.float32(d + 1)
    shrink = np.float32(1) / size
    by_rank = np.empty(d + 1, np.float32)
    step_by_rank = np.empty(d + 1, np.int64)
    for p in range(count):
        key = 0
        for i in range(d + 1):
            r = rank[i, p]
            by_rank[r] = (elevated[i, p] - whole[i, p] * size) * shrink
            step_by_rank[r] = strides[i]
            key += np.int64(whole[i, p] - lows[i]) * strides[i]
        keys[p, 0] = key
        weights[p, 0] = by_rank[d] + (np.float32(1) - by_rank[0])
        for r in range(1, d + 1):
            # From corner to corner, the coordinate of the next highest rank wraps around.
            key += 1 - step_by_rank[d - r + 1]
            keys[p, r] = key
            weights[p, r] = by_rank[d - r] - by_rank[d - r + 1]


@inlined
def _slot(key, table, shift):
    """Returns the place of a key in a hash table, or the empty place where it belongs."""
    slot = np.int64((np.uint64(key) * _GOLDEN) >> np.uint64(shift))
    while table[slot, 0] != key and table[slot, 0] != _EMPTY:
        slot = (slot + 1) & (len(table) - 1)
    return slot


@compiled
def _new_table(fewest):
    """Returns an empty hash table with at least so many places, and its shift."""
    shift = 54
    while 1 << (64 - shift) < fewest:
        shift -= 1
    return np.full((1 << (64 - shift), 2), _EMPTY, np.int64), shift


@compiled
def _enlarge(table, keys, count):
    """Returns a hash table of twice the size with `count` keys, its shift, and room for keys."""
    table, shift = _new_table(2 * len(table))
    for number in range(count):
        slot = _slot(keys[number], table, shift)
        table[slot, 0] = keys[number]
        table[slot, 1] = number
    larger = np.empty(len(table), np.int64)
    larger[:count] = keys[:count]
    return table, shift, larger


@compiled
def number_points(
    image, width, sigma_xy, sigma_rgb, scales, lows, strides, corners, weights, start, stop
):
    """Numbers the lattice points around a range of pixels in the order of first use.

    Args:
        image: uint8 [N, 3].
        width: Pixels of a row of the image.
        sigma_xy: float32, the deviation of positions in pixels.
        sigma_rgb: float32, the deviation of colors in levels.
        scales: float32 [d], the diagonal of the paper's E, times the filter's deviation.
        lows: float32 [d + 1], a lower bound of every coordinate / (d + 1).
        strides: int64 [d + 1], what a step of d + 1 in a coordinate adds to a key.
        corners: int32 [N, d + 1], output: numbers of the points around every pixel.
        weights: float32 [N, d + 1], output: barycentric coordinates.

    Returns:
        int64 [points of the range], their keys.
    """
    d = len(scales)
    features = np.empty((d, _PIXELS_AT_ONCE), np.float32)
    elevated = np.empty((d + 1, _PIXELS_AT_ONCE), np.float32)
    whole = np.empty((d + 1, _PIXELS_AT_ONCE), np.float32)
    rank = np.empty((d + 1, _PIXELS_AT_ONCE), np.int32)
    total = np.empty(_PIXELS_AT_ONCE, np.float32)
    keys = np.empty((_PIXELS_AT_ONCE, d + 1), np.int64)
    table, shift = _new_table(2 * (stop - start))
    point_keys = np.empty(len(table), np.int64)
    num_points = 0
    for first in range(start, stop, _PIXELS_AT_ONCE):
        count = min(_PIXELS_AT_ONCE, stop - first)
        _fill_features(image, width, sigma_xy, sigma_rgb, first, count, features)
        _elevate(features, scales, count, elevated, total)
        _find_nearest_points(elevated, count, whole, total)
        _rank_remainders(elevated, whole, count, rank)
        _move_onto_plane(whole, rank, count, total)
        _find_simplices(elevated, whole, rank, lows, strides, count, keys, weights[first:])
        if num_points + count * (d + 1) > len(table) // 2:
            table, shift, point_keys = _enlarge(table, point_keys, num_points)
        for p in range(count):
            for r in range(d + 1):
                key = keys[p, r]
                if p > 0 and keys[p - 1, r] == key:
                    corners[first + p, r] = corners[first + p - 1, r]
                    continue
                slot = _slot(key, table, shift)
                if table[slot, 0] == _EMPTY:
                    table[slot, 0] = key
                    table[slot, 1] = num_points
                    point_keys[num_points] = key
                    num_points += 1
                corners[first + p, r] = table[slot, 1]
    return point_keys[:num_points].copy()


@compiled
def join_points(keys, starts):
    """Joins the lattice points of the blocks of an image.

    A point gets a row in the order of first use. Where a later block uses it too, that block gets
    a copy of the row, so that threads can add to rows of different blocks at once.

    Args:
        keys: int64 [E], the keys of the points of every block, one block after the other.
        starts: int64 [blocks + 1], where each block starts.

    Returns:
        The keys of the M points, int64 [M]; the row of every entry of `keys`, int32 [E], below M
        for points, and above for copies, as row M stands for no point; the next copy of every row,
        int32 [rows], 0 if there is none; the first point and the first copy of every block, two
        int32 [blocks + 1]; the hash table of keys and points, and its shift.
    """
    table, shift = _new_table(len(keys) + len(keys) // 3)
    rows = np.empty(len(keys), np.int32)
    point_keys = np.empty(len(keys), np.int64)
    first_points = np.zeros(len(starts), np.int32)
    first_copies = np.zeros(len(starts), np.int32)
    num_points = num_copies = 0
    for block in range(len(starts) - 1):
        for entry in range(starts[block], starts[block + 1]):
            slot = _slot(keys[entry], table, shift)
            if table[slot, 0] == _EMPTY:
                table[slot, 0] = keys[entry]
                table[slot, 1] = num_points
                point_keys[num_points] = keys[entry]
                rows[entry] = num_points
                num_points += 1
            else:
                rows[entry] = -1 - table[slot, 1]
                num_copies += 1
        first_points[block + 1] = num_points
        first_copies[block + 1] = num_copies
    first_copies += np.int32(num_points + 1)
    copies = np.zeros(num_points + 1 + num_copies, np.int32)
    copy = num_points + 1
    for entry in range(len(keys)):
        if rows[entry] < 0:
            point = -1 - rows[entry]
            rows[entry] = copy
            copies[copy] = copies[point]
            copies[point] = copy
            copy += 1
    return point_keys[:num_points].copy(), rows, copies, first_points, first_copies, table, shift


@compiled
def find_neighbors(point_keys, strides, table, shift, following, preceding, start, stop):
    """Finds the next and the previous point along every axis.

    Args:
        point_keys: int64 [M].
        strides: int64 [d + 1].
        table: int64 [capacity, 2].
        shift: Shift of the table.
        following: int32 [d + 1, M], output; M stands for no point.
        preceding: int32 [d + 1, M], output, where M has been written before.
    """
    d = len(strides) - 1
    wrap = np.sum(strides) - d
    for point in range(start, stop):
        key = point_keys[point]
        # All coordinates are larger by 1, but that of the axis is smaller by d.
        grown = key + (1 if key % (d + 1) < d else wrap)
        for axis in range(d + 1):
            slot = _slot(grown - strides[axis], table, shift)
            if table[slot, 0] == _EMPTY:
                following[axis, point] = len(point_keys)
            else:
                following[axis, point] = table[slot, 1]
                preceding[axis, table[slot, 1]] = point


@compiled
def name_rows(corners, rows, weights, sums, start, stop):
    """Replaces the numbers of points in a block by rows, and splats ones.

    Args:
        corners: int32 [N, d + 1], changed in place.
        rows: int32 [points of the block].
        weights: float32 [N, d + 1].
        sums: float32 [rows], output: zeros before, then sums of weights.
    """
    for p in range(start, stop):
        for r in range(corners.shape[1]):
            corners[p, r] = rows[corners[p, r]]
            sums[corners[p, r]] += weights[p, r]


@compiled
def splat_ones(corners, weights, sums, start, stop):
    """Adds the weights of the pixels of a block to the rows; see `name_rows`."""
    for p in range(start, stop):
        for r in range(corners.shape[1]):
            sums[corners[p, r]] += weights[p, r]


@compiled
def blur_one_channel(values, following, preceding, copies):
    """Adds up the copies of every point, and blurs along every axis.

    Args:
        values: float32 [rows]; the row after the points is 0.
        following: int32 [d + 1, M].
        preceding: int32 [d + 1, M].
        copies: int32 [rows].

    Returns:
        float32 [rows], also written to the copies.
    """
    num_points = following.shape[1]
    blurred = np.zeros_like(values)
    for point in range(num_points):
        copy = copies[point]
        while copy > 0:
            values[point] += values[copy]
            copy = copies[copy]
    for axis in range(len(following)):
        for point in range(num_points):
            around = values[following[axis, point]] + values[preceding[axis, point]]
            blurred[point] = values[point] + np.float32(0.5) * around
        values, blurred = blurred, values
    for point in range(num_points):
        copy = copies[point]
        while copy > 0:
            values[copy] = values[point]
            copy = copies[copy]
    return values


@compiled
def slice_one_channel(corners, weights, values, result, start, stop):
    """Interpolates the values at the pixels.

    Args:
        corners: int32 [N, d + 1].
        weights: float32 [N, d + 1].
        values: float32 [rows].
        result: float32 [N], output.
    """
    for p in range(start, stop):
        total = np.float32(0)
        for r in range(corners.shape[1]):
            total += weights[p, r] * values[corners[p, r]]
        result[p] = total


@compiled
def normalize(corners, weights, values, gain, start, stop):
    """Divides the weights of every pixel by the root of the filtered image of ones, in place."""
    for p in range(start, stop):
        total = np.float32(0)
        for r in range(corners.shape[1]):
            total += weights[p, r] * values[corners[p, r]]
        scale = np.float32(1) / np.sqrt(total * gain + np.float32(1e-20))
        for r in range(corners.shape[1]):
            weights[p, r] *= scale


@compiled
def find_leads(probabilities, pixels_at_once, leads, start, stop):
    """Finds by how much each class is behind the most probable one, where it is closest to it.

    Args:
        probabilities: float32 [N, C], positive.
        pixels_at_once: Pixels of a block.
        leads: float32 [blocks, C], output: the smallest ratio of the highest probability of a pixel
            to that of the class, over the pixels of the block.
    """
    num_pixels, num_classes = probabilities.shape
    for block in range(start, stop):
        leads[block] = np.inf
        for p in range(block * pixels_at_once, min((block + 1) * pixels_at_once, num_pixels)):
            highest = probabilities[p, 0]
            for c in range(1, num_classes):
                highest = max(highest, probabilities[p, c])
            for c in range(num_classes):
                leads[block, c] = min(leads[block, c], highest / probabilities[p, c])


# Below, rows of channels lie one after another in flat arrays. Channels are classes, and a few more
# that stay 0; rows of pixels have as many as fill up the last vector, rows on a lattice as few as
# possible, since memory takes most of the time. Two vectors of a lattice row are loaded before they
# are stored, because the second may begin within the first.


class Field(typing.NamedTuple):
    """What an update of the beliefs needs.

    Attributes:
        num_channels: Of rows on a lattice; see `count_channels`.
        num_lanes: Channels of rows of pixels, a multiple of 8.
        log_probabilities: float32 [N * C + 8].
        costs: float32 [lanes * lanes], the compatibility matrix; empty for the Potts model.
        lattices: Two lattices of the same blocks of pixels.
        values: Two float32 [rows * channels], filtered values; the row after the points is 0.
        sums: Two float32 [rows * channels], which change places with the values while blurring.
        gains: Two float32, factors of the filtered values.
    """

    num_channels: int
    num_lanes: int
    log_probabilities: np.ndarray
    costs: np.ndarray
    lattices: tuple
    values: tuple[np.ndarray, ...]
    sums: tuple[np.ndarray, ...]
    gains: tuple[np.float32, ...]


def count_channels(num_classes: int) -> int:
    """Returns the fewest channels of a lattice row that are whole vectors or whole pairs of them.

    In a pair, the second vector may begin within the first.
    """
    num_lanes = -(-num_classes // LANES) * LANES
    is_in_pairs = num_lanes % _GROUP == 0
    return num_classes if is_in_pairs else num_lanes


@compiled
def add_messages(corners, weights, values, num_channels, rows, num_lanes, start, stop):
    """Adds the filtered values of a lattice, interpolated at a range of pixels, to their rows.

    Args:
        corners: int32 [N, d + 1].
        weights: float32 [N, d + 1].
        values: float32 [lattice rows * channels].
        num_channels: Of `count_channels`.
        rows: float32 [pixels of the range * lanes], changed in place.
        num_lanes: A multiple of 8.
    """
    for p in range(start, stop):
        row = (p - start) * num_lanes
        for first in range(0, num_channels, _GROUP):
            second = min(first + LANES, num_channels - LANES)
            total_a, total_b = load(rows, row + first), load(rows, row + second)
            for corner in range(corners.shape[1]):
                at = np.int64(corners[p, corner]) * num_channels
                weight = fill(weights[p, corner])
                total_a = total_a + weight * load(values, at + first)
                total_b = total_b + weight * load(values, at + second)
            store(rows, row + first, total_a)
            store(rows, row + second, total_b)


@compiled
def _splat(corners, weights, rows, num_lanes, sums, num_channels, start, stop):
    """Adds the rows of a range of pixels to the lattice points around them.

    Args:
        corners: int32 [N, d + 1].
        weights: float32 [N, d + 1].
        rows: float32 [pixels of the range * lanes].
        num_lanes: A multiple of 8.
        sums: float32 [lattice rows * channels], changed in place.
        num_channels: Of `count_channels`.
    """
    for p in range(start, stop):
        row = (p - start) * num_lanes
        for first in range(0, num_channels, _GROUP):
            second = min(first + LANES, num_channels - LANES)
            a, b = load(rows, row + first), load(rows, row + second)
            for corner in range(corners.shape[1]):
                at = np.int64(corners[p, corner]) * num_channels
                weight = fill(weights[p, corner])
                total_a, total_b = load(sums, at + first), load(sums, at + second)
                store(sums, at + first, total_a + weight * a)
                store(sums, at + second, total_b + weight * b)


@compiled
def _apply_costs(costs, num_lanes, rows, count):
    """Turns the messages in the rows of `count` pixels into minus the costs that they cause."""
    messages = np.empty(num_lanes, np.float32)
    for row in range(0, count * num_lanes, num_lanes):
        messages[:] = rows[row : row + num_lanes]
        for c in range(0, num_lanes, LANES):
            total = fill(np.float32(0))
            for other in range(num_lanes):
                total = total - fill(messages[other]) * load(costs, other * num_lanes + c)
            store(rows, row + c, total)


@compiled
def _add_logs_and_normalize(log_probabilities, num_classes, num_lanes, rows, start, stop):
    """Turns what speaks for every class at a range of pixels into distributions, in place."""
    is_class = np.zeros(num_lanes, np.float32)
    is_class[:num_classes] = 1
    never = (1 - is_class) * np.float32(_NEVER)
    for p in range(start, stop):
        row = (p - start) * num_lanes
        highest = fill(np.float32(_NEVER))
        for c in range(0, num_lanes, LANES):
            # The last vector of a pixel ends with numbers of the next.
            own = load(log_probabilities, p * num_classes + c) * load(is_class, c) + load(never, c)
            logits = load(rows, row + c) + own
            store(rows, row + c, logits)
            highest = maximum(highest, logits)
        shift = fill(maximum_of_lanes(highest))
        total = fill(np.float32(0))
        for c in range(0, num_lanes, LANES):
            likelihood = exp(load(rows, row + c) - shift)
            store(rows, row + c, likelihood)
            total = total + likelihood
        scale = fill(np.float32(1) / sum_of_lanes(total))
        for c in range(0, num_lanes, LANES):
            store(rows, row + c, load(rows, row + c) * scale)


@compiled
def _update(field, beliefs, has_messages, is_last, block):
    """Updates the beliefs at the pixels of a block, and adds them to the rows of the block.

    No other block adds to these rows. A few pixels at a time stay in the cache from their messages
    to their sums.
    """
    one = field.lattices[0]  # its blocks are those of both
    num_channels, num_lanes, num_pixels = field.num_channels, field.num_lanes, len(one.corners)
    num_classes = (len(field.log_probabilities) - LANES) // num_pixels
    if not is_last:
        for lattice, sums in zip(field.lattices, field.sums):
            for first in (lattice.first_points, lattice.first_copies):
                sums[first[block] * num_channels : first[block + 1] * num_channels] = 0
    rows = np.empty(_ROWS_AT_ONCE * num_lanes, np.float32)
    end = one.starts[block + 1]
    for start in range(one.starts[block], end, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, end)
        rows[:] = 0
        if has_messages:
            for lattice, values in zip(field.lattices, field.values):
                corners, weights = lattice.corners, lattice.weights
                add_messages(corners, weights, values, num_channels, rows, num_lanes, start, stop)
            if len(field.costs):
                _apply_costs(field.costs, num_lanes, rows, stop - start)
        _add_logs_and_normalize(field.log_probabilities, num_classes, num_lanes, rows, start, stop)
        if not is_last:
            for lattice, sums in zip(field.lattices, field.sums):
                corners, weights = lattice.corners, lattice.weights
                _splat(corners, weights, rows, num_lanes, sums, num_channels, start, stop)
        if len(beliefs):
            beliefs[start:stop] = rows.reshape(-1, num_lanes)[: stop - start, :num_classes]


@compiled
def _add_copies(sums, copies, num_channels, start, stop):
    """Adds the rows of the copies of every point to that of the point."""
    for point in range(start, stop):
        copy = np.int64(copies[point])
        while copy > 0:
            for first in range(0, num_channels, _GROUP):
                second = min(first + LANES, num_channels - LANES)
                here, there = point * num_channels, copy * num_channels
                total_a = load(sums, here + first) + load(sums, there + first)
                total_b = load(sums, here + second) + load(sums, there + second)
                store(sums, here + first, total_a)
                store(sums, here + second, total_b)
            copy = np.int64(copies[copy])


@compiled
def _write_copies(values, copies, num_channels, start, stop):
    """Writes the row of every point to its copies."""
    for point in range(start, stop):
        copy = np.int64(copies[point])
        while copy > 0:
            for first in range(0, num_channels, LANES):
                c = min(first, num_channels - LANES)
                store(values, copy * num_channels + c, load(values, point * num_channels + c))
            copy = np.int64(copies[copy])


@compiled
def _blur(values, blurred, following, preceding, gain, num_channels, start, stop):
    """Blurs by [1, 2, 1] / 2 along one axis of the lattice, and multiplies by `gain`.

    Args:
        values: float32 [rows * channels]; the row after the points is 0, for neighbors that do not
            exist.
        blurred: float32 [rows * channels], output.
        following: int32 [M].
        preceding: int32 [M].
        gain: float32.
        num_channels: Of `count_channels`.
    """
    center, side = fill(gain), fill(np.float32(0.5) * gain)
    for point in range(start, stop):
        soon = min(point + _AHEAD, len(following) - 1)
        for neighbor in (following[soon], preceding[soon]):
            prefetch(values, np.int64(neighbor) * num_channels)
            prefetch(values, np.int64(neighbor + 1) * num_channels - 1)
        row = point * num_channels
        after = np.int64(following[point]) * num_channels
        before = np.int64(preceding[point]) * num_channels
        for first in range(0, num_channels, LANES):
            c = min(first, num_channels - LANES)
            around = load(values, after + c) + load(values, before + c)
            store(blurred, row + c, center * load(values, row + c) + side * around)


@compiled
def _filter(field, which, axis, start, stop):
    """Adds up the copies of a range of points (axis -1), or blurs along an axis."""
    lattice, num_channels = field.lattices[which], field.num_channels
    if axis < 0:
        _add_copies(field.sums[which], lattice.copies, num_channels, start, stop)
        return
    values, blurred = field.sums[which], field.values[which]
    if axis % 2:
        values, blurred = blurred, values
    is_last = axis == len(lattice.following) - 1
    gain = field.gains[which] if is_last else np.float32(1)
    following, preceding = lattice.following[axis], lattice.preceding[axis]
    _blur(values, blurred, following, preceding, gain, num_channels, start, stop)
    if is_last:
        _write_copies(blurred, lattice.copies, num_channels, start, stop)


def list_tasks(lattices) -> np.ndarray:
    """Lists the tasks of an update and of the filtering after it.

    Returns:
        int64 [tasks, 5], for each task: how many tasks, from the first on, must be finished before
        it starts; the lattice, or -1 for an update of a block; the axis, or -1 to add up copies;
        and the range of points, or the block and the next.
    """
    tasks = [(0, -1, -1, block, block + 1) for block in range(len(lattices[0].starts) - 1)]
    for which, lattice in enumerate(lattices):
        tasks += _tasks_of_filter(which, lattice.following, lattice.preceding, len(tasks))
    return np.array(tasks, np.int64)


def _tasks_of_filter(which, following, preceding, num_before):
    """Lists the tasks that filter the values on a lattice, as `list_tasks`.

    Where neighbors have numbers near each other, a range of points is blurred along one axis as
    soon as the ranges around it are blurred along the axis before, while they are in the cache.
    """
    num_axes, num_points = following.shape
    points_at_once = _POSITIONS_AT_ONCE if num_axes == 3 else _POINTS_AT_ONCE
    firsts = range(0, num_points, points_at_once)
    reaches = np.empty((num_axes, len(firsts)), np.int64)
    for axis in range(num_axes):
        _find_reaches(following[axis], preceding[axis], points_at_once, reaches[axis])
    # A task reads what the task before wrote, and writes where that one has read.
    needed = np.vstack([reaches[:1], np.maximum(reaches[1:], reaches[:-1])])
    tasks, places = [], np.zeros((num_axes + 1, len(firsts)), np.int64)
    listed = [0] * (num_axes + 1)  # ranges of every stage: to add up copies, then the axes
    while listed[-1] < len(firsts):
        for stage in reversed(range(num_axes + 1)):
            number, before = listed[stage], num_before
            if number == len(firsts):
                continue
            if stage > 0:
                last = needed[stage - 1, number]
                # Some more are listed between, so that the threads need not wait for each other.
                if listed[stage - 1] < min(last + 1 + _SPARE_RANGES, len(firsts)):
                    continue
                before = places[stage - 1, last] + 1
            first = firsts[number]
            stop = min(first + points_at_once, num_points)
            places[stage, number] = num_before + len(tasks)
            tasks.append((before, which, stage - 1, first, stop))
            listed[stage] += 1
            break
    return tasks


@compiled
def _find_reaches(following, preceding, points_at_once, reaches):
    """Finds the last range of points in which the points of a range have neighbors on an axis.

    Args:
        following: int32 [M].
        preceding: int32 [M].
        points_at_once: Points of a range.
        reaches: int64 [ranges], output: the numbers of ranges, that of the range itself at least.
    """
    num_points = len(following)
    for number in range(len(reaches)):
        first = number * points_at_once
        highest = stop = min(first + points_at_once, num_points)
        for point in range(first, stop):
            for neighbor in (following[point], preceding[point]):
                if neighbor < num_points:
                    highest = max(highest, neighbor + 1)
        reaches[number] = (highest - 1) // points_at_once


@compiled
def work(tasks, counters, finished, task, field, beliefs, has_messages, is_last):
    """Works on tasks of an update, together with other threads.

    A thread takes the next task that nobody has taken, and starts it when the tasks before it are
    finished. A thread that waits looks again and again, which is faster than to sleep, but not for
    long: it may be the one that keeps another thread from a core.

    Args:
        tasks: int64 [tasks, 5], see `list_tasks`.
        counters: int64 [1], the number of tasks taken, 0 before.
        finished: int64 [tasks], 0 before, 1 for tasks that are finished.
        task: A task that the thread has taken, or -1.
        field: See `Field`.
        beliefs: float32 [N, C], output; empty if they are not wanted.
        has_messages: Whether the field has filtered values already.
        is_last: Whether the new beliefs are not filtered.

    Returns:
        A task that the thread has taken, and for which it has waited for long; or -1 if no task is
        left.
    """
    num_finished = 0  # from the first task on
    if task < 0:
        task = atomic_add(counters, 0, 1)
    while task < len(tasks):
        looks = 0
        while num_finished < tasks[task, 0]:
            if atomic_load(finished, num_finished):
                num_finished += 1
                continue
            looks += 1
            if looks == _LOOKS:
                return task
        _, which, axis, start, stop = tasks[task]
        if which < 0:
            _update(field, beliefs, has_messages, is_last, start)
        else:
            _filter(field, which, axis, start, stop)
        atomic_add(finished, task, 1)
        task = atomic_add(counters, 0, 1)
    return -1
