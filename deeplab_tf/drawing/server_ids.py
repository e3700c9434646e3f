"""The ids that test servers of datasets want in place of our class ids."""

import os
from collections.abc import Sequence

import numpy as np

from deeplab_tf.errors import UserError

LABEL_IDS = {
    # "id" in the table of github.com/mcordts/cityscapesScripts, helpers/labels.py.
    "cityscapes": {
        "road": 7,
        "sidewalk": 8,
        "building": 11,
        "wall": 12,
        "fence": 13,
        "pole": 17,
        "traffic light": 19,
        "traffic sign": 20,
        "vegetation": 21,
        "terrain": 22,
        "sky": 23,
        "person": 24,
        "rider": 25,
        "car": 26,
        "truck": 27,
        "bus": 28,
        "train": 31,
        "motorcycle": 32,
        "bicycle": 33,
    }
}


def read_label_ids(label_ids: str, class_names: Sequence[str]) -> np.ndarray | None:
    """Reads which id a test server wants for every class.

    Args:
        label_ids: A name in `LABEL_IDS`, or a file with a line `CLASS: ID` per class; empty for
            no ids.
        class_names: Of the run, in the order of its own ids.

    Returns:
        uint8 [num_classes], or None for no ids.

    Raises:
        UserError: There is no such file, a line of it makes no sense, or a class has no id.
    """
    if not label_ids:
        return None
    ids = LABEL_IDS.get(label_ids) or _read_ids(label_ids)
    missing = [name for name in class_names if name not in ids]
    if missing:
        raise UserError(
            f"--label_ids={label_ids} has no id for {', '.join(missing[:5])}, of the run's "
            f"{len(class_names)} classes: give a file with a line `CLASS: ID` for each of them."
        )
    return np.array([ids[name] for name in class_names], np.uint8)


def _read_ids(path: str) -> dict[str, int]:
    if not os.path.isfile(path):
        raise UserError(f"--label_ids={path} is neither a file nor one of {', '.join(LABEL_IDS)}.")
    ids = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(map(str.strip, file), start=1):
            if not line or line.startswith("#"):
                continue
            name, _, label_id = (part.strip() for part in line.rpartition(":"))
            if not name or not label_id.isdecimal() or int(label_id) > 255:
                raise UserError(
                    f"{path}, line {number}: {line!r} is no `CLASS: ID` with an id of 0 to 255."
                )
            ids[name] = int(label_id)
    return ids
