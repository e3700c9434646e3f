"""Every engine finds what TensorFlow finds; the automatic choice takes only one that does."""

import dataclasses
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from deeplab_tf import models
from deeplab_tf.config import EvalConfig
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import engines
from deeplab_tf.evaluation.engines import automatic
from deeplab_tf.evaluation.engines import built
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.evaluation.network import as_network
from deeplab_tf.export import parity
from deeplab_tf.runs import run_dir as run_dirs

SIZES = ((33, 49), (65, 65), (33, 49))
IMAGES = [tf.constant(parity.draw_images((1, *size, 3), seed=1), tf.float32) for size in SIZES]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    config = dataclasses.replace(TINY_MODEL, num_classes=4, version="v3plus", atrous_rates=(2, 9))
    with short_mobilenet_v2():
        return models.fold_batch_norm(models.build_model(**dataclasses.asdict(config)))


@pytest.fixture
def source(model, tmp_path) -> engines.Source:
    return engines.Source("digest", (tmp_path / "run", tmp_path / "cache"), lambda: model)


def unloadable() -> keras.Model:
    raise AssertionError("the network is not to be loaded")


@pytest.mark.parametrize("name", built.ENGINES)
def test_an_engine_computes_the_logits_of_tensorflow_at_every_size(name, model, source):
    for module in built.ENGINES[name].packages.values():
        pytest.importorskip(module)
    reference = as_network(model)
    network = engines.load_network(name, source)
    again = engines.load_network(name, dataclasses.replace(source, load=unloadable))
    assert network.stride == again.stride == reference.stride == 4
    for image in IMAGES:
        expected = reference.logits_of(image).numpy()
        for one in (network, again):
            got = one.logits_of(image).numpy()
            np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_other_weights_output_strides_and_versions_get_files_of_their_own(
    tiny_run_dir, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run_dir, folder)
    run = run_dirs.read(str(folder))

    def digest(**settings) -> str:
        return engines.source_of_run(run, "last", EvalConfig(**settings), unloadable).digest

    first = digest()
    assert digest(eval_scales=(0.5, 1.0)) == first
    assert digest(eval_output_stride=8) != first
    with monkeypatch.context() as patch:
        patch.setattr(deeplab_tf, "__version__", "9.9")
        assert digest() != first
    for path in pathlib.Path(folder, "checkpoints").glob("*.data*"):
        path.write_bytes(path.read_bytes()[::-1])
    assert digest() != first


def test_files_are_written_to_the_cache_where_the_run_cannot_be_written_to(tmp_path):
    (tmp_path / "run").write_text("a file, not a folder")
    source = engines.Source("", (tmp_path / "run" / "engines", tmp_path / "cache"), unloadable)
    path = source.write("name", lambda draft: pathlib.Path(draft).write_text("content"))
    assert path == source.find("name") == tmp_path / "cache" / "name"
    with pytest.raises(UserError, match="cannot be written to"):
        dataclasses.replace(source, folders=source.folders[:1]).write("name", shutil.copyfile)


def test_a_damaged_file_is_built_again(source, model, capsys):
    pytest.importorskip("ai_edge_litert")
    engines.load_network("litert", source)
    (path,) = source.folders[0].glob("*.tflite")
    path.write_bytes(path.read_bytes()[:-100])
    engines.load_network("litert", source)
    assert capsys.readouterr().out == f"{path} is incomplete or damaged: it is built again\n"
    assert built.read_stride(path) == 4


def test_a_missing_package_is_named(source, without_package):
    without_package("openvino")
    with pytest.raises(UserError, match=r"--engine=openvino needs .*deeplab_tf\[openvino\]"):
        engines.load_network("openvino", source)


def fake_engine(model: keras.Model, sign: int) -> built.Engine:
    """An engine that is installed, and finds the opposite of TensorFlow if `sign` is negative."""
    return built.Engine(
        packages={"numpy": "numpy"},
        extra="",
        ending=".fake",
        write=lambda _, path: pathlib.Path(path).write_text(""),
        open=lambda path: lambda image: sign * as_network(model).logits_of(image).numpy(),
    )


@pytest.mark.parametrize("is_right", [True, False])
def test_the_choice_is_the_fastest_engine_with_equal_labels(
    is_right, model, source, monkeypatch, capsys
):
    for module in (automatic, built):
        fake = fake_engine(model, 1 if is_right else -1)
        monkeypatch.setattr(module, "ENGINES", {"fake": fake})
    monkeypatch.setattr(automatic, "SECONDS_BEFORE_TRYING", 0)
    monkeypatch.setattr(automatic, "_speedup", lambda *_: 2.0)
    network = engines.automatic_network(source)
    for image in IMAGES:
        expected = as_network(model).logits_of(image)
        np.testing.assert_array_equal(network.logits_of(image), expected)
    said = capsys.readouterr().out.splitlines()
    chosen = (
        "fake, 2.0 times as fast as tensorflow"
        if is_right
        else "tensorflow; no other installed engine"
    )
    assert [line.startswith(f"engine: {chosen}") for line in said] == [False, False, True]

    if is_right:
        source = dataclasses.replace(source, load=unloadable)
    engines.automatic_network(source)  # starts with the choice
    assert capsys.readouterr().out.splitlines() == said[-1:]


def test_short_jobs_stay_with_tensorflow(source, monkeypatch, capsys):
    monkeypatch.setattr(automatic, "_choose", unloadable)
    network = engines.automatic_network(source)
    for image in IMAGES:
        network.logits_of(image)
    assert "engine" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [{}, {"eval_scales": (0.5, 1.0), "add_flipped_images": True, "window_size": (33, 40)}],
    ids=["plain", "views and windows"],
)
def test_every_inference_mode_works_with_an_engine(settings, tiny_run_dir, short_network, tmp_path):
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path / "run"
    shutil.copytree(tiny_run_dir, folder)
    run = run_dirs.read(str(folder))
    image = parity.draw_images((1, 60, 75, 3), seed=2)[0]
    expected, got = (
        Inference(engine=engine, eval_config=EvalConfig(**settings)).label_function(run)(image)
        for engine in ("tensorflow", "litert")
    )
    assert np.mean(got == expected) > 0.999


def test_an_artefact_brings_its_own_engine(tiny_run_dir):
    run = run_dirs.read(tiny_run_dir)
    with pytest.raises(UserError, match="--engine=litert is for checkpoints"):
        Inference(model="some.tflite", engine="litert").label_function(run)
