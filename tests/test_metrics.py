"""Evaluation figures."""

import json

import numpy as np
import pytest

from deeplab_tf import metrics

NAMES = ("a", "b", "c")


def test_mean_iou_equals_the_original_in_every_recorded_case(shared):
    cases = json.loads((shared / "oracles" / "training" / "mean_iou.json").read_text())
    for case_name, case in cases.items():
        classes = case["num_classes"]
        matrix = sum(
            metrics.confusion_matrix(
                np.array(batch["labels"]), np.array(batch["predictions"]), classes, 255
            )
            for batch in case["batches"]
        )
        result = metrics.segmentation_metrics(matrix, tuple(map(str, range(classes))))
        assert result["miou"] == pytest.approx(case["mean_iou"], abs=1e-6), case_name
        if "confusion_matrix_rows_labels" in case:
            np.testing.assert_array_equal(matrix, case["confusion_matrix_rows_labels"])


def test_a_small_case_worked_by_hand():
    label = np.array([[0, 0, 1], [1, 255, 255]])
    prediction = np.array([[0, 1, 1], [1, 0, 2]])
    matrix = metrics.confusion_matrix(label, prediction, 3, 255)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    result = metrics.segmentation_metrics(matrix, NAMES)
    assert result["iou_per_class"] == {"a": 1 / 2, "b": 2 / 3, "c": None}
    assert result["accuracy_per_class"] == {"a": 1 / 2, "b": 1.0, "c": None}
    assert result["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result["pixel_accuracy"] == 3 / 4
    assert result["num_pixels"] == 4


def test_a_class_that_is_predicted_but_never_labelled_counts_as_zero():
    result = metrics.segmentation_metrics(np.array([[1, 0, 1], [0, 2, 0], [0, 0, 0]]), NAMES)
    assert result["iou_per_class"]["c"] == 0.0
    assert result["miou"] == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_without_any_pixel_that_counts_mean_iou_is_zero():
    assert metrics.segmentation_metrics(np.zeros((3, 3), int), NAMES)["miou"] == 0.0


def test_counts_of_parts_add_up_to_the_counts_of_the_whole():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 3, (2, 40, 30))
    whole = metrics.confusion_matrix(label, prediction, 3, 255)
    parts = [
        metrics.confusion_matrix(label[rows], prediction[rows], 3, 255)
        for rows in (slice(0, 7), slice(7, 40))
    ]
    np.testing.assert_array_equal(whole, sum(parts))


@pytest.mark.parametrize("width, kept", [(1, [4, 5]), (2, [3, 4, 5, 6]), (100, range(10))])
def test_pixels_near_a_border_are_left(width, kept):
    label = np.int32([[0] * 5 + [1] * 5] * 3)
    got = metrics.near_borders(label, width, ignore_label=255)
    expected = np.full_like(label, 255)
    expected[:, list(kept)] = label[:, list(kept)]
    np.testing.assert_array_equal(got, expected)


def test_a_picture_of_one_class_has_no_borders_and_ignored_pixels_make_some():
    label = np.zeros((3, 4), np.int32)
    assert (metrics.near_borders(label, 5, 255) == 255).all()
    label[0, 0] = 255
    expected = np.full_like(label, 255)
    expected[0, 1] = expected[1, 0] = 0
    np.testing.assert_array_equal(metrics.near_borders(label, 1, 255), expected)
