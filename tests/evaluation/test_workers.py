"""Evaluation by several processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from conftest import REPOSITORY
from deeplab_tf import supervise
from deeplab_tf.evaluation.evaluate import evaluate
from deeplab_tf.evaluation.evaluate import on_each_device
from deeplab_tf.evaluation.inference import BEST_CHECKPOINT
from deeplab_tf.runs import distribution
from deeplab_tf.runs import run_dir as run_dirs


def find_labels(image: np.ndarray) -> np.ndarray:
    return (image[..., 0] > 127).astype(np.int32)


WORKER = """
import json, sys

import numpy as np

from deeplab_tf.runs import distribution

distribution.get_strategy("auto")
from deeplab_tf.data import records
from deeplab_tf.evaluation.evaluate import evaluate

numbers = []
result = evaluate(
    lambda image: (image[..., 0] > 127).astype(np.int32),
    records.find_records(sys.argv[1]),
    "train",
    on_image=lambda example, *_: numbers.append(int(example["number"])),
)
texts = distribution.texts_of_all_workers("é" * (3 + 100 * distribution.worker_index()))
print(json.dumps([numbers, result["confusion_matrix"].tolist(), [len(text) for text in texts]]))
"""


@pytest.mark.usefixtures("short_network")
def test_two_devices_count_what_one_does(tiny_run_dir, tiny_records):
    run = run_dirs.read(tiny_run_dir)
    one, two = (
        evaluate(
            on_each_device(lambda: BEST_CHECKPOINT.label_function(run), strategy),
            tiny_records,
            "val",
        )
        for strategy in map(distribution.get_strategy, ("one_device", "mirrored"))
    )
    np.testing.assert_array_equal(two["confusion_matrix"], one["confusion_matrix"])
    assert np.count_nonzero(one["confusion_matrix"].sum(axis=0)) > 0


def test_two_processes_count_what_one_does_to_the_last_pixel(tiny_records):
    ports = supervise._ports(2, 0)
    processes = []
    for index in range(2):
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        task = {"type": "worker", "index": index}
        environment = os.environ | {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": task}),
            "PYTHONPATH": str(REPOSITORY),
        }
        command = [sys.executable, "-c", WORKER, tiny_records.folder]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    expected = evaluate(find_labels, tiny_records, "train")
    for index, process in enumerate(processes):
        numbers, matrix, lengths = json.loads(process.communicate(timeout=600)[0])
        assert numbers == list(range(4 * index, 4 * index + 4))
        assert matrix == expected["confusion_matrix"].tolist()
        assert lengths == [3, 103]
