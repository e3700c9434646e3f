"""Label files: every encoding gives the same ids, and problems are named."""

import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from deeplab_tf.data import class_ids
from deeplab_tf.data import label_files
from deeplab_tf.errors import UserError

IDS = np.arange(12, dtype=np.uint8).reshape(3, 4)
COLORS = [(10 * i, 255 - i, i % 3) for i in range(12)]
ID_BY_COLOR = {color: i for i, color in enumerate(COLORS)}


def save_palette(path):
    label = PIL.Image.fromarray(IDS)
    label.putpalette(sum(COLORS, ()))  # makes it mode P
    label.save(path)


def save_mat(path):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path, {"LabelMap": IDS.astype(float), "comment": "of somebody"})


# encoding -> file name, and what writes IDS to it.
LABEL_FILES = [
    ("palette", "label.png", save_palette),
    ("grey", "label.png", lambda path: PIL.Image.fromarray(IDS).save(path)),
    ("grey", "label.png", lambda path: PIL.Image.fromarray(IDS.astype(np.uint16)).save(path)),
    (
        "color_map",
        "label.png",
        lambda path: PIL.Image.fromarray(np.array(COLORS, np.uint8)[IDS]).save(path),
    ),
    ("array", "label.npy", lambda path: np.save(path, IDS.astype(np.int64))),
    ("array", "label.npz", lambda path: np.savez_compressed(path, label=IDS)),
    ("array", "label.mat", save_mat),
]


@pytest.mark.parametrize(("encoding", "name", "save"), LABEL_FILES)
def test_every_encoding_is_detected_and_gives_the_same_ids(tmp_path, encoding, name, save):
    path = tmp_path / name
    save(path)
    assert label_files.detect_encoding([path], COLORS) == encoding
    for told in (None, encoding):
        label = label_files.read_label(path, told, ID_BY_COLOR)
        assert label.dtype == np.int32
        np.testing.assert_array_equal(label, IDS)


def test_grey_pngs_of_few_bits_keep_their_ids(tmp_path):
    two_bits = IDS % 4
    # By hand, as neither Pillow nor OpenCV writes such files.
    rows = b"".join(
        b"\0" + bytes([sum(int(i) << (6 - 2 * k) for k, i in enumerate(row))]) for row in two_bits
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 3, 2, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (tmp_path / "label.png").write_bytes(png)
    np.testing.assert_array_equal(label_files.read_label(tmp_path / "label.png"), two_bits)


def test_a_palette_label_is_read_by_its_colours_on_request(tmp_path):
    save_palette(tmp_path / "label.png")
    reversed_ids = {color: 11 - i for i, color in enumerate(COLORS)}
    label = label_files.read_label(tmp_path / "label.png", "color_map", reversed_ids)
    np.testing.assert_array_equal(label, 11 - IDS)


def test_an_unknown_colour_is_named_with_file_and_pixel(tmp_path):
    rgb = np.array(COLORS, np.uint8)[IDS]
    rgb[1, 2] = (1, 2, 3)
    PIL.Image.fromarray(rgb).save(tmp_path / "label.png")
    with pytest.raises(UserError, match="label.png has the colour 1 2 3.* row 1, column 2"):
        label_files.read_label(tmp_path / "label.png", "color_map", ID_BY_COLOR)


def test_labels_that_cannot_be_read_are_named(tmp_path, without_package):
    PIL.Image.fromarray(np.array(COLORS, np.uint8)[IDS]).save(tmp_path / "rgb.png")
    PIL.Image.fromarray(IDS).save(tmp_path / "grey.png")
    np.save(tmp_path / "float.npy", IDS + 0.5)
    np.save(tmp_path / "ids.npy", IDS)
    np.save(tmp_path / "stack.npy", IDS[None])
    (tmp_path / "damaged.npz").write_bytes(b"PK hello")
    (tmp_path / "label.mat").write_bytes(b"hello")
    for name, encoding, message in (
        ("rgb.png", None, "rgb.png is a colour image"),
        ("rgb.png", "grey", "rgb.png is a colour image"),
        ("grey.png", "array", "grey.png is not an array file"),
        ("float.npy", None, "fractions"),
        ("stack.npy", None, r"stack.npy has to hold one array.*\(1, 3, 4\)"),
        ("damaged.npz", None, "damaged.npz cannot be read"),
        ("nowhere.npy", None, "there is no label .*nowhere.npy"),
    ):
        with pytest.raises(UserError, match=message):
            label_files.read_label(tmp_path / name, encoding)
    with pytest.raises(UserError, match="different ways: array in .*, grey in"):
        label_files.detect_encoding([tmp_path / "grey.png", tmp_path / "ids.npy"])
    without_package("scipy")
    with pytest.raises(UserError, match=r"pip install 'deeplab_tf\[mat\]'"):
        label_files.read_label(tmp_path / "label.mat")


MASK = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]], np.uint8)
BLACK_AND_WHITE = np.repeat(MASK[..., np.newaxis] * 255, 3, axis=-1)
OPAQUE = np.full((3, 4, 1), 255, np.uint8)


def save(path, array, **options):
    PIL.Image.fromarray(array).save(path, **options)


def save_geotiff(path, array, **options):
    rasterio = pytest.importorskip("rasterio")
    height, width = array.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1}
    with rasterio.open(path, "w", dtype=array.dtype, **profile, **options) as file:
        file.write(array, 1)


def save_mat_struct(path):
    scipy_io = pytest.importorskip("scipy.io")
    truth = {"Segmentation": IDS, "Categories": np.arange(12.0).reshape(-1, 1), "Edges": IDS > 0}
    scipy_io.savemat(path, {"GTcls": truth})


@pytest.mark.parametrize(
    "name, write",
    [
        ("a.bmp", lambda path: save(path, IDS)),
        ("a.tif", lambda path: save(path, IDS.astype(np.int32))),
        ("a.tif", lambda path: save(path, IDS.astype(np.float32))),
        ("a.png", lambda path: save(path, np.repeat(IDS[..., np.newaxis], 3, axis=-1))),
        ("a.png", lambda path: save(path, np.dstack([IDS, IDS, IDS, OPAQUE]))),
        ("a.tif", lambda path: save_geotiff(path, IDS.astype(np.int64))),
        ("a.tif", lambda path: save_geotiff(path, IDS.astype(np.float64))),
        ("a.pgm", lambda path: save(path, IDS)),
        ("a.mat", save_mat_struct),
    ],
)
def test_more_files_hold_ids(name, write, tmp_path):
    write(tmp_path / name)
    assert label_files.detect_encoding([tmp_path / name]) in ("grey", "array")
    np.testing.assert_array_equal(label_files.read_label(tmp_path / name), IDS)


@pytest.mark.parametrize("dtype, nodata", [(np.uint8, 99), (np.int16, -9999), (np.int64, 99)])
def test_pixels_without_data_in_a_geotiff_do_not_count(dtype, nodata, tmp_path):
    ids = IDS.astype(dtype)
    ids[0, 0] = nodata
    save_geotiff(tmp_path / "a.tif", ids, nodata=nodata)
    label = label_files.read_label(tmp_path / "a.tif")
    assert label[0, 0] == 255
    np.testing.assert_array_equal(label[1:], IDS[1:])


def test_a_background_of_0_counts_though_a_geotiff_calls_it_no_data(tmp_path):
    save_geotiff(tmp_path / "a.tif", IDS, nodata=0)
    np.testing.assert_array_equal(label_files.read_label(tmp_path / "a.tif"), IDS)


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_minus_one_does_not_count(name, tmp_path):
    ids = IDS.astype(np.int32) - 1
    np.save(tmp_path / name, ids) if name == "a.npy" else save(tmp_path / name, ids)
    wanted = np.where(ids == -1, 255, ids)
    np.testing.assert_array_equal(label_files.read_label(tmp_path / name), wanted)


@pytest.mark.parametrize(
    "name, array",
    [
        ("a.png", MASK * 255),
        ("a.png", MASK * 7 + 3),
        ("a.png", MASK > 0),
        ("a.png", BLACK_AND_WHITE),
        ("a.png", np.dstack([BLACK_AND_WHITE, OPAQUE])),
        ("a.png", np.dstack([BLACK_AND_WHITE * 0, MASK * 255])),
        ("a.png", np.array([(0, 0, 0), (200, 0, 0)], np.uint8)[MASK]),
        ("a.png", np.array([(0, 0, 90), (0, 255, 0)], np.uint8)[MASK]),
        ("a.gif", MASK * 255),
    ],
)
def test_two_values_are_two_classes(name, array, tmp_path):
    save(tmp_path / name, array)
    np.testing.assert_array_equal(label_files.read_label(tmp_path / name, "mask"), MASK)


def test_masks_of_one_value_are_background_where_it_is_0(tmp_path):
    for value, class_id in ((0, 0), (255, 1), (1, 1)):
        save(tmp_path / "a.png", np.full((3, 4), value, np.uint8))
        assert (label_files.read_label(tmp_path / "a.png", "mask") == class_id).all()


def test_jpegs_are_refused_with_their_colours_and_read_on_request(tmp_path):
    path = tmp_path / "a.jpg"
    large = np.kron(MASK, np.ones((16, 16), np.uint8))
    save(path, large * 255, quality=60)
    with pytest.raises(UserError, match=r"JPEG.*0 0 0 \(5\d\.\d%\), 255 255 255.*encoding=mask"):
        label_files.detect_encoding([path])
    np.testing.assert_array_equal(label_files.read_label(path, "mask"), large)
    colors = {(0, 0, 90): 0, (0, 255, 0): 1}
    save(path, np.array(list(colors), np.uint8)[large], quality=95, subsampling=0)
    label = label_files.read_label(path, "nearest_color", colors)
    assert (label != large).mean() < 0.01
    save(path, np.kron(IDS * 20, np.ones((16, 16), np.uint8)))
    with pytest.raises(UserError, match="not black and white"):
        label_files.read_label(path, "mask")


def test_a_matlab_file_that_unpacks_to_far_more_than_a_label_map_is_not_unpacked(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    hidden = {"GTcls": {"Segmentation": np.zeros((2000, 2000), np.uint8)}}
    scipy_io.savemat(tmp_path / "a.mat", hidden, do_compression=True)
    assert label_files.read_label(tmp_path / "a.mat").shape == (2000, 2000)
    with pytest.raises(UserError, match="a.mat unpacks to more than 80000 bytes"):
        label_files.read_label(tmp_path / "a.mat", max_pixels=10_000)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw"])
def test_tiffs_are_refused_where_they_are_compressed_with_loss(compression, tmp_path):
    save(tmp_path / "a.tif", np.kron(IDS, np.ones((16, 16), np.uint8)), compression=compression)
    if compression == "jpeg":
        with pytest.raises(UserError, match="compression changes values"):
            label_files.read_label(tmp_path / "a.tif")
    else:
        label = label_files.read_label(tmp_path / "a.tif")
        np.testing.assert_array_equal(label[::16, ::16], IDS)


def test_colours_that_compression_has_moved_are_reported(tmp_path):
    rgb = np.array(COLORS, np.uint8)[IDS].astype(int)
    rgb[0] += 5
    save(tmp_path / "a.png", rgb.clip(0, 255).astype(np.uint8))
    with pytest.raises(UserError, match="lie near those of classes.*nearest_color"):
        label_files.read_label(tmp_path / "a.png", "color_map", ID_BY_COLOR)


def test_unknown_colours_are_answered_with_a_class_list(tmp_path):
    save(tmp_path / "a.png", np.array([(0, 0, 90), (0, 255, 0)], np.uint8)[MASK])
    with pytest.raises(UserError, match="(?s)name_0 0 0 90\nname_1 0 255 0"):
        label_files.detect_encoding([tmp_path / "a.png"])


def test_ids_out_of_range_are_counted_and_common_reasons_guessed():
    label = np.array([[0, 1, 2], [255, 7, 7]])
    assert class_ids.wrong_ids(label, 3, 255) == {7: 2}
    assert class_ids.wrong_ids(label, 8, 255) == {}
    for wrong, num_classes, ignore_label, message in (
        (label, 3, 255, "label a.png has the id 7 .2 px., but there are 3 classes"),
        (np.array([[0, 255]]), 2, 254, "masks of two classes"),
        (np.array([[0, 65535]]), 2, 255, "masks of two classes"),
        (np.array([[0, 40, 200, 255]]), 2, 255, "smooth edges of masks"),
        (np.array([[1, 2, 3]]), 3, 255, "numbered 1 to 3"),
        (np.array([[-1, 0]]), 3, 255, "id -1"),
    ):
        with pytest.raises(UserError, match=message):
            class_ids.check_ids(wrong, num_classes, ignore_label, "a.png")
