"""What a new training starts from: ImageNet weights if available, or else a message."""

import dataclasses
import functools
import http.server
import pathlib
import socket
import tarfile
import threading
import time
import types

import keras
import numpy as np
import pytest

from conftest import TINY_MODEL
from conftest import TWO_UNITS
from conftest import short_mobilenet_v2
from deeplab_tf import build_backbone
from deeplab_tf import build_model
from deeplab_tf import layers
from deeplab_tf import zoo
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.models import backbone_of
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import initial_weights
from deeplab_tf.training import loop
from deeplab_tf.weights import checkpoint_values
from deeplab_tf.zoo import archives

NAME = "mobilenet_v2_imagenet"
MODEL = dataclasses.replace(TINY_MODEL, depth_multiplier=1.0, num_classes=7)


@pytest.fixture(autouse=True, scope="module")
def two_units():
    with short_mobilenet_v2(TWO_UNITS):
        yield


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> pathlib.Path:
    """An empty cache."""
    monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def imagenet(two_units, tmp_path_factory) -> pathlib.Path:
    """The files of an ImageNet classifier of a short network."""
    folder = tmp_path_factory.mktemp("imagenet")
    values = {
        layers.official_name(v): v.numpy() + 0.5 for v in build_backbone("mobilenet_v2").weights
    }
    values["MobilenetV2/Logits/Conv2d_1c_1x1/weights"] = np.zeros((1, 1, 1280, 1001), np.float32)
    checkpoint_values.write(str(folder / "mobilenet_v2_1.0_224.ckpt"), values)
    return folder


def fill(run_dir="RUN", model_config=MODEL, **settings) -> tuple[str, keras.Model]:
    """Returns what a run starts from, and its model."""
    model = build_model(**dataclasses.asdict(MODEL))
    run = run_dirs.Run(
        str(run_dir),
        model_config,
        DataConfig(),
        initial_weights.choose(TrainConfig(**settings), model_config, str(run_dir)),
        records.numbered_classes("numbered", 7),
    )
    initial_weights.fill(types.SimpleNamespace(model=model), run)
    return run.train_config.tf_initial_checkpoint, model


def has_imagenet_weights(model: keras.Model) -> bool:
    means = [w.numpy() for w in backbone_of(model).weights if w.name == "moving_mean"]
    return all((mean == 0.5).all() for mean in means)


def test_imagenet_weights_are_taken_from_the_cache(imagenet, capsys):
    zoo.add(NAME, imagenet)
    started_from, model = fill()
    assert started_from == NAME and has_imagenet_weights(model)
    output = capsys.readouterr().out
    assert f"Starts from the ImageNet weights of the backbone, {NAME}." in output
    assert "variables loaded" in output


def test_imagenet_weights_are_downloaded_where_the_network_has_them(
    imagenet, tmp_path, monkeypatch, capsys
):
    with tarfile.open(tmp_path / "mobilenet_v2_1.0_224.tgz", "w:gz") as file:
        for path in imagenet.iterdir():
            file.add(path, f"./{path.name}")
    kind = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DEEPLAB_TF_ZOO_URL", f"http://127.0.0.1:{server.server_port}")
        started_from, model = fill()
        server.shutdown()
    assert started_from == NAME and has_imagenet_weights(model) and zoo.is_cached(NAME)


def test_without_a_network_random_weights_stay_and_the_reason_is_printed_soon(capsys):
    started = time.monotonic()
    started_from, model = fill()
    assert time.monotonic() - started < 30  # most of it builds the model
    assert started_from == "none" and not has_imagenet_weights(model)
    output = capsys.readouterr().out
    assert (
        "Starts from random weights: http://127.0.0.1:9/mobilenet_v2_1.0_224.tgz cannot" in output
    )
    assert f"zoo add {NAME} ARCHIVE" in output


def test_a_server_that_does_not_answer_and_a_name_that_is_not_found_cost_seconds(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/file.tar.gz"
        started = time.monotonic()
        with pytest.raises(UserError, match="file.tar.gz cannot be downloaded"):
            archives.check_reachable(address, seconds=0.2)
        assert time.monotonic() - started < 5
    monkeypatch.setattr("requests.head", lambda *_, **__: time.sleep(60))  # as a name server may
    started = time.monotonic()
    with pytest.raises(UserError, match="no answer within 0.2 seconds"):
        archives.check_reachable("http://nowhere.invalid/file.tar.gz", seconds=0.2)
    assert time.monotonic() - started < 5


def test_all_workers_start_from_random_weights_if_one_of_them_has_no_others(
    imagenet, monkeypatch, capsys
):
    zoo.add(NAME, imagenet)
    monkeypatch.setattr(
        initial_weights.distribution, "of_all_workers", lambda value: [int(value), 0]
    )
    started_from, model = fill()
    assert started_from == "none" and not has_imagenet_weights(model)
    assert f"another worker cannot get {NAME}" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["", "none"])
def test_from_scratch_means_that_nothing_is_looked_for(imagenet, source, capsys):
    zoo.add(NAME, imagenet)
    started_from, model = fill(tf_initial_checkpoint=source)
    assert started_from == source and not has_imagenet_weights(model)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "settings, reason",
    [
        (
            {"backbone": "mobilenet_v3_large_seg"},
            "no released ImageNet weights for mobilenet_v3_large_seg",
        ),
        ({"depth_multiplier": 0.5}, "are of depth_multiplier 1, not 0.5"),
        (
            {"version": "v3", "backbone": "resnet_v1_50", "last_block": 7},
            "resnet_v1_50 have no block7. --tf_initial_checkpoint=resnet_v1_50_imagenet --skip",
        ),
    ],
    ids=["not released", "another width", "more blocks"],
)
def test_where_no_weights_fit_the_reason_is_printed(settings, reason, capsys):
    started_from, model = fill(model_config=ModelConfig(**settings))
    assert started_from == "none" and not has_imagenet_weights(model)
    assert reason in capsys.readouterr().out


@pytest.mark.parametrize("is_here_at_first", [True, False])
def test_a_run_resumes_from_what_it_was_started_from(
    imagenet, tiny_records, tmp_path, monkeypatch, is_here_at_first
):
    """The same command, whether or not ImageNet weights are there when it runs again."""
    if is_here_at_first:
        zoo.add(NAME, imagenet)
    model_config = dataclasses.replace(MODEL, num_classes=None)
    data_config = DataConfig(data_dir=tiny_records.folder, train_crop_size=(33, 33), val_split="")
    folder = str(tmp_path / "run")

    def train(steps, **settings):
        train_config = TrainConfig(
            training_number_of_steps=steps,
            train_batch_size=2,
            base_learning_rate=0.0,
            **settings,
        )
        loop.train(model_config, data_config, train_config, folder)
        return run_dirs.read(folder).train_config.tf_initial_checkpoint

    expected = NAME if is_here_at_first else "none"
    assert train(1) == expected
    if is_here_at_first:
        monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "empty"))
    else:
        zoo.add(NAME, imagenet)
        # As if it had been killed before its first checkpoint.
        for path in pathlib.Path(folder, "checkpoints").iterdir():
            path.unlink()
    assert train(2) == expected
    if is_here_at_first:
        assert train(3, tf_initial_checkpoint="none") == expected  # which came too late
    values = checkpoint_values.CheckpointValues(checkpoints.find(folder, "last"))
    kernel = values.read("MobilenetV2/Conv/weights")
    assert (kernel.mean() > 0.3) == is_here_at_first
