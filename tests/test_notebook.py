"""A trained run in a notebook."""

import cv2
import numpy as np
import pytest
from PIL import Image

import deeplab_tf
from deeplab_tf import predict
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.errors import UserError

IMAGE = drawing.draw("val", 0)[0][:60, :90]
GREY = IMAGE[..., 1]


@pytest.fixture(scope="module")
def run(tiny_run_dir, short_network):
    return deeplab_tf.load_run(tiny_run_dir)


def test_a_run_labels_an_image_as_predict_does(run, tiny_run_dir, tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), IMAGE[..., ::-1])
    paths = predict.predict(tiny_run_dir, str(tmp_path / "image.png"), str(tmp_path / "out"))
    labels = run.predict(IMAGE)
    assert labels.shape == IMAGE.shape[:2] and labels.dtype == np.uint8
    with Image.open(paths[0]) as written:
        np.testing.assert_array_equal(labels, np.asarray(written))
    assert run.class_names == drawing.CLASS_NAMES and len(run.colors) == len(run.class_names)


@pytest.mark.parametrize(
    "pixels, equal",
    [
        (Image.fromarray(IMAGE), IMAGE),
        (IMAGE[:, ::-1], np.ascontiguousarray(IMAGE[:, ::-1])),
        (np.dstack([IMAGE, np.full_like(GREY, 9)]), IMAGE),
        (GREY, np.dstack([GREY] * 3)),
        (GREY[..., np.newaxis], np.dstack([GREY] * 3)),
        (IMAGE / np.float32(255), IMAGE),
        (IMAGE.astype(np.float64), IMAGE),
        (IMAGE.astype(np.int32), IMAGE),
        (IMAGE.astype(np.uint16) * 257, IMAGE),
    ],
    ids=["Pillow", "flipped", "RGBA", "grey", "grey 1", "0..1", "0..255", "int32", "16 bits"],
)
def test_other_arrays_are_labelled_as_the_8_bit_image_that_they_show(run, pixels, equal):
    np.testing.assert_array_equal(run.predict(pixels), run.predict(equal))


@pytest.mark.parametrize(
    "pixels, message",
    [
        (IMAGE[np.newaxis], r"shape \[1, 60, 90, 3\]. Give one image"),
        (IMAGE[..., :2], r"shape \[60, 90, 2\]"),
        (IMAGE[:0], r"shape \[0, 90, 3\]"),
        (3, r"shape \[\]"),
        (GREY > 9, "holds bool values"),
        (IMAGE * 1j, "holds complex128 values"),
        (np.full((5, 5, 3), np.nan), "float64 values nan..nan"),
        (IMAGE.astype(np.float32) * 9, "float32 values .* not clear"),
        (IMAGE.astype(np.int32) - 255, "int32 values .* not clear"),
        ("nowhere/image.png", "nowhere/image.png cannot be read"),
    ],
    ids=lambda value: str(np.shape(value)) + str(getattr(value, "dtype", "")),
)
def test_an_array_that_is_not_clearly_an_image_is_refused(run, pixels, message):
    with pytest.raises(UserError, match=message):
        run.predict(pixels)


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA", "L"])
def test_an_image_is_the_same_as_a_file_in_pillow_and_as_an_array(run, mode, tmp_path):
    image = Image.fromarray(IMAGE).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.getexif()[0x0112] = 6  # to be turned by 90 degrees
    image.save(path, exif=image.getexif())
    with Image.open(path) as opened:
        upright = np.asarray(opened.convert("RGB").rotate(-90, expand=True))
        labels = run.predict(opened)
    assert labels.shape == (90, 60)
    np.testing.assert_array_equal(labels, run.predict(upright))
    np.testing.assert_array_equal(labels, run.predict(path))
    np.testing.assert_array_equal(labels, run.predict(str(path)))
    np.testing.assert_array_equal(run.overlay(path, labels), run.overlay(upright, labels))


def test_an_overlay_shows_the_colours_of_the_classes(run):
    labels = np.zeros(GREY.shape, np.uint8)
    labels[20:, 30:] = 2
    painted = run.overlay(IMAGE, labels, opacity=1)
    assert tuple(painted[40, 60]) == run.colors[2]
    np.testing.assert_array_equal(run.overlay(IMAGE, labels, opacity=0)[40, 60], IMAGE[40, 60])


@pytest.mark.parametrize(
    "labels",
    [np.zeros((5, 5), int), np.zeros(GREY.shape), np.full(GREY.shape, -1), IMAGE],
    ids=["size", "float", "negative", "image"],
)
def test_labels_that_do_not_belong_to_the_image_are_refused(run, labels):
    with pytest.raises(UserError, match=r"The labels are .* Give class ids, integers \[60, 90\]"):
        run.overlay(IMAGE, labels)


def test_what_is_not_a_run_dir_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run dir"):
        deeplab_tf.load_run(tmp_path)
