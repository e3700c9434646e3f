"""The CRF of a run: its search, and its use in eval and predict."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from deeplab_tf import crf
from deeplab_tf import eval as evaluation
from deeplab_tf import predict
from deeplab_tf import tune_crf
from deeplab_tf.config import CrfConfig
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import prediction
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.runs import run_dir as run_dirs

pytestmark = pytest.mark.usefixtures("short_network")


@pytest.fixture(scope="module")
def tuned_run_dir(tiny_run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(tiny_run_dir, folder)
    found = tune_crf.tune_crf(str(folder), num_images=4)
    assert json.loads((folder / "crf.json").read_text()) == json.loads(json.dumps(found))
    return str(folder)


def test_tuning_finds_parameters_as_good_as_those_it_starts_from(tuned_run_dir):
    with open(f"{tuned_run_dir}/crf.json", encoding="utf-8") as file:
        found = json.load(file)
    without, tuned, v1 = (
        evaluation.evaluate_run(tuned_run_dir, inference=inference)["miou"]
        for inference in (
            Inference(),
            Inference(crf_config=CrfConfig(crf="tuned")),
            Inference(crf_config=CrfConfig(crf="v1")),
        )
    )
    assert found["miou_without_crf"] == pytest.approx(without, abs=1e-6)
    assert found["miou"] == pytest.approx(tuned, abs=1e-6)
    assert found["miou"] >= v1 - 1e-6
    assert (found["num_images"], found["split"]) == (4, "val")


def test_eval_uses_the_requested_crf(tuned_run_dir):
    result = evaluation.evaluate_run(
        tuned_run_dir, inference=Inference(crf_config=CrfConfig(crf="v2"))
    )
    assert result["crf"] == crf.PRESETS["v2"]
    changed = CrfConfig(crf="tuned", crf_iterations=0)
    without = evaluation.evaluate_run(tuned_run_dir)
    unchanged = evaluation.evaluate_run(tuned_run_dir, inference=Inference(crf_config=changed))
    assert without["crf"] is None and unchanged["crf"]["iterations"] == 0
    # Without an update, the probabilities of the network stay.
    assert unchanged["miou"] == pytest.approx(without["miou"], abs=1e-6)


def test_predict_writes_the_labels_of_the_refined_probabilities(tuned_run_dir, tmp_path):
    image, _ = drawing.draw("test", 3)
    Image.fromarray(image).save(tmp_path / "image.png")
    config = CrfConfig(crf="v1", crf_bilateral_weight=2.0, crf_iterations=3)
    (path,) = predict.predict(
        tuned_run_dir,
        str(tmp_path / "image.png"),
        str(tmp_path / "out"),
        inference=Inference(crf_config=config),
    )
    run = run_dirs.read(tuned_run_dir)
    model = run_dirs.load_model(run)
    probabilities_of = prediction.probability_function(model, run.model_config, run.data_config)
    parameters = crf.PRESETS["v1"] | {"bilateral_weight": 2.0, "iterations": 3}
    refined = crf.dense_crf(image, probabilities_of(image), **parameters)
    with Image.open(path) as label:
        np.testing.assert_array_equal(np.asarray(label), refined.argmax(axis=-1))


def test_an_unknown_crf_is_refused_with_the_names_of_those_that_exist(tiny_run_dir):
    with pytest.raises(UserError, match="v1, v2, tuned or empty"):
        run_dirs.crf_parameters(tiny_run_dir, CrfConfig(crf="v3"))
    with pytest.raises(UserError, match="tune_crf"):
        run_dirs.crf_parameters(tiny_run_dir, CrfConfig(crf="tuned"))
    with pytest.raises(UserError, match="--crf_iterations needs a CRF"):
        CrfConfig(crf_iterations=5)
    with pytest.raises(UserError, match="--preset=v3"):
        tune_crf.tune_crf(tiny_run_dir, preset="v3")
    with pytest.raises(UserError, match="--num_images=0"):
        tune_crf.tune_crf(tiny_run_dir, num_images=0)
