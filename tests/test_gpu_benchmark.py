"""benchmarks/gpu.py runs on Keras' JAX backend where TensorFlow is not installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

import conftest

if importlib.util.find_spec("jax") is None:
    pytest.skip("needs jax, which is not installed", allow_module_level=True)

WITHOUT_TENSORFLOW = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
sys.path.insert(0, "benchmarks")
import gpu  # sets the backend
from deeplab_tf.backbones import mobilenet_v2
mobilenet_v2.BOTTLENECKS = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 1, 2))  # to stride 8
gpu.ATROUS_MAPS = ((7, 4, (3,)),)  # not a multiple of the rate
gpu.main()
"""

ENVIRONMENT = {
    "PYTHONPATH": str(conftest.REPOSITORY),
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling takes most of the time
}


@pytest.fixture(scope="module")
def tables() -> list[list[list[str]]]:
    """The cells of the two tables that the script prints on a CPU."""
    flags = "--backbones=mobilenet_v2 --size=33 --batch_size=1 --dtypes=bfloat16 --seconds=0.01"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *flags.split()],
        cwd=conftest.REPOSITORY,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    head, *printed = done.stdout.strip().split("\n\n")
    assert head.startswith("cpu (cpu), 2")
    return [[line.strip("| ").split(" | ") for line in table.splitlines()[2:]] for table in printed]


def test_each_network_has_times_and_rates_for_inference_and_training(tables):
    ((backbone, dtype, *figures),) = tables[0]
    assert (backbone, dtype) == ("mobilenet_v2", "bfloat16")
    forward_ms, forward_rate, _, training_ms, training_rate, *_ = map(float, figures)
    assert forward_rate == pytest.approx(1000 / forward_ms, rel=0.05)
    assert training_rate == pytest.approx(1000 / training_ms, rel=0.05)
    assert training_ms > forward_ms


def test_both_forms_of_atrous_convolution_are_timed_once_their_results_agree(tables):
    names = [row[0] for row in tables[1]]
    assert names == [
        "dense 7x7x4, rate 3",
        "depthwise 7x7x4, rate 3",
    ]
    for *_, dilated, by_phases, ratio in tables[1]:
        assert float(ratio) == pytest.approx(float(by_phases) / float(dilated), rel=0.1)
