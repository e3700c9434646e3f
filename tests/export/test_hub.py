"""Publishing a run on the Hugging Face Hub: the folder, its card, the upload, and loading it.

The Hub is the stand-in of `hub_server`; nothing leaves this machine.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import sys

import hub_server
import keras
import numpy as np
import pytest
from PIL import Image

import deeplab_tf
from conftest import TINY_MODEL
from conftest import write_run_as_if_trained
from deeplab_tf import command_line
from deeplab_tf import predict
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import bands
from deeplab_tf.data import records
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import crf_search
from deeplab_tf.evaluation import results
from deeplab_tf.evaluation.run_evaluation import Data
from deeplab_tf.evaluation.run_evaluation import evaluate_run
from deeplab_tf.export import hub as hub_command
from deeplab_tf.export.formats import hub as hub_export
from deeplab_tf.runs import hub as hub_addresses
from deeplab_tf.runs import run_dir as run_dirs

huggingface_hub = pytest.importorskip("huggingface_hub")
from huggingface_hub import constants  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_network")

ADDRESS = "hf://someone/drawn-shapes"
IMAGE = drawing.draw("val", 0)[0][:60, :90]


@pytest.fixture(scope="module")
def evaluated_run(tiny_run_dir, short_network, tmp_path_factory) -> str:
    """A trained run with an evaluation."""
    folder = str(tmp_path_factory.mktemp("evaluated") / "run")
    shutil.copytree(tiny_run_dir, folder)
    evaluate_run(folder)
    return folder


@pytest.fixture(scope="module")
def folder(evaluated_run, tmp_path_factory) -> pathlib.Path:
    """The run as a folder for the Hub."""
    output_dir = tmp_path_factory.mktemp("hub") / "drawn-shapes"
    hub_export.write_folder(evaluated_run, str(output_dir), address=ADDRESS, license="cc-by-4.0")
    return output_dir


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The stand-in, as the Hub that huggingface_hub talks to, with a cache of its own."""
    with hub_server.serving() as server, pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", hub_server.TOKEN)
        yield server


@pytest.fixture(scope="module")
def published(hub, evaluated_run) -> dict[str, bytes]:
    """The files of the run on the stand-in, and one that somebody has added."""
    url = hub_export.publish(evaluated_run, ADDRESS, license="cc-by-4.0", private=True)
    assert url == f"{hub.url}/someone/drawn-shapes"
    files = hub.repositories["someone/drawn-shapes"]
    files["surprise.exe"] = b"not asked for"
    return files


def test_the_folder_holds_what_keras_and_the_commands_read(folder, evaluated_run):
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "metadata.json", "model.weights.h5"} <= names
    assert {"README.md", "flags.txt", "dataset.json"} <= names
    assert not {"checkpoints", "best", "lock", "metrics.json"} & names
    model = deeplab_tf.load_model(evaluated_run)
    expected = model(IMAGE[np.newaxis], training=False).numpy()
    for loaded in (keras.saving.load_model(folder), deeplab_tf.load_model(folder)):
        found = loaded(IMAGE[np.newaxis], training=False).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_published_folder_is_a_run_dir(folder, evaluated_run):
    run = deeplab_tf.load_run(folder)
    expected = deeplab_tf.load_run(evaluated_run)
    np.testing.assert_array_equal(run.predict(IMAGE), expected.predict(IMAGE))
    assert run.class_names == drawing.CLASS_NAMES and run.colors == expected.colors


def test_a_published_folder_is_evaluated_on_records(folder, evaluated_run, tiny_records, tmp_path):
    run_dir = str(tmp_path / "downloaded")
    shutil.copytree(folder, run_dir)
    figures = evaluate_run(run_dir, data=Data(data_dir=tiny_records.folder))
    expected = json.loads((pathlib.Path(evaluated_run) / "metrics.json").read_text())
    assert figures["confusion_matrix"] == expected["confusion_matrix"]


def test_a_published_folder_is_not_published_again_with_a_card_that_knows_less(folder, tmp_path):
    with pytest.raises(UserError, match="--run_dir=.* was written by this command"):
        hub_export.write_folder(str(folder), str(tmp_path / "again"))


def test_the_card_says_what_a_stranger_has_to_know(folder, evaluated_run):
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    figures = json.loads((pathlib.Path(evaluated_run) / "metrics.json").read_text())
    assert card.data.license == "cc-by-4.0"
    assert (card.data.library_name, card.data.pipeline_tag) == ("keras", "image-segmentation")
    values = {result.metric_name: result for result in card.data.eval_results}
    assert values["mIoU"].metric_value == figures["miou"]
    assert (values["mIoU"].dataset_name, values["mIoU"].dataset_split) == (
        run_dirs.read(evaluated_run).dataset.name,
        "val",
    )
    for class_id, name in enumerate(drawing.CLASS_NAMES):
        assert f"| {class_id} | {name} | #" in card.text
    assert f"mIoU **{figures['miou']:.4f}**" in card.text
    assert f'deeplab_tf.load_run("{ADDRESS}")' in card.text
    assert f'deeplab_tf.load_model("{ADDRESS}")' in card.text
    assert "--depth_multiplier=0.35" in card.text and "--train_crop_size=65,65" in card.text
    assert "The data that they were trained on has terms of its own" in card.text


def test_a_run_on_images_of_bands_is_published_with_their_names_and_ranges(tmp_path):
    names = ("B2", "B3", "B4", "B8")
    info = dataclasses.replace(
        records.numbered_classes("fields", 3),
        bands=tuple(bands.Band(number, name, 0, 3000) for number, name in enumerate(names, 1)),
        rgb_bands=(3, 2, 1),
    )
    model = dataclasses.replace(TINY_MODEL, num_classes=3)
    write_run_as_if_trained(str(tmp_path / "run"), model, DataConfig(), info)
    folder = hub_export.write_folder(str(tmp_path / "run"), str(tmp_path / "fields"))
    card = (tmp_path / "fields/README.md").read_text(encoding="utf-8")
    assert "| 3 | 4 | B8 | 0 | 3000 |" in card and "uint8 [H, W, 4], bands" in card
    assert run_dirs.read(folder).dataset == info
    assert deeplab_tf.load_model(folder).input_shape[-1] == 4


def test_the_command_on_the_card_describes_the_same_training(folder, evaluated_run):
    card = (folder / "README.md").read_text(encoding="utf-8")
    (line,) = [one for one in card.splitlines() if one.startswith("python -m deeplab_tf.train ")]
    arguments = [one for one in line.split()[3:] if not one.startswith(("--data_dir", "--run_dir"))]
    configs = command_line.parse(arguments, ModelConfig, DataConfig, TrainConfig)
    published = hub_export.without_local_paths(run_dirs.read(evaluated_run))
    assert configs == (published.model_config, published.data_config, published.train_config)


def test_no_path_of_this_machine_is_published(folder, evaluated_run, tiny_records):
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (tiny_records.folder, evaluated_run, os.path.dirname(evaluated_run)):
                assert secret.encode() not in content, path


def test_paths_and_addresses_are_left_out_of_the_settings_and_names_of_releases_stay(evaluated_run):
    run = run_dirs.read(evaluated_run)
    data_config = dataclasses.replace(
        run.data_config, extra_data_dirs=("/home/me/more",), data_service="grpc://10.0.0.7:5050"
    )
    names = ("mobilenet_v2_imagenet", "imagenet", "none", "")
    for given, kept in (("/home/me/x.ckpt", "CHECKPOINT"), *zip(names, names)):
        train_config = dataclasses.replace(run.train_config, tf_initial_checkpoint=given)
        published = hub_export.without_local_paths(
            dataclasses.replace(run, data_config=data_config, train_config=train_config)
        )
        settings = (published.data_config.extra_data_dirs, published.data_config.data_service)
        assert settings == ((), "")
        assert published.train_config.tf_initial_checkpoint == kept


def test_the_command_writes_a_folder_or_publishes_and_needs_one_of_them(evaluated_run, tmp_path):
    with pytest.raises(UserError, match="--repo must be given .* or --output_dir"):
        hub_command.main(hub_command.Arguments(run_dir=evaluated_run))
    output_dir = str(tmp_path / "model")
    hub_command.main(hub_command.Arguments(run_dir=evaluated_run, output_dir=output_dir))
    assert huggingface_hub.ModelCard.load(tmp_path / "model/README.md").data.license is None


def test_figures_of_other_weights_are_not_on_the_card(evaluated_run, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(evaluated_run, run_dir)
    path = run_dir / "metrics.json"
    figures = json.loads(path.read_text())
    newest = max(file.stat().st_mtime for file in run_dir.rglob("*.index"))
    for number, (changed, seconds) in enumerate(
        [({"model": "last"}, 1), ({"model": "m.tflite"}, 1), ({"border_width": 5}, 1), ({}, -1)]
    ):
        path.write_text(json.dumps(figures | changed))
        os.utime(path, (newest + seconds,) * 2)
        run = run_dirs.read(str(run_dir))
        assert hub_export.measured_figures(run, "best") is None, number
        assert "deeplab_tf.eval --run_dir=" in capsys.readouterr().err
    path.write_text(json.dumps(figures))
    os.utime(path, (newest + 1,) * 2)
    assert (
        hub_export.measured_figures(run_dirs.read(str(run_dir)), "best")["miou"] == figures["miou"]
    )
    path.unlink()
    output_dir = tmp_path / "out"
    hub_export.write_folder(str(run_dir), str(output_dir))
    card = (output_dir / "README.md").read_text(encoding="utf-8")
    assert "have not been evaluated" in card and "No licence of the weights is stated" in card
    assert "hf://USER/out" in card
    with pytest.raises(UserError, match="exists: give a folder that does not"):
        hub_export.write_folder(str(run_dir), str(output_dir))


def test_what_is_published_is_loaded_by_its_address(published, folder, evaluated_run):
    assert published["README.md"] == (folder / "README.md").read_bytes()
    expected = deeplab_tf.load_model(evaluated_run)(IMAGE[np.newaxis], training=False).numpy()
    found = deeplab_tf.load_model(ADDRESS)(IMAGE[np.newaxis], training=False).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not list(pathlib.Path(constants.HF_HUB_CACHE).rglob("surprise.exe"))
    found = keras.saving.load_model(ADDRESS)(IMAGE[np.newaxis], training=False).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_predict_takes_an_address(published, folder, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    (path, *_) = predict.predict(ADDRESS, str(tmp_path / "image.png"), str(tmp_path / "labels"))
    expected = deeplab_tf.load_run(folder).predict(IMAGE)
    with Image.open(path) as written:
        np.testing.assert_array_equal(np.asarray(written), expected)


def test_a_repository_is_public_unless_it_is_to_be_private(hub, published, tmp_path, monkeypatch):
    assert hub.visibility == {"someone/drawn-shapes": "private"}
    monkeypatch.setattr(hub_export, "write_folder", lambda *args, **kwargs: str(tmp_path))
    hub_export.publish("RUN", "hf://someone/open")
    assert hub.visibility["someone/open"] == "public"


def test_problems_of_the_hub_are_one_message(hub, evaluated_run, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="hf://someone/nothing does not exist or is private"):
        deeplab_tf.load_model("hf://someone/nothing")
    hub.repositories["someone/text"] = {"README.md": b"no model"}
    with pytest.raises(UserError, match=r"hf://someone/text is not a Keras model: it has no conf"):
        deeplab_tf.load_model("hf://someone/text")
    with pytest.raises(UserError, match="hf://someone/text is not a run dir"):
        deeplab_tf.load_run("hf://someone/text")
    for address in ("hf://gpt2", "hf://a/b/c", "hf://", "https://huggingface.co/a/b"):
        with pytest.raises(UserError, match="must be an address hf://USER/REPO"):
            hub_export.publish(evaluated_run, address)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setattr(hub_export, "write_folder", lambda *args, **kwargs: str(tmp_path))
    with pytest.raises(UserError, match="(?s)cannot be published: .*401.*hf auth login"):
        hub_export.publish(evaluated_run, "hf://someone/new")


def test_without_a_network_what_was_downloaded_is_used_again(published, monkeypatch):
    folder = hub_addresses.local_folder(ADDRESS)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub_addresses.local_folder(ADDRESS) == folder
    with pytest.raises(UserError, match="hf://someone/other cannot be downloaded: "):
        deeplab_tf.load_model("hf://someone/other")


def test_a_damaged_file_is_one_message(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    with pytest.raises(UserError, match="cannot be used: it is damaged, or not a Keras model"):
        deeplab_tf.load_model(broken)
    with pytest.raises(UserError, match="model.weights.h5 cannot be used: it is damaged, or of"):
        deeplab_tf.load_run(broken).predict(IMAGE)


@pytest.mark.parametrize("use", ["train", "evaluate", "tune"])
def test_commands_that_write_to_a_run_dir_refuse_an_address(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="must be a folder.*hf download someone/drawn-shapes"):
        if use == "train":
            dataset = records.numbered_classes("numbers", 3)
            run_dirs.create(ADDRESS, TINY_MODEL, DataConfig(), TrainConfig(), dataset)
        elif use == "evaluate":
            with results.writing(ADDRESS):
                pass
        else:
            crf_search.tune_crf(ADDRESS)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_extra(monkeypatch, evaluated_run):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (deeplab_tf.load_model, lambda address: hub_export.publish(evaluated_run, address)):
        with pytest.raises(UserError, match=r"pip install 'deeplab_tf\[hub\]'"):
            use(ADDRESS)
