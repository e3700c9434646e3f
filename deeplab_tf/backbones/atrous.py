"""Makes a classification network return features at any stride."""

import numbers
from collections.abc import Sequence

from deeplab_tf.config import OUTPUT_STRIDES
from deeplab_tf.errors import UserError
from deeplab_tf.layers import arguments


def check_output_stride(output_stride: int) -> None:
    """Raises a `UserError` for an output stride that no backbone supports."""
    if not isinstance(output_stride, numbers.Integral) or output_stride not in OUTPUT_STRIDES:
        raise UserError(
            f"output_stride is {output_stride!r}; it must be one of "
            f"{', '.join(map(str, OUTPUT_STRIDES))}."
        )


def check_multi_grid(multi_grid: Sequence[int]) -> None:
    """Raises a `UserError` for anything but three multipliers."""
    arguments.whole_numbers("multi_grid", multi_grid, count=3, example=(1, 2, 4))


def strides_and_rates(unit_strides: Sequence[int], output_stride: int) -> list[tuple[int, int]]:
    """Turns the strides of a network's units into strides and atrous rates.

    Once the units have reached the output stride, the following ones lose their strides; each lost
    stride multiplies the rate of all units *after* it. The unit that lost its stride looks at the
    same pixels as before. So the features at a stride are the subsampled features at any smaller
    stride.

    Args:
        unit_strides: Stride of each unit of the classification network.
        output_stride: Size of the first unit's input over the size of the last unit's output.

    Returns:
        A pair (stride, rate) for each unit.

    Reference: DeepLabv3, arXiv:1706.05587, section 3.1.
    """
    current_stride, rate = 1, 1
    result = []
    for stride in unit_strides:
        if current_stride < output_stride:
            result.append((stride, 1))
            current_stride *= stride
        else:
            result.append((1, rate))
            rate *= stride
    return result
