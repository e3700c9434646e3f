"""Every flagfile in configs/ is right: parsed, its model built, and a step of its training done."""

import dataclasses
import functools
import json
import pathlib

import keras
import numpy as np
import pytest

from conftest import REPOSITORY
from conftest import TWO_UNITS
from conftest import short_mobilenet_v2
from deeplab_tf import build_model
from deeplab_tf import command_line
from deeplab_tf import train
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import published_classes
from deeplab_tf.data import records
from deeplab_tf.data.class_lists import read_class_list
from deeplab_tf.errors import UserError
from deeplab_tf.models import complete
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import weight_sources
from deeplab_tf.weights import tf1_checkpoint

FLAGFILES = sorted((REPOSITORY / "configs").glob("*.flagfile"))
of_every_flagfile = pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)


def read(path: pathlib.Path) -> tuple[ModelConfig, DataConfig, TrainConfig]:
    return command_line.read_flagfile(str(path), ModelConfig, DataConfig, TrainConfig)


@functools.cache
def output_shape(model_config: ModelConfig):
    # Weights are not drawn, which would take most of the time.
    with keras.StatelessScope(initialize_variables=False):
        shape = build_model(**dataclasses.asdict(model_config)).output_shape
    keras.utils.clear_session()  # or they would be drawn with the next model
    return shape


@of_every_flagfile
def test_a_flagfile_parses_and_its_model_builds(path):
    model_config, data_config, _ = read(path)
    height, width = data_config.train_crop_size
    stride = complete(model_config, num_classes=2).output_stride
    # Elsewhere labels and features do not lie on one another at both borders.
    assert height % stride == 1 and width % stride == 1
    # Of one number of classes and at one output stride, so that each network is built once.
    model_config = dataclasses.replace(model_config, num_classes=2, output_stride=None)
    assert output_shape(model_config) == (None, None, None, 2)


@of_every_flagfile
def test_a_flagfile_is_named_after_its_dataset_its_network_and_the_split_of_its_stage(path):
    model_config, data_config, _ = read(path)
    name = f"{data_config.dataset}_{model_config.version}_{model_config.backbone}"
    assert path.stem in (name, f"{name}_{data_config.train_split}")


@of_every_flagfile
def test_a_flagfile_tells_its_paper_its_command_and_what_to_expect(path):
    comment = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    for word in ("arXiv", f"--flagfile=configs/{path.name}", "Expected", "mIoU"):
        assert word in comment


@dataclasses.dataclass(frozen=True)
class Setup:
    """A kind of training: which parts of it are at work, on the tiniest network."""

    model_config: ModelConfig
    data_config: DataConfig
    train_config: TrainConfig


def tiny_setup(path: pathlib.Path) -> Setup:
    """What a flagfile's training does, without the numbers that cannot contradict each other."""
    model_config, data_config, train_config = read(path)
    tiny = {"v1": {"fc_filters": 8}, "v2": {}}.get(
        model_config.version, {"version": "v3", "atrous_rates": (), "aspp_convs_filters": 8}
    )
    model_config = ModelConfig(
        **({"version": model_config.version, "depth_multiplier": 0.35} | tiny),
        image_pyramid=model_config.image_pyramid,
        merge_method=model_config.merge_method,
    )
    data_config = DataConfig(
        val_split="",
        train_crop_size=(33, 33),
        min_resize_value=data_config.min_resize_value and 33,
        max_resize_value=data_config.max_resize_value and 33,
        resize_factor=data_config.resize_factor,
    )
    train_config = dataclasses.replace(
        train_config,
        training_number_of_steps=1,
        train_batch_size=2,
        base_learning_rate=0.01,
        weight_decay=1e-4,
        **{f"{event}_every_steps": 1 for event in ("log", "eval", "save")},
    )
    return Setup(model_config, data_config, train_config)


SETUPS = {tiny_setup(path): path.stem for path in FLAGFILES}


@pytest.mark.parametrize("setup", SETUPS, ids=SETUPS.values())
def test_a_step_is_trained_as_a_flagfile_says(setup, tiny_records, tmp_path):
    with short_mobilenet_v2(TWO_UNITS):
        train.train(
            setup.model_config,
            dataclasses.replace(setup.data_config, data_dir=tiny_records.folder),
            setup.train_config,
            str(tmp_path),
        )
    scalars = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 < scalars["loss/total"] < 20 and 0 < scalars["gradient_norm"] < 1000


def test_a_second_stage_starts_from_the_weights_of_the_first(tmp_path):
    classes = records.numbered_classes("numbered", 3)
    first = ModelConfig(version="v3", depth_multiplier=0.35, atrous_rates=(), num_classes=3)
    second = dataclasses.replace(first, output_stride=8)
    with short_mobilenet_v2(TWO_UNITS):
        run_dirs.create(str(tmp_path / "first"), first, DataConfig(), TrainConfig(), classes)
        trained = build_model(**dataclasses.asdict(first))
        checkpoints.save_weights(trained, str(tmp_path / "first"))
        model = build_model(**dataclasses.asdict(second))
        report = weight_sources.fill(model, str(tmp_path / "first"))
        other = build_model(**dataclasses.asdict(first) | {"num_classes": 4})
    assert len(report.loaded) == len(model.weights)
    for weight, expected in zip(model.weights, trained.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    with pytest.raises(UserError, match="run does not fit .* has other classes"):
        tf1_checkpoint.copy_weights(other, trained, "the run")
    report = tf1_checkpoint.copy_weights(other, trained, "the run", skip_mismatched=True)
    assert [name for name, _ in report.skipped] == [
        "logits/semantic/weights",
        "logits/semantic/biases",
    ]


@of_every_flagfile
def test_batch_norm_that_a_paper_trains_has_the_images_that_it_wants(path):
    model_config, _, train_config = read(path)
    is_of_a_paper = not path.stem.startswith(("camvid", "shapes"))
    if is_of_a_paper and model_config.backbone != "vgg_16" and train_config.fine_tune_batch_norm:
        assert train_config.train_batch_size >= 12


def test_the_class_list_of_voc_is_that_of_the_data_set():
    names, colors = read_class_list(REPOSITORY / "configs/voc2012.classes")
    assert names == published_classes.VOC2012.class_names
    assert colors == published_classes.VOC2012.colors


@of_every_flagfile
def test_classes_that_are_oversampled_are_in_the_dataset(path):
    _, data_config, _ = read(path)
    names = set(data_config.oversample_classes)
    if names:
        classes = REPOSITORY / f"configs/{data_config.dataset}.classes"
        assert names <= set(classes.read_text().split())
