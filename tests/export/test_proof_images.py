"""The images that exports are proved and calibrated with."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

from conftest import TINY_MODEL
from deeplab_tf import models
from deeplab_tf.config import DataConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import records
from deeplab_tf.data import transforms
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.export import proof_images
from deeplab_tf.runs import run_dir as run_dirs

OTHER_CLASSES = records.numbered_classes("others", 3)


def run_on(info: records.DatasetInfo, data_dir: str) -> run_dirs.Run:
    model_config = models.complete(TINY_MODEL, info.num_classes)
    data_config = DataConfig(data_dir=str(data_dir), train_crop_size=(321, 321))
    return run_dirs.Run("run", model_config, data_config, TrainConfig(), info)


def record(image_bytes: bytes, label: np.ndarray) -> bytes:
    parts = {
        "image/encoded": image_bytes,
        "image/segmentation/class/encoded": encode(label),
    }
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for key, value in parts.items()
            }
        )
    ).SerializeToString()


def encode(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def write_shard(path, serialized: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in serialized:
            writer.write(one)


def test_proof_images_are_spread_over_the_validation_split(tiny_records):
    run = run_on(tiny_records.info, tiny_records.folder)
    source, every = proof_images.from_records_or_drawn(run, None, number=100)
    assert "4 images" in source and "'val'" in source and tiny_records.folder in source
    assert sorted(example.name for example in every) == [f"val_{index}" for index in range(4)]
    for example in every:
        _, label = drawing.draw("val", int(example.name.removeprefix("val_")))
        np.testing.assert_array_equal(example.label, label)
        assert example.image.shape == (*label.shape, 3) and example.image.dtype == np.uint8
    _, ends = proof_images.from_records_or_drawn(run, None, number=2)
    assert [example.name for example in ends] == [every[0].name, every[-1].name]


def test_a_proof_without_a_readable_image_says_so(tmp_path):
    label = np.zeros((8, 9), np.uint8)
    damaged = record(b"no image", label)
    good = record(encode(np.zeros((8, 9, 3), np.uint8)), label)
    write_shard(tmp_path / "val-00000-of-00001.tfrecord", [damaged] + 100 * [good])
    run = run_on(OTHER_CLASSES, tmp_path)
    with pytest.raises(UserError, match="None of the records chosen from the split 'val'"):
        proof_images.from_records_or_drawn(run, None, number=1)


def test_without_records_images_are_drawn_and_labelled_for_a_run_on_shapes(tiny_records):
    source, drawn = proof_images.from_records_or_drawn(
        run_on(tiny_records.info, "lost"), None, number=3
    )
    assert "drawn" in source and len(drawn) == 3
    assert all(example.label.shape == example.image.shape[:2] for example in drawn)
    assert all(set(np.unique(example.label)) <= {*range(7), 255} for example in drawn)


def test_without_records_other_runs_get_drawings_as_large_as_their_crops():
    _, drawn = proof_images.from_records_or_drawn(run_on(OTHER_CLASSES, ""), None, number=3)
    assert all(example.label is None for example in drawn)
    assert all(max(example.image.shape) == 321 for example in drawn)


def test_records_of_other_classes_are_refused(tiny_records):
    run = run_on(OTHER_CLASSES, "")
    with pytest.raises(UserError, match="3 classes.* have 7.*--data_dir"):
        proof_images.from_records_or_drawn(run, tiny_records.folder, number=3)


def test_calibration_shows_rare_classes_and_leaves_out_damaged_images(tmp_path, capsys):
    rare = {70: 1, 140: 2}  # by the grey of their images
    serialized = [
        record(
            encode(np.full((8, 9, 3), grey, np.uint8)),
            np.full((8, 9), rare.get(grey, 0), np.uint8),
        )
        for grey in range(200)
    ]
    write_shard(tmp_path / "train-00000-of-00002.tfrecord", serialized[:100])
    write_shard(tmp_path / "train-00001-of-00002.tfrecord", serialized[100:])
    run = run_on(OTHER_CLASSES, tmp_path)
    images = proof_images.calibration_images(run, None, None, number=6)
    assert len(images) == 6 and {image.shape for image in images} == {(8, 9, 3)}
    assert set(rare) <= {image[0, 0, 0] for image in images}
    assert "calibrated with 6 images only" in capsys.readouterr().err

    damaged = record(b"no image", np.zeros((8, 9), np.uint8))
    write_shard(tmp_path / "train-00001-of-00002.tfrecord", [damaged])
    assert len(proof_images.calibration_images(run, None, None, number=101)) == 100
    warnings = capsys.readouterr().err
    assert "1 of 101 images to calibrate with are damaged" in warnings
    assert "only" not in warnings


def test_the_choice_is_balanced_over_classes_and_always_the_same():
    presence = np.zeros((1000, 4), bool)
    presence[:, 0] = True
    presence[np.arange(0, 1000, 10), 1] = True  # 100 images
    presence[[5, 500, 900], 2] = True
    chosen = proof_images.balanced_choice(presence, 40)
    assert len(set(chosen)) == 40 and chosen == proof_images.balanced_choice(presence, 40)
    assert presence[chosen].sum(axis=0).tolist() == [40, 39, 3, 0]
    assert sorted(proof_images.balanced_choice(presence[:8], 40)) == list(range(8))
    assert len(proof_images.balanced_choice(np.zeros((5, 4), bool), 3)) == 3


def test_calibration_takes_files_from_all_over_a_glob(tmp_path, capsys):
    for index in range(9):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((4, 5, 3), index, np.uint8))
    run = run_on(OTHER_CLASSES, "")
    images = proof_images.calibration_images(run, None, str(tmp_path / "*.png"), number=3)
    assert [int(image.mean()) for image in images] == [0, 4, 8]
    assert "calibrated with 3 images only" in capsys.readouterr().err
    (tmp_path / "9.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="9.png is damaged"):
        proof_images.calibration_images(run, None, str(tmp_path / "*.png"), number=10)


def test_proof_images_can_be_files(tmp_path):
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((4, 5 + index, 3), index, np.uint8))
    run = run_on(OTHER_CLASSES, "")
    source, images = proof_images.from_files(run, str(tmp_path / "*.png"), number=3)
    assert source == f"3 images of {tmp_path}/*.png"
    assert [image.name for image in images] == ["0.png", "2.png", "4.png"]
    assert [image.image.shape for image in images] == [(4, 5, 3), (4, 7, 3), (4, 9, 3)]
    assert all(image.label is None for image in images)
    with pytest.raises(UserError, match="--proof_images=none.*: no file matches"):
        proof_images.from_files(run, "none/*.jpg", number=3)


def test_calibration_without_images_says_what_to_give(tmp_path):
    run = run_on(OTHER_CLASSES, tmp_path / "lost")
    with pytest.raises(UserError, match="--data_dir.*--calibration_images"):
        proof_images.calibration_images(run, None, None, number=3)
    with pytest.raises(UserError, match="no file matches"):
        proof_images.calibration_images(run, None, str(tmp_path / "*.jpg"), number=3)


def test_a_large_image_is_shrunk_and_padded_into_a_fixed_size():
    image, label = drawing.draw("test", 0)
    example = proof_images.ProofImage("it", image, label.astype(np.int32))
    fitter = ImageFitter((127.5, 100.0, 90.2), size=(65, 97))
    fitted = proof_images.fitted(example, fitter, ignore_label=255)
    height, width = fitter.fit(image[np.newaxis])[1].seen_size
    assert height == 65 and 1 < width < 97
    assert fitted.image.shape == (65, 97, 3) and fitted.image.dtype == np.uint8
    assert fitted.label.shape == (65, 97) and fitted.label.dtype == np.int32
    resized = transforms.resize_bilinear(image[np.newaxis], [height, width])[0]
    np.testing.assert_allclose(fitted.image[:height, :width], resized, atol=0.51)
    assert (fitted.image[:, width:] == (128, 100, 90)).all()
    assert (fitted.label[:, width:] == 255).all()
    assert set(np.unique(fitted.label)) <= set(np.unique(label))


def test_a_small_image_is_padded_and_never_enlarged():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    fitter = ImageFitter((127.5,) * 3, size=(6, 6))
    fitted = proof_images.fitted(proof_images.ProofImage("it", image, None), fitter, 255)
    np.testing.assert_array_equal(fitted.image[:4, :5], image)
    assert (fitted.image[4:] == 128).all() and fitted.label is None
    assert fitted.seen_size == (4, 5)


def test_a_size_that_shrinks_images_is_warned_of(capsys):
    images = [
        proof_images.ProofImage("", np.zeros((*size, 3), np.uint8), None)
        for size in ((60, 90), (50, 97))
    ]
    proof_images.warn_if_shrunk(images, (65, 97), 16, "input_size")
    assert capsys.readouterr().err == ""
    proof_images.warn_if_shrunk(images, (65, 81), 16, "input_size")
    warning = capsys.readouterr().err
    assert "60x97 (height, width) are shrunk to 65x81; --input_size=65,97" in warning
