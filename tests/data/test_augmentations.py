"""Augmentation beyond the original's, against other libraries and plain geometry."""

import colorsys

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from PIL import ImageEnhance

from deeplab_tf.data import augmentations

IGNORE_LABEL = 255
OPERATIONS = {
    "color_jitter": lambda example, seed: augmentations.color_jitter(
        example, seed, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    ),
    "random_blur": lambda example, seed: augmentations.random_blur(
        example, seed, max_sigma=2.0, probability=1.0
    ),
    "random_rotation": lambda example, seed: augmentations.random_rotation(
        example, seed, 30.0, IGNORE_LABEL
    ),
}


def draw(height: int, width: int, low: int = 0, high: int = 256) -> np.ndarray:
    generator = np.random.default_rng(height * width)
    return generator.integers(low, high, (height, width, 3)).astype(np.float32)


@pytest.fixture
def example():
    """Noise, and a label that no operation but the rotation may touch."""
    label = np.random.default_rng(1).integers(0, 21, (41, 53)).astype(np.int32)
    return {"image": draw(41, 53), "label": label, "name": tf.constant("image")}


def assert_equal(example, other):
    assert set(example) == set(other)
    for key in example:
        np.testing.assert_array_equal(example[key], other[key])


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_seed_repeats_and_another_gives_another_image(example, name):
    first, again, other = (OPERATIONS[name](example, [0, i]) for i in (3, 3, 4))
    assert_equal(first, again)
    assert not np.array_equal(first["image"], other["image"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_colours_of_8_bits_give_what_float_colours_give(example, name):
    image, label = example["image"].astype(np.uint8), example["label"].astype(np.uint8)
    result = OPERATIONS[name](example | {"image": image, "label": label}, [0, 3])
    assert result["label"].dtype == tf.uint8
    assert_equal(result, OPERATIONS[name](example, [0, 3]))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_static_shape_stays_in_a_pipeline(example, name):
    dataset = tf.data.Dataset.from_tensors(example)
    changed = dataset.map(lambda example: OPERATIONS[name](example, [0, 3])).element_spec
    assert changed == dataset.element_spec


@pytest.mark.parametrize("name", ["color_jitter", "random_blur"])
def test_what_changes_colours_leaves_the_label(example, name):
    result = OPERATIONS[name](example, [0, 3])
    np.testing.assert_array_equal(result["label"], example["label"])


def test_a_jitter_without_strength_changes_nothing(example):
    assert_equal(augmentations.color_jitter(example, [0, 3]), example)


@pytest.mark.parametrize(
    "position, enhance",
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.5])
def test_each_factor_does_what_it_does_in_pillow(position, enhance, factor):
    image = draw(20, 30)
    factors = [1.0, 1.0, 1.0]
    factors[position] = factor
    expected = np.asarray(enhance(Image.fromarray(image.astype(np.uint8))).enhance(factor))
    # Pillow rounds the grey, then the result.
    np.testing.assert_allclose(augmentations.adjust_color(image, *factors), expected, atol=2)


def test_all_factors_together_are_those_one_after_the_other():
    image = draw(20, 30, 110, 140)  # nothing is clipped
    one_by_one = augmentations.adjust_color(image, 1.2, 1.0, 1.0)
    one_by_one = augmentations.adjust_color(one_by_one, 1.0, 0.7, 1.0)
    one_by_one = augmentations.adjust_color(one_by_one, 1.0, 1.0, 1.4)
    together = augmentations.adjust_color(image, 1.2, 0.7, 1.4)
    np.testing.assert_allclose(together, one_by_one, atol=1e-3)


def test_the_factor_is_drawn_from_all_of_its_range_and_the_result_clipped():
    image = np.full((1, 1, 3), 100, np.float32)
    example = {"image": image, "label": np.zeros((1, 1), np.int32)}
    results = [
        float(augmentations.color_jitter(example, [0, i], brightness=0.3)["image"][0, 0, 0])
        for i in range(100)
    ]
    assert 70 <= min(results) < 75 and 125 < max(results) <= 130
    for i in range(20):
        strong = augmentations.color_jitter(example, [0, i], brightness=5.0, contrast=5.0)["image"]
        assert np.min(strong) >= 0 and np.max(strong) <= 255


def test_the_hue_turns_by_one_angle_and_nothing_else_changes():
    image = draw(6, 7)
    example = {"image": image, "label": np.zeros((6, 7), np.int32)}
    turns = []
    for i in range(30):
        changed = augmentations.color_jitter(example, [0, i], hue=0.2)["image"].numpy()
        before, after = (
            np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels.reshape(-1, 3)])
            for pixels in (image, changed)
        )
        np.testing.assert_allclose(after[:, 1:], before[:, 1:], rtol=1e-3)
        turn = (after[:, 0] - before[:, 0] + 0.5) % 1.0 - 0.5
        np.testing.assert_allclose(turn, turn[0], atol=1e-3)
        turns.append(turn[0])
    assert -0.2 <= min(turns) < -0.15 and 0.15 < max(turns) <= 0.2


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
def test_the_blur_is_that_of_opencv(sigma):
    image = draw(41, 53)
    width = 2 * int(np.ceil(3 * sigma)) + 1
    expected = cv2.GaussianBlur(image, (width, width), sigma, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(augmentations.blur(image, sigma), expected, atol=1e-3)


def test_as_many_images_are_blurred_as_asked_for_and_never_more_than_asked_for(example):
    def variation(image):
        return np.abs(np.diff(image, axis=1)).mean()

    variations = [
        variation(
            augmentations.random_blur(example, [0, i], max_sigma=2.0, probability=0.3)["image"]
        )
        for i in range(100)
    ]
    most = variation(augmentations.blur(example["image"], 2.0))
    assert min(variations) >= most * 0.999
    untouched = sum(value == variation(example["image"]) for value in variations)
    assert 55 < untouched < 85


@pytest.mark.parametrize("shape", [(40, 53), (41, 41)])
def test_no_angle_changes_nothing(shape):
    label = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    example = {"image": draw(*shape), "label": label}
    assert_equal(augmentations.rotate(example, 0.0, IGNORE_LABEL), example)


@pytest.mark.parametrize("side", [20, 21])
@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_right_angles_are_those_of_numpy(side, turns):
    label = np.arange(side * side, dtype=np.int32).reshape(side, side)
    rotated = augmentations.rotate(
        {"image": draw(side, side), "label": label}, 90.0 * turns, ignore_label=10**6
    )
    np.testing.assert_array_equal(rotated["label"], np.rot90(label, turns))
    np.testing.assert_allclose(rotated["image"], np.rot90(draw(side, side), turns), atol=0.01)


@pytest.mark.parametrize("degrees", [-160.0, -33.0, 5.0, 45.0, 100.0])
def test_a_label_follows_the_image_that_was_painted_after_it(degrees):
    rows, columns = np.mgrid[:61, :81]
    label = (rows > 40).astype(np.int32) + 2 * (columns > 30)  # four unlike fields
    image = np.stack([50.0 * label] * 3, axis=-1).astype(np.float32)
    rotated = augmentations.rotate({"image": image, "label": label}, degrees, IGNORE_LABEL)
    got = rotated["label"].numpy()
    counts = got != IGNORE_LABEL
    # Only along the edges does the image have colours between.
    agrees = np.abs(rotated["image"][..., 0] - 50.0 * got) < 1.0
    assert agrees[counts].mean() > 0.93
    assert set(np.unique(got[counts])) == {0, 1, 2, 3}
    assert 0.5 < counts.mean() < 0.995


@pytest.mark.parametrize("degrees", [3.0, 30.0, 45.0])
def test_no_pixel_that_counts_has_any_of_the_padding(degrees):
    example = {
        "image": np.full((41, 53, 3), 200, np.float32),
        "label": np.full((41, 53), 7, np.int32),
    }
    pad_pixel = (10.0, 20.0, 30.0)
    rotated = augmentations.rotate(example, degrees, IGNORE_LABEL, pad_pixel)
    counts = rotated["label"].numpy() == 7
    assert counts[20, 26] and not counts.all()
    np.testing.assert_allclose(rotated["image"].numpy()[counts], 200.0, atol=1e-3)
    np.testing.assert_allclose(
        rotated["image"].numpy()[~counts], [pad_pixel] * np.sum(~counts), atol=1e-3
    )
    assert set(rotated["label"].numpy()[~counts]) == {IGNORE_LABEL}


def test_pixels_that_were_ignored_keep_their_colours():
    example = {
        "image": np.full((21, 21, 3), 200, np.float32),
        "label": np.full((21, 21), IGNORE_LABEL, np.int32),
    }
    rotated = augmentations.rotate(example, 45.0, IGNORE_LABEL)
    np.testing.assert_allclose(rotated["image"][10, 10], [200.0] * 3, atol=1e-3)


def test_the_angle_is_drawn_from_all_of_its_range():
    """A line from the centre to the right tells the angle by where its far end goes."""
    label = np.zeros((101, 101), np.int32)
    label[49:52, 89:92] = 1  # far to the right of the centre
    example = {"image": draw(101, 101), "label": label}
    angles = []
    for i in range(60):
        rotated = augmentations.random_rotation(example, [0, i], 20.0, IGNORE_LABEL)
        row, column = np.argwhere(rotated["label"].numpy() == 1).mean(axis=0)
        angles.append(np.degrees(np.arctan2(50 - row, column - 50)))
    assert -21 < min(angles) < -15 and 15 < max(angles) < 21


def marked(height: int = 24, width: int = 24) -> dict:
    """An example whose image tells where each pixel came from, and whose label agrees with it."""
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    return {"image": tf.constant(image), "label": tf.constant((rows * width + columns), tf.int32)}


@pytest.mark.parametrize(
    "operation, expected",
    [
        (augmentations.random_vertical_flip, {"same", "upside down"}),
        (
            augmentations.random_quarter_turn,
            {"same", "quarter", "upside down and mirrored", "three quarters"},
        ),
    ],
)
def test_flips_and_turns_move_image_and_label_together_in_every_way(operation, expected):
    example = marked()
    label = example["label"].numpy()
    ways = {
        "same": label,
        "upside down": label[::-1],
        "quarter": np.rot90(label),
        "upside down and mirrored": np.rot90(label, 2),
        "three quarters": np.rot90(label, 3),
    }
    seen = set()
    for i in range(24):
        changed = operation(example, [0, i])
        image = changed["image"].numpy().astype(int)
        np.testing.assert_array_equal(image[..., 0] * 24 + image[..., 1], changed["label"])
        assert changed["image"].dtype == tf.uint8
        seen |= {name for name, way in ways.items() if np.array_equal(way, changed["label"])}
    assert seen == expected


def test_elastic_distortion_moves_image_and_label_together_and_smoothly():
    height, width, shift = 64, 80, 4.0
    example = marked(height, width)
    changed = augmentations.random_elastic(example, [1, 2], shift, grid=32)
    again = augmentations.random_elastic(example, [1, 2], shift, grid=32)
    np.testing.assert_array_equal(changed["image"], again["image"])
    rows, columns = np.divmod(changed["label"].numpy(), width)
    image = changed["image"].numpy()
    assert np.abs(image[..., 0] - rows).max() <= 0.5 + 1e-4
    assert np.abs(image[..., 1] - columns).max() <= 0.5 + 1e-4
    moved = rows - np.indices((height, width))[0]
    assert 1 < np.abs(moved).max() <= shift * 1.3  # bicubic interpolation may overshoot
    inner = image[4:-4, 4:-4, 0]
    assert np.abs(np.diff(inner, axis=1)).max() < 1  # neighbours stay neighbours


def test_an_elastic_distortion_of_nothing_changes_nothing():
    example = marked()
    changed = augmentations.random_elastic(example, [0, 0], 0.0, grid=8)
    np.testing.assert_array_equal(changed["label"], example["label"])
    np.testing.assert_array_equal(changed["image"], example["image"])
