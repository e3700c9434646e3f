"""`.tflite` files: proved, gated, and read back as `eval` reads them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from conftest import REPOSITORY
from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from conftest import write_run_as_if_trained
from deeplab_tf import eval
from deeplab_tf.config import DataConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import artefacts
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.export import litert
from deeplab_tf.export import mobile_operators
from deeplab_tf.export import parity
from deeplab_tf.export import proof_images
from deeplab_tf.export.config import CalibrationConfig
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.config import TFLiteProofConfig
from deeplab_tf.export.formats import tflite
from deeplab_tf.runs import run_dir as run_dirs

NO_FILES = CalibrationConfig(calibration_images="none/*.jpg")
NO_RECORDS = TFLiteProofConfig(data_dir="none")
ANY_MIOU = TFLiteProofConfig(max_miou_drop=1.0)
SIZE = (49, 65)  # multiples of the output stride 16 plus 1

# An export as the command makes it, up to its proof.
BLOCKED_EXPORT = """
import sys, time
from conftest import short_mobilenet_v2
from deeplab_tf.export import parity
from deeplab_tf.export.formats import tflite

def wait(*_):
    print("proving", flush=True)
    time.sleep(600)

parity.measure = wait
with short_mobilenet_v2():
    tflite.export_tflite(*sys.argv[1:])
"""


@pytest.fixture(scope="module", autouse=True)
def short_models():
    with short_mobilenet_v2():
        yield


@pytest.fixture(scope="module")
def run_dir(tiny_records, tmp_path_factory) -> str:
    """A run dir with weights as if from training: no statistic is what it began as."""
    folder = str(tmp_path_factory.mktemp("run"))
    model_config = dataclasses.replace(
        TINY_MODEL, num_classes=tiny_records.info.num_classes, output_stride=16, atrous_rates=(2,)
    )
    data_config = DataConfig(data_dir=tiny_records.folder, train_crop_size=SIZE)
    write_run_as_if_trained(folder, model_config, data_config, tiny_records.info)
    return folder


def keras_labels(run_dir: str, image: np.ndarray) -> np.ndarray:
    run = run_dirs.read(run_dir)
    model = run_dirs.load_model(run)
    return prediction.label_function(model, run.model_config, run.data_config)(image)


@pytest.fixture(scope="module")
def float_labels(run_dir, tmp_path_factory):
    """An export in a folder that was not there before."""
    output = tmp_path_factory.mktemp("export") / "new" / "model.tflite"
    tflite.export_tflite(run_dir, str(output))
    return output


def test_a_file_in_float32_labels_as_the_keras_model(run_dir, float_labels):
    assert sorted(path.name for path in float_labels.parent.iterdir()) == [
        "model.parity.json",
        "model.tflite",
    ]
    image = parity.draw_images((1, *SIZE, 3), seed=3)[0]
    run = run_dirs.read(run_dir)
    label_of = artefacts.load_artefact(str(float_labels), run.model_config, run.data_config)
    expected = keras_labels(run_dir, image)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(label_of(image), expected)


def test_its_parity_file_says_what_it_was_proved_with(float_labels):
    report = json.loads(float_labels.with_name("model.parity.json").read_text())
    assert report["artefact"] == "model.tflite"  # as model.onnx has figures of this name too
    assert report["label_agreement"] > 0.999 and report["miou_artefact"] is not None
    assert report["num_images"] == 4 and report["input_size"] == list(SIZE)
    assert report["pad_pixel"] == [127.5] * 3
    assert "'val'" in report["images"]
    assert report["size_bytes"] == float_labels.stat().st_size
    assert report["ops"]["DEPTHWISE_CONV_2D"] > 0
    assert list(report["outside_gpu_delegate"]) == ["ARG_MAX"]


def test_eval_takes_the_file(run_dir, float_labels):
    report = json.loads(float_labels.with_name("model.parity.json").read_text())
    metrics = eval.evaluate_run(run_dir, inference=Inference(model=str(float_labels)))
    # Of the same four images, at their own size rather than fitted into the file's.
    assert metrics["miou"] == pytest.approx(report["miou_artefact"], abs=0.05)


def test_all_operators_of_float16_scores_run_on_the_gpu_delegate(run_dir, tmp_path):
    output = tmp_path / "model.tflite"
    config = TFLiteConfig(quantize="float16", result="scores")
    figures, (gpu_note,) = tflite.export_tflite(run_dir, str(output), tflite_config=config)
    assert figures.largest_logit_difference < 0.1 * figures.largest_logit
    assert "All operators are on" in gpu_note
    assert "AVERAGE_POOL_2D" in figures.ops and "MEAN" not in figures.ops
    assert mobile_operators.outside_gpu_delegate(litert.operators(output.read_bytes())) == {}


def test_coarse_labels_in_8_bits_agree(run_dir, tmp_path):
    output = tmp_path / "model.tflite"
    config = TFLiteConfig(quantize="int8", result_stride=16, input_size=(33, 33))
    figures, _ = tflite.export_tflite(
        run_dir, str(output), tflite_config=config, proof_config=ANY_MIOU
    )
    report = json.loads((tmp_path / "model.parity.json").read_text())
    # As sure as the labels of every 16th pixel, but not those of the pixels between.
    cost = report["against_labels_of_all_pixels"]
    assert cost["label_agreement"] < figures.label_agreement
    assert figures.label_agreement > 0.95 and figures.num_classes_predicted > 1
    content = output.read_bytes()
    assert not any(operator.has_floats for operator in litert.operators(content))
    takes, returns = tensors(content)
    assert takes["dtype"] == np.uint8 and takes["quantization"] == (1.0, 0)  # that is, pixels
    assert returns["dtype"] == np.int32 and returns["shape"].tolist() == [1, 3, 3]


def tensors(content: bytes) -> list[dict]:
    """What the interpreter says of a file's input and output."""
    interpreter = Interpreter(model_content=content)
    return [*interpreter.get_input_details(), *interpreter.get_output_details()]


def converted(function, shape=(1, 9, 9, 3), quantize="none") -> bytes:
    module = tf.Module()
    spec = tf.TensorSpec(shape, tf.float32)
    module.function = tf.function(function, input_signature=[spec], autograph=False)
    images = [np.full(shape[1:], value, np.uint8) for value in (3, 200)]
    return litert.convert(
        module.function.get_concrete_function(), module, quantize, calibration_images=images
    )


def test_litert_quantizer_takes_and_returns_uint8():
    pytest.importorskip("litert_quantizer", reason="needs the package litert-quantizer")
    random = np.random.default_rng(0)
    kernel = random.normal(size=[3, 3, 3, 8]).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([1, 9, 9, 3], tf.float32, name=litert.INPUT)])
    def score(image):
        return {"scores": tf.nn.relu(tf.nn.conv2d(image / 255, kernel, 1, "SAME"))}

    images = [random.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in range(4)]
    content = litert.convert(score.get_concrete_function(), tf.Module(), "none")
    content = litert.quantize(content, images)
    takes, returns = tensors(content)
    assert takes["dtype"] == returns["dtype"] == np.uint8
    assert takes["quantization"] == (1.0, 0)  # that is, pixels
    assert not any(operator.has_floats for operator in litert.operators(content))
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(takes["index"], images[1][np.newaxis])
    interpreter.invoke()
    step, zero = returns["quantization"]
    scores = step * (interpreter.get_tensor(returns["index"]).astype(np.float32) - zero)
    expected = score(images[1][np.newaxis].astype(np.float32))["scores"]
    np.testing.assert_allclose(scores, expected, atol=0.03 * np.max(expected))


@pytest.mark.parametrize("settings", [{}, {"quantize": "int8"}, {"result": "scores"}], ids=str)
def test_litert_quantizer_is_for_scores_in_int8(run_dir, tmp_path, settings):
    config = TFLiteConfig(quantizer="litert", **settings)
    with pytest.raises(UserError, match="--quantizer=litert needs --quantize=int8 and --result=s"):
        tflite.export_tflite(run_dir, str(tmp_path / "model.tflite"), tflite_config=config)


def test_weights_take_half_or_a_quarter_and_8_bits_go_in_and_out():
    kernel = np.random.default_rng(0).normal(size=[9, 9, 3, 64]).astype(np.float32)
    classifier = lambda images: tf.nn.conv2d(images, kernel, 1, "SAME")
    for quantize, bytes_a_weight, dtype in (
        ("none", 4, np.float32),
        ("float16", 2, np.float32),
        ("dynamic", 1, np.float32),
        ("int8", 1, np.uint8),
    ):
        content = converted(classifier, quantize=quantize)
        assert len(content) == pytest.approx(bytes_a_weight * kernel.size, rel=0.4)
        assert [tensor["dtype"] for tensor in tensors(content)] == [dtype, dtype]


def dilated(images):
    kernel = tf.ones([3, 3, 3, 3])
    return tf.nn.depthwise_conv2d(images, kernel, [1] * 4, "SAME", dilations=[2, 2], name="wide")


@pytest.mark.parametrize(
    "function, shape, quantize, complaint",
    [
        (dilated, [None, 9, 9, 3], "none", "SPACE_TO_BATCH_ND in the layer .*wide"),
        (lambda x: tf.image.adjust_hue(x, 0.1), [1, 9, 9, 3], "none", "FlexAdjustHue in the layer"),
        (lambda x: tf.math.digamma(x), [1, 9, 9, 3], "none", "Digamma in .* not one of TensorFlow"),
        (lambda x: tf.sin(x + 1), [1, 9, 9, 3], "int8", "in floating point in an 8-bit"),
    ],
    ids=["taken_apart", "flex", "custom", "float_island"],
)
def test_what_is_slow_or_missing_on_a_phone_is_refused(function, shape, quantize, complaint):
    with pytest.raises(UserError, match=complaint):
        mobile_operators.refuse_slow_or_missing(
            litert.operators(converted(function, shape, quantize)), quantize
        )


def test_the_same_convolution_passes_at_a_fixed_size():
    operators = litert.operators(converted(dilated))
    assert [operator.name for operator in operators] == ["DEPTHWISE_CONV_2D"]
    mobile_operators.refuse_slow_or_missing(operators, "none")


def test_the_gpu_sentence_names_operators_and_layers():
    content = converted(lambda images: tf.argmax(images, -1, tf.int32))
    outside = mobile_operators.outside_gpu_delegate(litert.operators(content))
    assert list(outside) == ["ARG_MAX"]
    assert "ARG_MAX in " in mobile_operators.gpu_sentence(outside)


@pytest.mark.parametrize(
    "crop, given, expected",
    [
        ((513, 513), (), (513, 513)),
        ((512, 500), (), (513, 513)),
        ((5, 5), (), (17, 17)),
        ((513, 513), (369, 481), (369, 481)),
        ((513, 513), (513, 500), "513,497 and 513,513"),
        ((513, 513), (360, 480), "353,465 and 369,481"),
    ],
)
def test_an_input_size_is_a_multiple_of_the_output_stride_plus_1(run_dir, crop, given, expected):
    run = run_dirs.read(run_dir)
    run = dataclasses.replace(run, data_config=DataConfig(train_crop_size=crop))
    config = TFLiteConfig(input_size=given)
    if isinstance(expected, tuple):
        assert tflite.fixed_input_size(run, config) == expected
    else:
        with pytest.raises(UserError, match=f"does not fit.*{expected}"):
            tflite.fixed_input_size(run, config)


@pytest.mark.parametrize(
    "resizing, expected",
    [
        ({}, (97, 129)),
        ({"min_resize_value": 194}, (194, 258)),
        ({"min_resize_value": 194, "max_resize_value": 200}, (150, 200)),
        ({"min_resize_value": 64}, (97, 129)),
    ],
)
def test_an_export_takes_images_as_large_as_they_are_resized_for_training(resizing, expected):
    assert DataConfig(train_crop_size=(97, 129), **resizing).exported_size == expected


def test_a_file_that_labels_differently_is_not_left_behind(run_dir, tmp_path, monkeypatch):
    wrong = converted(lambda images: tf.argmax(images, -1, tf.int32), (1, *SIZE, 3))
    monkeypatch.setattr(tflite, "convert", lambda *_: wrong)
    output = tmp_path / "model.tflite"
    output.write_bytes(b"earlier")
    with pytest.raises(UserError, match="does not compute what the Keras model does"):
        tflite.export_tflite(run_dir, str(output), proof_config=ANY_MIOU)
    assert output.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]


def test_an_export_that_is_killed_leaves_nothing_after_the_next_start(
    run_dir, tmp_path, monkeypatch
):
    output = tmp_path / "model.tflite"
    path = os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY)])
    export = subprocess.Popen(
        [sys.executable, "-c", BLOCKED_EXPORT, run_dir, str(output)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "proving\n" in iter(export.stdout.readline, "")
    export.kill()
    assert export.wait() == -signal.SIGKILL
    export.stdout.close()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".new_") and (left / "model.tflite").stat().st_size > 1000

    def stop(*_):
        raise UserError("has begun")

    monkeypatch.setattr(proof_images, "from_records_or_drawn", stop)
    with pytest.raises(UserError, match="has begun"):
        tflite.export_tflite(run_dir, str(output))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "output, settings, complaint",
    [
        ("model.onnx", {}, "ends in .tflite"),
        ("a_file/model.tflite", {}, "cannot be written: .*a_file is not a folder"),
        (
            "model.tflite",
            {"calibration_config": NO_FILES},
            "none/.*no file matches",
        ),
        ("model.tflite", {"proof_config": TFLiteProofConfig(data_dir="none")}, "none"),
    ],
)
def test_impossible_requests_are_refused_before_any_work(
    run_dir, tmp_path, monkeypatch, output, settings, complaint
):
    monkeypatch.setattr(run_dirs, "load_model", lambda *_: pytest.fail("has begun to work"))
    (tmp_path / "a_file").write_text("")
    config = TFLiteConfig(quantize="int8")
    with pytest.raises(UserError, match=complaint):
        tflite.export_tflite(run_dir, str(tmp_path / output), tflite_config=config, **settings)


def test_calibration_images_without_8_bits_are_refused(run_dir, tmp_path):
    with pytest.raises(UserError, match="--calibration_images needs --quantize=int8"):
        tflite.export_tflite(run_dir, str(tmp_path / "m.tflite"), calibration_config=NO_FILES)


@pytest.mark.parametrize(
    "setting, complaint",
    [
        ({"quantize": "int4"}, "--quantize=int4 must be none, float16, dynamic or int8"),
        ({"result": "masks"}, "--result=masks"),
        ({"input_size": (513,)}, "--input_size=513 must be 2 whole numbers"),
    ],
)
def test_unknown_settings_are_refused(setting, complaint):
    with pytest.raises(UserError, match=complaint):
        TFLiteConfig(**setting)


def test_notes_say_what_of_a_run_is_not_in_the_file(run_dir, tmp_path):
    run = run_dirs.read(run_dir)
    assert tflite.left_out(run) == []
    data_config = DataConfig(min_resize_value=33)
    run = dataclasses.replace(run, folder=str(tmp_path), data_config=data_config)
    (tmp_path / "crf.json").write_text("{}")
    resizing, refining = tflite.left_out(run)
    assert "--min_resize_value=33" in resizing and "--crf=tuned" in refining


def test_the_figures_say_when_the_model_itself_rounds_to_8_bits(run_dir):
    fine_tuning = TrainConfig(quantize_delay_step=0, tf_initial_checkpoint="run")
    run = dataclasses.replace(run_dirs.read(run_dir), train_config=fine_tuning)
    for quantize, computes in (("int8", "rounding to 8 bits"), ("float16", "in float32")):
        exporter = tflite._TFLiteExporter(run, TFLiteConfig(quantize=quantize), 0.01)
        assert computes in exporter.about()["reference"]


def test_a_result_stride_that_does_not_divide_the_output_stride_is_refused(run_dir):
    with pytest.raises(UserError, match="--result_stride=3.*can be 1, 2, 4, 8, 16"):
        tflite.fixed_input_size(run_dirs.read(run_dir), TFLiteConfig(result_stride=3))


def test_a_missing_interpreter_is_named_with_its_extra_before_any_work(tmp_path, without_package):
    without_package("ai_edge_litert")
    with pytest.raises(UserError, match=r"ai_edge_litert.*'deeplab_tf\[litert\]'"):
        tflite.export_tflite("no run", str(tmp_path / "model.tflite"))
