"""The loops of the fully-connected CRF in numba: lattice construction and mean-field updates.

Every kernel whose arguments end in `start, stop` works on that range of pixels or lattice points
only, so that several threads can share the work.
"""

import numpy as np

from deeplab_tf.crf.vectors import LANES
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
_PIXELS_AT_ONCE = 128
_AHEAD = 12  # how many rows ahead to prefetch
_GROUP = 2 * LANES  # channels whose sums are kept in registers at once
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads neighbouring keys


@compiled
def _elevate(features, scales, first, count, elevated, total):
    """Maps `count` pixels onto the plane of coordinates that sum to 0."""
    d = len(features)
    total[:] = 0
    for i in range(d, 0, -1):
        for p in range(count):
            scaled = features[i - 1, first + p] * scales[i - 1]
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
def find_simplices(features, scales, lows, strides, keys, weights, start, stop):
    """Finds the simplex around every pixel: the keys of its corners, and the weight at each.

    Args:
        features: float32 [d, N].
        scales: float32 [d], the diagonal of the paper's E, times the filter's deviation.
        lows: float32 [d + 1], a lower bound of every coordinate / (d + 1).
        strides: int64 [d + 1], what a step of d + 1 in a coordinate adds to a key.
        keys: int64 [N, d + 1], output; all coordinates of corner r equal r modulo d + 1.
        weights: float32 [N, d + 1], output: barycentric coordinates.
    """
    d = len(features)
    size = np.float32(d + 1)
    shrink = np.float32(1) / size
    one = np.float32(1)
    elevated = np.empty((d + 1, _PIXELS_AT_ONCE), np.float32)
    whole = np.empty((d + 1, _PIXELS_AT_ONCE), np.float32)
    rank = np.empty((d + 1, _PIXELS_AT_ONCE), np.int32)
    total = np.empty(_PIXELS_AT_ONCE, np.float32)
    by_rank = np.empty(d + 1, np.float32)
    step_by_rank = np.empty(d + 1, np.int64)

    for first in range(start, stop, _PIXELS_AT_ONCE):
        count = min(_PIXELS_AT_ONCE, stop - first)
        _elevate(features, scales, first, count, elevated, total)
        _find_nearest_points(elevated, count, whole, total)
        _rank_remainders(elevated, whole, count, rank)
        _move_onto_plane(whole, rank, count, total)
        for p in range(count):
            key = 0
            for i in range(d + 1):
                r = rank[i, p]
                by_rank[r] = (elevated[i, p] - whole[i, p] * size) * shrink
                step_by_rank[r] = strides[i]
                key += np.int64(whole[i, p] - lows[i]) * strides[i]
            keys[first + p, 0] = key
            weights[first + p, 0] = by_rank[d] + (one - by_rank[0])
            for r in range(1, d + 1):
                # From corner to corner, the coordinate of the next highest rank wraps around.
                key += 1 - step_by_rank[d - r + 1]
                keys[first + p, r] = key
                weights[first + p, r] = by_rank[d - r] - by_rank[d - r + 1]


@inlined
def _slot(key, table, shift):
    """Returns the place of a key in a hash table, or the empty place where it belongs."""
    slot = key if shift == 0 else np.int64((np.uint64(key) * _GOLDEN) >> np.uint64(shift))
    while table[slot, 0] != key and table[slot, 0] != _EMPTY:
        slot = (slot + 1) & (len(table) - 1)
    return slot


@compiled
def number_points(keys, num_keys):
    """Numbers the lattice points in the order of first use.

    Args:
        keys: int64 [N, d + 1].
        num_keys: All keys are below it. If it is small, each key has its own place in the table.

    Returns:
        Lattice points of every pixel, int32 [N, d + 1]; the keys of the points, int64 [M]; the hash
        table of keys and points, int64 [capacity, 2]; and its shift, 0 if keys are places.
    """
    num_pixels, num_corners = keys.shape
    shift = 54
    while 1 << (64 - shift) < num_pixels:
        shift -= 1
    capacity = 1 << (64 - shift)
    if num_keys <= 4 * capacity:
        capacity, shift = num_keys, 0
    table = np.full((capacity, 2), _EMPTY, np.int64)
    points = np.empty((num_pixels, num_corners), np.int32)
    point_keys = np.empty(capacity // 2 + num_corners if shift else capacity, np.int64)
    num_points = 0
    for p in range(num_pixels):
        if shift and num_points > capacity // 2:
            capacity *= 2
            shift -= 1
            table = np.full((capacity, 2), _EMPTY, np.int64)
            for point in range(num_points):
                slot = _slot(point_keys[point], table, shift)
                table[slot, 0] = point_keys[point]
                table[slot, 1] = point
            point_keys = np.concatenate((point_keys, np.empty(capacity // 4, np.int64)))
        for r in range(num_corners):
            key = keys[p, r]
            if p > 0 and keys[p - 1, r] == key:
                points[p, r] = points[p - 1, r]
                continue
            slot = _slot(key, table, shift)
            if table[slot, 0] == _EMPTY:
                table[slot, 0] = key
                table[slot, 1] = num_points
                point_keys[num_points] = key
                num_points += 1
            points[p, r] = table[slot, 1]
    return points, point_keys[:num_points].copy(), table, shift


@compiled
def find_neighbors(point_keys, strides, table, shift, following, start, stop):
    """Finds the next point along every axis; M, the number of points, stands for none.

    Args:
        point_keys: int64 [M].
        strides: int64 [d + 1].
        table: int64 [capacity, 2].
        shift: Shift of the table.
        following: int32 [d + 1, M], output.
    """
    d = len(strides) - 1
    wrap = np.sum(strides) - d
    for point in range(start, stop):
        key = point_keys[point]
        # All coordinates are larger by 1, but that of the axis is smaller by d.
        grown = key + (1 if key % (d + 1) < d else wrap)
        for axis in range(d + 1):
            slot = _slot(grown - strides[axis], table, shift)
            found = table[slot, 0] != _EMPTY
            following[axis, point] = table[slot, 1] if found else len(point_keys)


@compiled
def invert_neighbors(following, preceding, start, stop):
    """Finds the previous point along every axis of a range: the inverse of `following`."""
    num_points = following.shape[1]
    for axis in range(start, stop):
        preceding[axis] = num_points
        for point in range(num_points):
            if following[axis, point] < num_points:
                preceding[axis, following[axis, point]] = point


@compiled
def filter_channel(image, points, weights, following, preceding):
    """Filters an image with one channel: splat, blur, slice.

    Args:
        image: float32 [N].
        points: int32 [N, d + 1].
        weights: float32 [N, d + 1].
        following: int32 [d + 1, M].
        preceding: int32 [d + 1, M].

    Returns:
        float32 [N].
    """
    num_points = following.shape[1]
    values = np.zeros(num_points + 1, np.float32)
    for p in range(len(points)):
        for r in range(points.shape[1]):
            values[points[p, r]] += weights[p, r] * image[p]
    blurred = np.zeros_like(values)
    for axis in range(len(following)):
        for point in range(num_points):
            around = values[following[axis, point]] + values[preceding[axis, point]]
            blurred[point] = values[point] + np.float32(0.5) * around
        values, blurred = blurred, values
    result = np.empty_like(image)
    for p in range(len(points)):
        total = np.float32(0)
        for r in range(points.shape[1]):
            total += weights[p, r] * values[points[p, r]]
        result[p] = total
    return result


@compiled
def sort_entries(points, weights, num_points):
    """Sorts the pixels by the lattice points that they contribute to.

    Args:
        points: int32 [N, d + 1].
        weights: float32 [N, d + 1].
        num_points: M.

    Returns:
        The first entry of every lattice point, int64 [M + 1]; the pixels of the entries, int32
        [N * (d + 1)]; and their weights, float32 [N * (d + 1)].
    """
    num_pixels, num_corners = points.shape
    ends = np.zeros(num_points + 1, np.int64)
    for p in range(num_pixels):
        for r in range(num_corners):
            ends[points[p, r] + 1] += 1
    for point in range(num_points):
        ends[point + 1] += ends[point]
    starts = ends.copy()
    entry_pixels = np.empty(points.size, np.int32)
    entry_weights = np.empty(points.size, np.float32)
    for p in range(num_pixels):
        for r in range(num_corners):
            entry = ends[points[p, r]]
            ends[points[p, r]] += 1
            entry_pixels[entry] = p
            entry_weights[entry] = weights[p, r]
    return starts, entry_pixels, entry_weights


@compiled
def scale_entries(entry_pixels, scale, entry_weights, start, stop):
    """Multiplies the weights of entries by the factors of their pixels, float32 [N]."""
    for entry in range(start, stop):
        entry_weights[entry] *= scale[entry_pixels[entry]]


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


@compiled
def join_corners(points, weights, scale, first_row, all_points, all_weights, column, start, stop):
    """Writes the corners of every pixel in one lattice beside those in the other lattice.

    Args:
        points: int32 [N, d + 1].
        weights: float32 [N, d + 1].
        scale: float32 [N], a factor of the weights of every pixel.
        first_row: Row of the first point of the lattice among the values.
        all_points: int32 [N, E], output: rows of the values.
        all_weights: float32 [N, E], output.
        column: The first column to write to.
    """
    for p in range(start, stop):
        for r in range(points.shape[1]):
            all_points[p, column + r] = points[p, r] + first_row
            all_weights[p, column + r] = weights[p, r] * scale[p]


# Below, rows of channels lie one after another in flat arrays. A row of C channels is processed in
# vectors; the last vector ends with the row and overlaps the previous one. So rows need no padding,
# which would cost time, since these kernels are limited by the speed of memory. No kernel reads a
# lane of a row after it has written it.


@compiled
def splat(beliefs, entry_starts, entry_pixels, entry_weights, values, num_channels, start, stop):
    """Sums the weighted rows of the pixels at every lattice point.

    Args:
        beliefs: float32 [N * C].
        entry_starts: int64 [M + 1], first entry of every lattice point.
        entry_pixels: int32 [E], a pixel that contributes to the point.
        entry_weights: float32 [E], its weight.
        values: float32 [(M + 1) * C], output.
        num_channels: C, at least 8.
    """
    last = num_channels - LANES
    for point in range(start, stop):
        row = point * num_channels
        for first in range(0, num_channels, _GROUP):
            a = min(first, last)
            b = min(first + LANES, last)
            total_a = total_b = fill(np.float32(0))
            for entry in range(entry_starts[point], entry_starts[point + 1]):
                pixel = np.int64(entry_pixels[entry]) * num_channels
                soon = np.int64(entry_pixels[min(entry + _AHEAD, len(entry_pixels) - 1)])
                prefetch(beliefs, soon * num_channels + a)
                prefetch(beliefs, soon * num_channels + b + LANES - 1)
                weight = fill(entry_weights[entry])
                total_a = total_a + weight * load(beliefs, pixel + a)
                if b != a:
                    total_b = total_b + weight * load(beliefs, pixel + b)
            store(values, row + a, total_a)
            if b != a:
                store(values, row + b, total_b)


@compiled
def blur(values, blurred, following, preceding, num_channels, start, stop):
    """Blurs by [1, 2, 1] / 2 along one axis of the lattice.

    Args:
        values: float32 [(M + 1) * C]; the last row is 0, for neighbors that do not exist.
        blurred: float32 [(M + 1) * C], output.
        following: int32 [M].
        preceding: int32 [M].
        num_channels: C, at least 8.
    """
    half = fill(np.float32(0.5))
    for point in range(start, stop):
        soon = min(point + _AHEAD, len(following) - 1)
        for neighbor in (following[soon], preceding[soon]):
            prefetch(values, np.int64(neighbor) * num_channels)
            prefetch(values, np.int64(neighbor + 1) * num_channels - 1)
        row = point * num_channels
        after = np.int64(following[point]) * num_channels
        before = np.int64(preceding[point]) * num_channels
        for block in range(0, num_channels, LANES):
            c = min(block, num_channels - LANES)
            around = load(values, after + c) + load(values, before + c)
            store(blurred, row + c, load(values, row + c) + half * around)


@inlined
def _slice(points, weights, values, pixel, own, own_start, sums, num_channels):
    """Adds the weighted lattice points of a pixel to `own[own_start : own_start + C]`.

    In `sums`, the last vector of the row follows the others instead of overlapping them: a load
    right after stores to parts of the same vector would have to wait for them.
    """
    last = num_channels - LANES
    for first in range(0, num_channels, _GROUP):
        a = min(first, last)
        b = min(first + LANES, last)
        total_a = load(own, own_start + a)
        total_b = load(own, own_start + b)
        for corner in range(points.shape[1]):
            row = np.int64(points[pixel, corner]) * num_channels
            weight = fill(weights[pixel, corner])
            total_a = total_a + weight * load(values, row + a)
            if b != a:
                total_b = total_b + weight * load(values, row + b)
        store(sums, first, total_a)
        if b != a:
            store(sums, first + LANES, total_b)


@compiled
def slice_messages(points, weights, values, messages, num_channels, start, stop):
    """Computes the messages that every pixel gets.

    Args:
        points: int32 [N, E], rows of the values.
        weights: float32 [N, E].
        values: float32 [rows * C].
        messages: float32 [N * C], output.
        num_channels: C, at least 8.
    """
    zeros = np.zeros(num_channels, np.float32)
    sums = np.empty(num_channels + _GROUP, np.float32)
    for p in range(start, stop):
        _slice(points, weights, values, p, zeros, 0, sums, num_channels)
        for block in range(0, num_channels, LANES):
            c = min(block, num_channels - LANES)
            store(messages, p * num_channels + c, load(sums, block))


@compiled
def update(log_probabilities, points, weights, values, costs, beliefs, num_channels, start, stop):
    """Updates the beliefs at every pixel from its own probabilities and the messages.

    Args:
        log_probabilities: float32 [N * C].
        points: int32 [N, E], rows of the values.
        weights: float32 [N, E].
        values: float32 [rows * C].
        costs: float32 [C * C], the compatibility matrix; empty for the Potts model.
        beliefs: float32 [N * C], output.
        num_channels: C, at least 8.
    """
    zeros = np.zeros(num_channels, np.float32)
    messages = np.empty(num_channels, np.float32)
    logits = np.empty(num_channels + _GROUP, np.float32)
    is_new = np.zeros(LANES, np.float32)  # 1 where the last vector does not overlap
    is_new[LANES - 1 - (num_channels - 1) % LANES :] = 1
    for p in range(start, stop):
        first = p * num_channels
        if len(costs) == 0:
            _slice(points, weights, values, p, log_probabilities, first, logits, num_channels)
        else:
            _slice(points, weights, values, p, zeros, 0, logits, num_channels)
            for block in range(0, num_channels, LANES):
                store(messages, min(block, num_channels - LANES), load(logits, block))
            for block in range(0, num_channels, LANES):
                c = min(block, num_channels - LANES)
                total = load(log_probabilities, first + c)
                for other in range(num_channels):
                    cost = load(costs, other * num_channels + c)
                    total = total - fill(messages[other]) * cost
                store(logits, block, total)
        highest = load(logits, 0)
        for block in range(LANES, num_channels, LANES):
            highest = maximum(highest, load(logits, block))
        shift = fill(maximum_of_lanes(highest))
        total = likelihood = fill(np.float32(0))
        for block in range(0, num_channels, LANES):
            total = total + likelihood
            likelihood = exp(load(logits, block) - shift)
            store(logits, block, likelihood)
        total = total + likelihood * load(is_new, 0)
        scale = fill(np.float32(1) / sum_of_lanes(total))
        for block in range(0, num_channels, LANES):
            c = min(block, num_channels - LANES)
            store(beliefs, first + c, load(logits, block) * scale)
