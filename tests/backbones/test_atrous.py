"""The conversion of strides into rates."""

import pytest

from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.backbones.atrous import strides_and_rates
from deeplab_tf.errors import UserError


@pytest.mark.parametrize(
    "output_stride, expected",
    [
        (32, [(2, 1), (1, 1), (2, 1), (2, 1), (2, 1), (1, 1), (2, 1), (1, 1)]),
        (16, [(2, 1), (1, 1), (2, 1), (2, 1), (2, 1), (1, 1), (1, 1), (1, 2)]),
        (8, [(2, 1), (1, 1), (2, 1), (2, 1), (1, 1), (1, 2), (1, 2), (1, 4)]),
        (4, [(2, 1), (1, 1), (2, 1), (1, 1), (1, 2), (1, 4), (1, 4), (1, 8)]),
    ],
)
def test_a_unit_that_loses_its_stride_keeps_the_rate_of_those_before_it(output_stride, expected):
    assert strides_and_rates([2, 1, 2, 2, 2, 1, 2, 1], output_stride) == expected


@pytest.mark.parametrize("output_stride", [0, 2, 12, 64, None, "16"])
def test_the_error_for_another_output_stride_lists_the_valid_ones(output_stride):
    with pytest.raises(UserError, match="4, 8, 16, 32"):
        check_output_stride(output_stride)
