"""A run dir made from official weights."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from conftest import REPOSITORY
from conftest import TINY_MODEL
from deeplab_tf import build_model
from deeplab_tf import command_line
from deeplab_tf import import_checkpoint
from deeplab_tf import layers
from deeplab_tf import predict
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files

MODEL = dataclasses.replace(TINY_MODEL, num_classes=3)


@pytest.fixture(scope="module")
def tf1_checkpoint(tmp_path_factory):
    """A checkpoint under the original's names, and the weights in it."""
    rng = np.random.default_rng(0)
    model = build_model(**dataclasses.asdict(MODEL))
    values = {
        layers.official_name(variable): rng.uniform(0.5, 1, variable.shape).astype(np.float32)
        for variable in model.weights
        if "seed" not in variable.path
    }
    prefix = str(tmp_path_factory.mktemp("tf1") / "model.ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return prefix, values


def test_the_run_dir_has_the_weights_and_the_class_names(tf1_checkpoint, tmp_path):
    prefix, values = tf1_checkpoint
    classes = tmp_path / "classes.txt"
    classes.write_text("ground\ntree 0 200 0\nhouse\n")
    folder = str(tmp_path / "run")
    report = import_checkpoint.import_checkpoint(
        prefix,
        model_config=MODEL,
        data_config=DataConfig(),
        run_dir=folder,
        classes=str(classes),
    )
    assert set(report.loaded) == set(values)
    run = run_dirs.read(folder)
    assert run.dataset.class_names == ("ground", "tree", "house")
    assert run.dataset.colors[1] == (0, 200, 0)
    for variable in run_dirs.load_model(run).weights:
        if "seed" not in variable.path:
            np.testing.assert_array_equal(variable.numpy(), values[layers.official_name(variable)])


@pytest.mark.parametrize(
    "model, classes, complaint",
    [
        ({"num_classes": None}, "", "--num_classes, --classes or --data_dir"),
        ({"depth_multiplier": 0.5}, "", "MobilenetV2/"),
        ({"num_classes": 2}, "", "logits/semantic"),
        ({}, "a\nb", "--num_classes=3.*2 classes"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_run_dir(
    tf1_checkpoint, tmp_path, model, classes, complaint
):
    if classes:
        (tmp_path / "classes.txt").write_text(classes)
        classes = str(tmp_path / "classes.txt")
    with pytest.raises(UserError, match=complaint):
        import_checkpoint.import_checkpoint(
            tf1_checkpoint[0],
            model_config=dataclasses.replace(MODEL, **model),
            data_config=DataConfig(),
            run_dir=str(tmp_path / "run"),
            classes=classes,
        )
    assert not (tmp_path / "run").exists()


def test_imported_weights_do_not_replace_trained_ones(tf1_checkpoint, tmp_path):
    arguments = {"model_config": MODEL, "data_config": DataConfig(), "run_dir": str(tmp_path)}
    for _ in range(2):  # once more over itself
        import_checkpoint.import_checkpoint(tf1_checkpoint[0], **arguments)
    assert len(list((tmp_path / "best").glob("*.index"))) == 1
    (tmp_path / run_files.TRAINING_LOG).touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds a training. Give another --run_dir"):
        import_checkpoint.import_checkpoint(tf1_checkpoint[0], **arguments)
    assert {path: path.read_bytes() for path in before} == before


def test_the_original_voc_model_finds_what_is_in_the_images(shared, tmp_path):
    configs = REPOSITORY / "configs"
    model_config, data_config, _ = command_line.read_flagfile(
        str(configs / "voc2012_v3_mobilenet_v2.flagfile"), ModelConfig, DataConfig, TrainConfig
    )
    report = import_checkpoint.import_checkpoint(
        str(shared / "checkpoints/deeplabv3_mnv2_pascal/model.ckpt"),
        model_config=model_config,
        data_config=data_config,
        run_dir=str(tmp_path / "run"),
        classes=str(configs / "voc2012.classes"),
    )
    assert not report.skipped and not report.unused
    images = {
        "cat": "photos/cat_720p.jpg",
        "dog": "photos/dog.jpg",
        "horse": "photos/horse.jpg",
        "tvmonitor": "VOC_mini/JPEGImages/2007_000039.jpg",
    }
    names = run_dirs.read(str(tmp_path / "run")).dataset.class_names
    (tmp_path / "images").mkdir()
    for name, path in images.items():
        (tmp_path / "images" / f"{name}.jpg").write_bytes((shared / "data" / path).read_bytes())
    predict.predict(str(tmp_path / "run"), str(tmp_path / "images"), str(tmp_path / "predictions"))
    for name in images:
        label = np.asarray(Image.open(tmp_path / "predictions" / f"{name}.png"))
        assert (label == names.index(name)).mean() > 0.05, name
