"""When a training ends before its last step: after several validations that were not better.

The validations of a run are read from its log, so that a run that resumes goes on counting.
"""

import json
import math
import pathlib
from typing import NamedTuple

from deeplab_tf import files
from deeplab_tf.runs import run_files

# What a damaged line raises.
_DAMAGED = (ValueError, TypeError, LookupError, OverflowError, RecursionError)


class Validation(NamedTuple):
    """One validation of a run."""

    step: int
    miou: float


class EarlyStopping:
    """Counts the validations since the best one.

    Args:
        run_dir: Folder of the run, which may hold earlier validations.
        first_step: Steps that were done before; validations of later ones do not count.
        patience: Number of validations without a better mIoU that end a run; 0 for any number.
    """

    def __init__(self, run_dir: str, first_step: int, patience: int):
        path = files.as_path(run_dir, run_files.TRAINING_LOG)
        self._patience = patience
        self._validations = [one for one in _read(path) if one.step <= first_step]

    def add(self, step: int, miou: float) -> None:
        """Counts a validation."""
        self._validations.append(Validation(step, miou))

    @property
    def reason(self) -> str:
        """Why the run ends; empty if it does not."""
        if not self._patience or not self._validations:
            return ""
        best = max(self._validations, key=lambda validation: validation.miou)
        since = len(self._validations) - 1 - self._validations.index(best)
        if since < self._patience:
            return ""
        return (
            f"no validation since step {best.step} was better than its mIoU of {best.miou:.4f} "
            f"(--early_stopping_patience={self._patience})"
        )


def _read(path: pathlib.Path) -> list[Validation]:
    """Reads the validations in a log; damaged lines are left out."""
    validations = []
    if path.exists():
        with path.open("rb") as lines:
            for line in lines:
                try:
                    fields = json.loads(line)
                    validation = Validation(int(fields["step"]), float(fields["validation/miou"]))
                except _DAMAGED:
                    continue
                if math.isfinite(validation.miou):
                    validations.append(validation)
    return validations
