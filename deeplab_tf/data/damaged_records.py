"""Damaged records are reported once each and left out; too many of them are an error."""

import contextlib
import re
import sys
from collections.abc import Sequence

import tensorflow as tf

from deeplab_tf.data.records import Records
from deeplab_tf.errors import UserError

_MAX_LISTED = 1000  # characters of what a message lists


class DamagedRecords:
    """Reports the damaged records of a split on stderr, and raises an error if there are too many.

    Args:
        num_examples: Records of the split, damaged ones included.
        max_share: Share of them beyond which reading stops; one is always tolerated, unless this
          is 0.

    Attributes:
        problems: What is wrong, by the name of the record.
    """

    def __init__(self, num_examples: int, max_share: float):
        self._num_examples = num_examples
        self._limit = max(1, int(max_share * num_examples)) if max_share else 0
        self.problems: dict[str, str] = {}

    @classmethod
    def of_split(cls, sources: Sequence[Records], split: str) -> "DamagedRecords":
        """Makes one for the records of a split, with the limit of the first source.

        Raises:
            UserError: There is no such split.
        """
        num_examples = sum(source.num_records(split) for source in sources)
        return cls(num_examples, sources[0].limits.max_damaged_share)

    def __call__(self, names: Sequence[str], problems: Sequence[str]) -> None:
        """Reports records that were not reported before.

        Raises:
            UserError: There are now too many.
        """
        for name, problem in zip(names, problems, strict=True):
            if name in self.problems:
                continue
            self.problems[name] = problem
            count = len(self.problems)
            if count > self._limit:
                listed = "; ".join(f"{name}: {text}" for name, text in self.problems.items())
                raise UserError(
                    f"{count} of {self._num_examples} records are damaged, which is more than "
                    f"--max_damaged_share allows: {listed[:_MAX_LISTED]}. See python -m "
                    "deeplab_tf.check_data --data_dir=..., and build the records again."
                )
            print(
                f"warning: record {name} is left out: {problem} "
                f"(damaged so far: {count} of {self._num_examples})",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def readable_errors():
    """Turns the errors that tf.data raises while records are read into `UserError`s."""
    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        found = re.search(r"UserError: (.*?)\n(?:Traceback|$)", error.message, re.DOTALL)
        if found is None:
            raise
        raise UserError(found[1].strip()) from error
