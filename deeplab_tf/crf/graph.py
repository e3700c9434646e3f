"""The fully-connected CRF as a TensorFlow graph, for exported models.

It computes what `deeplab_tf.dense_crf` does for any height and width, without numba, and takes
several times the time and memory.
"""

import typing

import numpy as np
import tensorflow as tf

from deeplab_tf import crf
from deeplab_tf.crf import geometry


def dense_crf_graph(
    images: tf.Tensor,
    probabilities: tf.Tensor,
    iterations: int = 10,
    bilateral_weight: float = 4.0,
    bilateral_sigma_xy: float = 49.0,
    bilateral_sigma_rgb: float = 5.0,
    gaussian_weight: float = 3.0,
    gaussian_sigma_xy: float = 3.0,
    *,
    compatibility: np.ndarray | None = None,
) -> tf.Tensor:
    """Refines segmentations as `deeplab_tf.dense_crf` does, in a TensorFlow graph.

    It can be saved, and traced with unknown batch size, height and width. It does not check that
    the probabilities sum to one.

    Args:
        images: RGB, uint8 [B, H, W, 3].
        probabilities: float [B, H, W, C]; C is static.
        iterations: Mean-field updates.
        bilateral_weight: Weight of the appearance kernel, at least 0.
        bilateral_sigma_xy: Standard deviation of the appearance kernel in pixels.
        bilateral_sigma_rgb: Standard deviation of the appearance kernel in levels 0..255.
        gaussian_weight: Weight of the smoothness kernel, at least 0.
        gaussian_sigma_xy: Standard deviation of the smoothness kernel in pixels.
        compatibility: float [C, C], symmetric: the cost of a pair of labels; None is the Potts
            model.

    Returns:
        Probabilities, float32 [B, H, W, C].

    Raises:
        UserError: Shapes do not match, or a weight or deviation is out of range.
    """
    images = tf.convert_to_tensor(images)
    probabilities = tf.cast(probabilities, tf.float32)
    parameters: dict[str, typing.Any] = {
        "iterations": iterations,
        "bilateral_weight": bilateral_weight,
        "bilateral_sigma_xy": bilateral_sigma_xy,
        "bilateral_sigma_rgb": bilateral_sigma_rgb,
        "gaussian_weight": gaussian_weight,
        "gaussian_sigma_xy": gaussian_sigma_xy,
    }
    crf.check_batch(images, probabilities)
    crf.check_parameters(**parameters)
    compatibility = crf.check_compatibility(compatibility, probabilities.shape[-1])

    def refine(pair):
        image, own = pair
        refined, _ = infer(
            image, own, parameters=parameters, compatibility=compatibility, return_energy=False
        )
        return refined

    return tf.map_fn(refine, (images, probabilities), fn_output_signature=tf.float32)


def infer(
    image: tf.Tensor,
    probabilities: tf.Tensor,
    *,
    parameters: dict,
    compatibility: np.ndarray | None,
    return_energy: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Refines the segmentation of one image.

    Args:
        image: uint8 [H, W, 3].
        probabilities: float32 [H, W, C].
        parameters: Arguments of `dense_crf_graph` by name: `iterations`, weights and sigmas.
        compatibility: float32 [C, C] or None.
        return_energy: Whether to compute energies.

    Returns:
        Probabilities, float32 [H, W, C]; energies, float64 [iterations + 1], or [0] without them.
    """
    num_classes = probabilities.shape[-1]
    filters = _weighted_filters(image, parameters)
    # The Potts model costs 1 for different labels, or equivalently -1 for equal ones: the two
    # differ by a constant per pixel, which softmax ignores. Energies need the first; the second
    # saves a sum.
    costs = 1 - np.eye(num_classes) if compatibility is None else compatibility
    smallest = np.finfo(np.float32).tiny
    log_probabilities = tf.reshape(
        tf.math.log(tf.maximum(probabilities, smallest)), [-1, num_classes]
    )
    beliefs = tf.nn.softmax(log_probabilities)
    energies = []

    def messages_of(beliefs):
        return tf.add_n([weight * apply(beliefs) for weight, apply in filters])

    def energy(beliefs, messages):
        beliefs = tf.cast(beliefs, tf.float64)
        log_ratios = tf.math.log(tf.maximum(beliefs, smallest)) - tf.cast(
            log_probabilities, tf.float64
        )
        pairs = tf.matmul(tf.cast(messages, tf.float64), tf.constant(costs, tf.float64)) / 2
        return tf.reduce_sum(beliefs * (log_ratios + pairs))

    for _ in range(parameters["iterations"]):
        messages = messages_of(beliefs)
        if return_energy:
            energies.append(energy(beliefs, messages))
        if compatibility is not None:
            messages = -tf.matmul(messages, compatibility)
        beliefs = tf.nn.softmax(log_probabilities + messages)
    if return_energy:
        energies.append(energy(beliefs, messages_of(beliefs)))
    energies = tf.stack(energies) if energies else tf.zeros([0], tf.float64)
    return tf.reshape(beliefs, tf.shape(probabilities)), energies


def _weighted_filters(image: tf.Tensor, parameters: dict) -> list[tuple]:
    """The weights and the filters of the bilateral and the Gaussian kernel."""
    positions = _positions(tf.shape(image))
    colors = tf.cast(tf.reshape(image, [-1, 3]), tf.float32)
    bilateral = tf.concat(
        [
            positions / parameters["bilateral_sigma_xy"],
            colors / parameters["bilateral_sigma_rgb"],
        ],
        axis=1,
    )
    gaussian = positions / parameters["gaussian_sigma_xy"]
    return [
        (parameters["bilateral_weight"], _normalized_filter(bilateral)),
        (parameters["gaussian_weight"], _normalized_filter(gaussian)),
    ]


def _positions(shape: tf.Tensor) -> tf.Tensor:
    """float32 [H * W, 2]: x and y of every pixel."""
    y, x = tf.meshgrid(tf.range(shape[0]), tf.range(shape[1]), indexing="ij")
    return tf.cast(tf.reshape(tf.stack([x, y], axis=-1), [-1, 2]), tf.float32)


def _normalized_filter(features: tf.Tensor):
    """Returns the symmetrically normalized Gaussian filter for features, float32 [N, d]."""
    apply = _lattice_filter(features)
    ones = tf.ones([tf.shape(features)[0], 1])
    normalization = 1 / tf.sqrt(apply(ones) + 1e-20)
    return lambda values: normalization * apply(normalization * values)


def _lattice_filter(features: tf.Tensor):
    """Returns the Gaussian filter for features, computed on their permutohedral lattice.

    Args:
        features: float32 [N, d], in units of the standard deviations.

    Returns:
        A function, float32 [N, C] -> [N, C].
    """
    dimensions = features.shape[1]
    keys, weights, strides = _find_simplices(features)
    point_keys, first_use = tf.unique(tf.reshape(keys, [-1]))
    order = tf.argsort(point_keys)
    point_keys = tf.gather(point_keys, order)
    points = tf.gather(tf.math.invert_permutation(order), first_use)  # [N * (d + 1)]
    num_pixels, num_points = tf.shape(features)[0], tf.size(point_keys)

    pixels = tf.repeat(tf.range(num_pixels), dimensions + 1)
    splat = tf.SparseTensor(
        tf.cast(tf.stack([pixels, points], axis=1), tf.int64),
        tf.reshape(weights, [-1]),
        tf.cast(tf.stack([num_pixels, num_points]), tf.int64),
    )

    def find(wanted):
        """Numbers of points by their keys; M, the number of points, where there is none."""
        place = tf.searchsorted(point_keys, wanted)
        found = tf.gather(point_keys, tf.minimum(place, num_points - 1)) == wanted
        return tf.where(found, place, num_points)

    # At the next point along an axis, all coordinates are larger by 1, but that of the axis is
    # smaller by d.
    remainders = point_keys % (dimensions + 1)
    wrap = tf.reduce_sum(strides) - dimensions
    grown = point_keys + tf.where(remainders < dimensions, tf.ones_like(wrap), wrap)
    shrunk = point_keys - tf.where(remainders > 0, tf.ones_like(wrap), wrap)
    neighbors = [
        (find(grown - strides[axis]), find(shrunk + strides[axis]))
        for axis in range(dimensions + 1)
    ]

    def apply(values):
        values = tf.sparse.sparse_dense_matmul(splat, values, adjoint_a=True)
        for following, preceding in neighbors:
            padded = tf.pad(values, [[0, 1], [0, 0]])
            values += 0.5 * (tf.gather(padded, following) + tf.gather(padded, preceding))
        return tf.sparse.sparse_dense_matmul(splat, values) * geometry.gain(dimensions)

    return apply


def _find_simplices(features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the simplex around every pixel; the steps are those of `kernels.number_points`.

    Args:
        features: float32 [N, d].

    Returns:
        Keys of the corners, int64 [N, d + 1]; weights of the pixel at the corners, float32
        [N, d + 1]; and what a step of d + 1 in a coordinate adds to a key, int64 [d + 1].
    """
    dimensions = features.shape[1]
    size = dimensions + 1
    scaled = tf.unstack(features * geometry.scales(dimensions), axis=1)
    total = tf.zeros_like(scaled[0])
    elevated = []
    for i in range(dimensions, 0, -1):
        elevated.insert(0, total - float(i) * scaled[i - 1])
        total += scaled[i - 1]
    elevated = tf.stack([total, *elevated], axis=1)  # [N, d + 1]

    shrink = np.float32(1) / np.float32(size)
    whole = tf.round(elevated * shrink)
    remainders = elevated - whole * float(size)
    # The rank of every coordinate in the descending order of remainders; then back onto the plane.
    order = tf.argsort(remainders, axis=1, direction="DESCENDING", stable=True)
    rank = tf.argsort(order, axis=1)
    rank += tf.cast(tf.reduce_sum(whole, axis=1, keepdims=True), tf.int32)
    step = tf.cast(rank < 0, tf.int32) - tf.cast(rank > dimensions, tf.int32)
    rank += step * size
    whole += tf.cast(step, tf.float32)

    quotients = tf.cast(whole, tf.int64)
    lows = tf.reduce_min(quotients, axis=0) - 2  # room for neighbors
    extents = tf.reduce_max(quotients, axis=0) + 3 - lows
    # The lowest digit is the remainder. The last coordinate is left out: the sum of all is 0.
    strides = tf.math.cumprod(tf.concat([[size], extents[:-1]], axis=0))[:-1]
    strides = tf.concat([strides, tf.zeros([1], tf.int64)], axis=0)

    falling = tf.argsort(rank, axis=1, direction="DESCENDING")
    values = tf.gather((elevated - whole * float(size)) * shrink, falling, batch_dims=1)
    weights = tf.concat(
        [values[:, :1] + (1 - values[:, -1:]), values[:, 1:] - values[:, :-1]], axis=1
    )
    first_key = tf.reduce_sum((quotients - lows) * strides, axis=1, keepdims=True)
    steps = tf.cumsum(tf.gather(strides, falling), axis=1, exclusive=True)
    return first_key + tf.range(size, dtype=tf.int64) - steps, weights, strides
