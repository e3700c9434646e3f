"""From a folder of your own data to images and label maps, by split."""

import json
import os
import pathlib
import sys

import cv2
import numpy as np
import PIL.Image
import pytest

from deeplab_tf.data import own_data
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.errors import UserError

sys.path.append(str(pathlib.Path(__file__).parent / "annotations"))
import samples


def find(root, **options) -> own_data.OwnData:
    return own_data.find_own_data(root, own_data.OwnDataOptions(**options))


def label_maps(data: own_data.OwnData) -> dict[str, np.ndarray]:
    return {image.name: data.read(image)[1] for images in data.splits.values() for image in images}


@pytest.mark.parametrize(
    "write",
    [samples.write_coco, samples.write_labelme, samples.write_labelme_embedded, samples.write_cvat,
     samples.write_yolo, samples.write_label_studio, samples.write_masks_per_class],
)  # fmt: skip
def test_annotations_become_label_maps_and_two_splits(write, tmp_path):
    write(tmp_path)
    data = find(tmp_path, val_share=0.5)
    assert data.info.class_names == ("background", "cat", "dog")
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 1, "val": 1}
    labels = label_maps(data)
    np.testing.assert_array_equal(labels["a"], samples.expected())
    np.testing.assert_array_equal(labels["b"], 0)


def test_without_a_share_for_validation_all_images_are_trained_on(tmp_path):
    samples.write_coco(tmp_path)
    assert list(find(tmp_path, val_share=0).splits) == ["train"]


def test_files_of_several_splits_are_read_together(tmp_path):
    content = samples.coco_content()
    for number, split in enumerate(("train2017", "val2017")):
        part = content | {"images": content["images"][number : number + 1]}
        part["annotations"] = content["annotations"] if number == 0 else []
        samples.write_json(tmp_path / "annotations" / f"instances_{split}.json", part)
        samples.write_image(tmp_path / split / f"{'ab'[number]}.jpg", number)
    samples.write_json(tmp_path / "annotations" / "captions_val2017.json", content)
    data = find(tmp_path)
    names = {split: [image.name for image in images] for split, images in data.splits.items()}
    assert names == {"train": ["a"], "val": ["b"]}


def write_label_images(root: pathlib.Path, values: list[np.ndarray]) -> None:
    for index, value in enumerate(values):
        samples.write_image(root / "images" / f"{index}.png", index)
        (root / "labels").mkdir(exist_ok=True)
        assert cv2.imwrite(str(root / "labels" / f"{index}.png"), value)


def test_names_of_files_that_are_not_utf8_become_names_that_are(tmp_path):
    write_label_images(tmp_path, [np.eye(12, 20, dtype=np.uint8)] * 3)
    for file in sorted(tmp_path.rglob("0.*")):
        os.rename(file, os.fsencode(file.parent) + b"/\xff" + file.suffix.encode())
    assert set(label_maps(find(tmp_path))) == {"\\udcff", "1", "2"}


def test_classes_without_a_list_are_called_by_their_ids(tmp_path):
    values = [np.full((12, 20), value, np.uint8) for value in (0, 1, 3, 255)]
    write_label_images(tmp_path, values)
    data = find(tmp_path)
    assert data.info.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert any("No class list: 4 classes" in note for note in data.notes)


def test_black_and_white_labels_are_masks_of_two_classes(tmp_path):
    masks = [samples.mask_of(samples.CAT) * 255, samples.mask_of(samples.DOG) * 255]
    write_label_images(tmp_path, masks)
    data = find(tmp_path)
    assert data.info.class_names == ("background", "foreground")
    assert any("--label_encoding=mask" in note for note in data.notes)
    np.testing.assert_array_equal(label_maps(data)["0"], masks[0] // 255)
    (tmp_path / "classes.txt").write_text("ground\nroad\nhouse\n")
    with pytest.raises(UserError, match="lists 3 classes, but all labels hold two values"):
        find(tmp_path)
    assert find(tmp_path, label_encoding="grey").label_encoding == "grey"


@pytest.mark.parametrize(
    "values, message",
    [
        ((0, 254), "0, 254, which look like masks .*--label_encoding=mask"),
        ((12, 49), "12, 49, which look like masks .*--label_encoding=mask"),
        ((0, 65535), "0, 65535, which look like masks .*--label_encoding=mask"),
        ((0, 300, 7), "0, 7, 300, which are not a numbering"),
        ((0, 64, 128, 255), "0, 64, 128, which leave out most .*smooth edges"),
    ],
)
def test_values_that_are_not_ids_need_a_class_list(values, message, tmp_path):
    labels = np.array([[values[(row + column) % len(values)] for column in range(20)]
                       for row in range(12)], np.uint16)  # fmt: skip
    write_label_images(tmp_path, [labels, labels])
    with pytest.raises(UserError, match=message):
        find(tmp_path)


def test_masks_that_do_not_tell_their_background_are_refused(tmp_path):
    write_label_images(tmp_path, [np.full((12, 20), value, np.uint8) for value in (1, 2)])
    with pytest.raises(
        UserError,
        match="not clear whether mask .*0.png .*it holds 1 only",
    ):
        find(tmp_path, label_encoding="mask")


def test_a_class_list_in_the_folder_names_the_classes(tmp_path):
    write_label_images(tmp_path, [np.eye(12, 20, dtype=np.uint8)] * 2)
    (tmp_path / "classes.txt").write_text("ground\nroad 1 2 3\n")
    data = find(tmp_path)
    assert data.info.class_names == ("ground", "road")
    assert data.info.colors[1] == (1, 2, 3)


@pytest.mark.parametrize("orientation", range(9))
def test_annotations_that_were_drawn_upright_lie_upright(orientation, tmp_path):
    samples.write_labelme(tmp_path)
    upright = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    stored = {
        3: np.rot90(upright, 2), 6: np.rot90(upright, 1), 8: np.rot90(upright, -1),
        2: upright[:, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
        7: np.rot90(upright.swapaxes(0, 1), 2),
    }.get(orientation, upright)  # fmt: skip
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.jpg").unlink()
    PIL.Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    data = find(tmp_path, val_share=0)
    image = next(image for image in data.splits["train"] if image.name == "a")
    source, label = data.read(image)
    assert source.size == (20, 12)
    np.testing.assert_array_equal(label, samples.expected())
    pixels = cv2.imdecode(np.frombuffer(source.content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(pixels[..., ::-1], upright)


def test_shapes_that_were_drawn_on_the_stored_pixels_are_turned(tmp_path):
    """An annotation file that states the stored size, 20x12, of an image that is shown as 12x20."""
    samples.write_coco(tmp_path)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "images" / "a.jpg"
    PIL.Image.open(path).save(path, exif=exif)
    data = find(tmp_path, val_share=0)
    image = next(image for image in data.splits["train"] if image.name == "a")
    source, label = data.read(image)
    assert source.size == (12, 20)
    np.testing.assert_array_equal(label, np.rot90(samples.expected(), -1))


def test_an_image_that_was_resized_after_annotation_is_refused(tmp_path):
    samples.write_coco(tmp_path)
    path = tmp_path / "images" / "a.jpg"
    PIL.Image.open(path).resize((10, 6)).save(path)
    data = find(tmp_path, val_share=0)
    with pytest.raises(UserError, match="20x12 pixels .* it has 10x6"):
        label_maps(data)


def test_one_image_in_two_splits_is_refused_and_a_mirrored_one_is_reported(tmp_path):
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (80, 60))
    for split, pixels in (("train", image), ("val", image)):
        for kind, content in (("images", pixels), ("masks", np.zeros((60, 80), np.uint8))):
            (tmp_path / split / kind).mkdir(parents=True)
            assert cv2.imwrite(str(tmp_path / split / kind / f"{split}.png"), content)
    with pytest.raises(UserError, match=r"in two splits.*train\.png \(train\) equals .*val\.png"):
        find(tmp_path)
    assert cv2.imwrite(str(tmp_path / "val" / "images" / "val.png"), image[:, ::-1])
    assert any("mirrored" in note for note in find(tmp_path).notes)


def test_a_damaged_image_is_reported_when_it_is_read(tmp_path):
    samples.write_coco(tmp_path)
    path = tmp_path / "images" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-80])
    data = find(tmp_path)
    with pytest.raises(UserError, match=r"images/a\.jpg cannot be decoded to its end"):
        label_maps(data)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "tiff"}, "--format=tiff must be one of auto, coco"),
        ({"format": "yolo"}, "no shape|No image"),
        ({"label_encoding": "grey"}, "--label_encoding=grey is for label images"),
        ({"classes": "a.txt"}, "--classes=a.txt is for label images"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, tmp_path):
    samples.write_coco(tmp_path)
    with pytest.raises(UserError, match=message):
        find(tmp_path, **options)


def test_unlabelled_pixels_can_be_ignored(tmp_path):
    samples.write_coco(tmp_path)
    data = find(tmp_path, val_share=0, drawing=Options(unlabeled="ignore"))
    labels = label_maps(data)
    assert data.info.class_names == ("cat", "dog")
    np.testing.assert_array_equal(labels["a"], samples.expected().astype(int) - 1 & 255)
    np.testing.assert_array_equal(labels["b"], 255)


def test_images_of_one_name_in_several_folders_are_kept_apart(tmp_path):
    for seed, folder in enumerate(("monday", "tuesday")):
        samples.write_image(tmp_path / folder / "a.jpg", seed)
        shapes = [samples.labelme_shape("cat", samples.corners(samples.CAT, inside=1))]
        content = samples.labelme_content("a", shapes)
        samples.write_json(tmp_path / folder / "a.json", content)
    names = [image.name for image in find(tmp_path, val_share=0).splits["train"]]
    assert sorted(names) == ["monday/a", "tuesday/a"]
    assert json.loads((tmp_path / "monday" / "a.json").read_text())["imagePath"] == "a.jpg"


def test_images_of_more_than_8_bits_are_scaled_and_that_is_printed(tmp_path):
    write_label_images(tmp_path, [np.eye(12, 20, dtype=np.uint8)] * 2)
    rng = np.random.default_rng(0)
    for name in "01":
        values = rng.integers(0, 4096, (12, 20)).astype(np.uint16)
        values[0, 0] = 4095
        assert cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), values)
    notes = " ".join(find(tmp_path).notes)
    assert "2 images of more than 8 bits are scaled to 8: 2 as ones of 12 bits" in notes
    assert "different ways" not in notes
    assert cv2.imwrite(str(tmp_path / "images" / "1.png"), values // 8)
    assert "different ways" in " ".join(find(tmp_path).notes)


@pytest.mark.parametrize("dark, bright", [(0, 38), (12, 49)])
def test_masks_hold_any_two_values(dark, bright, tmp_path):
    masks = [samples.mask_of(samples.CAT), samples.mask_of(samples.DOG)]
    write_label_images(tmp_path, [np.where(mask, bright, dark).astype(np.uint8) for mask in masks])
    np.testing.assert_array_equal(label_maps(find(tmp_path, label_encoding="mask"))["0"], masks[0])


def test_a_mask_of_one_value_is_not_guessed(tmp_path):
    masks = [np.where(samples.mask_of(samples.CAT), 49, 12).astype(np.uint8),
             np.full((12, 20), 49, np.uint8)]  # fmt: skip
    write_label_images(tmp_path, masks)
    with pytest.raises(UserError, match=r"not clear whether mask .*1.png is background or fore"):
        find(tmp_path, label_encoding="mask")


def test_the_end_of_label_names_is_proposed(tmp_path):
    for index in range(3):
        samples.write_image(tmp_path / f"{index}.png", index)
        samples.write_image(tmp_path / f"{index}_my_outlines.png", index)
    with pytest.raises(UserError, match="--label_suffix=_my_outlines"):
        find(tmp_path)


def test_lossless_files_beside_photos_of_their_names_are_labels_if_they_look_so(tmp_path):
    for seed, name in enumerate("ab"):
        samples.write_image(tmp_path / f"{name}.jpg", seed)
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), samples.mask_of(samples.CAT) * 255)
    np.testing.assert_array_equal(label_maps(find(tmp_path))["a"], samples.mask_of(samples.CAT))
    for name in "ab":
        samples.write_image(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="no labels in a known format"):
        find(tmp_path)


def masks_of(tmp_path, write) -> dict[str, np.ndarray]:
    """The label maps of a mask, of an empty one and of a full one, which `write` writes."""
    mask = samples.mask_of(samples.CAT)
    (tmp_path / "masks").mkdir()
    for seed, values in enumerate((mask, mask * 0, mask * 0 + 1)):
        samples.write_image(tmp_path / "images" / f"{seed}.png", seed)
        write(tmp_path / "masks" / str(seed), values)
    return label_maps(find(tmp_path))


def write_opaque(path, mask):
    grey = mask * 255
    PIL.Image.fromarray(np.dstack([grey, grey, grey, mask * 0 + 255])).save(f"{path}.png")


def write_alpha(path, mask):
    white = mask * 0 + 255
    PIL.Image.fromarray(np.dstack([white, white, white, mask * 255])).save(f"{path}.png")


def write_gif(path, mask):
    """Pillow puts the colours that occur into the palette: of a full mask, white comes first."""
    PIL.Image.fromarray(mask * 255).save(f"{path}.gif")


def write_one_bit_if_full(path, mask):
    PIL.Image.fromarray(mask > 0 if mask.all() else mask * 255).save(f"{path}.png")


@pytest.mark.parametrize("write", [write_opaque, write_alpha, write_gif, write_one_bit_if_full])
def test_masks_mean_the_same_in_all_files_however_they_are_stored(write, tmp_path):
    labels = masks_of(tmp_path, write)
    np.testing.assert_array_equal(labels["0"], samples.mask_of(samples.CAT))
    assert not labels["1"].any() and labels["2"].all()


@pytest.mark.parametrize(
    "class_list, encoding",
    [("", "mask"), ("ground\nroad", "mask"), ("ground 0 0 0\nroad 255 0 0", "color_map"),
     ("ground\nroad\nhouse", None)],
)  # fmt: skip
def test_palettes_that_differ_are_read_by_their_colours(class_list, encoding, tmp_path):
    mask = samples.mask_of(samples.CAT)
    (tmp_path / "masks").mkdir()
    for place, name in enumerate("ab"):
        samples.write_image(tmp_path / "images" / f"{name}.png", place)
        image = PIL.Image.fromarray(mask if place == 0 else 1 - mask, "P")
        image.putpalette([0, 0, 0, 255, 0, 0] if place == 0 else [255, 0, 0, 0, 0, 0])
        image.save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "classes.txt").write_text(class_list)
    if not class_list:
        (tmp_path / "classes.txt").unlink()
    if encoding is None:
        with pytest.raises(UserError, match="index 0 is 0 0 0 in .*a.png, and 255 0 0 in .*b.png"):
            find(tmp_path)
        return
    data = find(tmp_path)
    assert data.label_encoding == encoding
    for label in label_maps(data).values():
        np.testing.assert_array_equal(label, mask)


@pytest.mark.parametrize("write", [samples.write_coco, samples.write_labelme, samples.write_yolo])
def test_lists_divide_annotated_images_and_images_without_annotations_are_named(write, tmp_path):
    write(tmp_path)
    if (tmp_path / "train").is_dir():
        (tmp_path / "train").rename(tmp_path / "data")
    samples.write_image(tmp_path / "c.jpg", 3)
    (tmp_path / "train.txt").write_text("a.jpg\n")
    (tmp_path / "val.txt").write_text("b.jpg\n")
    data = find(tmp_path)
    names = {split: [image.name for image in images] for split, images in data.splits.items()}
    assert names == {"train": ["a"], "val": ["b"]}
    assert any("left out: c.jpg." in note for note in data.notes)


def test_lists_divide_images_in_a_folder_that_is_called_like_a_split(tmp_path):
    """As darknet and CVAT have them: obj_train_data/ holds all images."""
    samples.write_yolo(tmp_path)
    (tmp_path / "train").rename(tmp_path / "obj_train_data")
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / f"{split}.txt").write_text(f"data/obj_train_data/images/{name}.jpg\n")
    assert list(find(tmp_path).splits) == ["train", "val"]


def test_the_split_of_a_labelme_file_is_that_of_its_image(tmp_path):
    samples.write_labelme(tmp_path)
    for name, split in (("a", "train"), ("b", "val")):
        for ending, folder in (("jpg", split), ("json", "json")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / f"{name}.{ending}").rename(tmp_path / folder / f"{name}.{ending}")
    assert list(find(tmp_path).splits) == ["train", "val"]


@pytest.mark.parametrize("name", ["label_class_dict.csv", "class_dict_seg.csv"])
def test_a_table_of_classes_may_have_another_name(name, tmp_path):
    mask = samples.mask_of(samples.CAT)
    write_label_images(tmp_path, [np.dstack([mask * 30, mask * 20, mask * 10])] * 2)
    (tmp_path / name).write_text("name,r,g,b\nground,0,0,0\ncat,10,20,30\n")
    (tmp_path / "labels.csv").write_text("image,number\n0.png,3\n")
    data = find(tmp_path)
    assert data.info.class_names == ("ground", "cat")
    assert f"Class names from {name}." in data.notes


def test_greys_that_stand_for_classes_are_read_as_their_colours(tmp_path):
    greys = np.array([[0, 64, 128, 255] * 5] * 12, np.uint8)
    write_label_images(tmp_path, [greys, greys])
    with pytest.raises(UserError, match="NAME 51 51 51, .* --label_encoding=color_map"):
        find(tmp_path)
    lines = [f"class_{value} {value} {value} {value}" for value in (0, 64, 128, 255)]
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    label = label_maps(find(tmp_path, label_encoding="color_map"))["0"]
    np.testing.assert_array_equal(label[0, :4], [0, 1, 2, 3])
