"""Training on several devices; the tests have two logical CPUs (conftest.py).

What takes several processes is in test_survival.py.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from conftest import TINY_MODEL
from conftest import TWO_UNITS
from conftest import short_mobilenet_v2
from deeplab_tf import config
from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import loop
from deeplab_tf.training import training_state


def cluster(index: int, size: int) -> str:
    workers = [f"localhost:{2222 + number}" for number in range(size)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def trained_weights(source, folder, monkeypatch, strategy) -> dict[str, np.ndarray]:
    def without_dropout(*arguments):
        model = build(*arguments)
        for layer in layers.all_layers(model):
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0  # replicas draw numbers of their own
        return model

    build = training_state.build_model
    with short_mobilenet_v2(TWO_UNITS), monkeypatch.context() as patch:
        patch.setattr(training_state, "build_model", without_dropout)
        loop.train(
            TINY_MODEL,
            config.DataConfig(
                data_dir=source.folder, train_crop_size=(65, 65), val_split="", min_scale_factor=1.0
            ),
            config.TrainConfig(
                training_number_of_steps=1,
                train_batch_size=4,
                strategy=strategy,
                seed=1,
                # A first step of AdamW is the sign of the gradient: that of 0 is the rounding's.
                optimizer="momentum",
            ),
            str(folder),
        )
        model = run_dirs.load_model(run_dirs.read(str(folder)), "last")
    return {
        layers.official_name(variable): variable.numpy()
        for variable in model.weights
        if "seed" not in variable.path
    }


def test_two_replicas_with_half_the_batch_each_equal_one_with_the_whole(
    tiny_records, tmp_path, monkeypatch
):
    assert distribution.get_strategy("mirrored").num_replicas_in_sync == 2
    one = trained_weights(tiny_records, tmp_path / "one", monkeypatch, "one_device")
    two = trained_weights(tiny_records, tmp_path / "two", monkeypatch, "mirrored")
    for name in one:
        # The replicas add up in another order.
        np.testing.assert_allclose(two[name], one[name], atol=2e-5, rtol=1e-4, err_msg=name)


def test_auto_is_one_device_without_gpus():
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("is about machines without a GPU")
    assert distribution.get_strategy("auto").num_replicas_in_sync == 1


def test_a_strategy_is_made_once():
    assert distribution.get_strategy("mirrored") is distribution.get_strategy("mirrored")


@pytest.mark.parametrize(
    "environment, name, complaint",
    [
        ({}, "tpu", "--strategy=tpu, but this machine has no TPU"),
        (
            {},
            "multi_worker",
            "needs the environment variable TF_CONFIG.*supervise --workers",
        ),
        ({}, "parameter_server", "must be one of auto, one_device, mirrored, multi_worker, tpu"),
        ({"TF_CONFIG": cluster(0, 2)}, "mirrored", "TF_CONFIG names 2 workers"),
        ({"TF_CONFIG": cluster(2, 2)}, "auto", "does not describe this worker.*there is no task"),
        ({"TF_CONFIG": "{worker: 0}"}, "auto", "does not describe this worker"),
        ({"TF_CONFIG": "[]"}, "auto", "does not describe this worker"),
    ],
)
def test_a_strategy_that_cannot_be_had_is_one_message(monkeypatch, environment, name, complaint):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=complaint):
        distribution.get_strategy(name)


def test_tf_config_says_who_is_the_chief(monkeypatch):
    assert (distribution.num_workers(), distribution.is_chief()) == (1, True)
    for index in (0, 1):
        monkeypatch.setenv("TF_CONFIG", cluster(index, 2))
        assert distribution.num_workers() == 2
        assert (distribution.worker_index(), distribution.is_chief()) == (index, index == 0)
    with_chief = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for kind, index, expected in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
        task = {"type": kind, "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": with_chief, "task": task}))
        assert (distribution.num_workers(), distribution.worker_index()) == (3, expected)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(tiny_records, tmp_path):
    problem = "--train_batch_size=3 must be a multiple of 2: the devices"
    with short_mobilenet_v2(TWO_UNITS), pytest.raises(UserError, match=problem):
        loop.train(
            TINY_MODEL,
            config.DataConfig(data_dir=tiny_records.folder, train_crop_size=(65, 65)),
            config.TrainConfig(train_batch_size=3, strategy="mirrored"),
            str(tmp_path),
        )
