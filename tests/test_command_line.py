"""Flags made from configs, and how a command speaks."""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import command_line
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError

CONFIGS = (ModelConfig, DataConfig, TrainConfig)


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "model_config",
    [
        ModelConfig(num_classes=5, atrous_rates=(), multi_grid=(1, 2, 4), depth_multiplier=0.35),
        ModelConfig(
            image_pyramid=(0.5, 0.75, 1.0),
            aspp_with_separable_conv=False,
            dense_prediction_cell_json='[{"op": "conv", "kernel": 3, "rate": [1, 6], "input": -1}]',
        ),
    ],
)
def test_a_flagfile_that_was_written_reads_back_the_same(model_config, tmp_path):
    configs = (
        model_config,
        DataConfig(data_dir="/a folder/with #signs", min_scale_factor=0.75, random_flip=False),
        TrainConfig(fine_tune_batch_norm=False, base_learning_rate=1e-5),
    )
    path = str(tmp_path / "flags.txt")
    command_line.write_flagfile(path, *configs)
    assert command_line.read_flagfile(path, *CONFIGS) == configs


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("--no_such_flag=1", "no_such_flag"),
        ("--output_stride=big", "big"),
        ("--atrous_rates=6;12", "6;12"),
        ("stray", "stray"),
    ],
)
def test_a_wrong_line_in_a_flagfile_is_named(tmp_path, line, complaint):
    path = tmp_path / "flags.txt"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=complaint):
        command_line.read_flagfile(str(path), *CONFIGS)


def test_help_lists_every_flag_by_group():
    result = run("deeplab_tf.train", "--help")
    assert result.returncode == 0
    for config in CONFIGS:
        group = result.stdout.split(config.__name__ + ":")[1].split("\n\n")[0]
        for field in dataclasses.fields(config):
            assert f"--{field.name}:" in group
    assert "--run_dir:" in result.stdout and "--flagfile:" in result.stdout


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["--run_dir=x", "stray"], "stray"),
    ],
)
def test_a_wrong_flag_is_one_message_and_exit_code_1(arguments, complaint):
    result = run("deeplab_tf.train", *arguments)
    assert result.returncode == 1
    error = result.stderr[result.stderr.index("error:") :]
    assert complaint in error
    assert "Traceback" not in result.stderr


def write_damaged_records(folder: pathlib.Path) -> None:
    """Writes 24 images for training, of which a checksum makes the last quarter unreadable.

    They are large, so that threads are in the middle of one whenever the pipeline is stopped.
    """
    image = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    label = np.zeros((600, 800, 1), np.uint8)
    contents = {
        "image/encoded": tf.io.encode_jpeg(image).numpy(),
        "image/segmentation/class/encoded": tf.io.encode_png(label).numpy(),
    }
    features = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
        for key, content in contents.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    path = folder / "train-00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(24):
            writer.write(example.SerializeToString())
    shard = bytearray(path.read_bytes())
    shard[len(shard) * 3 // 4 + 1000] ^= 1
    path.write_bytes(shard)


def test_a_training_that_damaged_records_stop_is_one_message_and_exit_code_1(tmp_path):
    write_damaged_records(tmp_path)
    result = run(
        *("deeplab_tf.train", f"--data_dir={tmp_path}", f"--run_dir={tmp_path / 'run'}"),
        *("--version=v1", "--backbone=vgg_16", "--output_stride=8", "--num_classes=2"),
        *("--train_crop_size=33,33", "--train_batch_size=8", "--training_number_of_steps=50"),
        "--val_split=",
    )
    assert result.returncode == 1, result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message.startswith("error: 2 of 24 records are damaged")
    assert result.stderr.endswith(message + "\n")
