"""Limits, types and relations of settings, over all configs of all commands."""

import math
import os
import pathlib
import pickle

import numpy as np
import pytest

from conftest import COMMANDS
from conftest import configs_of
from deeplab_tf import backbones
from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf import crf
from deeplab_tf import models
from deeplab_tf import settings
from deeplab_tf.data import image_files
from deeplab_tf.data import label_files
from deeplab_tf.data.annotations import formats
from deeplab_tf.errors import UserError
from deeplab_tf.settings import REQUIRED

# Names that mean something else in one command.
OTHER_MEANINGS = {
    ("deeplab_tf.import_checkpoint", "checkpoint"),  # the official one
    ("deeplab_tf.check_data", "images"),  # one folder
    ("deeplab_tf.export.client", "images"),  # no videos
    ("deeplab_tf.export.hub", "output_dir"),  # in place of publishing
    ("deeplab_tf.export.serve", "host"),  # to listen at
    ("deeplab_tf.export.serve", "port"),
    ("deeplab_tf.export.serve", "model_name"),  # that clients ask for
    ("deeplab_tf.export.web", "quantize"),  # no int8, which takes other pixels
    ("deeplab_tf.datasets.build", "data_dir"),  # written
    ("deeplab_tf.datasets.build", "dataset"),  # one that can be built
    ("deeplab_tf.data_service", "port"),
    ("deeplab_tf.data_service", "workers"),
}


ALL = sorted(
    {
        (config_class, setting.name): setting
        for command in COMMANDS
        for config_class in configs_of(command)
        for setting in settings.settings_of(config_class)
    }.items(),
    key=lambda item: (item[0][0].__module__, item[0][0].__name__),
)
of_every_setting = pytest.mark.parametrize(
    "config_class, setting",
    [(config_class, setting) for (config_class, _), setting in ALL],
    ids=[f"{config_class.__module__}.{name}" for (config_class, name), _ in ALL],
)


def required(config_class: type[settings.Config]) -> dict:
    """Values of what must be given."""
    return {
        setting.name: ("x",) if setting.is_list else (setting.choices or ("x",))[0]
        for setting in settings.settings_of(config_class)
        if setting.is_required
    }


def items_beyond(setting: settings.Setting) -> list:
    """Values just beyond every limit that a setting has."""
    step = 1 if setting.item_type is int else 1e-6
    beyond = [
        setting.at_least is not None and setting.at_least - step,
        setting.at_most is not None and setting.at_most + step,
        setting.above,
        setting.below,
        setting.choices and ("no such" if isinstance(setting.choices[-1], str) else 999),
    ]
    if setting.item_type is float:
        beyond += [math.nan, math.inf, -math.inf, "text"]
    if setting.item_type is int:
        beyond += [1.5, True, "1.5"]
    if setting.item_type is bool:
        beyond += [1, "maybe"]
    if setting.item_type is str:
        beyond += [1]
    return [value for value in beyond if value is not None and value is not False and value != ()]


def wrong_values(setting: settings.Setting) -> list:
    wrong = items_beyond(setting)
    if setting.is_list:
        wrong = [(item,) * (setting.length or 1) for item in wrong if item is not True]
        wrong += [setting.check((1,) * setting.length) + (1,)] if setting.length else []
    if setting.is_required or not setting.may_be_empty:
        wrong.append(() if setting.is_list else "")
    if not setting.is_optional:
        wrong.append(None)
    return wrong


@of_every_setting
def test_a_value_beyond_each_limit_is_refused_by_the_name_of_its_flag(config_class, setting):
    for value in wrong_values(setting):
        with pytest.raises(UserError, match=f"^--{setting.name}=.* must .*[.]$"):
            config_class(**required(config_class) | {setting.name: value})


@of_every_setting
def test_the_limits_themselves_and_the_default_are_taken(config_class, setting):
    values = [setting.default] if setting.default is not REQUIRED else []
    items = [value for value in (setting.at_least, setting.at_most) if value is not None]
    items += setting.choices
    values += [(item,) * (setting.length or 1) if setting.is_list else item for item in items]
    for value in values:
        checked = setting.check(value)
        assert checked == value or (value == "" and checked is None)
        if checked is not None:
            assert setting.check(setting.to_text(checked)) == checked


@of_every_setting
def test_help_is_a_sentence_that_stands_alone(config_class, setting):
    assert setting.help[0].isupper() and setting.help.endswith(".")
    assert not setting.help.startswith(("It ", "That ", "This ", "Does so", "..."))
    assert "..." not in setting.help
    if setting.default in (None, "") and not setting.is_required and setting.default_help:
        assert not setting.default_help.endswith(".")


@of_every_setting
def test_a_path_begins_at_the_home_folder_where_it_says_so(config_class, setting, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    path, remote = pathlib.Path("~/data/x"), "gs://bucket/~/x"
    if setting.item_type is not str or setting.choices:
        return
    given = (path, remote) if setting.is_list else path
    checked = setting.check(given)
    text = ",".join(checked) if setting.is_list else checked
    assert ("/home/someone/data/x" in text) == setting.is_path
    if setting.is_list:
        assert checked[1] == remote
        assert setting.check(f"{path},{remote}") == checked


def test_what_is_called_a_path_a_folder_or_a_file_is_marked_as_a_path():
    texts = [setting for _, setting in ALL if setting.item_type is str and not setting.choices]
    words = ("dir", "output", "path", "images", "labels", "model", "report", "json", "classes")
    unmarked = {
        setting.name
        for setting in texts
        if not setting.is_path
        and (
            setting.name.endswith(words)
            or any(word in setting.help.lower() for word in ("folder", " file"))
        )
    }
    assert unmarked == {"oversample_classes", "version_labels"}


def test_a_config_knows_what_was_given_even_as_its_default(tmp_path):
    flagfile = tmp_path / "x.flagfile"
    flagfile.write_text("--backbone=mobilenet_v2\n--output_stride=\n")
    arguments = ["--version=v3plus", f"--flagfile={flagfile}"]
    (model_config,) = command_line.parse(arguments, config.ModelConfig)
    assert model_config == config.ModelConfig()
    assert model_config.given() == {"version": "v3plus", "backbone": "mobilenet_v2"}
    assert pickle.loads(pickle.dumps(model_config)).given() == model_config.given()
    assert config.ModelConfig().given() == {}


def test_a_name_means_the_same_in_every_command():
    meanings = {}
    for command in COMMANDS:
        for config_class in configs_of(command):
            for setting in settings.settings_of(config_class):
                if (command, setting.name) not in OTHER_MEANINGS:
                    meaning = (setting.help, setting.item_type, setting.is_list, setting.is_path)
                    meanings.setdefault(setting.name, {}).setdefault(meaning, []).append(command)
    assert {name: of for name, of in meanings.items() if len(of) > 1} == {}


@pytest.mark.parametrize(
    "names, known",
    [
        (config.BACKBONES, backbones.BACKBONES),
        (config.VERSIONS, models.VERSIONS),
        (config.CRF_PRESETS, crf.PRESETS),
        (config.LABEL_ENCODINGS, {"auto", *label_files.ENCODINGS}),
        (config.LABEL_FORMATS, {formats.AUTO, *formats.FORMATS}),
    ],
)
def test_the_choices_are_what_there_is(names, known):
    assert set(names) == set(known)


def test_the_limit_of_image_sizes_is_the_readers_own():
    assert config.DataConfig().max_image_pixels == image_files.MAX_PIXELS
    (setting,) = (
        one
        for (kind, name), one in ALL
        if kind.__name__ == "PredictConfig" and name == "max_image_pixels"
    )
    for limit in (image_files.MAX_PIXELS, image_files.MAX_WINDOWED_PIXELS):
        assert str(limit) in setting.default_help


@pytest.mark.parametrize(
    "config_class, values, message",
    [
        (
            config.DataConfig,
            {"train_crop_size": (513,)},
            "--train_crop_size=513 must be 2 whole numbers separated by commas, e.g. 321,321.",
        ),
        (
            config.DataConfig,
            {"train_crop_size": (0, 65)},
            "--train_crop_size=0,65 must all be 1 or more, e.g. 321,321.",
        ),
        (config.DataConfig, {"hue": 0.6}, "--hue=0.6 must be between 0 and 0.5."),
        (config.DataConfig, {"contrast": -0.1}, "--contrast=-0.1 must be 0 or more."),
        (config.TrainConfig, {"seed": -1}, "--seed=-1 must be between 0 and 4294967295."),
        (config.TrainConfig, {"weight_decay": math.nan}, "--weight_decay=nan must be finite."),
        (
            config.TrainConfig,
            {"top_k_percent_pixels": 25.0},
            "--top_k_percent_pixels=25.0 must be above 0 and at most 1; it is a share, e.g. 0.25.",
        ),
        (
            config.TrainConfig,
            {"moving_average_decay": 1.0},
            "--moving_average_decay=1.0 must be at least 0 and below 1.",
        ),
        (
            config.TrainConfig,
            {"optimizer": "adam"},
            "--optimizer=adam must be momentum or adamw (did you mean adamw?).",
        ),
        (
            config.TrainConfig,
            {"mixed_precision": "int8"},
            "--mixed_precision=int8 must be bfloat16, float16 or empty.",
        ),
        (
            config.TrainConfig,
            {"jit_compile": True, "recompute_activations": True},
            "--recompute_activations cannot be used with --jit_compile, where XLA decides what is "
            "computed again: leave one of them out.",
        ),
        (
            config.ModelConfig,
            {"atrous_rates": "6;12"},
            "--atrous_rates=6;12 must be whole numbers separated by commas, e.g. 6,12,18.",
        ),
        (
            config.DataConfig,
            {"min_scale_factor": 3.0},
            "--min_scale_factor=3.0 must be at most --max_scale_factor=2.0.",
        ),
        (
            config.DataConfig,
            {"max_resize_value": 513},
            "--max_resize_value and --resize_factor need --min_resize_value: give it too.",
        ),
        (
            config.TrainConfig,
            {"train_batch_size": 8, "gradient_accumulation_steps": 3},
            "--train_batch_size=8 must be a multiple of --gradient_accumulation_steps=3.",
        ),
        (
            config.TrainConfig,
            {"cross_entropy_weight": 0.0},
            "The loss has no term: one of --cross_entropy_weight, --focal_weight, --dice_weight, "
            "--lovasz_weight must be above 0.",
        ),
        (
            config.TrainConfig,
            {"class_weights": (0.0, 0.0)},
            "--class_weights=0.0,0.0 must have a weight above 0.",
        ),
        (
            config.TrainConfig,
            {"class_weights_steps": 5},
            "--class_weights_steps=5 needs --class_weights.",
        ),
        (
            config.TrainConfig,
            {"profile_steps": (20, 10)},
            "--profile_steps=20,10 must be first,last step, e.g. 100,110.",
        ),
        (
            config.CrfConfig,
            {"crf_iterations": 5},
            "--crf_iterations needs a CRF: give --crf=v1, --crf=v2 or --crf=tuned too.",
        ),
    ],
)
def test_a_message_says_what_where_and_what_to_do(config_class, values, message):
    with pytest.raises(UserError) as caught:
        config_class(**values)
    assert str(caught.value) == message


def test_values_from_python_get_the_types_of_their_settings():
    data_config = config.DataConfig(
        data_dir=pathlib.Path("records"),
        train_crop_size=[np.int64(65), 65],
        min_scale_factor=1,
        extra_data_dirs="a,b",
    )
    assert data_config == config.DataConfig(
        data_dir="records",
        train_crop_size=(65, 65),
        min_scale_factor=1.0,
        extra_data_dirs=("a", "b"),
    )
    assert isinstance(data_config.min_scale_factor, float)
    assert hash(data_config)


def test_a_path_with_commas_in_its_name_is_one_path_where_it_is_there(tmp_path):
    (images,) = (
        setting for (_, name), setting in ALL if name == "images" and "video" in setting.help
    )
    path = tmp_path / "a,b.jpg"
    assert len(images.check(str(path))) == 2
    path.touch()
    assert images.check(str(path)) == (str(path),)
    assert images.check(images.to_text((str(path), "c"))) == (str(path), "c")
    assert os.path.basename(images.check(f'"{tmp_path}/c,d.jpg",e')[0]) == "c,d.jpg"
