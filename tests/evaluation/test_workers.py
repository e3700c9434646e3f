"""Evaluation by several processes."""

import json
import os
import subprocess
import sys

import numpy as np

from conftest import REPOSITORY
from deeplab_tf import supervise
from deeplab_tf.evaluation.evaluate import evaluate


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
