"""Runs that end before their last step."""

import json

import pytest

from deeplab_tf.runs import run_files
from deeplab_tf.training import early_stopping


def write_log(folder, mious) -> None:
    lines = [json.dumps({"step": 10, "loss/total": 1.0}), "damaged\0"]
    lines += [
        json.dumps({"step": 10 * i, "validation/miou": miou}) for i, miou in enumerate(mious, 1)
    ]
    (folder / run_files.TRAINING_LOG).write_text("\n".join(lines))


@pytest.mark.parametrize(
    "mious, patience, ends",
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),  # equal is not better
        ([0.5, 0.4, 0.45], 3, False),
        ([0.5, 0.4, 0.45, 0.3], 3, True),
        ([0.5, 0.4, 0.45, 0.6], 3, False),
        ([0.5, 0.4, 0.45, 0.3], 0, False),
    ],
)
def test_a_run_ends_after_several_validations_without_a_better_one(tmp_path, mious, patience, ends):
    early = early_stopping.EarlyStopping(str(tmp_path), 0, patience)
    for number, miou in enumerate(mious, 1):
        early.add(10 * number, miou)
    assert bool(early.reason) == ends
    write_log(tmp_path, mious)
    resumed = early_stopping.EarlyStopping(str(tmp_path), 10 * len(mious), patience)
    assert resumed.reason == early.reason


def test_validations_that_a_resumed_run_repeats_do_not_count_twice(tmp_path):
    write_log(tmp_path, [0.5, 0.4, 0.4])
    early = early_stopping.EarlyStopping(str(tmp_path), 20, 3)
    early.add(30, 0.4)
    assert not early.reason
    early.add(40, 0.4)
    assert early.reason == (
        "no validation since step 10 was better than its mIoU of 0.5000 "
        "(--early_stopping_patience=3)"
    )
