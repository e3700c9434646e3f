"""Images for validation: chosen by name, of every class, never like one that is trained on."""

import cv2
import numpy as np
import pytest

from deeplab_tf.data import near_duplicates
from deeplab_tf.data import validation_split
from deeplab_tf.errors import UserError


def texture(seed: int, height=60, width=80) -> np.ndarray:
    """Smooth random colours, uint8 [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)


COPIES = {
    "equal": (lambda image: image.copy(), "equal"),
    "compressed": (jpeg, "nearly equal"),
    "resized": (lambda image: cv2.resize(image, (57, 43)), "nearly equal"),
    "brighter": (lambda image: cv2.convertScaleAbs(image, alpha=0.9, beta=25), "nearly equal"),
    "mirrored": (lambda image: jpeg(image[:, ::-1]), "mirrored"),
    "upside down": (lambda image: image[::-1], "mirrored"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_and_others_are_not(copy):
    change, how = COPIES[copy]
    images = [texture(seed) for seed in range(12)]
    images.append(np.ascontiguousarray(change(images[3])))
    looks = [near_duplicates.Look.of(image) for image in images]
    assert near_duplicates.find_alike(looks) == [(3, 12, how)]


def test_images_without_contrast_are_alike_only_when_equal():
    images = [np.full((9, 9, 3), value, np.uint8) for value in (0, 0, 255)]
    looks = [near_duplicates.Look.of(image) for image in images]
    assert near_duplicates.find_alike(looks) == [(0, 1, "equal")]


def different_looks(count: int) -> list[near_duplicates.Look]:
    return [near_duplicates.Look(b"%d" % index, None) for index in range(count)]


def test_the_division_is_a_function_of_the_names():
    names = [f"image_{index}" for index in range(50)]
    classes = [{0, index % 3} for index in range(50)]
    division = validation_split.divide(names, different_looks(50), classes, 0.2)
    assert sum(division.is_val) == 10
    backwards = validation_split.divide(names[::-1], different_looks(50), classes[::-1], 0.2)
    chosen = {name for name, is_val in zip(names, division.is_val) if is_val}
    assert chosen == {name for name, is_val in zip(names[::-1], backwards.is_val) if is_val}


def test_rare_classes_occur_in_both_parts():
    classes = [{0} for _ in range(100)]
    for index in (3, 70):
        classes[index] = {0, 1}
    for index in (5, 20, 33, 50, 90):
        classes[index] = {0, 2}
    classes[8] = {0, 3}  # only here: it has to be trained on
    names = [str(index) for index in range(100)]
    is_val = validation_split.divide(names, different_looks(100), classes, 0.2).is_val
    held = [set().union(*(c for c, v in zip(classes, is_val) if v == part)) for part in (0, 1)]
    assert held == [{0, 1, 2, 3}, {0, 1, 2}]
    assert sum(is_val) == 20


def test_what_shows_the_same_stays_together():
    images = [texture(seed) for seed in range(20)]
    images += [np.ascontiguousarray(image[:, ::-1]) for image in images]
    looks = [near_duplicates.Look.of(image) for image in images]
    names = [str(index) for index in range(40)]
    division = validation_split.divide(names, looks, [{0}] * 40, 0.25)
    assert division.is_val[:20] == division.is_val[20:]
    assert sum(division.is_val) == 10
    assert "40 images that show the same" in division.notes[0]


def test_images_of_a_fixed_camera_are_divided_all_the_same():
    background = texture(0)
    images = [background.copy() for _ in range(10)]
    for index, image in enumerate(images):
        image[index : index + 3, :3] = 255
    looks = [near_duplicates.Look.of(image) for image in images]
    division = validation_split.divide("abcdefghij", looks, [{0}] * 10, 0.2)
    assert sum(division.is_val) == 2
    assert "fixed camera" in division.notes[0]


@pytest.mark.parametrize(
    "looks, message",
    [(different_looks(1), "is 1 image"), (different_looks(1) * 3, "show the same")],
)
def test_what_cannot_be_divided_is_refused(looks, message):
    with pytest.raises(UserError, match=message):
        validation_split.divide("abc"[: len(looks)], looks, [{0}] * len(looks), 0.2)
