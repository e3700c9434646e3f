"""Which image and which label file belong together, in common layouts."""

import pathlib

import pytest

from deeplab_tf.data import layouts
from deeplab_tf.data import mask_layouts
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
    "by a prefix without separator": (
        "images/img001.png masks/mask001.png", ["images/img001.png masks/mask001.png -"],
    ),
    "the image's ending kept before a suffix": (
        "a.jpg a.jpg_mask.png", ["a.jpg a.jpg_mask.png -"],
    ),
    "any suffix that all have": (
        "images/a.png images/b.png labels/a_P.png labels/b_P.png",
        ["images/a.png labels/a_P.png -", "images/b.png labels/b_P.png -"],
    ),
    "side by side in a folder of images": (
        "images/a.jpg images/a_mask.png", ["images/a.jpg images/a_mask.png -"],
    ),
    "a folder per image": (
        "a_json/img.png a_json/label.png a_json/label_viz.png b_json/img.png b_json/label.png",
        ["a_json/img.png a_json/label.png -", "b_json/img.png b_json/label.png -"],
    ),
    "a folder around everything that is called like labels": (
        "crack-segmentation/train/a.jpg crack-segmentation/train/a_mask.png",
        ["crack-segmentation/train/a.jpg crack-segmentation/train/a_mask.png train"],
    ),
    "KITTI": (
        "training/image_2/1.png training/semantic/1.png training/instance/1.png",
        ["training/image_2/1.png training/semantic/1.png train"],
    ),
    "numbers behind a name": (
        "images/a.jpg images/a_1.jpg images/a_2.jpg labels/a.png labels/a_1.png labels/a_2.png",
        ["images/a.jpg labels/a.png -", "images/a_1.jpg labels/a_1.png -",
         "images/a_2.jpg labels/a_2.png -"],
    ),
    "cities": (
        "images/aachen/x.jpg images/bochum/y.jpg labels/aachen/x.png labels/bochum/y.png",
        ["images/aachen/x.jpg labels/aachen/x.png -", "images/bochum/y.jpg labels/bochum/y.png -"],
    ),
    "an image and a mask with a suffix in each split": (
        "train/images/a.png train/masks/a_mask.png val/images/b.png val/masks/b_mask.png",
        ["train/images/a.png train/masks/a_mask.png train",
         "val/images/b.png val/masks/b_mask.png val"],
    ),
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
    listing = plant(tmp_path, names)
    assert told(tmp_path, layouts.pair_files(listing)) == wanted
    assert not mask_layouts.masks_per_class(listing) and not mask_layouts.instance_masks(listing)


# Files of a tree, and the classes of the masks of an image.
PARTS = {
    "a folder per class": ("images/1.jpg masks/car/1.png masks/sky/1.png", {"1": ["car", "sky"]}),
    "a folder per image": ("images/1.jpg masks/1/car.png masks/1/sky.png", {"1": ["car", "sky"]}),
    "by name": ("images/1.jpg masks/1_car.png masks/1_sky.png", {"1": ["car", "sky"]}),
    "in folders and by name": (
        "img/1.jpg gt/x/1_MA.tif gt/y/1_HE.tif",
        {"1": ["HE", "MA"]},
    ),
}
# Files of a tree, and how many masks each image has.
OBJECTS = {
    "nuclei": ("a/images/a.png a/masks/7.png a/masks/8.png b/images/b.png b/masks/9.png", [2, 1]),
    "hashes": ("images/a.png images/b.png masks/a/7f.png masks/a/8f.png masks/b/9f.png", [2, 1]),
    "numbers": ("images/a.png images/b.png masks/a/0.png masks/a/1.png masks/b/0.png", [2, 1]),
    "words and numbers": (
        "images/a.png images/b.png masks/a_cell_1.png masks/a_cell_2.png masks/b_cell_1.png",
        [2, 1],
    ),
    "a second mask": ("a.png a_mask.png b.png b_mask.png b_mask_1.png", [1, 2]),
    "test images": (
        "train/a/images/a.png train/a/masks/7f.png train/a/masks/8f.png test/b/images/b.png", [2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("tree", PARTS)
def test_masks_per_class_are_told_from_others(tree, tmp_path):
    names, wanted = PARTS[tree]
    listing = plant(tmp_path, names)
    found = mask_layouts.masks_per_class(listing)
    assert {image.stem: sorted(masks) for image, masks in found.items()} == wanted
    assert not mask_layouts.instance_masks(listing)


@pytest.mark.parametrize("tree", OBJECTS)
def test_masks_of_single_objects_are_told_from_others(tree, tmp_path):
    names, wanted = OBJECTS[tree]
    listing = plant(tmp_path, names)
    mask_layouts.check_numbers_are_of_objects(listing)
    assert [
        len(masks) for _, masks in sorted(mask_layouts.instance_masks(listing).items())
    ] == wanted


def test_numbers_that_all_images_have_may_be_classes(tmp_path):
    listing = plant(
        tmp_path,
        "images/a.png images/b.png masks/a_0.png masks/a_1.png masks/b_0.png masks/b_1.png",
    )
    with pytest.raises(UserError, match="objects or of classes: masks/a_0.png.*--format=masks_per"):
        mask_layouts.check_numbers_are_of_objects(listing)


@pytest.mark.parametrize(
    "names, suffix",
    [
        ("training/images/1_training.tif training/1st_manual/1_manual1.gif "
         "training/mask/1_training_mask.gif", "_manual1"),
        ("images/01_dr.jpg mask/01_dr_mask.tif manual1/01_dr.tif", "_mask"),
    ],
    ids=["DRIVE", "HRF"],
)  # fmt: skip
def test_masks_of_the_visible_field_are_not_taken_for_labels_in_silence(names, suffix, tmp_path):
    listing = plant(tmp_path, names)
    with pytest.raises(UserError, match=f"may belong to .*mask.* or .*--label_suffix={suffix}\\b"):
        layouts.pair_files(listing)
    assert len(layouts.pair_files(listing, suffix).pairs) == 1


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


def test_without_a_list_to_train_on_the_others_are_trained_on(tmp_path):
    plant(tmp_path, "images/a.jpg images/b.jpg labels/a.png labels/b.png")
    (tmp_path / "valid.txt").write_text("a.jpg\n")
    assert told(tmp_path, layouts.pair_files(list_folder(tmp_path))) == [
        "images/a.jpg labels/a.png val", "images/b.jpg labels/b.png train",
    ]  # fmt: skip


def test_lists_are_found_below_a_folder_around_everything_and_an_image_counts_once(tmp_path):
    plant(tmp_path, "VOC/JPEGImages/a.jpg VOC/JPEGImages/b.jpg VOC/SegmentationClass/a.png "
          "VOC/SegmentationClass/b.png")  # fmt: skip
    lists = tmp_path / "VOC" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, line in (("train", "a"), ("train_aug", "a"), ("val", "b"), ("test", "c")):
        (lists / f"{name}.txt").write_text(f"{line}\n")
    assert told(tmp_path, layouts.pair_files(list_folder(tmp_path))) == [
        "VOC/JPEGImages/a.jpg VOC/SegmentationClass/a.png train",
        "VOC/JPEGImages/b.jpg VOC/SegmentationClass/b.png val",
    ]


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
        ("SegmentationClass/a.png", "no image in .*, only label files: .* Put the images into"),
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
