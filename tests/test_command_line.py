"""Flags made from configs, and the output of commands."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from conftest import COMMANDS
from conftest import REPOSITORY
from conftest import configs_of
from deeplab_tf import command_line
from deeplab_tf import settings
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import OwnDataConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError

CONFIGS = (ModelConfig, DataConfig, TrainConfig)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_names_of_files_that_the_terminal_cannot_show_are_printed_all_the_same(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from deeplab_tf import command_line\n"
        "def main() -> None: print('photo \\udcff \\u00e4.png')\n"
        "command_line.run(main)\n"
    )
    result = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert result.stdout == "photo \\udcff \\xe4.png\n" and result.returncode == 0


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
    "value",
    [
        *(
            "",
            " 513",
            "a # b",
            "#1",
            "x // y",
            '"quoted"',
            "gs://bucket/x",
            "a=b",
            "--seed=1",
            "käse",
        ),
        *("two\nlines", "tab\there", "\x0b\x0c\x1c\x85\u2028", "nul\0", "\udce4", "\\", "\ufeff"),
    ],
)
def test_any_text_survives_a_flagfile(value, tmp_path):
    data_config = DataConfig(data_dir=value, extra_data_dirs=(f"a{value}b", "b,c", '"d"'))
    path = tmp_path / "flags.txt"
    command_line.write_flagfile(path, data_config)
    assert command_line.read_flagfile(path, DataConfig) == (data_config,)


def test_configs_become_arguments_that_describe_them():
    configs = (
        ModelConfig(atrous_rates=(), add_image_level_feature=False),
        DataConfig(extra_data_dirs=("a", "b,c"), random_flip=False),
        TrainConfig(profile_steps=(1, 2)),
    )
    assert command_line.parse(command_line.to_arguments(*configs), *CONFIGS) == configs


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--atrous_rates=6", "--atrous_rates=12", "--atrous_rates=18"], (6, 12, 18)),
        (["--atrous_rates", "6", "--atrous_rates", "12,18"], (6, 12, 18)),
        (["--atrous_rates=6,12", "--backbone=vgg_16", "-atrous_rates=18"], (6, 12, 18)),
        (["--atrous_rates="], ()),
        (["--atrous_rates=", "--atrous_rates=6"], (6,)),
        ([], None),
    ],
)
def test_a_list_flag_given_several_times_collects(arguments, expected):
    (model_config,) = command_line.parse(arguments, ModelConfig)
    assert model_config.atrous_rates == expected


def test_every_list_flag_collects():
    for config_class in CONFIGS:
        for setting in settings.settings_of(config_class):
            if setting.is_list:
                items = ["1", "2", "3"][: setting.length]
                arguments = [f"--{setting.name}={item}" for item in items]
                (config,) = command_line.parse(arguments, config_class)
                assert getattr(config, setting.name) == setting.check(",".join(items))


def write(path: pathlib.Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return f"--flagfile={path}"


def test_what_a_source_says_itself_wins_over_the_flagfiles_that_it_names(tmp_path):
    inner = write(tmp_path / "inner", "--atrous_rates=1", "--atrous_rates=2", "--seed=1")
    outer = write(tmp_path / "outer", "--atrous_rates=3", inner, "--train_batch_size=2")
    first, data_config, train_config = command_line.parse([outer], *CONFIGS)
    assert first.atrous_rates == (3,)
    assert (train_config.seed, train_config.train_batch_size) == (1, 2)
    for arguments in (
        ["--atrous_rates=4", outer, "--atrous_rates=5"],
        [outer, "--atrous_rates=4,5"],
    ):
        (model_config, *_) = command_line.parse(arguments, *CONFIGS)
        assert model_config.atrous_rates == (4, 5)
    (model_config, *_) = command_line.parse([inner, "--seed=7", outer], *CONFIGS)
    assert model_config.atrous_rates == (3,)
    *_, train_config = command_line.parse(["--seed=7", outer], *CONFIGS)
    assert train_config.seed == 7


@pytest.mark.parametrize(
    "content",
    [
        "--data_dir=käse\n--atrous_rates 6\n".encode("utf-8-sig"),
        "# a comment\r\n\r\n  --data_dir=käse\r\n--atrous_rates=6\r\n".encode("utf-16"),
        '// another\n  # more\n--data_dir="käse"\n--atrous_rates\n6'.encode(),
    ],
)
def test_a_flagfile_may_be_in_any_unicode_encoding(content, tmp_path):
    path = tmp_path / "flags.txt"
    path.write_bytes(content)
    model_config, data_config = command_line.read_flagfile(path, ModelConfig, DataConfig)
    assert (data_config.data_dir, model_config.atrous_rates) == ("käse", (6,))


def test_a_flagfile_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "x.flagfile", "--seed=3", "--flagfile=~/y.flagfile")
    write(tmp_path / "y.flagfile", "--train_batch_size=2")
    for arguments in (["--flagfile=~/x.flagfile"], ["--flagfile", "~/x.flagfile"]):
        (train_config,) = command_line.parse(arguments, TrainConfig)
        assert (train_config.seed, train_config.train_batch_size) == (3, 2)


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("--bakbone=vgg_16", "line 2: there is no flag --bakbone. Did you mean --backbone[?]"),
        ("--output_stride=big", "line 2: --output_stride=big must be a whole number"),
        ("--output_stride=16  # as in the paper", "line 2: '# as in the paper' would become part"),
        ("--dataset=voc2012 #comment", "line 2: '#comment' would become part of --dataset"),
        ("--dataset=voc2012 // comment", "line 2: '// comment' would become part of --dataset"),
        ("--norandom_flip # comment", "line 2: '# comment' would become part of --norandom_flip"),
        ("--atrous_rates=6;12", "line 2: --atrous_rates=6;12 must be whole numbers"),
        ("--top_k_percent_pixels=25", "line 2: --top_k_percent_pixels=25 must be above 0"),
        ('--dataset="voc', 'line 2: "voc is not one text in double quotes'),
        ("stray", "line 2: unexpected argument 'stray'"),
        ("--flagfile=flags.txt", "line 2: the flagfile flags.txt includes itself"),
        ("--flagfile=none.txt", "There is no flagfile none.txt"),
    ],
)
def test_a_wrong_line_in_a_flagfile_is_named(tmp_path, line, complaint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "flags.txt", "# first", line)
    with pytest.raises(UserError, match=complaint):
        command_line.read_flagfile("flags.txt", *CONFIGS)


def test_a_flagfile_in_another_encoding_is_one_message(tmp_path):
    path = tmp_path / "flags.txt"
    path.write_bytes("--seed=1\n--data_dir=käse\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"flags.txt is not a UTF-8 text \(line 2\)"):
        command_line.read_flagfile(path, *CONFIGS)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--hue"], "--hue needs a value"),
        (["--hue", "--seed=1"], "--hue needs a value"),
        (["--hue", "-0.1"], "--hue=-0.1 must be between 0 and 0.5"),
        (["--random_flip=maybe"], "--random_flip=maybe must be true or false"),
        (["--norandom_flips"], "there is no flag --norandom_flips"),
        (["--random_flip", "false"], "unexpected argument 'false'"),
        (["--", "--seed=1"], "unexpected argument '--seed=1'"),
        (["--train_crop_size=513"], "must be 2 whole numbers"),
    ],
)
def test_a_wrong_argument_is_named(arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        command_line.parse(arguments, *CONFIGS)


def test_booleans_are_read_as_absl_reads_them():
    for argument, value in (
        ("--random_flip", True),
        ("--norandom_flip", False),
        ("--random_flip=false", False),
        ("--random_flip=True", True),
    ):
        (data_config,) = command_line.parse([argument], DataConfig)
        assert data_config.random_flip is value


def test_the_table_of_commands_has_them_all():
    found = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removeprefix("deeplab_tf.")
        for folder in ("deeplab_tf", "datasets", "export")
        for path in (REPOSITORY / folder).rglob("*.py")
        if "\n    command_line.run(main" in path.read_text(encoding="utf-8")
    }
    # The docstring of `command_line` shows how it is used.
    assert {f"deeplab_tf.{name}" for name in found - {"command_line"}} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_flag_with_its_limits_and_needs_no_tensorflow(command):
    result = run(command, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "deeplab_tf.config" in imported and not {"tensorflow", "keras"} & imported
    assert max(map(len, result.stdout.splitlines())) <= 100
    common, *_ = result.stdout.split("Common flags:")[1].split("\n\n")
    _, *parts = re.split(r"^  --(\w+): ", result.stdout, flags=re.MULTILINE)
    descriptions = {name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2])}
    for config_class in configs_of(command):
        for setting in settings.settings_of(config_class):
            description = descriptions.pop(setting.name)
            assert description.startswith(setting.help)
            assert setting.unit in description and setting.describe_choices() in description
            assert setting.describe_limits() in description or setting.choices
            assert setting.default_help in description
            if setting.default not in (None, "", ()) and not setting.is_required:
                assert f"default: {setting.to_text(setting.default)}]" in description
            assert (f"--{setting.name}: " in common) == setting.is_common
    assert list(descriptions) == ["flagfile"]


@pytest.mark.parametrize("arguments", [("deeplab_tf",), ("deeplab_tf.train", "--help")])
def test_help_that_is_not_read_to_its_end_ends_without_a_traceback(arguments):
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def test_help_is_as_wide_as_the_terminal():
    for columns in (60, 140):
        result = run("deeplab_tf.supervise", "--help", COLUMNS=str(columns))
        widths = [len(line) for line in result.stdout.split("Common flags:")[1].splitlines()]
        assert columns - 20 < max(widths) <= columns


@pytest.mark.parametrize("command", COMMANDS)
def test_stray_arguments_unknown_flags_and_missing_ones_are_one_message(command):
    needed = [
        f"--{setting.name}={setting.choices[0] if setting.choices else 'x'}"
        for config_class in configs_of(command)
        for setting in settings.settings_of(config_class)
        if setting.is_required
    ]
    wrong = [([*needed, "stray"], "'stray'"), ([*needed, "--no_such_flag=1"], "--no_such_flag")]
    if needed:
        wrong.append(([], needed[-1].partition("=")[0]))
    for arguments, complaint in wrong:
        result = run(command, *arguments)
        assert result.returncode == 1
        (message,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert complaint in message
        assert "Traceback" not in result.stderr and result.stdout == ""


def test_a_command_begins_without_the_notes_of_tensorflow():
    arguments = ("--version=v1", "--backbone=vgg_16", "--train_crop_size=33,33")
    quiet = run("deeplab_tf.describe", *arguments, TF_CPP_MIN_LOG_LEVEL="2")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    loud = run("deeplab_tf.describe", *arguments, TF_CPP_MIN_LOG_LEVEL="0")
    assert loud.stdout == quiet.stdout and "absl::InitializeLog()" in loud.stderr


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
    for quarter in (1, 3):
        shard[len(shard) * quarter // 4 + 1000] ^= 1
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


def test_a_command_to_paste_has_what_differs_from_the_defaults_and_is_quoted():
    own = OwnDataConfig(label_suffix="_mask", classes="my classes.txt")
    words = command_line.shell_command("deeplab_tf.check_data", own, data="a b", images=None)
    assert words == (
        "python -m deeplab_tf.check_data '--data=a b' --label_suffix=_mask "
        "'--classes=my classes.txt'"
    )
