"""What a validation evaluates, and what it leaves alone."""

import json

import numpy as np
import pytest
import tensorflow as tf

from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from deeplab_tf import config
from deeplab_tf.runs import checkpoints
from deeplab_tf.training import loop

pytestmark = pytest.mark.usefixtures("short_network")


def trained(
    source, folder, num_images: int, val_split: str = "val"
) -> tuple[list[float], dict, dict]:
    """Trains two steps; returns their losses, and the values of the last and best checkpoints."""
    loop.train(
        TINY_MODEL,
        config.DataConfig(data_dir=source.folder, val_split=val_split, train_crop_size=(33, 33)),
        config.TrainConfig(
            training_number_of_steps=2,
            train_batch_size=2,
            log_every_steps=1,
            eval_every_steps=1,
            batch_statistics_images=num_images,
            moving_average_decay=0.0,
        ),
        str(folder),
    )
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss/total"] for line in lines if "loss/total" in line]
    last, best = (values(checkpoints.find(str(folder), kind)) for kind in ("last", "best"))
    return losses, last, best


def values(prefix: str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture(scope="module")
def with_moving_statistics(tiny_records, tmp_path_factory) -> tuple[list[float], dict]:
    """Losses and last values of a training that measures no statistics."""
    with short_mobilenet_v2():
        return trained(tiny_records, tmp_path_factory.mktemp("moving"), 0)[:2]


def test_measured_statistics_are_saved_and_change_no_step(
    tiny_records, tmp_path, with_moving_statistics
):
    losses, moving = with_moving_statistics
    same_losses, last, best = trained(tiny_records, tmp_path / "measured", 3)
    assert same_losses == losses
    statistics = {name for name in best if "/moving_" in name}
    assert statistics
    for name in best:
        assert np.array_equal(last[name], moving[name]) == (name not in statistics), name
    assert any(np.array_equal(best[name], last[name]) for name in statistics)


def test_without_validation_the_statistics_are_measured_at_the_end(
    tiny_records, tmp_path, with_moving_statistics
):
    _, moving = with_moving_statistics
    _, last, _ = trained(tiny_records, tmp_path / "measured", 3, val_split="")
    changed = {name for name in last if not np.array_equal(last[name], moving[name])}
    assert changed - {"best_miou"} == {name for name in last if "/moving_" in name}
