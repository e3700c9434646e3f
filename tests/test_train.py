"""Training: the numbers of the original, resuming, and what a user may get wrong."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import checkpoints
from deeplab_tf import config
from deeplab_tf import eval as evaluation
from deeplab_tf import layers
from deeplab_tf import records
from deeplab_tf import run_dir as run_dirs
from deeplab_tf import train
from deeplab_tf.errors import UserError
from conftest import TINY_MODEL
from conftest import short_mobilenet_v2


def train_tiny(run_dir, source: records.Records, model=TINY_MODEL, data=None, **settings):
    settings = {"training_number_of_steps": 4, "train_batch_size": 2, "seed": 3} | settings
    data = {"train_crop_size": (65, 65), "val_split": ""} | (data or {})
    with short_mobilenet_v2():
        return train.train(
            model,
            config.DataConfig(**({"data_dir": source.folder} | data)),
            config.TrainConfig(**settings),
            str(run_dir),
        )


def last_weights(run_dir) -> dict[str, np.ndarray]:
    with short_mobilenet_v2():
        model = run_dirs.load_model(run_dirs.read(str(run_dir)), "last")
    return {layers.official_name(v): v.numpy() for v in model.weights if "seed" not in v.path}


def assert_equal_weights(one, other):
    weights, others = last_weights(one), last_weights(other)
    assert weights.keys() == others.keys()
    for name in weights:
        np.testing.assert_array_equal(weights[name], others[name], err_msg=name)


class Stopped(Exception):
    """Stands for whatever ends a process."""


SETTINGS = {"save_every_steps": 2, "log_every_steps": 1}


@pytest.fixture(scope="module")
def whole_run(tiny_records, tmp_path_factory):
    """A run of four steps that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train_tiny(folder, tiny_records, **SETTINGS)
    return folder


def test_a_run_that_was_stopped_goes_on_to_the_very_same_weights(
    whole_run, tiny_records, tmp_path, monkeypatch
):
    save, saved = checkpoints.TrainingCheckpoints.save, []

    def save_and_stop(self):
        save(self)
        saved.append(self)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.TrainingCheckpoints, "save", save_and_stop)
        with pytest.raises(Stopped):
            train_tiny(tmp_path, tiny_records, **SETTINGS)
    assert checkpoints.find(str(tmp_path), "last").endswith("ckpt-2")
    train_tiny(tmp_path, tiny_records, **SETTINGS)
    assert len(saved) == 1
    assert_equal_weights(whole_run, tmp_path)


def test_a_finished_run_is_not_trained_further(whole_run, tiny_records, tmp_path, capsys):
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    train_tiny(tmp_path, tiny_records, **SETTINGS)
    output = capsys.readouterr().out
    assert "goes on from step 4" in output and "loss" not in output
    assert_equal_weights(whole_run, tmp_path)


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scale(tiny_records, tmp_path):
    train_tiny(tmp_path, tiny_records, fine_tune_batch_norm=False)
    weights = last_weights(tmp_path)
    assert set(weights["aspp0/BatchNorm/moving_mean"]) == {0}
    assert len(set(weights["aspp0/BatchNorm/gamma"])) > 1


def test_the_run_dir_has_what_eval_and_tensorboard_need(tiny_run_dir, tiny_records):
    run = run_dirs.read(tiny_run_dir)
    assert run.model_config == dataclasses.replace(TINY_MODEL, num_classes=7, output_stride=16)
    assert run.dataset == tiny_records.info
    tags = set()
    for name in os.listdir(os.path.join(tiny_run_dir, "tensorboard")):
        path = os.path.join(tiny_run_dir, "tensorboard", name)
        for event in tf.compat.v1.train.summary_iterator(path):
            tags.update(value.tag for value in event.summary.value)
    assert {"loss/cross_entropy", "learning_rate", "validation/miou"} <= tags
    assert "image_label_prediction/0" in tags
    assert "validation_iou/background" in tags


def test_the_best_checkpoint_has_the_miou_that_training_reported(tiny_run_dir):
    result = evaluation.evaluate_run(tiny_run_dir)
    (event_file,) = os.listdir(os.path.join(tiny_run_dir, "tensorboard"))
    events = tf.compat.v1.train.summary_iterator(
        os.path.join(tiny_run_dir, "tensorboard", event_file)
    )
    (reported,) = [
        tf.make_ndarray(value.tensor)
        for event in events
        for value in event.summary.value
        if value.tag == "validation/miou"
    ]
    assert result["miou"] == pytest.approx(float(reported))


def load_recorded_weights(model, shared, names):
    import importlib.util

    spec = importlib.util.spec_from_file_location("weights", shared / "oracles/weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    for variable in model.weights:
        if "seed" not in variable.path:
            name = layers.official_name(variable)
            variable.assign(weights.make(name, variable.shape))


@pytest.mark.parametrize("case", ["train_3_steps_mobilenet_v2_dm05_frozen_bn"])
def test_three_steps_of_training_equal_the_original(shared, monkeypatch, tmp_path, case):
    folder = shared / "oracles/training"
    recorded, values = json.loads((folder / f"{case}.json").read_text()), np.load(
        folder / f"{case}.npz"
    )
    run = run_dirs.Run(
        str(tmp_path),
        config.ModelConfig(
            version="v3",
            backbone="mobilenet_v2",
            num_classes=21,
            depth_multiplier=0.5,
            atrous_rates=(),
        ),
        config.DataConfig(),
        config.TrainConfig(
            training_number_of_steps=30000,
            base_learning_rate=0.0005,
            last_layer_gradient_multiplier=10.0,
            weight_decay=4e-5,
            fine_tune_batch_norm=False,
        ),
        records.DatasetInfo("voc", tuple(map(str, range(21))), records.default_colors(21), 255),
    )
    strategy = tf.distribute.get_strategy()
    model = train._build_model(run, strategy)
    load_recorded_weights(model, shared, values)
    for layer in model.layers:
        if layer.name.endswith("dropout"):
            layer.rate = 0
    optimizer = train._build_optimizer(model, run.train_config)
    train_steps = train._make_train_steps(strategy, model, optimizer, run)
    batch = {
        "image": values["image"].astype(np.float32),
        "label": values["labels"][..., 0].astype(np.int32),
    }
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    for log in recorded["log"][:3]:
        loss = float(train_steps(batches, tf.constant(1)))
        assert loss == pytest.approx(log["cross_entropy"], rel=2e-5)
    for variable in model.trainable_variables:
        name = "after/" + layers.official_name(variable)
        if name in values:
            np.testing.assert_allclose(variable.numpy(), values[name], atol=2e-5, err_msg=name)


def test_another_model_in_the_run_dir_is_refused(tiny_run_dir, tiny_records):
    other = dataclasses.replace(TINY_MODEL, depth_multiplier=0.5)
    with pytest.raises(UserError, match="depth_multiplier is 0.35 there and 0.5 now"):
        train_tiny(tiny_run_dir, tiny_records, model=other)


@pytest.mark.parametrize(
    "model, data, settings, complaint",
    [
        ({"num_classes": 3}, {}, {}, "--num_classes=3.* 7 classes"),
        ({}, {"train_split": "training"}, {}, "'training'.*train, val"),
        ({}, {"data_dir": "/no/such/folder"}, {}, "/no/such/folder"),
        ({}, {}, {"strategy": "many"}, "many.*mirrored"),
        ({}, {}, {"base_learning_rate": 1e30}, "The loss is (nan|inf).*base_learning_rate"),
    ],
)
def test_a_wrong_setting_is_one_message(tiny_records, tmp_path, model, data, settings, complaint):
    model = dataclasses.replace(TINY_MODEL, **model)
    with pytest.raises(UserError, match=complaint):
        train_tiny(tmp_path, tiny_records, model, data, **settings)
