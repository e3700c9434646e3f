"""Operations on one example, against the original's recorded results."""

import numpy as np
import pytest
import tensorflow as tf

import original
from deeplab_tf.data import transforms


@pytest.fixture(scope="module")
def recorded(shared):
    return np.load(shared / "oracles/training/preprocess.npz")


@pytest.fixture
def example():
    label = np.arange(7 * 9, dtype=np.int32).reshape(7, 9)
    return {"image": np.stack([label] * 3, axis=-1).astype(np.float32), "label": label}


def test_resize_to_range_gives_the_sizes_of_the_original():
    for case in original.load("preprocessing")["resize_to_range"]:
        size = transforms.resize_to_range_size(
            *case["image"], case["min_size"], case["max_size"], case["factor"]
        )
        assert size.numpy().tolist() == case["result"], case


def test_resize_to_range_gives_the_pixels_of_the_original(recorded):
    values = recorded
    shape = values["image"].shape
    resized = transforms.resize(
        {"image": values["image"], "label": values["label"][..., 0]},
        transforms.resize_to_range_size(shape[0], shape[1], 15, 21, 4),
    )
    name = "resize_to_range_min15_max21_factor4_"
    np.testing.assert_allclose(resized["image"], values[name + "image"], atol=1e-3)
    np.testing.assert_array_equal(resized["label"], values[name + "label"][..., 0])


def test_scaling_an_image_and_its_label_gives_the_pixels_of_the_original():
    record = original.load("preprocessing")
    image = np.float32(record["image"])[..., np.newaxis]
    size = [int(side * 0.75) for side in image.shape[:2]]
    scaled = transforms.resize({"image": image, "label": np.int32(record["label"])}, size)
    np.testing.assert_allclose(scaled["image"][..., 0], record["scaled_image_0.75"], atol=1e-3)
    np.testing.assert_array_equal(scaled["label"], record["scaled_label_0.75"])


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 1.75, 2])
def test_scaling_gives_the_pixels_of_the_original(recorded, scale):
    values = recorded
    size = [int(side * scale) for side in values["image"].shape[:2]]
    scaled = transforms.resize({"image": values["image"], "label": values["label"][..., 0]}, size)
    np.testing.assert_allclose(scaled["image"], values[f"scaled_image_{scale}"], atol=1e-3)
    np.testing.assert_array_equal(scaled["label"], values[f"scaled_label_{scale}"][..., 0])


@pytest.mark.parametrize(
    "min_scale, max_scale, step, scales",
    [
        (0.5, 2.0, 0.25, [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]),
        (0.5, 2.0, 0.4, [0.5, 1.0, 1.5, 2.0]),
        (1.0, 1.0, 0.25, [1.0]),
        (0.5, 2.0, 0.0, []),
    ],
)
def test_the_scales_are_those_of_the_original(min_scale, max_scale, step, scales):
    crop = transforms.TrainingCrop((9, 9), 255, None, None, None, min_scale, max_scale, step)
    assert crop.scales.tolist() == scales


def test_padding_is_the_mean_pixel_at_the_bottom_and_right_and_counts_nowhere(example):
    padded = transforms.pad_to(example, 9, 10, ignore_label=255, pad_pixel=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(padded["image"][:7, :9], example["image"])
    np.testing.assert_array_equal(padded["image"][8, 9], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(padded["label"][:7, :9], example["label"])
    assert set(padded["label"].numpy()[7:].ravel()) == {255}
    assert set(padded["label"].numpy()[:, 9].ravel()) == {255}


def test_a_image_that_is_large_enough_is_not_padded(example):
    padded = transforms.pad_to(example, 5, 9, ignore_label=255)
    np.testing.assert_array_equal(padded["image"], example["image"])


# Crop settings -> the size of the image. Every way through the code, with odd shapes.
CROPS = {
    "official": (transforms.TrainingCrop((33, 41), 255), (29, 37)),
    "larger image": (transforms.TrainingCrop((33, 41), 255), (70, 90)),
    "any scale": (transforms.TrainingCrop((33, 41), 0, scale_factor_step_size=0.0), (50, 40)),
    "resized": (transforms.TrainingCrop((33, 41), 255, 30, 50, 8), (64, 48)),
    "unscaled": (
        transforms.TrainingCrop((33, 41), 255, None, None, None, 1.0, 1.0, 0.0, False),
        (40, 30),
    ),
    "one pixel": (transforms.TrainingCrop((5, 4), 255, pad_pixel=(1.0, 2.0, 3.0)), (3, 1)),
    "drawn again": (transforms.TrainingCrop((17, 17), 255, max_class_share=0.5), (60, 60)),
}


def draws_of(crop, index):
    return np.random.default_rng(index).integers(
        -(2**31), 2**31 - 1, crop.num_draws, dtype=np.int32
    )


@pytest.mark.parametrize("case", CROPS)
def test_the_fast_crop_is_the_crop_of_the_graph(case):
    pytest.importorskip("numba")
    from deeplab_tf.data import fast_crop

    crop, size = CROPS[case]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    label = rng.integers(0, 9, size, dtype=np.uint8)
    label[: size[0] // 2] = 4  # some crops are half full of one class
    in_graph = tf.function(crop)
    for index in range(25):
        draws = draws_of(crop, index)
        expected = in_graph({"image": image, "label": label}, draws)
        cut_image, cut_label = fast_crop.crop_example(image, label, draws, crop)
        np.testing.assert_array_equal(cut_label, expected["label"])
        # Values between two levels may be rounded either way, above all when rounded twice.
        difference = np.abs(cut_image.astype(int) - expected["image"].numpy().astype(int))
        assert difference.max() <= (2 if crop.min_resize_value else 1)
        assert (difference > 0).mean() < 0.01


def test_a_crop_sees_every_offset_and_flips_half_of_the_time(example):
    crop = transforms.TrainingCrop((5, 6), 255, None, None, None, 1.0, 1.0, 0.25)
    example = {key: tf.cast(value, tf.uint8) for key, value in example.items()}
    offsets, flips = set(), 0
    in_graph = tf.function(crop)
    for index in range(200):
        cut = in_graph(example, draws_of(crop, index))
        np.testing.assert_array_equal(cut["image"][..., 0], cut["label"])
        is_flipped = bool(cut["label"][0, 0] > cut["label"][0, 1])
        flips += is_flipped
        offsets.add(divmod(int(cut["label"][0, -1 if is_flipped else 0]), 9))
    assert offsets == {(top, left) for top in range(3) for left in range(4)}
    assert 70 < flips < 130


def test_a_crop_that_one_class_fills_is_drawn_again():
    label = np.zeros((60, 60), np.uint8)
    label[:, 50:] = 1
    example = {"image": tf.zeros([60, 60, 3], tf.uint8), "label": tf.constant(label)}
    fixed = {"min_scale_factor": 1.0, "max_scale_factor": 1.0}
    shares = {}
    for share in (1.0, 0.8):
        crop = transforms.TrainingCrop((20, 20), 255, max_class_share=share, **fixed)
        in_graph = tf.function(crop)
        filled = [
            np.mean(in_graph(example, draws_of(crop, i))["label"] == 0) > 0.8 for i in range(40)
        ]
        shares[share] = np.mean(filled)
    assert shares[1.0] > 0.6 and shares[0.8] < 0.4
