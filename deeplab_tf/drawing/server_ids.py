"""The label ids that test servers of datasets expect instead of class ids."""

from collections.abc import Sequence

import numpy as np

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

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
    """Returns the label id that a test server expects for every class.

    Args:
        label_ids: A name in `LABEL_IDS`, or a file with a line `CLASS: ID` per class; empty for
            none.
        class_names: Name per class.

    Returns:
        uint8 [num_classes], or None for none.

    Raises:
        UserError: There is no such file, one of its lines is wrong, or a class has no id.
    """
    if not label_ids:
        return None
    ids = LABEL_IDS.get(label_ids) or _read_ids(label_ids)
    missing = [name for name in class_names if name not in ids]
    if missing:
        raise UserError(
            f"--label_ids={label_ids} has no id for {', '.join(missing[:5])}: give a file with a "
            f"line `CLASS: ID` for each of the run's {len(class_names)} classes."
        )
    return np.array([ids[name] for name in class_names], np.uint8)


def _read_ids(path: str) -> dict[str, int]:
    if not files.as_path(path).is_file():
        raise UserError(
            f"--label_ids={path} is neither a file nor one of these names: {', '.join(LABEL_IDS)}."
        )
    ids = {}
    for number, line in enumerate(files.read_text(path, "list of ids").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, label_id = (part.strip() for part in line.rpartition(":"))
        is_id = label_id.isdecimal() and len(label_id) <= 3 and int(label_id) <= 255
        if not name or not is_id:
            raise UserError(
                f"{path}, line {number}: {shortened(line)!r} is not `CLASS: ID` with an id between "
                "0 and 255."
            )
        if name in ids:
            raise UserError(f"{path}, line {number}: {name!r} has an id already.")
        ids[name] = int(label_id)
    return ids
