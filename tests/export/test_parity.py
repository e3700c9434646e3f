"""How closely an artefact computes what its Keras model does."""

import dataclasses
import json
import time

import numpy as np
import pytest

from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.export import parity
from deeplab_tf.export.proof_images import ProofImage

DATASET = records.numbered_classes("invented", 3)
LIMITS = parity.Limits(min_label_agreement=0.999, max_relative_difference=0.01, max_miou_drop=0.01)


def row(*label: int) -> ProofImage:
    """An image of one row whose pixels are its label."""
    label = np.array([label], np.int32)
    return ProofImage("it", np.repeat(label[..., np.newaxis], 3, axis=-1).astype(np.uint8), label)


def keras_scores(image: np.ndarray) -> np.ndarray:
    """Logits of 10 for the label that the pixels tell; 0 for the ignore label."""
    return 10 * (image[..., :1] == np.arange(3)).astype(np.float32)


def faithful(image: np.ndarray) -> parity.Answer:
    scores = keras_scores(image)
    return parity.Answer(scores.argmax(axis=-1), scores)


def always_zero(image: np.ndarray) -> parity.Answer:
    return parity.Answer(np.zeros(image.shape[:2], np.int32))


def measured(artefact, images, path=__file__) -> parity.Parity:
    return parity.measure(images, keras_scores, artefact, DATASET, str(path), {})


def test_an_equal_artefact_passes_every_limit():
    result = measured(faithful, [row(0, 1, 2), row(1, 1), row(2, 2)])
    assert (result.num_images, result.shapes) == (3, ((1, 3), (1, 2)))
    assert (result.label_agreement, result.num_classes_predicted) == (1, 3)
    assert (result.largest_logit, result.largest_logit_difference) == (10, 0)
    assert (result.miou_keras, result.miou_artefact) == (1, 1)
    parity.enforce(result, LIMITS, "model")


def test_counts_are_summed_over_images_before_they_are_divided():
    result = measured(always_zero, [row(0, 0, 0, 255), row(0, 1, 1)])
    # Class 0: 4 of 6 pixels; class 1: 0 of 2. The mean over images would be another.
    assert result.miou_artefact == pytest.approx((4 / 6 + 0) / 2)
    assert result.miou_keras == 1
    assert result.label_agreement == pytest.approx(5 / 7)


def test_padding_does_not_count_as_equal_labels():
    image = dataclasses.replace(row(0, 1, 0, 0, 0, 2), seen_size=(1, 2))
    result = measured(always_zero, [image])
    assert (result.label_agreement, result.num_classes_predicted) == (0.5, 2)


def test_images_without_labels_have_no_miou():
    unlabelled = dataclasses.replace(row(0, 1, 2), label=None)
    result = measured(faithful, [unlabelled])
    assert result.miou_keras is None and result.miou_artefact is None
    parity.enforce(result, LIMITS, "model")
    with pytest.raises(UserError, match="model is not written.*33.333% of the labels agree"):
        parity.enforce(measured(always_zero, [unlabelled]), LIMITS, "model")


def test_a_miou_drop_names_its_flag():
    result = measured(always_zero, [row(0, 1)])
    with pytest.raises(UserError, match="drops by 0.7500, from 1.0000 .*--max_miou_drop=0.01"):
        parity.enforce(result, LIMITS, "model")
    parity.enforce(result, parity.Limits(0.5, None, max_miou_drop=0.75), "model")


@pytest.mark.parametrize("wrong", [10.5, np.nan])
def test_scores_that_differ_are_refused_even_where_labels_agree(wrong):
    def close(image):
        answer = faithful(image)
        return parity.Answer(answer.labels, np.where(answer.scores == 10, wrong, 0))

    result = measured(close, [row(0, 1, 2), row(0, 0)])
    assert result.label_agreement == 1
    with pytest.raises(UserError, match="scores differ|scores are not finite"):
        parity.enforce(result, LIMITS, "model")
    labels_only = dataclasses.replace(LIMITS, max_relative_difference=None)
    if np.isfinite(wrong):
        parity.enforce(result, labels_only, "model")
    else:
        with pytest.raises(UserError, match="scores are not finite"):
            parity.enforce(result, labels_only, "model")


def test_logits_of_the_model_that_are_not_finite_are_refused():
    def diverged(image):
        return np.full((*image.shape[:2], 3), np.nan, np.float32)

    result = parity.measure([row(0, 1), row(0, 0)], diverged, always_zero, DATASET, __file__, {})
    assert result.label_agreement == 1
    with pytest.raises(UserError, match="not finite.*diverged"):
        parity.enforce(result, LIMITS, "model")


def test_labels_of_a_single_class_have_a_warning():
    result = measured(faithful, [row(1, 1, 1)])
    parity.enforce(result, LIMITS, "model")
    assert "only one class was predicted" in result.warning
    figures = json.loads(json.dumps(parity.to_json(result, {"quantize": "int8"})))
    assert "proves little" in figures["warning"]
    assert figures["quantize"] == "int8" and figures["label_agreement"] == 1
    assert "warning" not in parity.to_json(measured(faithful, [row(0, 1)]), {})


def test_only_warm_calls_are_timed():
    seen = set()

    def slow_at_first(image):
        if image.shape not in seen:
            seen.add(image.shape)
            time.sleep(0.3)
        time.sleep(0.01)
        return faithful(image)

    result = measured(slow_at_first, [row(0, 1), row(0, 1, 2), row(2, 2, 2, 2)])
    assert 10 <= result.milliseconds_artefact < 300
    assert result.milliseconds_keras < 10


def test_the_size_is_that_of_the_file_or_of_all_files_in_the_folder(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(bytes(10))
    (tmp_path / "variables/data").write_bytes(bytes(32))
    assert measured(faithful, [row(0, 1)], tmp_path).size_bytes == 42
    assert measured(faithful, [row(0, 1)], tmp_path / "saved_model.pb").size_bytes == 10
    assert "100.00% of the labels agree on 1 images" in measured(faithful, [row(1)]).summary
