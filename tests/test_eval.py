"""Evaluation of a run and of its export."""

import json
import subprocess
import sys

import numpy as np
import pytest

from deeplab_tf import eval as evaluation
from deeplab_tf import inference
from deeplab_tf import input_pipeline
from deeplab_tf import run_dir as run_dirs
from deeplab_tf.errors import UserError
from deeplab_tf.export import savedmodel


def test_metrics_equal_a_slow_independent_count(tiny_run_dir, tiny_records):
    run = run_dirs.read(tiny_run_dir)
    label_of = inference.label_function(run_dirs.load_model(run), run.model_config, run.data_config)
    intersection, union = np.zeros(7), np.zeros(7)
    for example in input_pipeline.evaluation_examples(tiny_records, "val").as_numpy_iterator():
        label, prediction = example["label"], label_of(example["image"])
        for class_id in range(7):
            labelled, predicted = label == class_id, (prediction == class_id) & (label != 255)
            intersection[class_id] += (labelled & predicted).sum()
            union[class_id] += (labelled | predicted).sum()
    result = evaluation.evaluate_run(tiny_run_dir)
    for class_id, name in enumerate(tiny_records.info.class_names):
        expected = intersection[class_id] / union[class_id] if union[class_id] else None
        assert result["iou_per_class"][name] == pytest.approx(expected)
    assert result["miou"] == pytest.approx((intersection / union)[union > 0].mean())
    assert result["num_pictures"] == 4


def test_perfect_labels_have_miou_1_with_ignored_borders(tiny_records):
    truths = {
        example["image"].tobytes(): example["label"]
        for example in input_pipeline.evaluation_examples(tiny_records, "val").as_numpy_iterator()
    }

    def label_of(image):
        return np.where(truths[image.tobytes()] == 255, 3, truths[image.tobytes()])

    result = evaluation.evaluate(label_of, tiny_records, "val")
    assert result["miou"] == 1.0 and result["pixel_accuracy"] == 1.0


def test_an_exported_model_is_measured_like_the_run(tiny_run_dir, tmp_path):
    savedmodel.export_savedmodel(tiny_run_dir, str(tmp_path / "export"))
    run = evaluation.evaluate_run(tiny_run_dir)
    export = evaluation.evaluate_run(tiny_run_dir, artefact=str(tmp_path / "export"))
    assert export["miou"] == pytest.approx(run["miou"], abs=1e-4)


def test_the_command_prints_the_metrics_and_writes_them(tiny_run_dir):
    result = subprocess.run(
        [sys.executable, "-m", "deeplab_tf.eval", f"--run_dir={tiny_run_dir}"],
        capture_output=True,
        text=True,
        check=True,
    )
    with open(f"{tiny_run_dir}/metrics.json", encoding="utf-8") as file:
        metrics = json.load(file)
    assert f"miou            {metrics['miou']:.4f}" in result.stdout
    assert set(metrics) >= {"miou", "pixel_accuracy", "iou_per_class", "split", "records"}


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"split": "test"}, "no split 'test'.*train, val"),
        ({"checkpoint": "newest"}, "newest.*last, best"),
        ({"artefact": "/no/such/export"}, "/no/such/export"),
        ({"data_dir": "/no/such/records"}, "/no/such/records"),
    ],
)
def test_a_wrong_argument_is_one_message(tiny_run_dir, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        evaluation.evaluate_run(tiny_run_dir, **arguments)


def test_a_folder_that_is_no_run_dir_is_named(tmp_path):
    with pytest.raises(UserError, match="no flags.txt"):
        evaluation.evaluate_run(str(tmp_path))


def test_a_damaged_checkpoint_is_named(tiny_run_dir, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(tiny_run_dir, copy)
    (data,) = (copy / "best").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match="best/ckpt-2 cannot be restored"):
        evaluation.evaluate_run(str(copy))
