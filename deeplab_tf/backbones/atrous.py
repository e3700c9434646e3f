"""How a classification network is made to put out features at any stride."""

from collections.abc import Sequence

from deeplab_tf.errors import UserError

OUTPUT_STRIDES = (4, 8, 16, 32)


def check_output_stride(output_stride: int) -> None:
    """Raises a `UserError` for an output stride that no backbone has."""
    if output_stride not in OUTPUT_STRIDES:
        raise UserError(
            f"output_stride is {output_stride!r}; it can be {', '.join(map(str, OUTPUT_STRIDES))}."
        )


def strides_and_rates(unit_strides: Sequence[int], output_stride: int) -> list[tuple[int, int]]:
    """Turns the strides of a network's units into strides and atrous rates.

    Once the units so far have reached the output stride, the following ones no longer stride;
    each stride left out multiplies the rate of all units *behind* it. The unit that lost its stride
    looks at the same pixels as before, so that features at a stride are the subsampled features at
    any smaller one.

    Args:
        unit_strides: Stride of each unit of the classification network.
        output_stride: Size before the first unit over the size wanted behind the last one.

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
