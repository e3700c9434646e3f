"""How a network is divided into segments that are run again for their gradients.

A training that recomputes activations keeps only what passes between the segments.

Reference: Training deep nets with sublinear memory cost, arXiv:1604.06174, section 4.
"""

import dataclasses
import math
from collections.abc import Sequence

from deeplab_tf.models import activations
from deeplab_tf.models.activations import Call

# Limits of the memory inside a segment that are tried, as shares of all activations.
_SHARES = [2 ** (-step / 2) for step in range(2, 12)]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the calls of a network are divided.

    Attributes:
        segments: The calls of each segment. The last one is not run again: its gradients come
            first, when its activations are still there.
        kept: Bytes that are kept at most: all that passes between segments, and the activations
            of one segment.
    """

    segments: tuple[tuple[Call, ...], ...]
    kept: int


def plan(calls: Sequence[Call]) -> Plan:
    """Divides calls so that the least memory is kept.

    Args:
        calls: The calls of a network in their order, with known shapes.
    """
    costs = _Costs(calls)
    plans = [_plan_within(costs, share * costs.total) for share in _SHARES]
    ends, kept = min(plans, key=lambda plan: plan[1])
    segments = tuple(
        tuple(calls[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)
    )
    return Plan(segments, kept)


class _Costs:
    """The bytes that segments keep.

    Attributes:
        total: All activations, without segments.
    """

    def __init__(self, calls: Sequence[Call]):
        produced = {id(call.output): index for index, call in enumerate(calls)}
        self._sizes = [activations.num_bytes(call.output) for call in calls]
        self._last_use = list(range(len(calls)))
        self._first_keeper = [len(calls)] * len(calls)
        self._besides = [0] * len(calls)
        for index, call in enumerate(calls):
            for tensor in call.inputs:
                if id(tensor) in produced:
                    self._last_use[produced[id(tensor)]] = index
            for key, size in call.kept():
                if isinstance(key, tuple):
                    self._besides[index] += size
                elif id(key) in produced:
                    producer = produced[id(key)]
                    self._first_keeper[producer] = min(self._first_keeper[producer], index)
        self.total = sum(
            size for size, keeper in zip(self._sizes, self._first_keeper) if keeper < len(calls)
        ) + sum(self._besides)

    def __len__(self) -> int:
        return len(self._sizes)

    def of_longer(self, start: int, end: int) -> tuple[int, int]:
        """What call `start` adds to the segment from `start + 1` to `end`.

        Returns:
            Bytes that it keeps inside the segment, and bytes that it hands on to later segments.
        """
        size = self._sizes[start]
        inside = self._besides[start] + (size if self._first_keeper[start] < end else 0)
        return inside, size if self._last_use[start] >= end else 0


def _plan_within(costs: _Costs, limit: float) -> tuple[list[int], int]:
    """Divides calls into segments that keep at most `limit` bytes inside, if a call alone does.

    Returns:
        The end of each segment, and the bytes kept at most.
    """
    handed_on = [0.0, *[math.inf] * len(costs)]  # by the segments up to a call
    starts, largest = [0] * (len(costs) + 1), [0] * (len(costs) + 1)
    for end in range(1, len(costs) + 1):
        inside = between = 0
        for start in range(end - 1, -1, -1):
            more_inside, more_between = costs.of_longer(start, end)
            inside, between = inside + more_inside, between + more_between
            if inside > limit and start < end - 1:
                break
            if handed_on[start] + between <= handed_on[end]:
                handed_on[end] = handed_on[start] + between
                starts[end], largest[end] = start, max(largest[start], inside)
    ends, end = [], len(costs)
    while end:
        ends.append(end)
        end = starts[end]
    return ends[::-1], int(handed_on[-1]) + largest[-1]
