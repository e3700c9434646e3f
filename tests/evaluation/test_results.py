"""The files of an evaluation: those of older versions are read, damaged ones are named."""

import json

import pytest

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import results
from deeplab_tf.runs import run_files

FIGURES = {"miou": 0.5, "iou_per_class": {"sky": 0.5, "road": None}, "num_images": 1}
LINE = {
    "name": "a",
    "miou": 0.5,
    "pixel_accuracy": 0.5,
    "iou_per_class": {"sky": 0.5},
    "num_pixels": 9,
}


def write(folder, figures=FIGURES, line=LINE, images=run_files.IMAGES) -> str:
    (folder / run_files.METRICS).write_text(json.dumps(figures))
    (folder / images).write_text(json.dumps(line) + "\n")
    return str(folder)


def test_an_evaluation_is_read_as_it_was_written(tmp_path):
    with results.writing(str(tmp_path)) as writer:
        writer.add_image(LINE)
        writer.figures = FIGURES
    assert sorted(path.name for path in tmp_path.iterdir()) == [run_files.IMAGES, run_files.METRICS]
    assert results.read(str(tmp_path)) == results.Evaluation(FIGURES, [LINE])


def test_an_evaluation_that_fails_leaves_the_old_one(tmp_path):
    write(tmp_path)
    with files.draft_folder(tmp_path) as left_over:  # of this process, which has no other open
        with pytest.raises(ZeroDivisionError), results.writing(str(tmp_path)) as writer:
            assert not left_over.exists()
            writer.add_image({"name": "b"})
            raise ZeroDivisionError
    assert results.read(str(tmp_path)) == results.Evaluation(FIGURES, [LINE])
    assert len(list(tmp_path.iterdir())) == 2


def test_the_names_of_older_versions_are_read(tmp_path):
    old = {"num_pictures": 1, "pictures_per_second": 2.5}
    folder = write(tmp_path, FIGURES | old, images="pictures.jsonl")
    figures = results.read(folder).figures
    assert figures["num_images"] == 1 and figures["images_per_second"] == 2.5
    assert not set(old) & set(figures)


@pytest.mark.parametrize(
    "figures, line, message",
    [
        ([], LINE, r"metrics\.json is not a JSON object"),
        ({}, LINE, r"metrics\.json: the field 'miou' must be a number"),
        (FIGURES | {"miou": "0.5"}, LINE, "'miou' must be a number"),
        (FIGURES | {"iou_per_class": [0.5]}, LINE, "'iou_per_class' must be an object"),
        (FIGURES | {"iou_per_class": {"sky": "x"}}, LINE, "'iou_per_class' must be an object"),
        (FIGURES | {"trimap": {"widths": [1], "miou": []}}, LINE, "'trimap' must be"),
        (FIGURES | {"dice": True}, LINE, "'dice' must be a number"),
        (FIGURES, None, r"Line 1 of .*images\.jsonl is not a JSON object"),
        (FIGURES, LINE | {"name": 3}, r"Line 1 of .*images\.jsonl: the field 'name' must be"),
    ],
)
def test_a_wrong_field_is_named_with_a_remedy(tmp_path, figures, line, message):
    with pytest.raises(UserError, match=f"(?s){message}.*deeplab_tf.eval"):
        results.read(write(tmp_path, figures, line))


@pytest.mark.parametrize("name", [run_files.METRICS, run_files.IMAGES])
@pytest.mark.parametrize("content", [b"", b"{", b"\0\0", b"\xff\xfe\xfa", b'{"miou": NaN}'])
def test_a_damaged_file_is_one_message(tmp_path, name, content):
    folder = write(tmp_path)
    (tmp_path / name).write_bytes(content)
    if (name, content) == (run_files.IMAGES, b""):  # an evaluation of no image
        assert results.read(folder).images == []
        return
    with pytest.raises(UserError, match=name):
        results.read(folder)


def test_a_run_that_was_not_evaluated_says_how_to(tmp_path):
    with pytest.raises(UserError, match="has no evaluation: run python -m deeplab_tf.eval"):
        results.read(str(tmp_path))
