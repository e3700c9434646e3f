"""Every format: recognised, read, drawn; and what happens with damaged files."""

import copy
import json

import numpy as np
import pytest
import samples

from deeplab_tf.data.annotations import formats
from deeplab_tf.data.annotations import shapes
from deeplab_tf.data.annotations.common import Options
from deeplab_tf.data.listing import list_folder
from deeplab_tf.errors import UserError

TWO_ANIMALS = ("background", "cat", "dog")
# How a folder is written, its format, its classes, its split.
CASES = {
    "COCO polygons": (samples.write_coco, "coco", TWO_ANIMALS, ""),
    "COCO runs": (samples.write_coco_runs, "coco", TWO_ANIMALS, ""),
    "COCO compressed": (samples.write_coco_compressed, "coco", TWO_ANIMALS, ""),
    "COCO of Roboflow": (samples.write_roboflow_coco, "coco", TWO_ANIMALS, "train"),
    "labelme": (samples.write_labelme, "labelme", TWO_ANIMALS, ""),
    "labelme, image embedded": (samples.write_labelme_embedded, "labelme", TWO_ANIMALS, ""),
    "labelme, mask": (samples.write_labelme_mask, "labelme", TWO_ANIMALS, ""),
    "CVAT": (samples.write_cvat, "cvat", TWO_ANIMALS, ""),
    "CVAT, mask": (samples.write_cvat_mask, "cvat", TWO_ANIMALS, ""),
    "YOLO": (samples.write_yolo, "yolo", TWO_ANIMALS, "train"),
    "Label Studio": (samples.write_label_studio, "label_studio", TWO_ANIMALS, ""),
    "Label Studio, brush": (samples.write_label_studio_brush, "label_studio", TWO_ANIMALS, ""),
    "Label Studio, JSON-MIN": (samples.write_label_studio_min, "label_studio", TWO_ANIMALS, ""),
    "Label Studio, storage": (
        samples.write_label_studio_storage, "label_studio", TWO_ANIMALS, "",
    ),
    "Label Studio, labels": (samples.write_label_studio_labels, "label_studio", TWO_ANIMALS, ""),
    "labelme, corners": (samples.write_labelme_corners, "labelme", TWO_ANIMALS, ""),
    "YOLO, variants": (samples.write_yolo_variants, "yolo", TWO_ANIMALS, "train"),
    "masks per class": (samples.write_masks_per_class, "masks_per_class", TWO_ANIMALS, ""),
    "masks per class, in alpha": (samples.write_masks_in_alpha, "masks_per_class", TWO_ANIMALS, ""),
    "masks per class, by name": (
        samples.write_masks_per_class_by_name, "masks_per_class", TWO_ANIMALS, "",
    ),
}  # fmt: skip


def read(root, options=None):
    listing = list_folder(root)
    name, _ = formats.detect_format(listing)
    return formats.READERS[name](listing, options or Options())


def draw(annotations, image, ignore_label=255) -> np.ndarray:
    ids = {name: class_id for class_id, name in enumerate(annotations.class_names)}
    return shapes.draw_label_map(
        image.shapes,
        height=samples.HEIGHT,
        width=samples.WIDTH,
        ids=ids,
        unlabeled=ids.get(annotations.background, ignore_label),
        ignore_label=ignore_label,
    )


@pytest.mark.parametrize("case", CASES)
def test_a_format_is_recognised_and_drawn_in_order(case, tmp_path):
    write, name, class_names, split = CASES[case]
    write(tmp_path)
    listing = list_folder(tmp_path)
    assert formats.detect_format(listing)[0] == name
    annotations = formats.READERS[name](listing, Options())
    assert annotations.class_names == class_names
    first, second = sorted(annotations.images, key=lambda image: image.name)
    assert (first.name, second.name, first.split) == ("a", "b", split)
    assert first.image.read_bytes()[:3] == b"\xff\xd8\xff"
    np.testing.assert_array_equal(draw(annotations, first), samples.expected())
    np.testing.assert_array_equal(draw(annotations, second), 0)
    assert any("background" in note for note in annotations.notes)


def test_masks_of_single_objects_become_one_class(tmp_path):
    samples.write_masks_per_instance(tmp_path)
    annotations = read(tmp_path)
    assert annotations.class_names == ("background", "object")
    np.testing.assert_array_equal(draw(annotations, annotations.images[0]), samples.expected() > 0)


def test_panoptic_segments_are_drawn_and_the_rest_does_not_count(tmp_path):
    samples.write_panoptic(tmp_path)
    annotations = read(tmp_path)
    assert annotations.class_names == ("cat", "dog")
    label = samples.expected().astype(int) - 1
    np.testing.assert_array_equal(draw(annotations, annotations.images[0]), label % 256)


@pytest.mark.parametrize(
    "options, class_names, elsewhere",
    [
        (Options(), ("background", "cat", "dog"), 0),
        (Options(unlabeled="ignore"), ("cat", "dog"), 255),
    ],
)
def test_what_no_shape_covers_is_background_or_does_not_count(
    options, class_names, elsewhere, tmp_path
):
    samples.write_coco(tmp_path)
    annotations = read(tmp_path, options)
    assert annotations.class_names == class_names
    assert draw(annotations, annotations.images[0])[0, 0] == elsewhere


@pytest.mark.parametrize("crowd, wanted", [("ignore", 255), ("class", 1)])
def test_a_crowd_lies_below_single_objects(crowd, wanted, tmp_path):
    content = samples.coco_content()
    content["annotations"].append(content["annotations"][0] | {"id": 3, "iscrowd": 1})
    content["annotations"].pop(0)
    samples.write_coco(tmp_path, content)
    annotations = read(tmp_path, Options(crowd=crowd))
    label = draw(annotations, annotations.images[0])
    assert label[3, 5] == wanted
    if crowd == "ignore":
        assert label[9, 10] == annotations.class_names.index("dog")


def test_a_background_that_the_tool_names_is_not_added_again(tmp_path):
    content = samples.coco_content()
    content["categories"].append({"id": 0, "name": "background"})
    samples.write_coco(tmp_path, content)
    assert read(tmp_path).class_names == TWO_ANIMALS


def test_polygons_without_area_are_left_out_and_images_have_names_of_their_own(tmp_path):
    samples.write_coco_lines(tmp_path)
    annotations = read(tmp_path)
    np.testing.assert_array_equal(draw(annotations, annotations.images[0]), samples.expected())
    assert "2 polygons of one or two points left out: no area." in annotations.notes
    assert [image.image.name for image in annotations.images] == ["a.jpg", "b.jpg"]


def test_an_image_without_text_that_comes_first_hides_no_yolo_labels(tmp_path):
    samples.write_yolo(tmp_path)
    for number in range(30):
        samples.write_image(tmp_path / "train" / "images" / f"0{number}.jpg")
        (tmp_path / "train" / "labels" / f"0{number}.txt").touch()
    assert len(read(tmp_path).images) == 32


@pytest.mark.parametrize("is_skipped", [False, True])
def test_a_task_that_nobody_has_labelled_is_no_background(is_skipped, tmp_path):
    content = samples.label_studio_content()
    content[1]["annotations"] = [{"was_cancelled": True, "result": []}] * is_skipped
    samples.write_label_studio(tmp_path, content)
    annotations = read(tmp_path)
    assert [image.name for image in annotations.images] == ["a"]
    assert any("1 task that nobody has labelled" in note for note in annotations.notes)


def test_an_image_that_was_turned_in_label_studio_is_refused(tmp_path):
    content = samples.label_studio_content()
    content[0]["annotations"][0]["result"][0]["image_rotation"] = 90
    samples.write_label_studio(tmp_path, content)
    with pytest.raises(UserError, match="task 1, region 0: the image was turned by 90 degrees"):
        read(tmp_path)


def test_an_image_that_is_annotated_twice_is_refused(tmp_path):
    samples.write_cvat(tmp_path)
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text().replace('name="b.jpg"', 'name="a.jpg"'))
    with pytest.raises(UserError, match="a.jpg is annotated twice, in .*annotations.xml"):
        read(tmp_path)


def test_a_mask_is_not_taken_for_an_image_that_is_missing(tmp_path):
    samples.write_coco(tmp_path)
    (tmp_path / "images" / "b.jpg").unlink()
    samples.write_image(tmp_path / "masks" / "b.png")
    assert [image.name for image in read(tmp_path).images] == ["a"]


def test_what_labelme_ignores_does_not_count(tmp_path):
    samples.write_labelme(tmp_path)
    content = json.loads((tmp_path / "a.json").read_text())
    content["shapes"][1]["label"] = "__ignore__"
    samples.write_json(tmp_path / "a.json", content)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncat\nzebra\n")
    annotations = read(tmp_path)
    assert annotations.class_names == ("_background_", "cat", "zebra")
    assert draw(annotations, annotations.images[0])[8, 10] == 255
    assert "Classes without a single shape: zebra." in annotations.notes


# Shapes as labelme 5's own `shape_to_mask` draws them, counted with it.
@pytest.mark.parametrize(
    "kind, points, num_pixels",
    [
        ("circle", [[10, 6], [13, 6]], 37),
        ("point", [[10, 6]], 97),
        ("line", [[2, 6], [17, 6]], 160),
        ("linestrip", [[2, 6], [10, 6], [17, 6]], 160),
        ("rectangle", [[12, 8], [3, 2]], 70),
    ],
)
def test_shapes_are_drawn_as_labelmes_converter_does(kind, points, num_pixels, tmp_path):
    samples.write_labelme(tmp_path)
    content = samples.labelme_content("a", [samples.labelme_shape("cat", points, kind)])
    samples.write_json(tmp_path / "a.json", content)
    annotations = read(tmp_path)
    assert (draw(annotations, annotations.images[0]) == 1).sum() == num_pixels


def test_coordinates_outside_the_image_are_clipped(tmp_path):
    content = samples.coco_content([[-1e8, 2, 12, 2, 12, 10, -1e8, 10]])
    samples.write_coco(tmp_path, content)
    annotations = read(tmp_path)
    wanted = samples.expected()
    wanted[2:10, :4] = 1
    np.testing.assert_array_equal(draw(annotations, annotations.images[0]), wanted)


def test_a_shape_drawn_in_its_box_equals_one_drawn_in_the_whole_image():
    coco_mask = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    for _ in range(100):
        points = random.uniform(-20, 80, (random.integers(3, 9), 2))
        whole = coco_mask.decode(coco_mask.frPyObjects([points.ravel().tolist()], 50, 60))[..., 0]
        region = shapes.Polygons((points,)).region(50, 60)
        drawn = np.zeros((50, 60), bool)
        height, width = region.mask.shape
        drawn[region.top : region.top + height, region.left : region.left + width] = region.mask
        np.testing.assert_array_equal(drawn, whole)


def test_two_formats_in_one_folder_are_refused(tmp_path):
    samples.write_coco(tmp_path)
    samples.write_cvat(tmp_path)
    with pytest.raises(UserError, match="several formats: .*--format=coco.*--format=cvat"):
        read(tmp_path)


def test_a_folder_without_labels_is_refused_with_what_it_holds(tmp_path):
    samples.write_image(tmp_path / "a.jpg")
    samples.write_image(tmp_path / "b.jpg")
    with pytest.raises(UserError, match=r"holds 2 \.jpg files, but no labels"):
        read(tmp_path)


def test_boxes_of_yolo_are_refused_in_words(tmp_path):
    samples.write_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"a\.txt, line 1: this is a box"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["x 0.1 0.1 0.2 0.1 0.2 0.2", "0 1 2", "7 0.1 0.1 0.2 0.1 0.2 0.2", "0 5 5 90 5 90 90",
     "0 nan 0.1 0.2 0.1 0.2 0.2", "0 0.1 0.1 0.2 0.1 0.2", "\0"],
)  # fmt: skip
def test_a_damaged_line_of_yolo_is_named(text, tmp_path):
    samples.write_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "b.txt").write_text(text)
    with pytest.raises(UserError, match=r"b\.txt"):
        read(tmp_path)


@pytest.mark.parametrize(
    "shape, message",
    [
        ('<polygon label="cat" points="1,2;3,4" z_order="0"/>', "2 points"),
        ('<polygon label="cat" points="1,2;3,a;5,6" z_order="0"/>', "number is damaged"),
        ('<box label="cat" xtl="1" ytl="2" xbr="3"/>', "'ybr'"),
        ('<mask label="cat" rle="1,2" left="0" top="0" width="8" height="8"/>', "add up"),
        ('<mask label="cat" rle="1e9" left="0" top="0" width="8" height="8"/>', "damaged"),
    ],
)
def test_a_damaged_shape_of_cvat_is_named(shape, message, tmp_path):
    samples.write_cvat(tmp_path, shape)
    with pytest.raises(UserError, match=f"image a.jpg, shape 0 .*{message}"):
        read(tmp_path)


def test_entities_in_xml_are_refused(tmp_path):
    samples.write_cvat(tmp_path)
    path = tmp_path / "annotations.xml"
    path.write_text('<!DOCTYPE x [<!ENTITY a "b">]>' + path.read_text().split("\n", 1)[1])
    with pytest.raises(UserError, match="defines entities"):
        read(tmp_path)


WRONG = (None, "x", -1, 10**30, float("nan"), [], {}, [None], [[1, 2], 3], True)
JSON_CASES = {
    "coco": (samples.write_coco, "annotations/instances.json"),
    "coco_runs": (samples.write_coco_runs, "annotations/instances.json"),
    "labelme": (samples.write_labelme_mask, "a.json"),
    "label_studio": (samples.write_label_studio, "project-1-at-2024.json"),
    "label_studio_brush": (samples.write_label_studio_brush, "project-1-at-2024.json"),
}


def places(value, path=()):
    """All places in a JSON value, but for those deep in lists of numbers."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 2)):
            yield from places(value[index], (*path, index))


@pytest.mark.parametrize("case", JSON_CASES)
def test_a_damaged_json_ends_in_one_message(case, tmp_path):
    write, name = JSON_CASES[case]
    write(tmp_path)
    path = tmp_path / name
    good = json.loads(path.read_text())
    reader = formats.READERS[formats.detect_format(list_folder(tmp_path))[0]]
    listing = list_folder(tmp_path)
    num_refused = 0
    for place in list(places(good))[1:]:
        for wrong in WRONG:
            content = copy.deepcopy(good)
            parent = content
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = wrong
            path.write_text(json.dumps(content))
            try:
                annotations = reader(listing, Options())
                for image in annotations.images:
                    draw(annotations, image)
            except UserError as error:
                assert str(tmp_path) in str(error) or "these annotations" in str(error)
                num_refused += 1
    assert num_refused > 20


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"images": 3}', "null", "[" * 100000])
@pytest.mark.parametrize("name", ["coco", "labelme", "label_studio"])
def test_what_is_not_the_json_of_its_format_is_named(name, content, tmp_path):
    write, file = JSON_CASES[name]
    write(tmp_path)
    listing = list_folder(tmp_path)
    path = tmp_path / file
    words = path.read_text()[:100]
    path.write_text(content)
    with pytest.raises(UserError):
        formats.READERS[name](listing, Options())
        pytest.fail(words)


def test_label_maps_equal_those_of_labelmes_converter():
    root = pytest.importorskip("conftest").REPOSITORY.parent / "shared/data/own/labelme_voc"
    if not root.is_dir():
        pytest.skip("the recorded label maps are not here")
    import PIL.Image

    annotations = read(root)
    ids = {name: class_id for class_id, name in enumerate(annotations.class_names)}
    for image in annotations.images:
        wanted = np.array(PIL.Image.open(root / "expected_labels" / f"{image.name}.png"))
        height, width = wanted.shape
        label = shapes.draw_label_map(
            image.shapes, height=height, width=width, ids=ids, unlabeled=0, ignore_label=255
        )
        different = label != wanted
        assert different.mean() < 1e-4
        for row, column in np.argwhere(different):
            around = wanted[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            assert len(np.unique(around)) > 1  # at a border
