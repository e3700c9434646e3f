"""How fine label maps are beside the features of a network."""

import numpy as np
import pytest

from deeplab_tf.training import fine_detail


def stripes(period: int, side: int = 240) -> np.ndarray:
    """Lines of a quarter of their distance, between broad parts."""
    columns = np.arange(side) % period < max(1, period // 4)
    return np.broadcast_to(np.uint8(columns), (side, side))


@pytest.mark.parametrize("period, factor", [(120, 1.0), (24, 1.5), (16, 2.0), (8, 2.0)])
def test_images_with_thin_parts_are_enlarged_until_the_features_hold_them(period, factor):
    assert fine_detail.enlargement([stripes(period)], 2) == factor


def test_parts_as_wide_as_the_squares_are_kept_and_thinner_ones_are_lost():
    assert fine_detail.kept_miou([stripes(32)], 2, stride=8) == 1
    # All lines are lost, three quarters of the pixels are right.
    assert fine_detail.kept_miou([stripes(8)], 2, stride=8) == pytest.approx(0.75 / 2)


def test_ignored_pixels_do_not_count_and_without_labels_nothing_is_enlarged():
    label = stripes(8).copy()
    label[label == 1] = 255
    assert fine_detail.kept_miou([label], 2, stride=8) == 1
    assert fine_detail.enlargement([], 2) == 1
