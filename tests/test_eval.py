"""Evaluation of a run, and of exports of it."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from conftest import REPOSITORY
from conftest import SIX_UNITS
from deeplab_tf.config import EvalConfig
from deeplab_tf.data import input_pipeline
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import run_evaluation as evaluation
from deeplab_tf.evaluation import tally
from deeplab_tf.evaluation.evaluate import print_metrics
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.evaluation.prediction import BatchFunction
from deeplab_tf.evaluation.prediction import label_function
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs

pytestmark = pytest.mark.usefixtures("short_network")


@pytest.fixture(scope="module")
def predictions(tiny_run_dir, tiny_records) -> list[tuple[dict, np.ndarray]]:
    """Every example, with the labels that the run predicts for it."""
    run = run_dirs.read(tiny_run_dir)
    label_of = label_function(run_dirs.load_model(run), run.model_config, run.data_config)
    examples = input_pipeline.evaluation_examples(tiny_records, "val").as_numpy_iterator()
    return [(example, label_of(example["image"])) for example in examples]


def test_metrics_equal_a_slow_independent_count(tiny_run_dir, tiny_records, predictions):
    intersection, union = np.zeros(7), np.zeros(7)
    for example, prediction in predictions:
        label = example["label"]
        for class_id in range(7):
            labelled, predicted = label == class_id, (prediction == class_id) & (label != 255)
            intersection[class_id] += (labelled & predicted).sum()
            union[class_id] += (labelled | predicted).sum()
    result = evaluation.evaluate_run(tiny_run_dir)
    for class_id, name in enumerate(tiny_records.info.class_names):
        expected = intersection[class_id] / union[class_id] if union[class_id] else None
        assert result["iou_per_class"][name] == pytest.approx(expected)
    assert result["miou"] == pytest.approx((intersection / union)[union > 0].mean())
    assert result["num_images"] == 4


def test_perfect_labels_have_an_miou_of_1_with_ignored_borders(tiny_records):
    truths = {
        example["image"].tobytes(): example["label"]
        for example in input_pipeline.evaluation_examples(tiny_records, "val").as_numpy_iterator()
    }

    def label_of(image):
        return np.where(truths[image.tobytes()] == 255, 3, truths[image.tobytes()])

    result = evaluation.evaluate(label_of, tiny_records, "val")
    assert result["miou"] == 1.0 and result["pixel_accuracy"] == 1.0


def test_compiling_the_network_does_not_count_as_its_speed(tiny_records):
    seconds = iter([2.0, 0.0, 0.0, 0.0])

    def label_of(image):
        time.sleep(next(seconds))
        return np.zeros(image.shape[:2], np.int32)

    result = evaluation.evaluate(label_of, tiny_records, "val")
    assert result["images_per_second"] > 4 / 2.0


def test_images_of_one_size_are_labelled_together_in_their_order(tiny_records, predictions):
    calls, labels = [], {example["image"].tobytes(): label for example, label in predictions}

    def of_batch(images):
        calls.append(images.shape)
        return np.stack([labels[image.tobytes()] for image in images])

    seen = []
    evaluation.evaluate(
        BatchFunction(of_batch),
        tiny_records,
        "val",
        on_image=lambda example, label, _: seen.append((example["name"], label)),
    )
    assert [name for name, _ in seen] == [example["name"] for example, _ in predictions]
    for (_, got), (_, expected) in zip(seen, predictions, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert sum(number for number, *_ in calls) == 4
    runs = itertools.groupby(example["image"].shape for example, _ in predictions)
    assert len(calls) == len(list(runs))


def test_an_evaluation_that_was_killed_resumes_and_counts_every_image_once(
    tiny_run_dir, tmp_path, monkeypatch, capfd
):
    shutil.copytree(tiny_run_dir, tmp_path / "run")
    measures = evaluation.Measures(trimap_width=2, boundary_iou=True)
    seen = []

    def evaluate(kill_at=None, split="val"):
        def see(counter, example, *others):
            if len(seen) == kill_at:
                raise KeyboardInterrupt
            seen.append(int(example["number"]))
            return whole_see(counter, example, *others)

        monkeypatch.setattr(evaluation._Counter, "see", see)
        data = evaluation.Data(split=split)
        result = evaluation.evaluate_run(str(tmp_path / "run"), data=data, measures=measures)
        volatile = ("images_per_second", "peak_memory_mib")
        lines = (tmp_path / "run/images.jsonl").read_text()
        return {name: result[name] for name in result if name not in volatile}, lines

    whole_see = evaluation._Counter.see
    whole = evaluate()
    seen.clear()
    monkeypatch.setattr(tally, "_SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(KeyboardInterrupt):
        evaluate(kill_at=3)
    assert evaluate() == whole
    assert "resumes an interrupted evaluation after 3 images" in capfd.readouterr().out
    assert seen == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        evaluate(kill_at=6)
    seen.clear()
    assert evaluate(split="train")[0]["num_images"] == 8  # of other settings: from the beginning
    assert len(seen) == 8
    assert evaluate() == whole  # and without harm to what is left of the first
    assert len(seen) == 10 and not (tmp_path / "run/evaluation").exists()


def test_evaluations_at_the_same_time_count_apart_or_are_refused(tmp_path):
    first, second = (tally.Journal(tmp_path, {"crf": crf}) for crf in ("v1", "v2"))
    for number in range(3):
        first.add({"number": number})
        second.add({"number": 10 + number})
    assert [line["number"] for line in first.lines_of_all_workers()] == [0, 1, 2]
    assert [line["number"] for line in second.lines_of_all_workers()] == [10, 11, 12]
    with pytest.raises(UserError, match="same settings.*wait"):
        tally.Journal(tmp_path, {"crf": "v1"})
    first.remove()
    second.remove()
    assert not tmp_path.exists()


def test_workers_and_devices_share_the_images_and_count_each_once(tiny_records, monkeypatch):
    def label_of(image):
        return (image[..., 0] > 127).astype(np.int32)

    whole = evaluation.evaluate(label_of, tiny_records, "train")
    texts = []

    def join(text):  # the last worker has what all have counted
        texts.append(text)
        return texts

    numbers = []
    monkeypatch.setattr(distribution, "num_workers", lambda: 3)
    monkeypatch.setattr(distribution, "texts_of_all_workers", join)
    for index in range(3):
        monkeypatch.setattr(distribution, "worker_index", lambda index=index: index)
        result = evaluation.evaluate(
            [label_of, label_of],
            tiny_records,
            "train",
            on_image=lambda example, *_: numbers.append(int(example["number"])),
        )
    assert numbers == list(range(8))
    np.testing.assert_array_equal(result["confusion_matrix"], whole["confusion_matrix"])
    assert result["num_images"] == 8 and result["miou"] == whole["miou"]


def test_a_model_of_more_classes_than_the_records_is_refused(tiny_records):
    with pytest.raises(UserError, match="finds class 7, but the records .* 7 classes"):
        evaluation.evaluate(lambda image: np.full(image.shape[:2], 7), tiny_records, "val")


def damage(records_folder: pathlib.Path, num_records: int) -> None:
    """Changes a byte in the last record of some validation shards, each of two records."""
    shards = sorted(records_folder.rglob("*val*.tfrecord*"))
    for shard in shards[:num_records]:
        content = bytearray(shard.read_bytes())
        content[-100] ^= 0xFF
        shard.write_bytes(content)


def test_damaged_records_are_left_out_counted_and_named(
    tiny_run_dir, tiny_records, tmp_path, capfd
):
    shutil.copytree(tiny_run_dir, tmp_path / "run")
    shutil.copytree(tiny_records.folder, tmp_path / "records")
    damage(tmp_path / "records", 1)
    data = evaluation.Data(data_dir=str(tmp_path / "records"))
    report_path = tmp_path / "report.html"
    result = evaluation.evaluate_run(str(tmp_path / "run"), data=data, report=str(report_path))
    assert (result["num_images"], result["num_damaged"]) == (3, 1)
    ((name, problem),) = result["damaged_records"].items()
    assert f"record {name} is left out: {problem}" in capfd.readouterr().err
    print_metrics(result)
    assert "damaged records left out: 1" in capfd.readouterr().out
    assert "Damaged records left out: 1 (" in report_path.read_text(encoding="utf-8")
    with pytest.raises(UserError, match="1 of 4 records are damaged.*--max_damaged_share"):
        stricter = dataclasses.replace(data, max_damaged_share=0.0)
        evaluation.evaluate_run(str(tmp_path / "run"), data=stricter)


@pytest.mark.parametrize("content", [b"", b"doubled", b"cut"])
def test_shards_that_do_not_hold_what_they_should_are_refused(
    tiny_run_dir, tiny_records, tmp_path, content
):
    shutil.copytree(tiny_records.folder, tmp_path / "records")
    shard = min((tmp_path / "records").rglob("*val*.tfrecord*"))
    whole = shard.read_bytes()
    shard.write_bytes({b"doubled": 2 * whole, b"cut": whole[:-30]}.get(content, content))
    with pytest.raises(UserError, match=shard.name):
        evaluation.evaluate_run(
            tiny_run_dir, data=evaluation.Data(data_dir=str(tmp_path / "records"))
        )


@pytest.mark.parametrize(
    "counted, note",
    [
        ((), "no pixel is counted"),
        (((2, 2),), "of one class only: labels and predictions hold nothing but class_2"),
        (((2, 2), (2, 0)), "of one class only: labels hold nothing but class_2"),
        (((2, 0),), "of one class only: labels hold nothing but class_2"),
    ],
)
def test_an_miou_of_nothing_says_so(capsys, counted, note):
    matrix = np.zeros((3, 3), int)
    for label, prediction in counted:
        matrix[label, prediction] = 5
    figures = metrics.segmentation_metrics(matrix, ("class_0", "class_1", "class_2"))
    assert re.search(note, figures["note"])
    print_metrics(figures)
    assert re.search(rf"miou +\d\.\d{{4}}  \({note}", capsys.readouterr().out)
    matrix[0, 1] = matrix[1, 1] = 1
    full = metrics.segmentation_metrics(matrix, ("class_0", "class_1", "class_2"))
    assert full["note"] is None


@pytest.fixture(scope="module")
def evaluated(tiny_run_dir, tmp_path_factory):
    """A run dir after an evaluation of everything, its result, and its report."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run_dir, folder)
    report = folder / "pages" / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "orig_argv", ["python", "-m", "deeplab_tf.eval", "--run_dir=a run"])
        result = evaluation.evaluate_run(
            str(folder),
            measures=evaluation.Measures(trimap_width=40, boundary_iou=True),
            report=str(report),
        )
    return folder, result, report


def test_all_that_is_measured_is_in_the_run_dir_as_json(evaluated, tiny_records, predictions):
    folder, result, _ = evaluated
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(result))
    assert not list(folder.glob("*.new"))
    trimap, boundaries = metrics.Trimap(40, 7, 255), metrics.BoundaryIou(7, 255)
    matrix = np.zeros((7, 7), int)
    for example, prediction in predictions:
        trimap.add(example["label"], prediction)
        boundaries.add(example["label"], prediction)
        matrix += metrics.confusion_matrix(example["label"], prediction, 7, 255)
    assert result["trimap"] == trimap.result() and result["trimap"]["widths"][-1] == 40
    expected = boundaries.result(tiny_records.info.class_names)
    assert {name: result[name] for name in expected} == expected
    assert result["confusion_matrix"] == matrix.tolist()
    assert result["peak_memory_mib"] > 100 and result["images_per_second"] > 0
    assert result["command"] == "python -m deeplab_tf.eval '--run_dir=a run'"


def test_every_image_has_its_line(evaluated, tiny_records, predictions):
    folder, result, _ = evaluated
    lines = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    names = [example["name"].decode() for example, _ in predictions]
    assert [line["name"] for line in lines] == names
    assert sum(line["num_pixels"] for line in lines) == result["num_pixels"]
    for line, (example, prediction) in zip(lines, predictions):
        counts = example["label"] != 255
        ious = {}
        for class_id, name in enumerate(tiny_records.info.class_names):
            labelled, predicted = example["label"] == class_id, counts & (prediction == class_id)
            if (labelled | predicted).any():
                ious[name] = (labelled & predicted).sum() / (labelled | predicted).sum()
        assert line["iou_per_class"] == pytest.approx(ious)
        assert line["miou"] == pytest.approx(np.mean(list(ious.values())))
        right = (example["label"] == prediction)[counts].mean()
        assert line["pixel_accuracy"] == pytest.approx(right)
        assert 0 <= line["boundary_iou"] <= 1


def test_a_report_shows_the_images_and_compares_with_another_run(evaluated, tmp_path):
    folder, result, report = evaluated
    page = report.read_text(encoding="utf-8")
    for name in ("val_0", "val_3", f"{100 * result['miou']:.2f}"):
        assert name in page
    # Half of the four are the worst.
    assert page.split("<h3>The best</h3>")[0].count("<article") == page.count("<article") / 2 == 2
    with pytest.raises(UserError, match="has no evaluation.*deeplab_tf.eval"):
        evaluation.evaluate_run(str(folder), report=str(tmp_path / "a"), compare=str(tmp_path))
    with pytest.raises(UserError, match="--compare needs --report"):
        evaluation.evaluate_run(str(folder), compare=str(folder))
    changed = json.loads((folder / "metrics.json").read_text()) | {"iou_per_class": {"cat": 1.0}}
    shutil.copytree(folder, tmp_path / "cats")
    (tmp_path / "cats" / "metrics.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="evaluated on other classes"):  # before work is done
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_dirs, "load_model", None)
            evaluation.evaluate_run(
                str(folder), report=str(tmp_path / "a"), compare=str(tmp_path / "cats")
            )
    other, compared = tmp_path / "other", tmp_path / "compared.html"
    shutil.copytree(folder, other)
    mirrored = evaluation.evaluate_run(
        str(other),
        inference=Inference(eval_config=EvalConfig(add_flipped_images=True)),
        report=str(compared),
        compare=str(folder),
    )
    assert 'id="comparison"' in compared.read_text(encoding="utf-8")
    assert 'id="comparison"' not in page
    assert mirrored["add_flipped_images"]
    assert mirrored["confusion_matrix"] != result["confusion_matrix"]


def test_memory_does_not_grow_with_the_number_of_images(tiny_run_dir, tmp_path, monkeypatch):
    """All is measured and a report is made; images are arrays of NumPy, which are counted."""
    shutil.copytree(tiny_run_dir, tmp_path / "run")
    rng = np.random.default_rng(0)
    shape = (300, 400)

    class Examples:
        def __init__(self, number):
            self.number = number

        def as_numpy_iterator(self):
            for index in range(self.number):
                yield {
                    "name": b"%d" % index,
                    "number": np.int64(index % 4),
                    "image": rng.integers(0, 256, (*shape, 3), np.uint8),
                    "label": rng.integers(0, 7, shape, np.int32),
                }

    def peak(number):
        monkeypatch.setattr(
            input_pipeline, "evaluation_examples", lambda *_, **__: Examples(number)
        )
        tracemalloc.start()
        evaluation.evaluate_run(
            str(tmp_path / "run"),
            measures=evaluation.Measures(trimap_width=2, boundary_iou=True),
            report=str(tmp_path / "report.html"),
        )
        _, result = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return result

    label_of = lambda image: np.zeros(shape, np.int32)
    monkeypatch.setattr(Inference, "label_function", lambda *_: label_of)
    for name in ("_NUM_WORST", "_NUM_BEST"):
        monkeypatch.setattr(evaluation, name, 1)
    few, many = peak(3), peak(13)
    # Far less than a byte for every further pixel.
    assert many - few < 10 * np.prod(shape) / 4


@pytest.mark.parametrize(
    "num_images, expected_worst, expected_best",
    [(0, [], []), (1, [0], []), (3, [0, 1], [2]), (5, [0, 1, 2], [4, 3]), (9, [0, 1, 2], [8, 7])],
)
def test_no_image_is_among_the_worst_and_the_best(num_images, expected_worst, expected_best):
    worst, best = metrics.WorstImages(3), metrics.BestImages(2)
    for right in range(num_images):
        for images in (worst, best):
            images.add(np.array([[right, 10 - right], [0, 0]]), right)
    shown = metrics.divided(worst, best)
    assert [[image for _, image in group] for group in shown] == [expected_worst, expected_best]


class Brightness(tf.Module):
    """Served as an export is: class 3 where an image is bright."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False)
    def serve(self, images):
        is_bright = tf.reduce_mean(tf.cast(images, tf.float32), axis=-1) > 127.5
        return {"labels": tf.where(is_bright, tf.constant(3, tf.uint8), 0)}


def test_an_artefact_is_measured_in_place_of_the_checkpoint(tiny_run_dir, tiny_records, tmp_path):
    module, path = Brightness(), str(tmp_path / "export")
    tf.saved_model.save(module, path, signatures={"serving_default": module.serve})
    expected = evaluation.evaluate(
        lambda image: np.where(image.mean(axis=-1) > 127.5, 3, 0), tiny_records, "val"
    )
    result = evaluation.evaluate_run(tiny_run_dir, inference=Inference(model=path))
    assert result["model"] == path
    assert result["confusion_matrix"] == expected["confusion_matrix"].tolist()


def test_the_command_prints_the_metrics_and_writes_them(tiny_run_dir, tmp_path):
    # Python runs this first.
    (tmp_path / "sitecustomize.py").write_text(
        f"from deeplab_tf.backbones import mobilenet_v2\nmobilenet_v2.BOTTLENECKS = {SIX_UNITS}\n"
    )
    result = subprocess.run(
        [
            *(sys.executable, "-m", "deeplab_tf.eval", f"--run_dir={tiny_run_dir}"),
            *("--trimap_width=3", "--boundary_iou", "--eval_scales=1,1"),
        ],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=True,
    )
    with open(f"{tiny_run_dir}/metrics.json", encoding="utf-8") as file:
        written = json.load(file)
    assert f"miou            {written['miou']:.4f}" in result.stdout
    assert f"trimap 3        {written['trimap']['miou'][2]:.4f}" in result.stdout
    assert written["command"].endswith("--boundary_iou --eval_scales=1,1")
    assert written["eval_scales"] == [1, 1] and written["boundary_iou"] is not None
    assert set(written) >= {"miou", "pixel_accuracy", "iou_per_class", "split", "records"}


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"data": evaluation.Data(split="test")}, "no split 'test'.*train, val"),
        ({"inference": Inference(checkpoint="newest")}, "newest.*last, best"),
        ({"inference": Inference(model="/no/such/export")}, "/no/such/export"),
        ({"data": evaluation.Data(data_dir="/no/such/records")}, "/no/such/records"),
    ],
)
def test_a_wrong_argument_is_one_message(tiny_run_dir, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        evaluation.evaluate_run(tiny_run_dir, **arguments)


def test_a_folder_that_is_not_a_run_dir_is_named(tmp_path):
    with pytest.raises(UserError, match="no flags.txt"):
        evaluation.evaluate_run(str(tmp_path))


def test_a_damaged_checkpoint_is_named(tiny_run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(tiny_run_dir, copy)
    (data,) = (copy / "best").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match="best/ckpt-2 is damaged"):
        evaluation.evaluate_run(str(copy))
