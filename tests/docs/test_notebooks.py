"""The notebooks of examples/ run, on less than they show."""

import runpy

import cv2
import numpy as np

from conftest import REPOSITORY
from conftest import short_mobilenet_v2


def run_notebook(name: str, folder, **replacements) -> dict:
    """Runs a notebook in a folder, with other values; returns its variables."""
    text = (REPOSITORY / "examples" / f"{name}.py").read_text(encoding="utf-8")
    for old, new in replacements.values():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return runpy.run_path(str(path))


def test_training_on_own_data_ends_with_labels_of_a_new_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with short_mobilenet_v2():
        variables = run_notebook(
            "train_on_own_data",
            tmp_path,
            images=("NUM_IMAGES = 60", "NUM_IMAGES = 8"),
            steps=(
                "NUM_STEPS = 300",
                "FEW = {'training_number_of_steps': 1, 'train_batch_size': 1}",
            ),
            training=("training_number_of_steps=NUM_STEPS", "batch_statistics_images=0, **FEW"),
            network=(
                'version="v3plus", backbone="mobilenet_v2"',
                'version="v3", atrous_rates=(), depth_multiplier=0.35, aspp_convs_filters=32',
            ),
        )
    assert variables["labels"].shape == variables["image"].shape[:2]
    assert cv2.imread("overlay.png").shape == variables["image"].shape


def test_labels_of_weights_by_name_are_refined_by_the_crf(
    tiny_run_dir, short_network, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    variables = run_notebook(
        "released_weights_and_crf",
        tmp_path,
        weights=('"mobilenetv2_dm05_coco_voc_trainaug"', repr(tiny_run_dir)),
    )
    assert variables["refined"].shape == variables["labels"].shape
    assert not np.array_equal(cv2.imread("labels.png"), cv2.imread("photo.jpg"))
