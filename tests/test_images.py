"""Operations on one example, against the original's recorded results."""

import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import images


@pytest.fixture(scope="module")
def recorded(shared):
    folder = shared / "oracles" / "training"
    return json.loads((folder / "preprocess.json").read_text()), np.load(
        folder / "preprocess.npz"
    )


@pytest.fixture
def example():
    label = np.arange(7 * 9, dtype=np.int32).reshape(7, 9)
    return {"image": np.stack([label] * 3, axis=-1).astype(np.float32), "label": label}


def test_resize_to_range_gives_the_sizes_of_the_original(recorded):
    cases = [
        case
        for key in ("resize_to_range", "resize_to_range_float32_floor")
        for case in recorded[0][key]
        if case["keep_aspect_ratio"] and case["min_size"]
    ]
    assert len(cases) > 10
    for case in cases:
        size = images.resize_to_range_size(
            *case["image"], case["min_size"], case["max_size"], case["factor"]
        )
        assert size.numpy().tolist() == case["result"][:2], case


def test_resize_to_range_gives_the_pixels_of_the_original(recorded):
    values = recorded[1]
    resized = images.resize_to_range(
        {"image": values["image"], "label": values["label"][..., 0]}, 15, 21, 4
    )
    name = "resize_to_range_min15_max21_factor4_"
    np.testing.assert_allclose(resized["image"], values[name + "image"], atol=1e-3)
    np.testing.assert_array_equal(resized["label"], values[name + "label"][..., 0])


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 1.75, 2])
def test_scaling_gives_the_pixels_of_the_original(recorded, scale):
    values = recorded[1]
    scaled = images.random_scale(
        {"image": values["image"], "label": values["label"][..., 0]}, [0, 0], scale, scale, 0
    )
    np.testing.assert_allclose(scaled["image"], values[f"scaled_image_{scale}"], atol=1e-3)
    np.testing.assert_array_equal(scaled["label"], values[f"scaled_label_{scale}"][..., 0])


@pytest.mark.parametrize(
    "min_scale, max_scale, step, scales",
    [
        (0.5, 2.0, 0.25, [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]),
        (0.5, 2.0, 0.4, [0.5, 1.0, 1.5, 2.0]),
        (1.0, 1.0, 0.25, [1.0]),
    ],
)
def test_random_scale_draws_exactly_the_scales_of_the_original(min_scale, max_scale, step, scales):
    example = {"image": tf.zeros([100, 200, 3]), "label": tf.zeros([100, 200], tf.int32)}
    heights = {
        int(images.random_scale(example, [0, i], min_scale, max_scale, step)["label"].shape[0])
        for i in range(80)
    }
    assert heights == {int(100 * scale) for scale in scales}


def test_padding_is_the_mean_pixel_at_the_bottom_and_right_and_counts_nowhere(example):
    padded = images.pad_to(example, 9, 10, ignore_label=255, pad_pixel=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(padded["image"][:7, :9], example["image"])
    np.testing.assert_array_equal(padded["image"][8, 9], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(padded["label"][:7, :9], example["label"])
    assert set(padded["label"].numpy()[7:].ravel()) == {255}
    assert set(padded["label"].numpy()[:, 9].ravel()) == {255}


def test_a_picture_that_is_large_enough_is_not_padded(example):
    padded = images.pad_to(example, 5, 9, ignore_label=255)
    np.testing.assert_array_equal(padded["image"], example["image"])


def test_random_crop_sees_every_offset_and_moves_image_and_label_together(example):
    offsets = set()
    for i in range(200):
        crop = images.random_crop(example, [0, i], 5, 6)
        np.testing.assert_array_equal(crop["image"][..., 0], crop["label"])
        offsets.add(divmod(int(crop["label"][0, 0]), 9))
    assert offsets == {(top, left) for top in range(3) for left in range(4)}


def test_random_flip_mirrors_image_and_label_half_of_the_time(example):
    flipped = 0
    for i in range(100):
        result = images.random_flip(example, [0, i])
        np.testing.assert_array_equal(result["image"][..., 0], result["label"])
        flipped += int(result["label"][0, 0]) == 8
    assert 30 < flipped < 70
