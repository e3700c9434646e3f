"""Data is checked: every problem is found with its file and a remedy, every count is right."""

import io
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf import check_data
from deeplab_tf.data import own_data
from deeplab_tf.data import records
from deeplab_tf.data_report import findings
from deeplab_tf.data_report import statistics
from deeplab_tf.data_report.images import Candidate
from deeplab_tf.data_report.images import MeasuredImage
from deeplab_tf.data_report.images import measure
from deeplab_tf.errors import UserError

CLASSES = "ground\nroad 10 20 30\ncar 200 100 50\n"
SIZE = (24, 32)  # height and width in pixels
EXIF_TURNED = Image.Exif()
EXIF_TURNED[0x0112] = 6


def image(name: str) -> np.ndarray:
    """An image that is the same for a name, and differs between names."""
    generator = np.random.default_rng(list(name.encode()))
    return generator.integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def label(name: str) -> np.ndarray:
    generator = np.random.default_rng(list(name.encode()))
    ids = generator.choice([0, 1, 2, 255], SIZE, p=[0.6, 0.2, 0.1, 0.1])
    return ids.astype(np.uint8)


def save(array: np.ndarray, path: pathlib.Path, **options) -> None:
    Image.fromarray(array).save(path, **options)


def cut(path: pathlib.Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


@pytest.fixture
def folder(tmp_path):
    """Images 0..9 of train and 10..12 of val, with nothing wrong."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    names = [f"image_{index:02d}" for index in range(13)]
    for name in names:
        save(image(name), tmp_path / "images" / f"{name}.png")
        save(label(name), tmp_path / "labels" / f"{name}.png")
    (tmp_path / "classes.txt").write_text(CLASSES)
    (tmp_path / "train.txt").write_text("\n".join(names[:10]) + "\n")
    (tmp_path / "val.txt").write_text("\n".join(names[10:]) + "\n")
    return tmp_path


def check(folder: pathlib.Path, **arguments):
    arguments = {"num_classes": 3} | arguments
    options = own_data.OwnDataOptions(
        label_encoding=arguments.pop("label_encoding", None), classes=arguments.pop("classes", "")
    )
    return check_data.check_folders(
        folder / "images", folder / "labels", **arguments, options=options
    )


def kinds(report) -> set[str]:
    return {finding.kind for finding in report.findings}


def the_finding(report, kind: str) -> findings.Finding:
    (found,) = [finding for finding in report.findings if finding.kind == kind]
    return found


def test_counts_are_those_of_a_slow_computation(folder):
    report = check(folder)
    assert (report.findings, report.is_fit_to_train) == ([], True)
    assert list(report.splits) == ["train", "val"]
    fields = json.loads(report.to_json())
    for split, first, last in (("train", 0, 10), ("val", 10, 13)):
        names = [f"image_{index:02d}" for index in range(first, last)]
        pixels = np.stack([image(name) for name in names]).astype(np.float64)
        ids = np.stack([label(name) for name in names])
        found = fields["splits"][split]
        assert found["num_images"] == found["num_labels"] == last - first
        assert found["ignored_share"] == pytest.approx((ids == 255).mean())
        np.testing.assert_allclose(found["mean_color"], pixels.mean(axis=(0, 1, 2)))
        np.testing.assert_allclose(found["color_deviation"], pixels.std(axis=(0, 1, 2)))
        for class_id in range(3):
            is_class = ids == class_id
            assert found["classes"][f"class_{class_id}"] == {
                "pixels": is_class.sum(),
                "share": pytest.approx(is_class.sum() / (ids != 255).sum()),
                "images": is_class.any(axis=(1, 2)).sum(),
            }
    assert report.train == "train"


def counted(pixels_of_images, num_classes=4, ignore_label=255):
    """Statistics of images, each given by its pixels by id."""
    split = statistics.SplitStatistics(num_classes, ignore_label)
    for pixels_by_id in pixels_of_images:
        split.add(MeasuredImage("train", "", pixels_by_id=pixels_by_id))
    return split


def test_class_weights_are_those_of_the_formulas():
    split = counted([{0: 60, 1: 40, 255: 900}, {0: 90, 2: 10}, {0: 100}])
    # Shares in the images that have the class: 250/300, 40/100, 10/100; their median is 0.4.
    assert statistics.median_frequency_weights(split) == pytest.approx({0: 0.48, 1: 1.0, 2: 4.0})
    beta = 0.9
    expected = np.array([1 / (1 + beta + beta**2), 1, 1])  # in 3, 1 and 1 images
    expected /= expected.mean()
    found = statistics.effective_number_weights(split, beta)
    assert found == pytest.approx(dict(enumerate(expected)))
    assert statistics.weights_text({0: 0.48, 1: 1.0, 2: 4.0}, 4) == "0.48,1,4,1"


def test_an_ignore_label_among_the_classes_is_not_a_class():
    split = counted([{0: 60, 1: 30, 2: 10}, {3: 5}], ignore_label=0)
    assert split.class_ids == [1, 2, 3] and split.absent_classes == [] == split.wrong_ids
    assert split.pixel_share(1) == 30 / 45
    assert 0 not in statistics.median_frequency_weights(split)


@pytest.mark.parametrize(
    "sizes, crop",
    [
        ({(480, 360): 5}, (369, 481)),
        ({(513, 321): 5}, (321, 513)),
        ({(2048, 1024): 5}, (513, 513)),
        ({(500, 375): 7, (375, 500): 3}, (513, 513)),
        ({(500, 375): 99, (375, 500): 1}, (385, 513)),
        ({(24, 16): 2, (30, 20): 1, (900, 900): 1}, (33, 33)),
    ],
)
def test_the_proposed_crop_is_about_the_median_image(sizes, crop):
    split = counted([])
    split.sizes.update(sizes)
    assert split.propose_crop_size()[0] == crop


def break_everything(folder: pathlib.Path) -> None:
    """Breaks one file after the other."""
    images, labels = folder / "images", folder / "labels"
    cut(images / "image_00.png", 20)  # lacks its last rows, which Pillow does not notice
    (images / "image_01.png").write_bytes(b"no image")
    cut(labels / "image_02.png", 20)
    (images / "image_03.png").unlink()
    (labels / "image_04.png").unlink()
    (labels / "image_05.png").unlink()
    save(label("image_05"), labels / "image_05.jpg")
    save(np.stack([label("image_06")] * 2 + [label("image_07")], -1), labels / "image_06.png")
    save(label("image_07")[:12], labels / "image_07.png")
    ids = label("image_08")
    ids[:2] = 37
    save(ids, labels / "image_08.png")
    (images / "image_09.png").unlink()
    save(image("image_09"), images / "image_09.jpg", exif=EXIF_TURNED)  # is turned at build
    save(image("double"), images / "image_10.png")
    save(np.full(SIZE, 255, np.uint8), labels / "image_10.png")
    shutil.copy(images / "image_10.png", images / "double.png")
    shutil.copy(images / "image_11.png", images / "image_12.png")
    Image.fromarray(image("cmyk")).convert("CMYK").save(images / "cmyk.jpg")
    save(image("twin"), images / "cmyk.png")
    for name in ("double", "cmyk"):
        save(label(name), labels / f"{name}.png")
    with (folder / "train.txt").open("a") as lines:
        lines.write("double.png\nimages/cmyk.jpg\nnowhere\n")


FOUND = {  # kind -> (the files that it names, words of what is said of the first, severity)
    "image_damaged": (["images/image_00.png", "images/image_01.png"], "end", "error"),
    "image_missing": (["nowhere", "labels/image_03.png"], "train.txt", "error"),
    "same_name": (["images/cmyk.png"], "cmyk.jpg", "error"),
    "label_damaged": (["labels/image_02.png"], "", "error"),
    "label_missing": (["images/image_04.png"], "", "error"),
    "label_jpeg": (["labels/image_05.jpg"], "", "error"),
    "label_colors": (["labels/image_06.png"], "is a colour image", "error"),
    "size_mismatch": (["labels/image_07.png"], "image 32x24, label 32x12", "error"),
    "ids_out_of_range": (["labels/image_08.png"], "id 37 (64 px)", "error"),
    "leak": (["images/image_10.png"], "double.png in train", "error"),
    "all_ignored": (["labels/image_10.png"], "", "warning"),
    "duplicate": (["images/image_12.png"], "image_11.png", "warning"),
}


@pytest.mark.parametrize(
    "top_rows, is_grey, num_images, flags",
    [
        (0.5, True, 8, ["--vertical_flip", "--quarter_turns", "--elastic_shift=10"]),
        (0.47, False, 8, ["--vertical_flip", "--quarter_turns"]),
        (0.2, False, 8, None),  # a class that lies above the others, as the sky does
        (0.5, True, 7, None),  # too few to tell
    ],
)
def test_flips_and_turns_are_proposed_for_images_without_a_top(
    top_rows, is_grey, num_images, flags
):
    split = statistics.SplitStatistics(num_classes=2, ignore_label=255)
    for number in range(num_images):
        measured = MeasuredImage("train", str(number), is_grey=is_grey)
        measured.size, measured.color_sums = (64, 48), np.zeros((2, 3))
        measured.pixels_by_id = {0: 400, 1: 600}
        measured.rows_by_class = {0: (400 * top_rows, 400), 1: (600 * 0.51, 600)}
        split.add(measured)
    proposed = split.propose_augmentation()
    assert proposed == (flags and (flags, "no class lies higher in the images than the others"))


def test_the_mean_row_of_a_class_is_measured_in_labels():
    pixels = np.full((40, 30, 3), 7, np.uint8)
    ids = np.repeat(np.repeat([0, 1], 20)[:, np.newaxis], 30, axis=1)
    candidate = Candidate("train", "a", read=lambda _: (pixels, ids))
    measured = measure(candidate, records.numbered_classes("x", 2))
    means = {i: rows / pixels for i, (rows, pixels) in measured.rows_by_class.items()}
    assert means == pytest.approx({0: 0.25, 1: 0.75}) and measured.is_grey


def test_every_problem_is_found_with_its_file_and_a_remedy(folder):
    break_everything(folder)
    report = check(folder)
    found = {finding.kind: finding for finding in report.findings}
    assert set(found) == set(FOUND)
    for kind, (files, words, severity) in FOUND.items():
        finding = found[kind]
        names = [name.partition(":")[0].removeprefix(f"{folder}/") for name in finding.where]
        assert sorted(names) == sorted(files), kind
        assert finding.count == len(files)
        assert any(words in name for name in finding.where), finding.where
        assert finding.severity == severity and finding.remedy.endswith(".")
    assert "37" in found["ids_out_of_range"].what
    assert not report.is_fit_to_train
    # What can be read is counted nevertheless.
    assert report.splits["train"].num_images == 9  # 02, 04 to 09, leak
    assert report.splits["train"].num_labels == 7  # 00, 01, 07 to 09, leak, cmyk


def test_what_the_terminal_shows_fits_into_100_columns_and_the_sheet_shows_problems_first(folder):
    break_everything(folder)
    report = check(folder)
    lines = report.to_text().splitlines()
    assert lines[-1].startswith("NOT fit to train: 10 errors, 2 warnings")
    paths = tuple(str(folder / part) for part in ("images", "labels"))
    assert all(len(line) <= 100 or any(path in line for path in paths) for line in lines)
    with_problems = [bool(sample.problems) for sample in report.samples]
    assert with_problems == sorted(with_problems, reverse=True)
    report_path, sheet_path = check_data.write_report(report, folder / "out")
    assert json.loads(pathlib.Path(report_path).read_text())["is_fit_to_train"] is False
    sheet = np.asarray(Image.open(sheet_path)).astype(int)
    red = (sheet[..., 0] > 160) & (sheet[..., 1:].max(axis=-1) < 70)
    assert red[:, :20].any() and sheet.shape[1] > 1000


@pytest.mark.parametrize(
    "change, arguments, kind, words",
    [
        (lambda ids: np.where(ids == 0, 0, 255), {}, "mask", "--label_encoding=mask"),
        (lambda ids: np.where(ids == 0, 0, 255), {"ignore_label": 9}, "mask", "encoding=mask"),
        (lambda ids: np.where(ids == 255, 255, ids + 1), {}, "ids_out_of_range", "subtract 1"),
        (lambda ids: np.where(ids == 2, 3, ids), {}, "ids_out_of_range", "--ignore_label=3"),
        (lambda ids: ids, {"ignore_label": 9}, "ids_out_of_range", "--ignore_label=255"),
        (lambda ids: np.arange(ids.size).reshape(SIZE) % 200, {}, "ids_out_of_range", "grey"),
        (lambda ids: ids * 0, {}, "single_class", "class ids"),
    ],
)
def test_labels_that_are_not_ids_are_recognised_together(folder, change, arguments, kind, words):
    for path in (folder / "labels").iterdir():
        save(change(np.array(Image.open(path))).astype(np.uint8), path)
    report = check(folder, **arguments)
    found = the_finding(report, kind)
    assert words in found.remedy and found.severity == "error" and found.count == 13
    assert kinds(report) <= {kind, "absent_class"}


def test_labels_in_colours_and_palettes_are_read_as_their_ids(folder):
    expected = check(folder).splits["train"].pixels
    colors = np.zeros((256, 3), np.uint8)
    colors[1:3] = (10, 20, 30), (200, 100, 50)
    for path in (folder / "labels").iterdir():
        ids = np.array(Image.open(path)) % 255  # an ignored pixel has no colour
        palette = Image.fromarray(ids)
        palette.putpalette(colors.tobytes())
        palette.save(path)
    expected[0] += expected.pop(255)
    assert check(folder).splits["train"].pixels == expected
    save(colors[np.array(Image.open(path))], path)  # one of them in colours
    report = check(folder, num_classes=None, classes=str(folder / "classes.txt"))
    assert report.splits["train"].pixels == expected
    assert kinds(report) == {"mixed_encodings"}


def test_labels_of_numbers_below_zero_and_without_pixels_stop_nothing(folder):
    for name, array in (("image_00", np.full(SIZE, -2)), ("image_01", np.zeros((0, 32), int))):
        (folder / "labels" / f"{name}.png").unlink()
        np.save(folder / "labels" / f"{name}.npy", array)
    report = check(folder)
    assert "id -2 (768 px)" in the_finding(report, "ids_out_of_range").where[0]
    assert "image_01.npy: holds no pixel" in the_finding(report, "label_damaged").where[0]


def test_a_class_that_is_not_in_train_but_in_val_is_named(folder):
    for index in range(10):
        path = folder / "labels" / f"image_{index:02d}.png"
        save(np.minimum(label(path.stem), 1), path)
    report = check(folder)
    assert "class_2" in the_finding(report, "not_in_train").what
    assert "class_2" in the_finding(report, "absent_class").what
    assert report.is_fit_to_train


def test_folders_named_as_splits_are_splits_and_trainval_leaks_nothing(folder):
    for split, name in (("train", "a"), ("val", "b"), ("trainval", "c"), ("trainval", "d")):
        for part, array in (("images", image), ("labels", label)):
            (folder / part / split).mkdir(exist_ok=True)
            twin = {"c": "a", "d": "b"}.get(name, name)
            save(array(twin), folder / part / split / f"{name}.png")
    for path in folder.glob("*.txt"):
        path.unlink()
    report = check(folder)
    assert {name: split.num_images for name, split in report.splits.items()} == {
        "all": 13, "train": 1, "val": 1, "trainval": 2,
    }  # fmt: skip
    assert report.findings == []


def copy_records(source, folder: pathlib.Path) -> pathlib.Path:
    shutil.copytree(source.folder, folder)
    return folder


def test_good_records_are_fit_and_counted(tiny_records):
    report = check_data.check_records(tiny_records.folder)
    assert report.is_fit_to_train
    assert {name: split.num_images for name, split in report.splits.items()} == {
        "train": 8, "val": 4,
    }  # fmt: skip
    assert report.info == tiny_records.info


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_shard_is_named_and_the_others_are_read(tiny_records, tmp_path, damage):
    folder = copy_records(tiny_records, tmp_path / "records")
    shard = folder / "train-00000-of-00002.tfrecord"
    if damage == "cut":
        cut(shard, 100)
    else:
        content = bytearray(shard.read_bytes())
        content[-100] ^= 1
        shard.write_bytes(content)
    report = check_data.check_records(folder)
    assert [finding.kind for finding in report.findings if finding.severity == "error"] == [
        "shard_damaged"
    ]
    (where,) = the_finding(report, "shard_damaged").where
    assert str(shard) in where and "3 whole records before" in where
    assert report.splits["train"].num_images == 7  # all but the last of the shard
    assert report.splits["val"].num_images == 4


def test_records_that_are_too_few_are_found_and_palettes_are_read(tiny_records, tmp_path):
    folder = copy_records(tiny_records, tmp_path / "records")
    shard = str(folder / "val-00001-of-00002.tfrecord")
    examples = [
        tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(shard)
    ]
    feature = examples[0].features.feature["image/segmentation/class/encoded"].bytes_list
    palette = Image.open(io.BytesIO(feature.value[0]))
    palette.putpalette(bytes(range(256)) * 3)
    content = io.BytesIO()
    palette.save(content, format="PNG")
    feature.value[0] = content.getvalue()
    with tf.io.TFRecordWriter(shard) as writer:
        writer.write(examples[0].SerializeToString())
        writer.write(b"\xff no example")
    (folder / "val-00000-of-00002.tfrecord").write_bytes(b"")
    report = check_data.check_records(folder)
    assert kinds(report) == {"record_unreadable", "record_count", "absent_class"}
    assert report.splits["val"].num_labels == 1
    assert f"{shard}, record 1" in the_finding(report, "record_unreadable").where[0]
    (where,) = the_finding(report, "record_count").where
    assert where == f"{folder}/val-00000-of-00002.tfrecord: 0 records, not 2"


def test_the_exit_code_tells_whether_the_data_is_fit(tiny_records, folder):
    break_everything(folder)
    command = [sys.executable, "-m", "deeplab_tf.check_data"]
    folders = [f"--images={folder}/images", f"--labels={folder}/labels", "--num_classes=3"]
    processes = [  # beside each other, for starting takes longest
        subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=folder,
        )
        for arguments in ([f"--data_dir={tiny_records.folder}", "--output_dir=good"], folders)
    ]  # fmt: skip
    (good, _), (bad, bad_errors) = (process.communicate(timeout=120) for process in processes)
    assert [process.returncode for process in processes] == [0, 1], bad_errors
    assert "\nfit to train: 0 errors" in good
    assert "\nNOT fit to train: 10 errors" in bad
    for output in (folder / "good", folder / "data_check"):
        assert {path.name for path in output.iterdir()} == {"report.json", "contact_sheet.jpg"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": None}, "--num_classes=N, or --classes=FILE"),
        ({"label_encoding": "color_map"}, "give --classes=FILE"),
        ({"label_encoding": "jpeg"}, "it can be palette, grey"),
        ({"classes": "classes.txt", "num_classes": 5}, "--num_classes=5, but .* lists 3"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(folder, arguments, message):
    if "classes" in arguments:
        arguments = arguments | {"classes": str(folder / arguments["classes"])}
    with pytest.raises(UserError, match=message):
        check(folder, **arguments)


def test_folders_that_are_missing_or_empty_are_refused(folder):
    with pytest.raises(UserError, match="--labels=.* is not a folder"):
        check_data.check_folders(folder / "images", folder / "nowhere", num_classes=3)
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="no file in this folder"):
        check_data.check_folders(folder / "empty", folder / "labels", num_classes=3)


def test_a_folder_of_any_tool_is_checked_as_it_would_be_built(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for index in range(6):
        save(image(f"{index}"), tmp_path / "images" / f"{index}.tif")
        save((label(f"{index}") == 1).astype(np.uint8) * 255, tmp_path / "masks" / f"{index}.png")
    report = check_data.check_own_data(tmp_path)
    assert report.is_fit_to_train
    assert {name: split.num_labels for name, split in report.splits.items()} == {
        "train": 5,
        "val": 1,
    }
    assert report.info.class_names == ("background", "foreground")
    assert "--label_encoding=mask" in capsys.readouterr().out
    cut(tmp_path / "images" / "1.tif", 900)
    save(np.zeros((3, 3), np.uint8), tmp_path / "masks" / "2.png")
    report = check_data.check_own_data(tmp_path)
    assert "1.tif" in the_finding(report, "image_damaged").where[0]
    assert "image 32x24, label 3x3" in the_finding(report, "size_mismatch").where[0]


def test_one_image_in_two_splits_is_an_error_of_its_own(tmp_path):
    for split in ("train", "val"):
        for part, array in (("images", image("a")), ("labels", label("a"))):
            (tmp_path / split / part).mkdir(parents=True)
            save(array, tmp_path / split / part / "a.png")
    report = check_data.check_own_data(tmp_path)
    assert the_finding(report, "leak").severity == findings.ERROR


def test_a_mirrored_image_in_another_split_is_a_warning(folder):
    smooth = np.kron(np.arange(12).reshape(3, 4) * 7919 % 251, np.ones((8, 8))).astype(np.uint8)
    save(smooth, folder / "images" / "image_00.png")
    save(smooth[:, ::-1], folder / "images" / "image_11.png")
    finding = the_finding(check(folder), "near_leak")
    assert finding.severity == findings.WARNING
    assert "image_11.png: in val, mirrored from" in finding.where[0]
