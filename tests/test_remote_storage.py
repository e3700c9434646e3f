"""Commands on remote storage, from raw images to exports."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
from conftest import PLAIN_TRAINING
from conftest import TINY_MODEL
from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf import eval as eval_command
from deeplab_tf import files
from deeplab_tf import predict as predict_command
from deeplab_tf import train as train_command
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.data_report import check
from deeplab_tf.datasets import build
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.export.config import ProofConfig
from deeplab_tf.export.formats import savedmodel
from deeplab_tf.files import as_path
from deeplab_tf.remote_paths import RemotePath
from deeplab_tf.runs import checkpoints
from deeplab_tf.weights import tf1_checkpoint
from deeplab_tf.weights.checkpoint_values import CheckpointValues

pytestmark = pytest.mark.usefixtures("short_network")


class KilledError(BaseException):
    """Stands for SIGKILL, with which ram:// would be lost, too."""


@pytest.fixture(params=["memory", "s3"])
def store(request, tmp_path):
    """An address in a storage that only fsspec knows, below which nothing is."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"
    return f"memory://store/{tmp_path.name}"


def upload(folder, address: str) -> None:
    """Copies a local folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            RemotePath(address, path.relative_to(folder).as_posix()).upload(path)


def uploaded_run(run_dir: str, data: records.Records, address: str) -> str:
    """Copies a run and its records; returns the address of the run."""
    upload(as_path(run_dir), f"{address}/run")
    upload(as_path(data.folder), f"{address}/data")
    flags = as_path(address, "run/flags.txt")
    files.write_text(flags, flags.read_text().replace(data.folder, f"{address}/data"))
    return f"{address}/run"


def test_a_build_appears_with_its_description_and_resumes(tiny_raw, tiny_records, store):
    upload(tiny_raw, f"{store}/raw")
    build_it = lambda: build.build("folder", f"{store}/data", f"{store}/raw", num_shards=2)
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, "val-00001-of-00002.tfrecord")
        with pytest.raises(KilledError):
            build_it()
    with pytest.raises(UserError, match="There are no records"):
        records.find_records(f"{store}/data")
    found = build_it()
    assert found.folder == f"{store}/data/folder/1.0.0"
    assert not as_path(f"{found.folder}.incomplete").exists()
    for split, paths in found.shard_paths.items():
        for path, local in zip(paths, tiny_records.shard_paths[split], strict=True):
            assert as_path(path).read_bytes() == as_path(local).read_bytes()


def killed_at(patch: pytest.MonkeyPatch, name: str, times: int = 1) -> None:
    """Lets the process "die" when it uploads a file for the `times`-th time."""
    upload_file, seen = RemotePath.upload, []

    def upload_or_die(self, source):
        seen.append(self.name)
        if seen.count(name) == times:
            raise KilledError
        upload_file(self, source)

    patch.setattr(RemotePath, "upload", upload_or_die)


def test_a_training_that_was_killed_between_two_files_resumes_to_equal_weights(
    tiny_records, tiny_run_dir, tmp_path, capsys
):
    store = f"ram://store/{tmp_path.name}"
    upload(as_path(tiny_records.folder), f"{store}/data")
    run_dir = f"{store}/run"

    def train():
        settings = PLAIN_TRAINING | {"training_number_of_steps": 2, "train_batch_size": 2}
        train_command.train(
            TINY_MODEL,
            config.DataConfig(data_dir=f"{store}/data", train_crop_size=(65, 65)),
            config.TrainConfig(**settings | {"save_every_steps": 1}),
            run_dir,
        )

    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, "ckpt-2.index")
        with pytest.raises(KilledError):
            train()
    assert "ram://" in (output := capsys.readouterr()).err and "has no locks" in output.err
    train()
    assert f"resumes from step 1 of {run_dir}" in capsys.readouterr().out
    there = CheckpointValues(checkpoints.find(run_dir, "last"))
    here = CheckpointValues(checkpoints.find(tiny_run_dir, "last"))
    assert there.shapes.keys() == here.shapes.keys()
    for name in here.shapes:
        np.testing.assert_array_equal(there.read(name), here.read(name), err_msg=name)
    lines = files.read_text(f"{run_dir}/metrics.jsonl").splitlines()
    assert [line.partition(",")[0] for line in lines] == ['{"step": 2'] * 2
    events = list(as_path(run_dir, "tensorboard").glob("*.tfevents.*"))
    assert len(events) == 2 and all(path.stat().st_size for path in events)


def test_evaluations_and_predictions_are_those_of_a_local_run(
    tiny_records, tiny_run_dir, s3_bucket, tmp_path
):
    store = f"{s3_bucket}/{tmp_path.name}"
    run_dir = uploaded_run(tiny_run_dir, tiny_records, store)
    figures = eval_command.evaluate_run(run_dir, report=f"{store}/report/page.html")
    assert figures["records"] == f"{store}/data" and figures["num_images"] == 4
    assert files.read_json(f"{run_dir}/metrics.json")["miou"] == figures["miou"]
    assert len(files.read_text(f"{run_dir}/images.jsonl").splitlines()) == 4
    assert "<html" in files.read_text(f"{store}/report/page.html")

    image = np.full((70, 50, 3), 90, np.uint8)
    as_path(store, "photos/one.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    as_path(store, "photos/bad.png").write_bytes(b"not an image")
    run = deeplab_tf.load_run(run_dir)
    expected = run.predict(image)
    np.testing.assert_array_equal(run.predict(f"{store}/photos/one.png"), expected)
    with pytest.raises(UserError, match=f"{store}/photos/bad.png is damaged"):
        predict_command.predict(run_dir, f"{store}/photos", f"{store}/labels")
    written = predict_command.predict(run_dir, f"{store}/photos/o*.png", f"{store}/labels")
    assert written == [f"{store}/labels/one.png"]
    assert sorted(path.name for path in as_path(store, "labels").iterdir()) == [
        "one.png",
        "one_overlay.png",
        "overview.png",
    ]
    with files.local_copy(written[0]) as copy:
        labels = cv2.imread(str(copy), cv2.IMREAD_UNCHANGED)
    assert labels.shape[:2] == (70, 50)


def test_an_export_is_published_with_its_graph_last(
    tiny_records, tiny_run_dir, tmp_path, monkeypatch
):
    store = f"memory://store/{tmp_path.name}"
    run_dir = uploaded_run(tiny_run_dir, tiny_records, store)
    order = []
    upload_file = RemotePath.upload
    monkeypatch.setattr(
        RemotePath, "upload", lambda self, file: order.append(self.name) or upload_file(self, file)
    )
    files.write_text(f"{store}/export/1/saved_model.pb", "the version before")
    folder, _ = savedmodel.export_savedmodel(
        run_dir, f"{store}/export", proof_config=ProofConfig(num_proof_images=1)
    )
    assert folder == f"{store}/export/2" and order[-1] == "saved_model.pb"
    loaded = tf.saved_model.load(files.cached_copy(folder))
    assert loaded.signatures["serving_default"]
    files.write_text(f"{store}/model.tflite", "not a model")
    inference = Inference(model=f"{store}/model.tflite")
    with pytest.raises(UserError, match="model.tflite cannot be used: it is damaged"):
        eval_command.evaluate_run(run_dir, inference=inference)


def test_weights_are_read_from_a_prefix_a_folder_and_an_archive(tiny_run_dir, tmp_path):
    store = f"memory://store/{tmp_path.name}"
    upload(as_path(tiny_run_dir, "best"), f"{store}/best")
    archive = shutil.make_archive(str(tmp_path / "best"), "gztar", as_path(tiny_run_dir, "best"))
    RemotePath(store, "best.tar.gz").upload(archive)
    files.write_text(f"{store}/best/checkpoint", 'model_checkpoint_path: "ckpt-2"\n')
    shapes = CheckpointValues(checkpoints.find(tiny_run_dir, "best")).shapes
    for source in ("best/ckpt-2", "best/ckpt-2.index", "best", "best.tar.gz"):
        with tf1_checkpoint.opened(f"{store}/{source}") as values:
            assert values.shapes == shapes and values.origin.startswith(f"{store}/best")
            for name in shapes:
                values.read(name)
    with pytest.raises(UserError, match="There is no checkpoint memory://.*; .* has ckpt-2"):
        with tf1_checkpoint.opened(f"{store}/best/ckpt-3"):
            pass
    RemotePath(store, "best/ckpt-2.index").unlink()
    with pytest.raises(UserError, match="not complete: ckpt-2.index is missing"):
        with tf1_checkpoint.opened(f"{store}/best/ckpt-2"):
            pass


def test_records_and_folders_are_checked(tiny_raw, tmp_path):
    store = f"memory://store/{tmp_path.name}"
    upload(tiny_raw, f"{store}/raw")
    report = check.check_folders(f"{store}/raw/images", f"{store}/raw/labels", num_classes=7)
    assert report.is_fit_to_train
    local = check.check_folders(tiny_raw / "images", tiny_raw / "labels", num_classes=7)
    assert set(report.splits) == set(local.splits) == {"train", "val"}
    for path in check.write_report(report, f"{store}/check"):
        assert as_path(path).is_file()


def test_flagfiles_are_read_and_include_others(tmp_path, monkeypatch):
    store = f"memory://store/{tmp_path.name}"
    files.write_text(f"{store}/common.flagfile", "--version=v1\n--backbone=vgg_16\n")
    files.write_text(f"{store}/own.flagfile", f"--flagfile={store}/common.flagfile\n")
    (model_config,) = command_line.read_flagfile(f"{store}/own.flagfile", config.ModelConfig)
    assert (model_config.version, model_config.backbone) == ("v1", "vgg_16")


def test_a_service_on_other_machines_needs_records_that_tensorflow_opens(tiny_records, tmp_path):
    store = f"memory://store/{tmp_path.name}"
    upload(as_path(tiny_records.folder), store)
    data_config = config.DataConfig(data_dir=store, data_service="grpc://localhost:1")
    with pytest.raises(UserError, match="--data_service cannot read memory://"):
        training_data.find_training_records(data_config, None)
    here = dataclasses.replace(data_config, data_service="")
    assert training_data.find_training_records(here, None)[0].folder == store
