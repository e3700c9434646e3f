"""The settings that a training chooses itself."""

import dataclasses
import shutil

import pytest

from conftest import REPOSITORY
from conftest import TINY_MODEL
from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import automatic
from deeplab_tf.training import loop

pytestmark = pytest.mark.usefixtures("short_network")


def choose(source, folder, *, model=TINY_MODEL, data=None, **train) -> automatic.Configs:
    configs = automatic.Configs(
        model,
        config.DataConfig(data_dir=source.folder, **data or {}),
        config.TrainConfig(**train),
    )
    return automatic.choose(configs, [source], 1, str(folder))[0]


def test_every_setting_that_is_not_given_gets_a_value_with_a_reason(tiny_records, tmp_path):
    model = dataclasses.replace(TINY_MODEL, batch_norm_decay=None)
    given = automatic.Configs(
        model,
        config.DataConfig(data_dir=tiny_records.folder),
        config.TrainConfig(class_weights=None),
    )
    configs, lines = automatic.choose(given, [tiny_records], 1, str(tmp_path))
    assert configs.data.train_crop_size == (129, 161)  # images of 160x120
    assert configs.train.training_number_of_steps >= 200
    assert configs.model.batch_norm_decay < 0.997
    open_settings = {"ignore_label", "min_resize_value", "max_resize_value", "resize_factor"}
    for kind in (configs.data, configs.train):
        unset = {name for name, value in dataclasses.asdict(kind).items() if value is None}
        assert unset <= open_settings | {"epochs"}
    assert any("--class_weights=" in line and "median-frequency" in line for line in lines)


@pytest.mark.parametrize(
    "given",
    [
        {"training_number_of_steps": 7},
        {"train_batch_size": 3},
        {"base_learning_rate": 0.5},
        {"warmup_steps": 0},
        {"moving_average_decay": 0.0},
        {"class_weights": ()},
        {"eval_every_steps": 3},
        {"save_every_steps": 2},
        {"early_stopping_patience": 2},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_setting_that_is_given_stays(tiny_records, tmp_path, given):
    ((name, value),) = given.items()
    assert getattr(choose(tiny_records, tmp_path, **given).train, name) == value


@pytest.mark.parametrize(
    "given, optimizer, rate",
    [
        ({"tf_initial_checkpoint": "none"}, "adamw", 0.003),
        ({"tf_initial_checkpoint": "mobilenet_v2_imagenet"}, "momentum", 0.03),
        ({"tf_initial_checkpoint": "none", "base_learning_rate": 0.01}, "momentum", 0.01),
        ({"tf_initial_checkpoint": "none", "optimizer": "momentum"}, "momentum", 0.03),
        ({"tf_initial_checkpoint": "mobilenet_v2_imagenet", "optimizer": "adamw"}, "adamw", 5e-4),
    ],
)
def test_optimizer_and_learning_rate_follow_from_the_weights_to_start_from(
    tiny_records, tmp_path, given, optimizer, rate
):
    chosen = choose(tiny_records, tmp_path, train_batch_size=4, **given).train
    assert (chosen.optimizer, chosen.base_learning_rate) == (optimizer, rate)


def test_random_weights_without_batch_norm_learn_slower(tiny_records, tmp_path):
    vgg = config.ModelConfig(version="v1", backbone="vgg_16")
    given = {"tf_initial_checkpoint": "none", "train_batch_size": 4, "training_number_of_steps": 9}
    assert choose(tiny_records, tmp_path, model=vgg, **given).train.base_learning_rate == 0.0003


@pytest.mark.parametrize("epochs, steps", [(1, 4), (0.5, 2), (2.25, 9)])
def test_epochs_say_how_many_steps(tiny_records, tmp_path, epochs, steps):
    chosen = choose(tiny_records, tmp_path, epochs=epochs, train_batch_size=2).train
    assert (chosen.training_number_of_steps, chosen.epochs) == (steps, None)


@pytest.mark.parametrize(
    "steps, given, scales",
    [
        (9999, {}, (0.75, 1.5)),
        (10000, {}, (0.5, 2.0)),
        (10000, {"max_scale_factor": 1.0}, (0.5, 1.0)),
        (60, {"max_scale_factor": 0.6}, (0.6, 0.6)),
        (60, {"min_scale_factor": 1.6}, (1.6, 1.6)),
        (60, {"min_scale_factor": 0.25, "max_scale_factor": 4.0}, (0.25, 4.0)),
    ],
)
def test_scales_follow_from_the_length_of_the_run(tiny_records, tmp_path, steps, given, scales):
    data = choose(tiny_records, tmp_path, data=given, training_number_of_steps=steps).data
    assert (data.min_scale_factor, data.max_scale_factor) == scales


@pytest.mark.parametrize(
    "given, patience",
    [({}, 5), ({"epochs": 50}, 0), ({"training_number_of_steps": 50}, 0)],
)
def test_a_run_whose_length_is_given_does_not_end_early(tiny_records, tmp_path, given, patience):
    assert choose(tiny_records, tmp_path, **given).train.early_stopping_patience == patience


def test_epochs_and_steps_together_are_refused():
    with pytest.raises(UserError, match="give one of them"):
        config.TrainConfig(epochs=1, training_number_of_steps=1)


def test_the_decay_of_long_runs_is_the_originals(tiny_records, tmp_path):
    model = dataclasses.replace(TINY_MODEL, batch_norm_decay=None)
    decays = [
        choose(
            tiny_records, tmp_path, model=model, training_number_of_steps=steps
        ).model.batch_norm_decay
        for steps in (60, 600, 30000)
    ]
    assert decays == [0.9, 0.99, None]


@pytest.mark.parametrize("replicas, parts", [(1, 3), (2, 3), (2, 1)])
def test_every_device_gets_an_equal_part_of_the_batch(tiny_records, tmp_path, replicas, parts):
    given = automatic.Configs(
        TINY_MODEL,
        config.DataConfig(data_dir=tiny_records.folder),
        config.TrainConfig(gradient_accumulation_steps=parts),
    )
    configs, _ = automatic.choose(given, [tiny_records], replicas, str(tmp_path))
    assert configs.train.train_batch_size % (replicas * parts) == 0


@pytest.mark.parametrize(
    "name", ["cityscapes_v3_mobilenet_v2", "voc2012_v2_resnet_v1_101", "voc2012_v2_vgg_16"]
)
def test_the_recipes_of_papers_keep_the_decays_of_their_networks(tiny_records, tmp_path, name):
    lines = (REPOSITORY / "configs" / f"{name}.flagfile").read_text().splitlines()
    model, _, train = command_line.parse(
        [line for line in lines if line.startswith("--")],
        config.ModelConfig,
        config.DataConfig,
        config.TrainConfig,
    )
    data = config.DataConfig(data_dir=tiny_records.folder, train_crop_size=(65, 65))
    chosen, _ = automatic.choose(
        automatic.Configs(model, data, train), [tiny_records], 1, str(tmp_path)
    )
    assert chosen.model == model


def test_a_batch_that_does_not_fit_into_the_memory_is_halved(tiny_records, tmp_path, monkeypatch):
    whole = choose(tiny_records, tmp_path).train.train_batch_size
    memory = automatic.psutil.virtual_memory()
    monkeypatch.setattr(
        automatic.psutil, "virtual_memory", lambda: memory._replace(available=25 * 2**20)
    )
    assert choose(tiny_records, tmp_path).train.train_batch_size < whole


def test_all_workers_choose_the_batch_of_the_one_with_the_least_memory(
    tiny_records, tmp_path, monkeypatch
):
    alone = choose(tiny_records, tmp_path).train.train_batch_size
    monkeypatch.setattr(
        automatic.distribution, "of_all_workers", lambda per_device: [per_device, 1]
    )
    assert choose(tiny_records, tmp_path).train.train_batch_size == 1 < alone


@pytest.mark.parametrize(
    "driver, batch_size",
    [("echo 81559; echo 24", 1), ("echo 81559", 8), ("echo unknown", 8), ("exit 9", 8), (None, 8)],
    ids=["smallest GPU", "large GPU", "not a number", "no driver", "no command"],
)
def test_the_batch_of_gpus_fits_into_the_smallest(
    tiny_records, tmp_path, monkeypatch, driver, batch_size
):
    monkeypatch.setenv("PATH", str(tmp_path))
    if driver:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{driver}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setattr(automatic._Facts, "device", "accelerator")
    run_dir = tmp_path / "run"
    assert choose(tiny_records, run_dir).train.train_batch_size == batch_size


def test_small_images_with_thin_parts_are_enlarged_unless_a_crop_size_is_given(
    tiny_records, tmp_path, monkeypatch
):
    monkeypatch.setattr(automatic.fine_detail, "enlargement", lambda labels, num_classes: 1.5)
    data = choose(tiny_records, tmp_path).data  # images of up to 160x128
    assert (data.min_resize_value, data.train_crop_size) == (192, (193, 241))
    given = {"train_crop_size": (65, 65)}
    assert choose(tiny_records, tmp_path, data=given).data.min_resize_value is None
    assert choose(tiny_records, tmp_path, data={"min_resize_value": 0}).data.min_resize_value == 0
    monkeypatch.setattr(automatic, "_MAX_ENLARGED_PIXELS", 192 * 240 - 1)
    assert choose(tiny_records, tmp_path).data.min_resize_value is None


def test_crops_follow_images_that_are_resized_first(tiny_records, tmp_path):
    crop = choose(tiny_records, tmp_path, data={"min_resize_value": 96}).data.train_crop_size
    assert crop == (97, 129)


def test_crops_that_are_turned_are_square(tiny_records, tmp_path):
    crop = choose(tiny_records, tmp_path, data={"quarter_turns": True}).data.train_crop_size
    assert crop == (129, 129)
    with pytest.raises(UserError, match="needs square crops"):
        config.DataConfig(quarter_turns=True, train_crop_size=(65, 97))


def test_a_run_keeps_what_it_chose_when_it_resumes(tiny_records, tiny_run_dir):
    before = run_dirs.read(tiny_run_dir)
    model = dataclasses.replace(TINY_MODEL, batch_norm_decay=None)
    given = {"tf_initial_checkpoint": "none", "batch_statistics_images": 0}
    chosen = choose(tiny_records, tiny_run_dir, model=model, **given)
    assert chosen.train == before.train_config
    assert chosen.model.batch_norm_decay == TINY_MODEL.batch_norm_decay
    assert chosen.data.train_crop_size == before.data_config.train_crop_size
    changes = {"training_number_of_steps": 5, "eval_every_steps": 1}
    longer = choose(tiny_records, tiny_run_dir, **given, **changes)
    assert longer.train == dataclasses.replace(before.train_config, **changes)
    assert choose(tiny_records, tiny_run_dir, epochs=2).train.training_number_of_steps == 8


def test_an_older_run_without_a_decay_keeps_that_of_the_original(tiny_run_dir, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(tiny_run_dir, older)
    flags = (older / "flags.txt").read_text()
    (older / "flags.txt").write_text(
        "".join(line for line in flags.splitlines(True) if "batch_norm_decay" not in line)
    )
    source = records.find_records(run_dirs.read(str(older)).data_config.data_dir)
    model = dataclasses.replace(TINY_MODEL, batch_norm_decay=None)
    assert choose(source, older, model=model).model.batch_norm_decay is None


def test_auto_on_the_command_line_is_as_if_nothing_were_given():
    (given,) = command_line.parse(
        ["--class_weights=auto", "--train_batch_size=auto"], config.TrainConfig
    )
    assert given == config.TrainConfig(class_weights=None)


def test_a_run_that_ends_early_stays_ended(tiny_records, tmp_path, capsys):
    folder = str(tmp_path / "run")
    configs = (
        TINY_MODEL,
        config.DataConfig(data_dir=tiny_records.folder, train_crop_size=(33, 33)),
        config.TrainConfig(
            training_number_of_steps=6,
            train_batch_size=2,
            base_learning_rate=0.0,  # nothing changes, so no validation is better than the first
            fine_tune_batch_norm=False,
            eval_every_steps=1,
            early_stopping_patience=2,
        ),
    )
    loop.train(*configs, folder)
    assert "The run ends at step" in capsys.readouterr().out
    assert loop.train(*configs, folder) == {}
    assert "Nothing is left to train" in capsys.readouterr().out
