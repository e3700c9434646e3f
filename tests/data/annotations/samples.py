"""Small folders of annotations, each written as its tool writes it.

All show the same: two images of 20x12 pixels, in the first a dog that lies over a cat.
"""

import base64
import io
import itertools
import json
import pathlib

import cv2
import numpy as np
import PIL.Image

WIDTH, HEIGHT = 20, 12
CAT = (4, 2, 12, 10)  # left, top, right, bottom; the right and bottom ones are outside
DOG = (8, 6, 16, 12)


def expected(ids=("background", "cat", "dog")) -> np.ndarray:
    """The label map of the first image, uint8 [12, 20]; that of the second is all background."""
    label = np.full((HEIGHT, WIDTH), ids.index("background"), np.uint8)
    for name, (left, top, right, bottom) in (("cat", CAT), ("dog", DOG)):
        label[top:bottom, left:right] = ids.index(name)
    return label


def mask_of(box) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def corners(box, inside=0) -> list[list[float]]:
    """The corners of a box; `inside` is 1 for tools that also cover the last row and column."""
    left, top, right, bottom = box
    right, bottom = right - inside, bottom - inside
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def write_image(path: pathlib.Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def write_json(path: pathlib.Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def coco_content(cat_segmentation=None) -> dict:
    """Category ids with gaps; the annotations of the cat and the dog are in drawing order."""
    flat = [[*itertools.chain(*corners(box))] for box in (CAT, DOG)]
    return {
        "info": {},
        "licenses": [],
        "images": [
            {"id": 7, "width": WIDTH, "height": HEIGHT, "file_name": "a.jpg"},
            {"id": 9, "width": WIDTH, "height": HEIGHT, "file_name": "b.jpg"},
        ],
        "categories": [
            {"id": 11, "name": "dog", "supercategory": "animal"},
            {"id": 3, "name": "cat", "supercategory": "animal"},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 3,
                "segmentation": cat_segmentation or [flat[0]],
                "iscrowd": 0,
            },
            {"id": 2, "image_id": 7, "category_id": 11, "segmentation": [flat[1]], "iscrowd": 0},
        ],
    }


def write_coco(root: pathlib.Path, content=None) -> None:
    for seed, name in enumerate("ab"):
        write_image(root / "images" / f"{name}.jpg", seed)
    write_json(root / "annotations" / "instances.json", content or coco_content())


def write_coco_runs(root: pathlib.Path) -> None:
    """The cat as uncompressed run lengths, down the columns."""
    flat = mask_of(CAT).ravel(order="F").tolist()
    counts = [len(list(run)) for _, run in itertools.groupby(flat)]
    write_coco(root, coco_content({"size": [HEIGHT, WIDTH], "counts": counts}))


def write_coco_compressed(root: pathlib.Path) -> None:
    """The cat as compressed run lengths, by pycocotools."""
    from pycocotools import mask

    encoded = mask.encode(np.asfortranarray(mask_of(CAT)))
    counts = encoded["counts"].decode()
    write_coco(root, coco_content({"size": [HEIGHT, WIDTH], "counts": counts}))


def write_roboflow_coco(root: pathlib.Path) -> None:
    """Roboflow lists the parent of its categories as a category of its own."""
    content = coco_content()
    content["categories"] = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    for annotation, category_id in zip(content["annotations"], (1, 2)):
        annotation["category_id"] = category_id
    for seed, name in enumerate("ab"):
        write_image(root / "train" / f"{name}.jpg", seed)
    write_json(root / "train" / "_annotations.coco.json", content)


def write_coco_lines(root: pathlib.Path) -> None:
    """Polygons of two points, and the file names of Label Studio."""
    content = coco_content()
    for annotation in content["annotations"]:
        annotation["segmentation"].append([1, 1, 5, 5])
    for image in content["images"]:
        image["file_name"] = f"images/1a2b3c4d-{image['file_name']}"
    write_coco(root, content)


def write_panoptic(root: pathlib.Path) -> None:
    content = coco_content()
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[mask_of(CAT) == 1] = 1000
    ids[mask_of(DOG) == 1] = 70000
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    segments = [{"id": 1000, "category_id": 3}, {"id": 70000, "category_id": 11}]
    content["annotations"] = [
        {"image_id": 7, "file_name": "a.png", "segments_info": segments},
        {"image_id": 9, "file_name": "b.png", "segments_info": []},
    ]
    for seed, name in enumerate("ab"):
        write_image(root / "val2017" / f"{name}.jpg", seed)
        folder = root / "annotations" / "panoptic_val2017"
        folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rgb if name == "a" else rgb * 0).save(folder / f"{name}.png")
    write_json(root / "annotations" / "panoptic_val2017.json", content)


def labelme_content(name: str, shapes=()) -> dict:
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


def labelme_shape(label: str, points, kind: str = "polygon", **more) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | (
        more
    )


def write_labelme(root: pathlib.Path, embedded: bool = False) -> None:
    cat_and_dog = [
        labelme_shape("cat", corners(CAT, inside=1)),
        labelme_shape("dog", corners(DOG, inside=1)[::2], "rectangle"),
    ]
    for seed, (name, shapes) in enumerate((("a", cat_and_dog), ("b", []))):
        image = root / f"{name}.jpg"
        write_image(image, seed)
        content = labelme_content(name, shapes)
        if embedded:
            content["imageData"] = base64.b64encode(image.read_bytes()).decode()
            image.unlink()
        write_json(root / f"{name}.json", content)


def write_labelme_embedded(root: pathlib.Path) -> None:
    write_labelme(root, embedded=True)


def write_labelme_mask(root: pathlib.Path) -> None:
    """The cat as a mask, which labelme's assistant draws."""
    write_labelme(root)
    left, top, right, bottom = CAT
    stream = io.BytesIO()
    PIL.Image.fromarray(np.full((bottom - top, right - left), 255, np.uint8)).save(stream, "PNG")
    points = [[left, top], [right - 1, bottom - 1]]
    mask = base64.b64encode(stream.getvalue()).decode()
    content = json.loads((root / "a.json").read_text())
    content["shapes"][0] = labelme_shape("cat", points, "mask", mask=mask)
    write_json(root / "a.json", content)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><job><labels>
    <label><name>cat</name><color>#ff0102</color><type>any</type><attributes></attributes></label>
    <label><name>dog</name><color>#33ddff</color><type>any</type><attributes></attributes></label>
  </labels></job></meta>
  <image id="0" name="a.jpg" width="20" height="12">
    {shapes}
  </image>
  <image id="1" name="b.jpg" width="20" height="12"></image>
</annotations>
"""
CVAT_DOG = '<box label="dog" occluded="0" xtl="8" ytl="6" xbr="16" ybr="12" z_order="1"></box>'
CVAT_CAT = '<polygon label="cat" points="4.00,2.00;12.00,2.00;12,10;4,10" z_order="0"></polygon>'
# Runs along the rows of the mask's own box: 8x8 pixels, all inside.
CVAT_CAT_MASK = '<mask label="cat" rle="0, 64" left="4" top="2" width="8" height="8" z_order="0"/>'


def write_cvat(root: pathlib.Path, shapes=CVAT_DOG + CVAT_CAT) -> None:
    """The dog comes first in the file, but lies over the cat by its z_order."""
    for seed, name in enumerate("ab"):
        write_image(root / "images" / f"{name}.jpg", seed)
    (root / "annotations.xml").write_text(CVAT.format(shapes=shapes), encoding="utf-8")


def write_labelme_corners(root: pathlib.Path) -> None:
    """X-AnyLabeling gives all corners of rectangles; the names within are those before a change."""
    write_labelme(root)
    for name in "ab":
        content = json.loads((root / f"{name}.json").read_text())
        content["imagePath"] = f"old_{name}.jpg"
        for shape, kind in zip(content["shapes"], ("rotation", "rectangle")):
            box = CAT if shape["label"] == "cat" else DOG
            shape |= {"shape_type": kind, "points": corners(box, inside=1)}
        write_json(root / f"{name}.json", content)


def write_cvat_mask(root: pathlib.Path) -> None:
    write_cvat(root, CVAT_DOG + CVAT_CAT_MASK)


def write_yolo(root: pathlib.Path) -> None:
    lines = []
    for class_id, box in ((0, CAT), (1, DOG)):
        points = np.array(corners(box)) / (WIDTH, HEIGHT)
        lines.append(" ".join([str(class_id), *(f"{value:.6f}" for value in points.ravel())]))
    for seed, name in enumerate("ab"):
        write_image(root / "train" / "images" / f"{name}.jpg", seed)
    (root / "train" / "labels").mkdir()
    (root / "train" / "labels" / "a.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("train: ../train/images\nnc: 2\nnames: ['cat', 'dog']\n")


def write_yolo_variants(root: pathlib.Path) -> None:
    """Ids as floats and as texts, a folder that is not called `images`, empty files first."""
    write_yolo(root)
    (root / "train" / "images").rename(root / "train" / "pictures")
    path = root / "train" / "labels" / "a.txt"
    lines = [f"{line[0]}.0{line[1:]}" for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    (root / "data.yaml").write_text("names: {'0': cat, '1': dog}\n")


def pack_brush(mask: np.ndarray) -> list[int]:
    """Packs a mask as Label Studio does: run lengths of the RGBA values, in bits."""
    values = np.repeat(mask.ravel() * 255, 4).tolist()
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for value, run in itertools.groupby(values):
        length = len(list(run))
        while length:
            part = min(length, 2**8)
            bits += "1" + f"{2:02b}" + f"{part - 1:08b}" + f"{value:08b}"
            length -= part
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def label_studio_region(kind: str, value: dict) -> dict:
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": value,
        "id": kind,
        "from_name": "label",
        "to_name": "image",
        "type": kind,
    }


def label_studio_polygon(label: str, box) -> dict:
    points = (np.array(corners(box)) * (100 / WIDTH, 100 / HEIGHT)).tolist()
    return label_studio_region(
        "polygonlabels", {"points": points, "closed": True, "polygonlabels": [label]}
    )


def label_studio_brush(label: str, box) -> dict:
    return label_studio_region(
        "brushlabels", {"format": "rle", "rle": pack_brush(mask_of(box)), "brushlabels": [label]}
    )


def label_studio_rectangle(label: str, box) -> dict:
    left, top, right, bottom = box
    value = {
        "x": left * 100 / WIDTH,
        "y": top * 100 / HEIGHT,
        "width": (right - left) * 100 / WIDTH,
        "height": (bottom - top) * 100 / HEIGHT,
        "rotation": 0,
        "rectanglelabels": [label],
    }
    return label_studio_region("rectanglelabels", value)


def label_studio_content(cat=label_studio_polygon, dog=label_studio_rectangle) -> list:
    def task(number: int, name: str, results: list) -> dict:
        return {
            "id": number,
            "annotations": [{"id": number, "was_cancelled": False, "result": results}],
            "data": {"image": f"/data/upload/1/1a2b3c4d-{name}.jpg"},
        }

    return [task(1, "a", [cat("cat", CAT), dog("dog", DOG)]), task(2, "b", [])]


def write_label_studio(root: pathlib.Path, content=None) -> None:
    for seed, name in enumerate("ab"):
        write_image(root / "images" / f"{name}.jpg", seed)
    write_json(root / "project-1-at-2024.json", content or label_studio_content())


def write_label_studio_brush(root: pathlib.Path) -> None:
    write_label_studio(root, label_studio_content(label_studio_brush, label_studio_brush))


def write_label_studio_min(root: pathlib.Path) -> None:
    content = []
    for task in label_studio_content():
        regions = [
            region["value"] | {key: region[key] for key in ("original_width", "original_height")}
            for region in task["annotations"][0]["result"]
        ]
        content.append({"image": task["data"]["image"], "id": task["id"], "label": regions})
    write_label_studio(root, content)


def write_label_studio_storage(root: pathlib.Path) -> None:
    """A file per annotation, as cloud storages get it; the images have their own names."""
    for seed, name in enumerate("ab"):
        write_image(root / "images" / f"{name}.jpg", seed)
    for task in label_studio_content():
        annotation = task["annotations"][0] | {"task": {"id": task["id"], "data": task["data"]}}
        if task["id"] == 2:  # "original_width" stands in the file of an image without regions, too
            annotation["prediction"] = {"original_width": WIDTH}
        write_json(root / "annotations" / f"{task['id']}.json", annotation)


def write_label_studio_labels(root: pathlib.Path) -> None:
    """Shapes and their labels in regions of their own."""
    content = label_studio_content()
    for region in list(content[0]["annotations"][0]["result"]):
        labels = region["value"].pop(region["type"])
        label = region | {"type": "labels", "value": region["value"] | {"labels": labels}}
        content[0]["annotations"][0]["result"].append(label)
    write_label_studio(root, content)


def write_masks_per_class(root: pathlib.Path) -> None:
    for seed, name in enumerate("ab"):
        write_image(root / "images" / f"{name}.jpg", seed)
        for label, box in (("cat", CAT), ("dog", DOG)):
            path = root / "masks" / label / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), mask_of(box) * 255 * (name == "a"))


def write_masks_per_class_by_name(root: pathlib.Path) -> None:
    for seed, name in enumerate("ab"):
        write_image(root / "images" / f"{name}.jpg", seed)
        for label, box in (("cat", CAT), ("dog", DOG)):
            path = root / "masks" / f"{name}_{label}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), mask_of(box) * 255 * (name == "a"))


def write_masks_in_alpha(root: pathlib.Path) -> None:
    """White masks, of which only the opacity tells where the class is."""
    write_masks_per_class(root)
    for path in (root / "masks").rglob("*.png"):
        alpha = PIL.Image.open(path)
        white = PIL.Image.new("L", alpha.size, 255)
        PIL.Image.merge("LA", (white, alpha)).save(path)


def write_masks_per_instance(root: pathlib.Path) -> None:
    for seed, name in enumerate("ab"):
        write_image(root / name / "images" / f"{name}.png", seed)
        (root / name / "masks").mkdir()
        for number, box in enumerate((CAT, DOG)):
            if name == "a":
                path = root / name / "masks" / f"{number}f.png"
                assert cv2.imwrite(str(path), mask_of(box) * 255)
