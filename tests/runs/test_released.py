"""Released weights by name: the settings, the classes and the run dir that follow from it."""

import dataclasses
import pathlib

import numpy as np
import pytest

from conftest import REPOSITORY
from conftest import SIX_UNITS
from conftest import short_mobilenet_v2
from deeplab_tf import build_model
from deeplab_tf import command_line
from deeplab_tf import import_checkpoint
from deeplab_tf import layers
from deeplab_tf import zoo
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import published_classes
from deeplab_tf.errors import UserError
from deeplab_tf.runs import imported_run
from deeplab_tf.runs import released
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.weights import checkpoint_values

NAME = "mobilenetv2_dm05_coco_voc_trainaug"
NETWORKS = [entry.name for entry in zoo.ENTRIES.values() if not entry.is_backbone]


def given(flags: str) -> ModelConfig:
    return command_line.parse(flags.split(), ModelConfig)[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_and_classes_follow_from_the_name(name):
    entry = zoo.ENTRIES[name]
    settings = released.settings_of(name)
    assert settings.notes == []
    for one, value in entry.model.items():
        assert getattr(settings.model_config, one) == value
    classes = published_classes.BY_DATASET[entry.data]
    assert settings.model_config.num_classes == classes.num_classes
    assert len(classes.colors) == classes.num_classes
    assert settings.data_config.dataset == entry.data
    stride = settings.model_config.output_stride
    assert all(side % stride == 1 for side in settings.data_config.train_crop_size)


# The flags that the original gives for these models.
OFFICIAL_FLAGS = {
    "xception65_coco_voc_trainaug": "--version=v3plus --backbone=xception_65 --output_stride=16 "
    "--atrous_rates=6,12,18 --decoder_output_stride=4 --multi_grid=1,1,1 --num_classes=21 "
    "--in_channels=3",
    "mobilenetv3_large_cityscapes_trainfine": "--backbone=mobilenet_v3_large_seg "
    "--image_pooling_crop_size=769,769 --image_pooling_stride=4,5 --add_image_level_feature "
    "--aspp_convs_filters=128 --aspp_with_concat_projection=false "
    "--aspp_with_squeeze_and_excitation --decoder_use_sum_merge --decoder_filters=19 "
    "--decoder_output_is_logits --image_se_uses_qsigmoid --decoder_output_stride=8 "
    "--output_stride=32 --num_classes=19",
    "xception71_dpc_cityscapes_trainfine": "--backbone=xception_71 "
    f"--dense_prediction_cell_json={REPOSITORY}/configs/dense_prediction_cell.json",
    "edgetpu_deeplab_slim": "--version=v3 --backbone=mobilenet_edgetpu --depth_multiplier=0.75 "
    "--aspp_convs_filters=128 --output_stride=32 --decoder_use_sum_merge=false",
}


@pytest.mark.parametrize("name", OFFICIAL_FLAGS)
def test_the_official_flags_agree_with_the_name(name):
    config = released.settings_of(name, given(OFFICIAL_FLAGS[name])).model_config
    expected = released.settings_of(name).model_config
    free = {"atrous_rates": None, "multi_grid": None}
    assert dataclasses.replace(config, **free) == dataclasses.replace(expected, **free)


@pytest.mark.parametrize(
    "name, path",
    [
        ("mobilenetv2_coco_voc_trainaug", "voc2012_v3_mobilenet_v2"),
        ("mobilenetv2_coco_cityscapes_trainfine", "cityscapes_v3_mobilenet_v2"),
        ("xception65_cityscapes_trainfine", "cityscapes_v3plus_xception_65"),
        ("mobilenetv2_ade20k_train", "ade20k_v3plus_mobilenet_v2"),
        ("xception65_ade20k_train", "ade20k_v3plus_xception_65"),
        ("xception65_coco_voc_trainaug", "voc2012_v3plus_xception_65_train_aug"),
    ],
)
def test_the_flagfile_of_a_released_network_says_the_same_as_its_name(name, path):
    model_config, data_config, _ = command_line.read_flagfile(
        str(REPOSITORY / f"configs/{path}.flagfile"), ModelConfig, DataConfig, TrainConfig
    )
    settings, alone = released.settings_of(name, model_config), released.settings_of(name)
    assert settings.notes == []
    assert settings.model_config == alone.model_config
    data_settings = {one: getattr(data_config, one) for one in zoo.ENTRIES[name].data_settings}
    assert data_settings == {one: getattr(alone.data_config, one) for one in data_settings}


@pytest.mark.parametrize(
    "name, flags, message",
    [
        (NAME, "--version=v3plus", "--version=v3plus .*another network than .*version=v3. Leave"),
        (NAME, "--depth_multiplier=1", "--depth_multiplier=1.0 .*depth_multiplier=0.5"),
        (NAME, "--num_classes=19", "--num_classes=19 .*num_classes=21"),
        (NAME, "--atrous_rates=6,12,18", "--atrous_rates=6,12,18"),
        (NAME, "--noadd_image_level_feature", "--add_image_level_feature=false"),
        (NAME, "--decoder_output_stride=4", "--decoder_output_stride=4"),
        ("xception65_coco_voc_trainaug", "--atrous_rates=", "--atrous_rates= "),
        ("xception65_coco_voc_trainaug", "--decoder_filters=64", "decoder_filters=256"),
        ("xception_65_imagenet", "", "backbone alone.*--tf_initial_checkpoint=xception_65_image"),
        ("xception65_coco_voc", "", "Did you mean xception65_coco_voc_train"),
    ],
)
def test_what_contradicts_the_name_is_refused(name, flags, message):
    with pytest.raises(UserError, match=message):
        released.settings_of(name, given(flags))


def test_what_leaves_the_weights_as_they_are_replaces_the_setting_with_a_word():
    flags = "--output_stride=8 --image_pyramid=0.5,1 --batch_norm_decay=0.9"
    settings = released.settings_of("xception65_coco_voc_trainaug", given(flags))
    assert settings.model_config.output_stride == 8
    assert settings.model_config.atrous_rates is None  # they follow from the output stride
    assert settings.notes[0] == ("--output_stride=8 in place of 16 of xception65_coco_voc_trainaug")
    assert len(settings.notes) == 3
    data = DataConfig(train_crop_size=(321, 321))
    data_config = released.settings_of(NAME, data_config=data).data_config
    assert data_config.train_crop_size == (321, 321) and data_config.val_split == "val"


@pytest.fixture(scope="module", autouse=True)
def short_network():
    with short_mobilenet_v2(SIX_UNITS):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """The files of a release, of a short network, and its values by official name."""
    folder = tmp_path_factory.mktemp("fetched")
    model = build_model(**dataclasses.asdict(released.settings_of(NAME).model_config))
    values = {layers.official_name(weight): weight.numpy() + 0.5 for weight in model.weights}
    checkpoint_values.write(str(folder / "model.ckpt"), values)
    return folder, values


@pytest.fixture
def cached(weights, monkeypatch, tmp_path) -> dict[str, np.ndarray]:
    """The values of a release that is in the cache."""
    monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "cache"))
    zoo.add(NAME, weights[0])
    return weights[1]


def assert_has_the_release(run: run_dirs.Run, values: dict[str, np.ndarray]) -> None:
    voc = published_classes.VOC2012
    assert run.dataset.class_names == voc.class_names and run.dataset.colors == voc.colors
    assert run.train_config.tf_initial_checkpoint == NAME
    for weight in run_dirs.load_model(run).weights:
        np.testing.assert_array_equal(weight, values[layers.official_name(weight)])


def test_a_name_is_imported_without_any_flag(cached, tmp_path):
    report = import_checkpoint.import_checkpoint(NAME, run_dir=str(tmp_path / "run"))
    assert len(report.loaded) == len(cached) and not report.skipped
    assert_has_the_release(run_dirs.read(str(tmp_path / "run")), cached)


def test_a_run_dir_of_a_release_is_made_once_and_again_for_other_weights(cached, weights, tmp_path):
    folder = imported_run.run_dir_of_release(NAME)
    assert_has_the_release(run_dirs.read(folder), cached)
    flags = pathlib.Path(folder, "flags.txt")
    before = flags.stat().st_mtime_ns
    assert imported_run.run_dir_of_release(NAME) == folder
    assert flags.stat().st_mtime_ns == before
    others = {name: value + 0.25 for name, value in cached.items()}
    (tmp_path / "others").mkdir()
    checkpoint_values.write(str(tmp_path / "others/model.ckpt"), others)
    zoo.add(NAME, tmp_path / "others")
    assert_has_the_release(run_dirs.read(imported_run.run_dir_of_release(NAME)), others)


def test_a_release_that_does_not_fit_leaves_no_run_dir(cached, tmp_path):
    name = next(iter(cached))
    (tmp_path / "broken").mkdir()
    checkpoint_values.write(str(tmp_path / "broken/model.ckpt"), {name: cached[name]})
    zoo.add(NAME, tmp_path / "broken")
    with pytest.raises(UserError, match="does not fit"):
        imported_run.run_dir_of_release(NAME)
    assert not (zoo.folder_of(NAME) / "run").exists()


def test_a_checkpoint_by_path_gets_the_classes_of_its_published_data_set(weights, tmp_path):
    model_config = dataclasses.replace(released.settings_of(NAME).model_config, num_classes=None)
    import_checkpoint.import_checkpoint(
        str(weights[0] / "model.ckpt"),
        model_config=model_config,
        data_config=DataConfig(dataset="voc2012"),
        run_dir=str(tmp_path / "run"),
    )
    assert run_dirs.read(str(tmp_path / "run")).dataset.class_names[15] == "person"
