"""Prediction on pictures of all kinds: what is written, and what is said when they are bad."""

import keras
import numpy as np
import pytest
from PIL import Image

from deeplab_tf import inference
from deeplab_tf import predict
from deeplab_tf import run_dir
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError

STRIDE_16 = ModelConfig(output_stride=16)


def drawn_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bright_pixel_model(calls: list) -> keras.Model:
    """Finds class 1 in bright pixels; notes the shape of every picture that Python sees."""

    class BrightPixels(keras.Model):
        def call(self, pictures, training=False):
            calls.append(tuple(pictures.shape))
            grey = keras.ops.mean(keras.ops.cast(pictures, "float32"), axis=-1)
            return keras.ops.stack([127.5 - grey, grey - 127.5], axis=-1)

    return BrightPixels()


def test_labels_have_the_size_of_the_picture_and_overlays_show_them(tiny_run_dir, tmp_path):
    for name, size in {"small": (49, 70), "large": (130, 101)}.items():
        Image.fromarray(drawn_picture(*size)).save(tmp_path / f"{name}.png")
    output_dir = tmp_path / "predictions"
    written = predict.predict(tiny_run_dir, str(tmp_path / "*.png"), str(output_dir))

    assert written == [str(output_dir / "large.png"), str(output_dir / "small.png")]
    run = run_dir.read(tiny_run_dir)
    model = run_dir.load_model(run)
    for path, size in zip(written, [(130, 101), (49, 70)]):
        with Image.open(path) as picture:
            assert picture.mode == "P"
            colors = list(np.ravel(run.dataset.colors))
            assert picture.getpalette()[: len(colors)] == colors
            label = np.asarray(picture)
        logits = inference.predict_logits(
            model, drawn_picture(*size)[np.newaxis], run.model_config, run.data_config
        )
        agreement = np.mean(label == np.argmax(logits, axis=-1)[0])
        assert label.shape == size and agreement > 0.999  # ties may round either way
    with Image.open(output_dir / "large_overlay.png") as picture:
        assert picture.height > 130  # a legend follows
    assert len(list(output_dir.iterdir())) == 5  # with the overview


def test_broken_pictures_are_named_after_all_others_are_done(tiny_run_dir, tmp_path, capsys):
    Image.fromarray(drawn_picture(64, 64)).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)2 of 3 pictures.*cut\.jpg: .*empty\.png: "):
        predict.predict(tiny_run_dir, str(tmp_path), str(tmp_path / "out"))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["good.png", "good_overlay.png", "overview.png"]
    assert "3 of 3" in capsys.readouterr().out


def test_a_label_never_overwrites_a_picture(tiny_run_dir, tmp_path):
    Image.fromarray(drawn_picture(32, 32)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UserError, match="would be overwritten"):
        predict.predict(tiny_run_dir, str(tmp_path / "a.png"), str(tmp_path))
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("images", ["nowhere/*.jpg", "nowhere/a.jpg", "."])
def test_no_picture_is_an_error_that_names_the_flag(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="--images="):
        predict.find_pictures(images)


@pytest.mark.parametrize(
    "paths, names",
    [
        (["in/a.jpg", "in/b.jpg"], ["a", "b"]),
        (["in/a.jpg", "in/a.png"], ["a_jpg", "a_png"]),
        (["in/a.jpg", "in/A.jpg"], ["a_jpg", "A_jpg_"]),
        (["in/x/a.jpg", "in/y/a.jpg"], ["x_a_jpg", "y_a_jpg"]),
        (["in/a.jpg", "in/a_overlay.jpg"], ["a", "a_overlay_"]),
    ],
)
def test_output_names_never_meet(paths, names):
    assert predict.output_names(paths) == names


def test_pictures_of_every_kind_become_rgb(tmp_path):
    grey = drawn_picture(8, 9)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    color = drawn_picture(8, 9)
    alpha = np.full((8, 9, 1), 128, np.uint8)
    Image.fromarray(np.concatenate([color, alpha], axis=-1)).save(tmp_path / "alpha.png")
    Image.fromarray(color).save(tmp_path / "color.bmp")
    Image.fromarray(color).save(tmp_path / "color.webp", lossless=True)
    for name in ("grey.png", "grey16.png"):
        expected = np.repeat(grey[..., np.newaxis], 3, axis=-1)
        np.testing.assert_array_equal(predict.read_picture(str(tmp_path / name)), expected)
    for name in ("alpha.png", "color.bmp", "color.webp"):
        np.testing.assert_array_equal(predict.read_picture(str(tmp_path / name)), color)


def test_exif_rotation_is_applied(tmp_path):
    picture = Image.fromarray(drawn_picture(8, 16))
    exif = picture.getexif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    picture.save(tmp_path / "turned.png", exif=exif)
    expected = np.rot90(drawn_picture(8, 16), k=-1)
    np.testing.assert_array_equal(predict.read_picture(str(tmp_path / "turned.png")), expected)


def test_the_model_is_traced_once_for_all_sizes():
    calls = []
    label_of = inference.label_function(bright_pixel_model(calls), STRIDE_16, DataConfig())
    for size in ((8, 9), (30, 20), (5, 40)):
        picture = drawn_picture(*size)
        label = label_of(picture)
        np.testing.assert_array_equal(label, picture.mean(axis=-1) > 127.5)
        assert label.dtype == np.int32
    assert calls == [(1, None, None, 3)]


@pytest.mark.parametrize(
    "size, padded, backbone, pad_pixel",
    [
        ((97, 33), (97, 33), "mobilenet_v2", 127.5),
        ((96, 34), (97, 49), "mobilenet_v2", 127.5),
        ((96, 34), (97, 49), "resnet_v1_50", (123.15, 115.90, 103.06)),
    ],
)
def test_the_network_sees_mean_pixels_up_to_a_multiple_of_the_output_stride_plus_1(
    size, padded, backbone, pad_pixel
):
    seen = []
    model_config = ModelConfig(backbone=backbone, output_stride=16)

    def model(pictures, training):
        seen.append(pictures[0].numpy())
        return pictures

    picture = drawn_picture(*size)
    logits = inference.predict_logits(model, picture[np.newaxis], model_config, DataConfig())
    np.testing.assert_allclose(logits[0], picture, atol=1e-4)
    assert seen[0].shape[:2] == padded
    np.testing.assert_allclose(seen[0][: size[0], : size[1]], picture, atol=1e-4)
    for padding in (seen[0][size[0] :], seen[0][:, size[1] :]):
        np.testing.assert_allclose(padding, np.broadcast_to(pad_pixel, padding.shape), rtol=1e-6)


def test_pictures_resized_to_a_range_get_labels_at_their_own_size():
    sizes = []
    model = bright_pixel_model(sizes)
    picture = np.zeros((310, 200, 3), np.uint8)
    picture[:, 120:] = 255
    data_config = DataConfig(min_resize_value=33, max_resize_value=65, resize_factor=8)
    logits = inference.predict_logits(model, picture[np.newaxis], STRIDE_16, data_config)
    assert sizes == [(1, 65, 33, 3)]  # 51 x 33, to multiples of 8 plus 1, then of 16 plus 1
    assert logits.shape == (1, 310, 200, 2)
    label = inference.label_function(model, STRIDE_16, data_config)(picture)
    assert label[:, :115].max() == 0 and label[:, 125:].min() == 1
