"""The files of an evaluation in its run dir: `metrics.json`, and a line per image."""

import contextlib
import dataclasses
import json
import os
import typing
from collections.abc import Iterator

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.runs import hub
from deeplab_tf.runs import run_files

# Keys of version 0.1.
_OLD_KEYS = {"num_pictures": "num_images", "pictures_per_second": "images_per_second"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The figures of an evaluation.

    Attributes:
        figures: What `evaluate_run` returns.
        images: A dict per image: `name`, `miou`, `pixel_accuracy`, `iou_per_class` (of the classes
            that are present) and `num_pixels`.
    """

    figures: dict
    images: list[dict]


class Writer:
    """Collects the files of an evaluation; they appear when it is finished."""

    def __init__(self, lines: typing.TextIO):
        self._lines = lines
        self.figures: dict = {}

    def add_image(self, line: dict) -> None:
        """Writes the figures of one image; they are not held in memory."""
        self._lines.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def writing(run_dir: str) -> Iterator[Writer]:
    """Replaces the evaluation of a run dir when the block ends well; else leaves it as it is.

    Args:
        run_dir: Folder of the run.

    Yields:
        The writer; its `figures` must be set in the block.

    Raises:
        UserError: The files cannot be written.
    """
    hub.require_folder(run_dir)
    try:
        files.remove_drafts(run_dir)
        with files.draft_folder(run_dir) as folder:
            with open(folder / run_files.IMAGES, "w", encoding="utf-8") as lines:
                writer = Writer(lines)
                yield writer
            files.write_json(folder / run_files.METRICS, writer.figures)
            for name in (run_files.IMAGES, run_files.METRICS):
                files.publish(folder / name, os.path.join(run_dir, name))
    except OSError as error:
        raise UserError(f"The evaluation of {run_dir} cannot be written: {error}.") from error


def read(run_dir: str) -> Evaluation:
    """Reads the evaluation in a run dir; those of older versions too.

    Raises:
        UserError: There is none, or it is damaged.
    """
    folder, again = files.as_path(run_dir), _again(run_dir)
    figures = read_figures(run_dir)
    paths = [folder / name for name in (run_files.IMAGES, run_files.OLD_IMAGES)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{run_dir} has no {run_files.IMAGES}. {again}")
    images = []
    for number, line in enumerate(files.read_text(path, "list of images").splitlines(), start=1):
        place = f"Line {number} of {path}"
        try:
            images.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is not JSON ({error}). {again}") from error
        _check(images[-1], _IMAGE, place, again)
    return Evaluation(figures, images)


def read_figures(run_dir: str) -> dict:
    """Reads the figures of the evaluation in a run dir, without those of single images.

    Raises:
        UserError: There are none, or their file is damaged.
    """
    path = os.path.join(run_dir, run_files.METRICS)
    if not files.as_path(path).is_file():
        raise UserError(
            f"{run_dir} has no evaluation: run python -m deeplab_tf.eval --run_dir={run_dir} first."
        )
    figures = files.read_json(path, "evaluation")
    _check(figures, _FIGURES, f"The evaluation {path}", _again(run_dir))
    return {_OLD_KEYS.get(key, key): value for key, value in figures.items()}


def _again(run_dir: str) -> str:
    return f"Run python -m deeplab_tf.eval --run_dir={run_dir} again."


def _check(value: object, fields: dict[str, "_Check"], place: str, remedy: str) -> None:
    """Checks that a JSON value is an object with these fields.

    Raises:
        UserError: It is not; the message names the field.
    """
    if not isinstance(value, dict):
        raise UserError(f"{place} is not a JSON object. {remedy}")
    for name, (is_right, what) in fields.items():
        if not is_right(value.get(name)):
            raise UserError(f"{place}: the field {name!r} must be {what}. {remedy}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_shares(value: object) -> bool:
    """Whether a value maps names to numbers or None."""
    return isinstance(value, dict) and all(
        item is None or _is_number(item) for item in value.values()
    )


def _is_trimap(value: object) -> bool:
    """Whether a value is None, or has lists of numbers of one length, `widths` and `miou`."""
    if not isinstance(value, dict):
        return value is None
    widths, mious = value.get("widths"), value.get("miou")
    if not isinstance(widths, list) or not isinstance(mious, list):
        return False
    return 0 < len(widths) == len(mious) and all(map(_is_number, widths + mious))


_Check = tuple[typing.Callable[[object], bool], str]
_NUMBER = (_is_number, "a number")
_SHARES = (_are_shares, "an object of numbers by class name")
_FIGURES: dict[str, _Check] = {
    "miou": _NUMBER,
    "iou_per_class": _SHARES,
    "trimap": (_is_trimap, "an object with the lists widths and miou"),
    **{
        name: (lambda value: value is None or _is_number(value), "a number")
        for name in (
            "pixel_accuracy",
            "mean_accuracy",
            "frequency_weighted_iou",
            "dice",
            "boundary_iou",
        )
    },
}
_IMAGE: dict[str, _Check] = {
    "name": (lambda value: isinstance(value, str), "a text"),
    "miou": _NUMBER,
    "pixel_accuracy": _NUMBER,
    "iou_per_class": _SHARES,
    "num_pixels": _NUMBER,
}
