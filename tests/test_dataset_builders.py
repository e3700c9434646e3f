"""The builders of published datasets: splits, ids and messages, on the drawn trees beside them."""

import importlib
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from conftest import REPOSITORY
from deeplab_tf.data import label_files
from deeplab_tf.data import records
from deeplab_tf.datasets import build
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets.coco_stuff import coco_stuff_dataset_builder as coco_stuff
from deeplab_tf.errors import UserError

# Number of classes and ignore label of every dataset that is laid out as its authors publish it.
PUBLISHED = {
    "voc2012": (21, 255),
    "cityscapes": (19, 255),
    "ade20k": (151, 0),
    "coco_stuff": (171, 255),
    "pascal_context": (60, 255),
}


def builder_of(name: str, tmp_path: pathlib.Path) -> segmentation.SegmentationBuilder:
    module = importlib.import_module(f"deeplab_tf.datasets.{name}.{name}_dataset_builder")
    return module.Builder(data_dir=tmp_path / "data")


def drawn(name: str) -> pathlib.Path:
    return REPOSITORY / "datasets" / name / "dummy_data"


@pytest.fixture
def raw(request, tmp_path) -> pathlib.Path:
    """A copy of a dataset's drawn tree, to be spoiled."""
    return pathlib.Path(shutil.copytree(drawn(request.param), tmp_path / "raw"))


def label_of(builder: segmentation.SegmentationBuilder, pair: segmentation.Pair) -> np.ndarray:
    """Returns the label as it is in the record."""
    png = builder.read_example(pair)["image"]["segmentation"]["class"]["encoded"]
    return np.array(PIL.Image.open(png))


def names_of(pairs: dict[str, list[segmentation.Pair]], split: str) -> list[str]:
    return [pair.name for pair in pairs[split]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_classes_are_as_many_as_published_and_no_name_comes_twice(name, tmp_path):
    num_classes, ignore_label = PUBLISHED[name]
    metadata = builder_of(name, tmp_path).info.metadata
    assert len(set(metadata["class_names"])) == len(metadata["class_names"]) == num_classes
    assert len(metadata["colors"]) == num_classes
    assert metadata["ignore_label"] == ignore_label


@pytest.mark.parametrize("name", [*PUBLISHED, "mapillary_vistas"])
def test_a_folder_without_the_dataset_is_answered_with_the_tree_and_where_to_get_it(name, tmp_path):
    (tmp_path / "something_else").mkdir()
    builder = builder_of(name, tmp_path)
    with pytest.raises(UserError) as error:
        builder.find_pairs(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert builder.MANUAL_DOWNLOAD_INSTRUCTIONS in str(error.value)
    assert "http" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS


@pytest.mark.parametrize(
    "name, inside",
    [
        ("voc2012", "VOCdevkit"),
        ("voc2012", "VOCdevkit/VOC2012"),
        ("pascal_context", "VOCdevkit"),
        ("pascal_context", "VOCdevkit/VOC2010"),
        ("ade20k", "ADEChallengeData2016"),
    ],
)
def test_manual_dir_may_be_a_folder_further_down(name, inside, tmp_path):
    builder = builder_of(name, tmp_path)
    assert builder.find_pairs(drawn(name) / inside) == builder.find_pairs(drawn(name))


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    tree = {}
    for kind, folder in (("leftImg8bit", "leftImg8bit"), ("gtFine_labelIds", "gtFine")):
        tree[folder] = tmp_path / folder / "val" / "ulm" / f"ulm_000000_000019_{kind}.png"
        tree[folder].parent.mkdir(parents=True)
    PIL.Image.new("RGB", (34, 1)).save(tree["leftImg8bit"])
    PIL.Image.fromarray(np.arange(34, dtype=np.uint8)[None]).save(tree["gtFine"])
    builder = builder_of("cityscapes", tmp_path)
    pairs = builder.find_pairs(tmp_path)
    assert {split: names_of(pairs, split) for split in pairs} == {"val_fine": ["ulm_000000_000019"]}
    # 7, 8, 11, 12, 13, 17, 19..28, 31..33 are 0..18.
    expected = [
        *[255] * 7,
        0,
        1,
        255,
        255,
        2,
        3,
        4,
        255,
        255,
        255,
        5,
        255,
        *range(6, 16),
        255,
        255,
        16,
        17,
        18,
    ]
    assert label_of(builder, pairs["val_fine"][0])[0].tolist() == expected

    PIL.Image.fromarray(np.full((1, 34), 40, np.uint8)).save(tree["gtFine"])
    with pytest.raises(
        UserError, match="label .*ulm_000000_000019_gtFine_labelIds.png has the id 40"
    ):
        label_of(builder, pairs["val_fine"][0])


def test_the_coarse_splits_of_cityscapes_hold_train_and_train_extra(tmp_path):
    builder = builder_of("cityscapes", tmp_path)
    pairs = builder.find_pairs(drawn("cityscapes"))
    assert names_of(pairs, "train_coarse") == ["aachen_000000_000019", "augsburg_000000_000000"]
    assert "gtCoarse" in str(pairs["train_coarse"][0].label)
    assert names_of(pairs, "trainval_coarse")[2:] == ["frankfurt_000000_000294"]
    assert (label_of(builder, pairs["test_fine"][0]) == 255).all()


@pytest.mark.parametrize("raw", ["cityscapes"], indirect=True)
def test_a_split_of_cityscapes_without_one_of_its_folders_is_left_out(raw, tmp_path):
    shutil.rmtree(raw / "leftImg8bit" / "train_extra")
    shutil.rmtree(raw / "gtFine" / "test")
    pairs = builder_of("cityscapes", tmp_path).find_pairs(raw)
    assert set(pairs) == {"train_fine", "val_fine", "trainval_fine"}


def test_coco_stuff_has_no_gaps_in_its_ids(tmp_path):
    # The first id after every gap, as in the table of 171 classes that is in general use.
    known = {0: 0, 10: 10, 12: 11, 26: 24, 30: 26, 45: 40, 66: 60, 69: 61, 71: 62, 83: 73, 91: 80}
    for label_id, class_id in (known | {181: 170}).items():
        assert coco_stuff.CLASS_IDS[label_id] == class_id
    ids = coco_stuff.CLASS_IDS[:182]
    assert sorted(ids[ids != 255]) == list(range(171))
    builder = builder_of("coco_stuff", tmp_path)
    label = label_of(builder, builder.find_pairs(drawn("coco_stuff"))["val"][0])
    assert set(np.unique(label)) == {11, 170, 255}  # drawn with 12, 181 and 255
    assert coco_stuff.CLASS_NAMES[11] == "stop sign" and coco_stuff.CLASS_NAMES[170] == "wood"


@pytest.mark.parametrize("raw", ["coco_stuff"], indirect=True)
def test_the_tree_of_the_authors_of_coco_stuff_is_found(raw, tmp_path):
    (raw / "stuffthingmaps_trainval2017").rename(raw / "annotations")
    (raw / "images").mkdir()
    for folder in ("train2017", "val2017"):
        (raw / folder).rename(raw / "images" / folder)
    pairs = builder_of("coco_stuff", tmp_path).find_pairs(raw)
    assert names_of(pairs, "train") == ["000000000009", "000000000025"]


@pytest.mark.parametrize("raw", ["ade20k"], indirect=True)
def test_a_image_without_label_is_named(raw, tmp_path):
    label = raw / "ADEChallengeData2016" / "annotations" / "validation" / "ADE_val_00000001.png"
    label.unlink()
    builder = builder_of("ade20k", tmp_path)
    with pytest.raises(UserError, match=f"there is no label {label}"):
        label_of(builder, builder.find_pairs(raw)["val"][0])


@pytest.mark.parametrize("raw", ["voc2012", "pascal_context"], indirect=True)
@pytest.mark.parametrize("kind, folder", [("image", "JPEGImages"), ("label", "SegmentationClass*")])
def test_a_listed_name_without_file_is_reported_with_its_list_before_anything_is_built(
    raw, kind, folder, tmp_path
):
    name = "voc2012" if next(raw.rglob("VOC2012"), None) else "pascal_context"
    split_list = next(raw.rglob("val.txt"))
    missing = split_list.read_text().strip()
    for path in raw.rglob(f"{folder}/{missing}.*"):
        path.unlink()
    with pytest.raises(UserError) as error:
        builder_of(name, tmp_path).find_pairs(raw)
    assert f"{split_list} lists {missing!r}, but there is no {kind} {missing}" in str(error.value)


def test_the_59_classes_of_pascal_context_are_a_class_map(tmp_path):
    builder = builder_of("pascal_context", tmp_path)
    pairs = builder.find_pairs(drawn("pascal_context"), "background:ignore")
    assert len(builder.info.metadata["class_names"]) == 59
    assert builder.info.metadata["class_names"][0] == "aeroplane"
    # Drawn with 0, 30 and 59.
    assert set(np.unique(label_of(builder, pairs["train"][0]))) == {29, 58, 255}


def test_train_aug_is_all_but_vocs_val_with_vocs_own_labels_first(tmp_path):
    builder = builder_of("voc2012", tmp_path)
    pairs = builder.find_pairs(drawn("voc2012"))
    assert names_of(pairs, "trainval") == ["2007_000001", "2007_000002", "2007_000003"]
    assert names_of(pairs, "val") == ["2007_000003"]
    assert names_of(pairs, "train_aug") == ["2007_000001", "2007_000002", "2008_000004"]
    assert [pair.label.parent.name for pair in pairs["train_aug"]] == [
        "SegmentationClass",
        "SegmentationClass",
        "SegmentationClassAug",
    ]


@pytest.mark.parametrize("raw", ["voc2012"], indirect=True)
@pytest.mark.parametrize("file_name", ["train_aug.txt", "trainaug.txt"])
def test_a_list_of_train_aug_is_taken_as_it_is(raw, file_name, tmp_path):
    lists = raw / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / file_name).write_text(
        "/JPEGImages/2008_000004.jpg /SegmentationClassAug/2008_000004.png\n2007_000001\n"
    )
    pairs = builder_of("voc2012", tmp_path).find_pairs(raw)
    assert names_of(pairs, "train_aug") == ["2008_000004", "2007_000001"]


@pytest.fixture
def sbd(tmp_path) -> pathlib.Path:
    """The drawn VOC with SBD beside it, labels as MATLAB files: all but the first image."""
    scipy_io = pytest.importorskip("scipy.io")
    raw = pathlib.Path(shutil.copytree(drawn("voc2012"), tmp_path / "raw"))
    augmented = raw / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    cls = raw / "benchmark_RELEASE" / "dataset" / "cls"
    cls.mkdir(parents=True)
    for path in sorted(augmented.iterdir())[1:]:
        classes = {
            "Segmentation": np.array(PIL.Image.open(path)),
            "Boundaries": np.zeros((20, 1), object),
            "CategoriesPresent": np.array([[2]], np.uint8),
        }
        scipy_io.savemat(cls / f"{path.stem}.mat", {"GTcls": classes}, do_compression=True)
    shutil.rmtree(augmented)
    return raw


def test_train_aug_is_made_from_sbd_as_it_unpacks(sbd, tmp_path):
    builder = builder_of("voc2012", tmp_path)
    pairs = builder.find_pairs(sbd)
    assert names_of(pairs, "train_aug") == ["2007_000001", "2007_000002", "2008_000004"]
    assert [pair.label.suffix for pair in pairs["train_aug"]] == [".png", ".png", ".mat"]
    np.testing.assert_array_equal(
        label_of(builder, pairs["train_aug"][2]),
        PIL.Image.open(next(drawn("voc2012").rglob("SegmentationClassAug/2008_000004.png"))),
    )


def test_train_aug_is_not_made_without_knowing_vocs_val(sbd, tmp_path):
    next(sbd.rglob("val.txt")).unlink()
    with pytest.raises(UserError, match="train_aug is .* without VOC's val.txt"):
        builder_of("voc2012", tmp_path).find_pairs(sbd)


def test_the_indices_and_the_void_of_a_real_voc_label_are_kept(shared, tmp_path):
    builder = builder_of("voc2012", tmp_path)
    pairs = builder.find_pairs(shared / "data" / "VOC_mini")
    assert {split: names_of(pairs, split) for split in pairs} == {"val": ["2007_000039"]}
    label = label_of(builder, pairs["val"][0])
    assert set(np.unique(label)) == {0, 20, 255}  # a television set
    np.testing.assert_array_equal(label, label_files.read_label(pairs["val"][0].label))


def test_mapillary_vistas_takes_its_classes_from_the_config_file(tmp_path):
    builder = builder_of("mapillary_vistas", tmp_path)
    pairs = builder.find_pairs(drawn("mapillary_vistas"))
    assert builder.info.metadata["class_names"] == ["Bird", "Road", "Sky"]
    assert builder.info.metadata["colors"][1] == [128, 64, 128]
    assert builder.info.metadata["ignore_label"] == 3
    assert set(np.unique(label_of(builder, pairs["val"][0]))) == {1, 2, 3}


@pytest.mark.parametrize("raw", ["mapillary_vistas"], indirect=True)
def test_the_release_of_mapillary_vistas_follows_from_its_config_file(raw, tmp_path):
    config = json.loads((raw / "config_v1.2.json").read_text())
    config["labels"].insert(0, config["labels"][0] | {"readable": "Barrier"})
    (raw / "config_v2.0.json").write_text(json.dumps(config))
    for folder in ("training", "validation"):
        shutil.copytree(raw / folder / "v1.2", raw / folder / "v2.0")
    builder = builder_of("mapillary_vistas", tmp_path)
    assert "v1.2" in str(builder.find_pairs(raw)["train"][0].label)
    (raw / "config_v1.2.json").unlink()
    assert "v2.0" in str(builder.find_pairs(raw)["train"][0].label)
    assert builder.info.metadata["class_names"] == ["Barrier", "Bird", "Road", "Sky"]

    config["labels"].reverse()
    (raw / "config_v2.0.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config_v2.0.json: the last of labels is 'animal--bird'"):
        builder.find_pairs(raw)


def test_the_records_of_a_published_dataset_say_its_classes_and_splits(tmp_path):
    found = build.build("voc2012", tmp_path / "out", drawn("voc2012"), num_shards=2)
    assert found.num_examples == {"train": 2, "val": 1, "trainval": 3, "train_aug": 3}
    assert found.info.class_names[15] == "person" and found.info.colors[15] == (192, 128, 128)
    assert records.find_records(tmp_path / "out").info == found.info
