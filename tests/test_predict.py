"""Prediction on images and videos: the files written, and the messages about bad ones."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from videos import draw_video
from videos import plain_frames
from videos import read_video

from conftest import REPOSITORY
from conftest import SIX_UNITS
from deeplab_tf import crf
from deeplab_tf import predict
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import image_files
from deeplab_tf.drawing import overlays
from deeplab_tf.drawing import panels
from deeplab_tf.drawing import predictions
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import artefacts
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.runs import run_dir

pytestmark = pytest.mark.usefixtures("short_network")

STRIDE_16 = ModelConfig(output_stride=16)


def drawn_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bright_pixel_model(calls: list) -> keras.Model:
    """Finds class 1 in bright pixels; notes the shape of every image that Python sees."""

    class BrightPixels(keras.layers.Layer):
        def call(self, images):
            calls.append(tuple(images.shape))
            grey = keras.ops.mean(keras.ops.cast(images, "float32"), axis=-1)
            return keras.ops.stack([127.5 - grey, grey - 127.5], axis=-1)

        def compute_output_shape(self, images_shape):
            return (*images_shape[:-1], 2)

    image = keras.Input([None, None, 3])
    return keras.Model(image, BrightPixels()(image))


def test_labels_have_the_size_of_the_image_and_overlays_show_them(tiny_run_dir, tmp_path):
    for name, size in {"small": (49, 70), "large": (130, 101)}.items():
        Image.fromarray(drawn_image(*size)).save(tmp_path / f"{name}.png")
    output_dir = tmp_path / "predictions"
    written = predict.predict(tiny_run_dir, str(tmp_path / "*.png"), str(output_dir))

    assert written == [str(output_dir / "large.png"), str(output_dir / "small.png")]
    run = run_dir.read(tiny_run_dir)
    model = run_dir.load_model(run)
    for path, size in zip(written, [(130, 101), (49, 70)]):
        with Image.open(path) as image:
            assert image.mode == "P"
            colors = list(np.ravel(run.dataset.colors))
            assert image.getpalette()[: len(colors)] == colors
            label = np.asarray(image)
        logits = prediction.predict_logits(
            model, drawn_image(*size)[np.newaxis], run.model_config, run.data_config
        )
        agreement = np.mean(label == np.argmax(logits, axis=-1)[0])
        assert label.shape == size and agreement > 0.999  # ties may round either way
    with Image.open(output_dir / "large_overlay.png") as image:
        assert image.height > 130  # a legend follows
    assert len(list(output_dir.iterdir())) == 5  # with the overview


def test_broken_images_are_named_after_all_others_are_labelled(tiny_run_dir, tmp_path, capsys):
    Image.fromarray(drawn_image(64, 64)).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)2 of 3 images.*cut\.jpg .*empty\.png "):
        predict.predict(tiny_run_dir, str(tmp_path), str(tmp_path / "out"))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["good.png", "good_overlay.png", "overview.png"]
    assert "3 of 3" in capsys.readouterr().out


def test_what_cannot_be_written_is_named_and_does_not_end_the_batch(
    tiny_run_dir, tmp_path, monkeypatch
):
    for name in ("a", "b", "c"):
        Image.fromarray(drawn_image(33, 33)).save(tmp_path / f"{name}.png")
    write = predictions.PredictionWriter.write

    def fail_at(name, error):
        def write_or_fail(writer, own_name, *details):
            if own_name == name:
                raise error
            return write(writer, own_name, *details)

        return write_or_fail

    full = OSError(errno.ENOSPC, "No space left on device")
    cases = {
        "b": (fail_at("b", full), r"1 of 3.*b\.png: the result cannot be written \(No space"),
        "c": (fail_at("c", MemoryError()), r"1 of 3.*c\.png: there is not enough memory.*--window"),
    }
    for name, (function, message) in cases.items():
        monkeypatch.setattr(predictions.PredictionWriter, "write", function)
        with pytest.raises(UserError, match=f"(?s){message}"):
            predict.predict(tiny_run_dir, str(tmp_path), str(tmp_path / name))
        assert len(list((tmp_path / name).glob("?.png"))) == 2
    monkeypatch.undo()
    with monkeypatch.context() as patch, pytest.raises(UserError, match="overview: the result"):
        patch.setattr(panels, "contact_sheet", lambda *_, **__: fail_at("", full)(None, ""))
        predict.predict(tiny_run_dir, str(tmp_path / "a.png"), str(tmp_path / "out"))
    assert (tmp_path / "out" / "a.png").exists()


def test_an_image_over_the_limit_is_refused_and_windows_raise_the_limit(
    tiny_run_dir, tmp_path, monkeypatch
):
    Image.new("RGB", (9000, 8000)).save(tmp_path / "large.png")
    Image.fromarray(drawn_image(33, 33)).save(tmp_path / "small.png")
    with pytest.raises(
        UserError, match=r"(?s)1 of 2.*large\.png has 9000x8000 pixels.*=72000000.*--window_size"
    ):
        predict.predict(tiny_run_dir, str(tmp_path), str(tmp_path / "out"))
    limits = []

    def read_image(path, *, max_pixels):
        limits.append(max_pixels)
        return drawn_image(33, 33)

    monkeypatch.setattr(image_files, "read_image", read_image)
    windows = Inference(eval_config=EvalConfig(window_size=(33, 33)))
    for predict_config in (predict.PredictConfig(), predict.PredictConfig(max_image_pixels=5)):
        predict.predict(
            tiny_run_dir,
            str(tmp_path / "small.png"),
            str(tmp_path / "out"),
            inference=windows,
            predict_config=predict_config,
        )
    assert limits == [image_files.MAX_WINDOWED_PIXELS, 5]


def test_a_killed_prediction_leaves_whole_files_and_the_next_cleans_up(tiny_run_dir, tmp_path):
    for number in range(4):
        Image.fromarray(drawn_image(33, 33)).save(tmp_path / f"{number}.png")
    output_dir = tmp_path / "out"
    # Python runs this first: it kills the process when the second image's label is to appear.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        f"from deeplab_tf.backbones import mobilenet_v2\nmobilenet_v2.BOTTLENECKS = {SIX_UNITS}\n"
        "replace = os.replace\n"
        "def replace_or_die(source, target):\n"
        "    if os.path.basename(target) == '1.png':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(source, target)\n"
        "os.replace = replace_or_die\n"
    )
    arguments = [f"--run_dir={tiny_run_dir}", f"--images={tmp_path}/?.png"]
    process = subprocess.run(
        [sys.executable, "-m", "deeplab_tf.predict", *arguments, f"--output_dir={output_dir}"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
    )
    assert process.returncode == -signal.SIGKILL
    assert list(output_dir.glob(".new_*"))
    left = sorted(path.name for path in output_dir.glob("*.png"))
    assert left == ["0.png", "0_overlay.png", "1_overlay.png"]
    for name in left:
        with Image.open(output_dir / name) as image:
            image.load()
    predict.predict(tiny_run_dir, f"{tmp_path}/?.png", str(output_dir))
    assert len(list(output_dir.glob("?.png"))) == 4 and not list(output_dir.glob(".new_*"))


def test_a_label_never_overwrites_an_image(tiny_run_dir, tmp_path):
    Image.fromarray(drawn_image(32, 32)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UserError, match="would be overwritten"):
        predict.predict(tiny_run_dir, str(tmp_path / "a.png"), str(tmp_path))
    assert (tmp_path / "a.png").read_bytes() == before


def test_the_model_is_traced_once_for_all_sizes():
    calls = []
    label_of = prediction.label_function(bright_pixel_model(calls), STRIDE_16, DataConfig())
    for size in ((8, 9), (30, 20), (5, 40)):
        image = drawn_image(*size)
        label = label_of(image)
        np.testing.assert_array_equal(label, image.mean(axis=-1) > 127.5)
        assert label.dtype == np.int32
    assert calls == [(None, None, None, 3)]


@pytest.mark.parametrize(
    "size, padded, backbone, pad_pixel",
    [
        ((97, 33), (97, 33), "mobilenet_v2", 127.5),
        ((96, 34), (97, 49), "mobilenet_v2", 127.5),
        ((96, 34), (97, 49), "resnet_v1_50", (123.15, 115.90, 103.06)),
    ],
)
def test_images_are_padded_with_mean_pixels_to_a_multiple_of_the_output_stride_plus_1(
    size, padded, backbone, pad_pixel
):
    seen = []
    model_config = ModelConfig(backbone=backbone, output_stride=16)

    def model(images, training):
        seen.append(images[0].numpy())
        return images

    image = drawn_image(*size)
    logits = prediction.predict_logits(model, image[np.newaxis], model_config, DataConfig())
    np.testing.assert_allclose(logits[0], image, atol=1e-4)
    assert seen[0].shape[:2] == padded
    np.testing.assert_allclose(seen[0][: size[0], : size[1]], image, atol=1e-4)
    for padding in (seen[0][size[0] :], seen[0][:, size[1] :]):
        np.testing.assert_allclose(padding, np.broadcast_to(pad_pixel, padding.shape), rtol=1e-6)


def test_images_resized_to_a_range_get_labels_at_their_own_size():
    sizes = []
    model = bright_pixel_model(sizes)
    image = np.zeros((310, 200, 3), np.uint8)
    image[:, 120:] = 255
    data_config = DataConfig(min_resize_value=33, max_resize_value=65, resize_factor=8)
    logits = prediction.predict_logits(model, image[np.newaxis], STRIDE_16, data_config)
    assert sizes == [(1, 65, 33, 3)]  # 51 x 33, to multiples of 8 plus 1, then of 16 plus 1
    assert logits.shape == (1, 310, 200, 2)
    label = prediction.label_function(model, STRIDE_16, data_config)(image)
    assert label[:, :115].max() == 0 and label[:, 125:].min() == 1


@pytest.fixture(scope="module")
def everything(tiny_run_dir, tmp_path_factory) -> pathlib.Path:
    """The folder of all that can be written for an image, behind a CRF."""
    folder = tmp_path_factory.mktemp("everything")
    Image.fromarray(drawn_image(40, 50)).save(folder / "berlin_0_leftImg8bit.png")
    class_names = run_dir.read(tiny_run_dir).dataset.class_names
    lines = [f"{name}: {200 - class_id}" for class_id, name in enumerate(class_names)]
    (folder / "server.txt").write_text("# ours: theirs\n\n" + "\n".join(lines))
    predict.predict(
        tiny_run_dir,
        str(folder / "*.png"),
        str(folder / "out"),
        inference=Inference(crf_config=CrfConfig(crf="v1")),
        predict_config=predict.PredictConfig(
            save_confidence=True, save_probabilities=True, label_ids=str(folder / "server.txt")
        ),
    )
    return folder / "out"


def test_confidence_and_probabilities_are_those_of_the_labels(tiny_run_dir, everything):
    image = drawn_image(40, 50)
    run = run_dir.read(tiny_run_dir)
    logits = prediction.predict_logits(
        run_dir.load_model(run), image[np.newaxis], run.model_config, run.data_config
    )
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))[0]
    expected = crf.dense_crf(image, probabilities, **crf.PRESETS["v1"])
    written = np.load(everything / "berlin_0_leftImg8bit_probabilities.npy")
    assert written.dtype == np.float16
    np.testing.assert_allclose(written, expected, atol=2e-3)
    with Image.open(everything / "berlin_0_leftImg8bit_confidence.png") as confidence:
        assert confidence.mode == "L"
        np.testing.assert_allclose(np.asarray(confidence), 255 * expected.max(-1), atol=1)
    with Image.open(everything / "berlin_0_leftImg8bit.png") as label:
        chosen = np.take_along_axis(expected, np.asarray(label)[..., np.newaxis], axis=-1)
    np.testing.assert_allclose(chosen[..., 0], expected.max(axis=-1), atol=1e-4)


def test_the_folder_for_a_test_server_holds_only_grey_images_of_its_ids(everything):
    (server_path,) = (everything / "label_ids").iterdir()
    assert server_path.name == "berlin_0_leftImg8bit.png"
    with Image.open(everything / server_path.name) as label:
        expected = 200 - np.asarray(label)
    with Image.open(server_path) as server_label:
        assert server_label.mode == "L"
        np.testing.assert_array_equal(np.asarray(server_label), expected)


def test_views_of_the_network_are_passed_on(tiny_run_dir, tmp_path, monkeypatch):
    inference = Inference(eval_config=EvalConfig(eval_scales=(0.5, 1.0), add_flipped_images=True))
    seen = []

    def label_function(model, model_config, data_config, *, eval_config, **further):
        seen.append(eval_config)
        return lambda image: np.zeros(image.shape[:2], np.int32)

    monkeypatch.setattr(prediction, "label_function", label_function)
    Image.fromarray(drawn_image(9, 11)).save(tmp_path / "a.png")
    predict.predict(
        tiny_run_dir, str(tmp_path / "a.png"), str(tmp_path / "out"), inference=inference
    )
    assert seen == [inference.eval_config]


def test_an_artefact_takes_the_place_of_the_checkpoint(tiny_run_dir, tmp_path, monkeypatch):
    image, class_id = drawn_image(9, 11), 3

    def load_artefact(path, model_config, data_config, *, eval_config, **further):
        assert (path, model_config.num_classes) == ("model.tflite", 7)
        return lambda image: np.full(image.shape[:2], class_id, np.int32)

    monkeypatch.setattr(artefacts, "load_artefact", load_artefact)
    monkeypatch.setattr(run_dir, "load_model", None)
    Image.fromarray(image).save(tmp_path / "a.png")
    arguments = (tiny_run_dir, str(tmp_path / "a.png"), str(tmp_path / "out"))
    inference = Inference(model="model.tflite")
    (written,) = predict.predict(*arguments, inference=inference)
    with Image.open(written) as label:
        assert np.all(np.asarray(label) == class_id) and label.size == (11, 9)
    with pytest.raises(UserError, match="model.tflite gives labels.*--save_confidence"):
        predict.predict(
            *arguments,
            predict_config=predict.PredictConfig(save_confidence=True),
            inference=inference,
        )
    class_id = 7  # of another run
    with pytest.raises(UserError, match="finds class 7, but the run .* has 7 classes"):
        predict.predict(*arguments, inference=inference)


def test_a_video_becomes_a_video_of_overlays_and_a_broken_one_is_skipped(
    tiny_run_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(run_dir, "load_model", lambda run, checkpoint: bright_pixel_model([]))
    frames = plain_frames(5)
    draw_video(tmp_path / "clip.mp4", frames)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:300])
    with pytest.raises(UserError, match=r"1 of 2 .*\n  .*cut\.mp4 is not a video"):
        predict.predict(
            tiny_run_dir,
            str(tmp_path),
            str(tmp_path / "out"),
            predict_config=predict.PredictConfig(every_nth_frame=2),
        )
    assert "3 frames labelled" in capsys.readouterr().out
    names = sorted(path.stem for path in (tmp_path / "out").iterdir())
    assert names == ["clip_overlay", "overview"]
    (path,) = (tmp_path / "out").glob("clip_overlay.*")
    frames_per_second, written = read_video(str(path))
    assert frames_per_second == 5
    assert len(written) == 3 and written[0].shape == (50, 64, 3)  # codecs need even sides
    colors = run_dir.read(tiny_run_dir).dataset.colors
    for overlay, frame, class_id in zip(written, frames[::2], (0, 0, 1)):
        expected = overlays.overlay(frame, np.full((49, 64), class_id), colors)
        np.testing.assert_allclose(overlay.mean((0, 1)), expected.mean((0, 1)), atol=9)


def test_a_missing_camera_ends_the_command(tiny_run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(run_dir, "load_model", lambda run, checkpoint: bright_pixel_model([]))
    with pytest.raises(UserError, match="^--images=97: no frame can be read from camera 97"):
        predict.predict(tiny_run_dir, "97", str(tmp_path))
