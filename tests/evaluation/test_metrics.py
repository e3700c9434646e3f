"""Evaluation figures."""

import numpy as np
import pytest

import original
from deeplab_tf.evaluation import metrics

NAMES = ("a", "b", "c")


def test_mean_iou_equals_the_original_in_every_recorded_case():
    for case_name, case in original.load("mean_iou").items():
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
def test_pixels_near_a_border_are_kept(width, kept):
    label = np.int32([[0] * 5 + [1] * 5] * 3)
    got = metrics.near_borders(label, width, ignore_label=255)
    expected = np.full_like(label, 255)
    expected[:, list(kept)] = label[:, list(kept)]
    np.testing.assert_array_equal(got, expected)


def test_an_image_of_one_class_has_no_borders_unless_pixels_are_ignored():
    label = np.zeros((3, 4), np.int32)
    assert (metrics.near_borders(label, 5, 255) == 255).all()
    label[0, 0] = 255
    expected = np.full_like(label, 255)
    expected[0, 1] = expected[1, 0] = 0
    np.testing.assert_array_equal(metrics.near_borders(label, 1, 255), expected)


def test_the_worst_images_are_kept_worst_first():
    def matrix(right, wrong):
        return np.array([[right, wrong], [0, 0]])

    worst = metrics.WorstImages(2)
    for name, right, wrong in (
        ("good", 9, 1),
        ("bad", 1, 9),
        ("empty", 0, 0),
        ("middling", 5, 5),
        ("as bad", 2, 18),
    ):
        worst.add(matrix(right, wrong), name)
    # Class 0 has an IoU of 0.1, class 1, which no label has, of 0.
    assert worst.worst == [(pytest.approx(0.05), "bad"), (pytest.approx(0.05), "as bad")]


def test_the_best_images_are_kept_best_first():
    best = metrics.BestImages(2)
    for name, right in (("bad", 1), ("good", 9), ("middling", 5)):
        best.add(np.array([[right, 10 - right], [0, 0]]), name)
    # Class 1, which no label has, has an IoU of 0.
    assert best.best == [(pytest.approx(0.45), "good"), (pytest.approx(0.25), "middling")]


def drawn_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels of blobs with ignored pixels, and predictions; class 3 of 4 is in none of them."""
    random = np.random.default_rng(3)
    pairs = []
    for height, width in ((9, 12), (14, 7), (5, 5)):
        blobs = random.integers(0, 3, (2, 5, 4)).repeat(3, axis=1).repeat(3, axis=2)
        label, prediction = np.int32(blobs[:, :height, :width])
        label[random.random(label.shape) < 0.1] = 255
        prediction = np.where(random.random(label.shape) < 0.6, label % 255, prediction)
        pairs.append((label, prediction))
    pairs.append((np.full((4, 4), 255, np.int32), np.zeros((4, 4), np.int32)))
    return pairs


def neighbours(label, y, x, steps):
    height, width = label.shape
    for down, across in steps:
        if 0 <= y + down < height and 0 <= x + across < width:
            yield int(label[y + down, x + across])


def counted_miou(pixels) -> float:
    """Mean IoU of (label, prediction) pairs, counted one by one."""
    ious = []
    for class_id in range(4):
        both = sum(pair == (class_id, class_id) for pair in pixels)
        any_of = sum(class_id in pair for pair in pixels)
        if any_of:
            ious.append(both / any_of)
    return sum(ious) / len(ious) if ious else 0.0


def test_trimaps_of_every_width_equal_a_slow_count():
    trimap = metrics.Trimap(6, 4, 255)
    pixels = {width: [] for width in range(1, 7)}
    for label, prediction in drawn_pairs():
        trimap.add(label, prediction)
        places = list(np.ndindex(label.shape))
        borders = [
            (y, x)
            for y, x in places
            for other in neighbours(label, y, x, ((-1, 0), (1, 0), (0, -1), (0, 1)))
            if other != label[y, x]
        ]
        for (y, x), width in ((place, width) for place in places for width in pixels):
            is_near = any((y - v) ** 2 + (x - u) ** 2 < width**2 for v, u in borders)
            if is_near and label[y, x] != 255:
                pixels[width].append((int(label[y, x]), int(prediction[y, x])))
    result = trimap.result()
    assert result["widths"] == [1, 2, 3, 4, 5, 6]
    assert result["miou"] == pytest.approx([counted_miou(pixels[width]) for width in pixels])
    accuracies = [sum(a == b for a, b in pairs) / len(pairs) for pairs in pixels.values()]
    assert result["pixel_accuracy"] == pytest.approx(accuracies)


def test_a_trimap_equals_what_near_borders_keeps():
    label, prediction = drawn_pairs()[0]
    trimap = metrics.Trimap(3, 4, 255)
    trimap.add(label, prediction)
    for width in (1, 2, 3):
        matrix = metrics.confusion_matrix(
            metrics.near_borders(label, width, 255), prediction, 4, 255
        )
        expected = metrics.segmentation_metrics(matrix, (*NAMES, "d"))["miou"]
        assert trimap.result()["miou"][width - 1] == pytest.approx(expected)


@pytest.mark.parametrize("ratio, widths", [(0.02, [1, 1, 1, 1]), (0.15, [2, 2, 1, 1])])
def test_boundary_iou_equals_a_slow_count(ratio, widths):
    measure = metrics.BoundaryIou(4, 255, ratio)
    totals = {class_id: [0, 0] for class_id in range(4)}
    for (label, prediction), width in zip(drawn_pairs(), widths):
        alone = measure.add(label, prediction)
        ious = []
        for class_id, total in totals.items():
            masks = [label == class_id, (prediction == class_id) & (label != 255)]
            labelled, predicted = ({*map(tuple, boundary(mask, width))} for mask in masks)
            both, any_of = len(labelled & predicted), len(labelled | predicted)
            total[0] += both
            total[1] += any_of
            ious += [both / any_of] if any_of else []
        assert alone == (pytest.approx(sum(ious) / len(ious)) if ious else None)
    result = measure.result((*NAMES, "d"))
    expected = [both / any_of if any_of else None for both, any_of in totals.values()]
    assert list(result["boundary_iou_per_class"].values()) == pytest.approx(expected)
    assert expected[3] is None and result["boundary_iou"] == pytest.approx(sum(expected[:3]) / 3)


def boundary(mask: np.ndarray, width: int):
    """The pixels of a mask that the authors' erosion, `width` times by 3x3, takes from it."""
    eroded = mask
    for _ in range(width):
        padded = np.pad(eroded, 1)
        eroded = eroded.copy()
        for y, x in np.argwhere(eroded):
            eroded[y, x] = padded[y : y + 3, x : x + 3].all()
    return np.argwhere(mask & ~eroded)


def test_boundary_iou_does_not_depend_on_the_numbers_of_the_classes():
    results = []
    for numbers in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]):
        measure, renumber = metrics.BoundaryIou(4, 255), np.array(numbers + [0] * 251 + [255])
        for label, prediction in drawn_pairs():
            measure.add(renumber[label], renumber[prediction])
        per_class = list(measure.result((*NAMES, "d"))["boundary_iou_per_class"].values())
        results.append([per_class[number] for number in numbers])
    assert results[0] == results[1] == results[2]


def test_perfect_boundaries_have_a_boundary_iou_of_1_with_ignored_pixels():
    for label, _ in drawn_pairs()[:3]:
        measure = metrics.BoundaryIou(4, 255)
        assert measure.add(label, np.where(label == 255, 1, label)) == 1.0


def test_figures_of_all_classes_together_equal_a_slow_count():
    for name, case in original.load("mean_iou").items():
        pairs = [
            pair
            for batch in case["batches"]
            for pair in zip(np.ravel(batch["labels"]), np.ravel(batch["predictions"]))
            if pair[0] != 255
        ]
        classes, matrix = range(case["num_classes"]), np.zeros((case["num_classes"],) * 2, int)
        for pair in pairs:
            matrix[pair] += 1
        accuracies, dices, weighted = [], [], 0.0
        for class_id in classes:
            both = sum(label == prediction == class_id for label, prediction in pairs)
            labelled = sum(label == class_id for label, _ in pairs)
            predicted = sum(prediction == class_id for _, prediction in pairs)
            accuracies += [both / labelled] if labelled else []
            dices += [2 * both / (labelled + predicted)] if labelled + predicted else []
            if labelled:
                weighted += labelled / len(pairs) * both / (labelled + predicted - both)
        result = metrics.segmentation_metrics(matrix, tuple(map(str, classes)))
        assert result["mean_accuracy"] == pytest.approx(np.mean(accuracies or [0])), name
        assert result["dice"] == pytest.approx(np.mean(dices or [0])), name
        assert result["frequency_weighted_iou"] == pytest.approx(weighted), name
        found = [dice for dice in result["dice_per_class"].values() if dice is not None]
        assert found == pytest.approx(dices), name
