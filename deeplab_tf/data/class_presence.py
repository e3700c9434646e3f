"""Which classes the labels of records show: to repeat rare ones, or to find that there are none."""

import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.data import class_ids
from deeplab_tf.data import decoding
from deeplab_tf.data import record_order
from deeplab_tf.data import record_reading
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.records import Records
from deeplab_tf.errors import UserError


def class_presence(source: Records, split: str) -> np.ndarray:
    """Returns which classes each record of a split shows; all labels of the split are read.

    A damaged record shows none.

    Returns:
        bool [N, C], in the order of the records. The ignore label is not a class.
    """

    def classes_of(serialized: bytes) -> np.ndarray:
        ids = _ids(serialized, source)
        ids = ids[(ids < source.info.num_classes) & (ids != source.info.ignore_label)]
        return np.isin(range(source.info.num_classes), ids)

    dataset = record_order.each_once(source, split).map(
        lambda record: tf.numpy_function(classes_of, [record["serialized"]], tf.bool),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return np.array(list(dataset.as_numpy_iterator()))


def oversampling(source: Records, split: str, classes: Sequence[str], factor: int) -> np.ndarray:
    """Returns how often each record of a split comes in an epoch: rare classes more often.

    Args:
        source: The records; all labels of the split are read.
        split: Name of the split.
        classes: Names of the classes.
        factor: How often an image with any of these classes comes; all others come once.

    Returns:
        int [N], in the order of the records.

    Raises:
        UserError: There is no class of that name, or none of the split's images shows it.

    Reference:
        The bootstrapping of hard images in DeepLab v3, section 4.1 (arXiv 1706.05587).
    """
    unknown = [name for name in classes if name not in source.info.class_names]
    if unknown:
        raise UserError(
            f"there is no class {unknown[0]!r} to oversample in {source.folder}; it has "
            f"{', '.join(source.info.class_names)}"
        )
    columns = [source.info.class_names.index(name) for name in classes]
    has_any = class_presence(source, split)[:, columns].any(axis=1)
    if not has_any.any():
        raise UserError(f"no image of the split {split!r} shows any of {', '.join(classes)}")
    return np.where(has_any, factor, 1)


def check_there_is_something_to_learn(source: Records, split: str) -> None:
    """Checks that the labels of a split have pixels that count, of at least two classes.

    Labels are read until two classes were seen, which mostly takes one or two.

    Raises:
        UserError: No pixel of the split counts; a single class is only warned of.
    """
    info, seen = source.info, set()
    for record in record_order.each_once(source, split).as_numpy_iterator():
        seen.update(_ids(record["serialized"], source).tolist())
        if len({i for i in seen if i < info.num_classes} - {info.ignore_label}) > 1:
            return
    if not seen:
        return  # all records are damaged, which reading them will say
    problem = class_ids.too_few_classes(dict.fromkeys(seen, 1), info.class_names, info.ignore_label)
    text = f"There is nothing to learn from the split {split!r} of {source.folder}. {problem}"
    if seen <= {info.ignore_label}:
        raise UserError(text)
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _ids(serialized: bytes, source: Records) -> np.ndarray:
    """The different ids of a record's label; none if it is damaged, which reading it will say."""
    try:
        label = record_reading.parse_record(serialized).label
        return np.unique(decoding.decode_label(label, source.limits.max_image_pixels))
    except DataProblem:
        return np.zeros(0, int)
