"""Which image and which label file belong together, in common layouts."""

import pathlib

import pytest

from deeplab_tf.data import layouts
from deeplab_tf.data import naming
from deeplab_tf.data.listing import list_folder
from deeplab_tf.errors import UserError

# Files of a tree, and what comes out: image, label, split.
TREES = {
    "sub-folders": (
        "images/a.jpg images/b.jpg labels/a.png labels/b.png",
        ["images/a.jpg labels/a.png -", "images/b.jpg labels/b.png -"],
    ),
    "a split inside each": (
        "images/train/a.jpg images/val/a.jpg labels/train/a.png labels/val/a.png",
        ["images/train/a.jpg labels/train/a.png train", "images/val/a.jpg labels/val/a.png val"],
    ),
    "a folder per split": (
        "train/images/a.jpg train/masks/a.png valid/images/b.jpg valid/masks/b.png",
        ["train/images/a.jpg train/masks/a.png train", "valid/images/b.jpg valid/masks/b.png val"],
    ),
    "U-Net's": (
        "train/image/0.png train/label/0.png test/1.png test/1_predict.png",
        ["train/image/0.png train/label/0.png train"],
    ),
    "SegNet's CamVid": (
        "train/a.png trainannot/a.png val/b.png valannot/b.png test/c.png testannot/c.png",
        ["test/c.png testannot/c.png test", "train/a.png trainannot/a.png train",
         "val/b.png valannot/b.png val"],
    ),
    "CamVid": (
        "701_StillsRaw_full/0001TP_1.png LabeledApproved_full/0001TP_1_L.png",
        ["701_StillsRaw_full/0001TP_1.png LabeledApproved_full/0001TP_1_L.png -"],
    ),
    "DeepCrack": (
        "train_img/1.jpg train_lab/1.png test_img/1.jpg test_lab/1.png",
        ["test_img/1.jpg test_lab/1.png test", "train_img/1.jpg train_lab/1.png train"],
    ),
    "crops and weeds": (
        "images/001_image.png annotations/001_annotation.png",
        ["images/001_image.png annotations/001_annotation.png -"],
    ),
    "side by side": (
        "a.jpg a_mask.png b.jpg b_mask.png", ["a.jpg a_mask.png -", "b.jpg b_mask.png -"],
    ),
    "satellite": ("1_sat.jpg 1_mask.png", ["1_sat.jpg 1_mask.png -"]),
    "Roboflow's masks": (
        "train/x.rf.1f.jpg train/x.rf.1f_mask.png train/_classes.csv valid/y.jpg valid/y_mask.png",
        ["train/x.rf.1f.jpg train/x.rf.1f_mask.png train", "valid/y.jpg valid/y_mask.png val"],
    ),
    "skin lesions": (
        "input/ISIC_1.jpg truth/ISIC_1_segmentation.png",
        ["input/ISIC_1.jpg truth/ISIC_1_segmentation.png -"],
    ),
    "ADE20K": (
        "images/training/a.jpg images/validation/b.jpg annotations/training/a.png "
        "annotations/validation/b.png",
        ["images/training/a.jpg annotations/training/a.png train",
         "images/validation/b.jpg annotations/validation/b.png val"],
    ),
    "VOC": (
        "JPEGImages/a.jpg JPEGImages/z.jpg SegmentationClass/a.png SegmentationObject/a.png",
        ["JPEGImages/a.jpg SegmentationClass/a.png -"],
    ),
    "Cityscapes' names": (
        "leftImg8bit/train/x/x_1_leftImg8bit.png gtFine/train/x/x_1_gtFine_labelIds.png "
        "gtFine/train/x/x_1_gtFine_color.png gtFine/train/x/x_1_gtFine_instanceIds.png",
        ["leftImg8bit/train/x/x_1_leftImg8bit.png gtFine/train/x/x_1_gtFine_labelIds.png train"],
    ),
    "scenes": (
        "images/s1/a.jpg images/s2/a.jpg labels/s1/a.png labels/s2/a.png",
        ["images/s1/a.jpg labels/s1/a.png -", "images/s2/a.jpg labels/s2/a.png -"],
    ),
    "trimaps": (
        "images/a.jpg annotations/trimaps/a.png", ["images/a.jpg annotations/trimaps/a.png -"],
    ),
    "arrays": ("images/a.jpg labels/a.npy", ["images/a.jpg labels/a.npy -"]),
    "the image's ending kept": (
        "images/a.jpg masks/a.jpg.png", ["images/a.jpg masks/a.jpg.png -"],
    ),
    "by prefix": ("image_1.png mask_1.png", ["image_1.png mask_1.png -"]),
    "litter": (
        "images/a.jpg labels/a.png labels/._a.png labels/.DS_Store __MACOSX/labels/a.png Thumbs.db",
        ["images/a.jpg labels/a.png -"],
    ),
}  # fmt: skip


def plant(root: pathlib.Path, names: str):
    for name in names.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return list_folder(root)


def told(root: pathlib.Path, layout: layouts.Layout) -> list[str]:
    return sorted(
        f"{pair.image.relative_to(root)} {pair.label.relative_to(root)} {pair.split or '-'}"
        for pair in layout.pairs
    )


@pytest.mark.parametrize("tree", TREES)
def test_images_and_labels_are_paired(tree, tmp_path):
    names, wanted = TREES[tree]
    assert told(tmp_path, layouts.pair_files(plant(tmp_path, names))) == wanted


def test_names_within_a_split_are_unique(tmp_path):
    layout = layouts.pair_files(plant(tmp_path, TREES["scenes"][0]))
    assert sorted(pair.name for pair in layout.pairs) == ["s1/a", "s2/a"]


def test_two_label_files_are_refused_and_a_suffix_chooses(tmp_path):
    listing = plant(tmp_path, "images/1_image.png annotations/1_annotation.png masks/1_mask.png")
    with pytest.raises(UserError, match="several label files.*--label_suffix=_"):
        layouts.pair_files(listing)
    layout = layouts.pair_files(listing, "_annotation")
    assert told(tmp_path, layout) == ["images/1_image.png annotations/1_annotation.png -"]


def test_a_suffix_that_nobody_knows_is_given(tmp_path):
    listing = plant(tmp_path, "a.png a_crack.png b.png b_crack.png c.png")
    layout = layouts.pair_files(listing, "_crack")
    assert told(tmp_path, layout) == ["a.png a_crack.png -", "b.png b_crack.png -"]
    assert "1 image without label, left out: c.png." in layout.notes


@pytest.mark.parametrize(
    "lines",
    ["a", "a.jpg", "/home/me/images/a.jpg", "images/a.jpg labels/a.png", r"C:\me\images\a.jpg",
     "images/a.jpg\tlabels/a.png", "\ufeffa", "./images/a.jpg"],
)  # fmt: skip
def test_lists_tell_the_splits(lines, tmp_path):
    listing = plant(tmp_path, "images/a.jpg images/b.jpg images/c.jpg labels/a.png labels/b.png")
    (tmp_path / "train.txt").write_text(f"{lines}\n\n", encoding="utf-8")
    (tmp_path / "val.txt").write_text("b\n")
    layout = layouts.pair_files(list_folder(listing.root))
    assert told(tmp_path, layout) == [
        "images/a.jpg labels/a.png train",
        "images/b.jpg labels/b.png val",
    ]


def test_images_in_no_list_are_named(tmp_path):
    plant(tmp_path, "JPEGImages/a.jpg JPEGImages/b.jpg SegmentationClass/a.png "
          "SegmentationClass/b.png")  # fmt: skip
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "trainval.txt").write_text("a\nb\n")
    (tmp_path / "ImageSets" / "Main").mkdir()
    (tmp_path / "ImageSets" / "Main" / "cat_train.txt").write_text("a 1\nb -1\n")
    layout = layouts.pair_files(list_folder(tmp_path))
    assert told(tmp_path, layout) == ["JPEGImages/a.jpg SegmentationClass/a.png train"]
    assert any("In no split list, left out: JPEGImages/b.jpg" in note for note in layout.notes)


def test_a_listed_image_that_is_not_there_is_named(tmp_path):
    plant(tmp_path, "images/a.jpg labels/a.png")
    (tmp_path / "train.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"train\.txt lists 'b'"):
        layouts.pair_files(list_folder(tmp_path))


@pytest.mark.parametrize(
    "names, message",
    [
        ("notes.md", "There is no image in"),
        ("a.jpg b.jpg", "no name ends in _mask"),
        ("images/a.jpg labels/b.png", "No image in .* has a label file of the same name"),
    ],
)
def test_what_cannot_be_paired_is_named(names, message, tmp_path):
    with pytest.raises(UserError, match=message):
        layouts.pair_files(plant(tmp_path, names))


@pytest.mark.parametrize(
    "name, split",
    [("train", "train"), ("Training", "train"), ("valid", "val"), ("validation_set", "val"),
     ("instances_train2017", "train"), ("trainannot", "train"), ("train_masks", "train"),
     ("test-dev2017", "test"), ("trainval", ""), ("train_val", ""), ("trains", ""), ("street", ""),
     ("evaluation", ""), ("contest", "")],
)  # fmt: skip
def test_names_tell_splits(name, split):
    assert naming.split_of(name) == split


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    plant(tmp_path, "images/a.jpg labels/a.png")
    (tmp_path / "images" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(list_folder(tmp_path).files) == 2
