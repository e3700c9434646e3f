"""Time and memory of one image, by model, size, inference mode and artefact.

    python benchmarks/inference.py           # everything; more than an hour on 2 idle cores
    python benchmarks/inference.py --quick   # MobileNetV2 at 513x513, a few minutes
    python benchmarks/inference.py --cases='v3plus, 513x513, (whole|flip)'

Every case runs in a process of its own, so that its peak of resident memory is its own; TensorFlow
and the loading of the model are part of it. Weights are random, which changes neither time nor
memory. Times are medians of runs after the first two, which trace and warm up. `ratio` is the time
over that of the Keras model on the whole image, of the same model and size in the same run. On a
GPU, the peak of its memory is printed too.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

MODELS: dict[str, dict] = {
    "mobilenet_v2 v3": {"version": "v3", "backbone": "mobilenet_v2", "atrous_rates": ()},
    "mobilenet_v2 v3plus": {"version": "v3plus", "backbone": "mobilenet_v2"},
    "resnet_v1_50_beta v3plus": {"version": "v3plus", "backbone": "resnet_v1_50_beta"},
    "xception_65 v3plus": {"version": "v3plus", "backbone": "xception_65"},
}
SIZES = ("513x513", "1024x2048")  # height, width
QUICK_CASES = "mobilenet_v2 .*, 513x513"
NUM_CLASSES = 21
WHOLE = "whole"
MODES: dict[str, dict] = {
    WHOLE: {},
    "flip": {"add_flipped_images": True},
    "multi-scale": {"eval_scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)},
    "sliding window": {"window_size": (513, 513)},
    "output stride 8": {"eval_output_stride": 8},
}
ARTEFACTS = {  # and the files that they are written to; they see the whole image
    "SavedModel": "export",
    ".keras": "model.keras",
    ".tflite": "model.tflite",
}
MIN_RUNS = 3
MAX_RUNS = 20
SECONDS_PER_CASE = 10.0


def case_names() -> list[str]:
    """Returns all cases, as `MODEL, SIZE, MODE` or `MODEL, SIZE, ARTEFACT`."""
    return [
        f"{model}, {size}, {mode}"
        for model in MODELS
        for size in SIZES
        for mode in (*MODES, *ARTEFACTS)
    ]


def make_run(model_name: str, run_dir: str) -> None:
    """Writes a run dir with random weights."""
    from deeplab_tf import build_model
    from deeplab_tf.config import DataConfig
    from deeplab_tf.config import ModelConfig
    from deeplab_tf.config import TrainConfig
    from deeplab_tf.data import records
    from deeplab_tf.runs import checkpoints
    from deeplab_tf.runs import run_dir as run_dirs

    config = ModelConfig(**MODELS[model_name])
    dataset = records.numbered_classes("benchmark", NUM_CLASSES)
    run = run_dirs.create(run_dir, config, DataConfig(), TrainConfig(), dataset)
    model = build_model(**dataclasses.asdict(run.model_config))
    checkpoints.save_weights(model, run_dir)


def make_artefact(artefact: str, run_dir: str, path: str, size: tuple[int, int]) -> None:
    """Exports a run to an artefact."""
    from deeplab_tf.export.config import LABELS_IN_FLOAT32
    from deeplab_tf.export.formats import savedmodel
    from deeplab_tf.export.formats import tflite
    from deeplab_tf.runs import run_dir as run_dirs

    if artefact == "SavedModel":
        savedmodel.export_savedmodel(run_dir, path)
        return
    model = run_dirs.load_model(run_dirs.read(run_dir))
    if artefact == ".keras":
        model.save(path)
        return
    pathlib.Path(path).write_bytes(tflite.convert(model, LABELS_IN_FLOAT32, size))


def measure(mode: str, run_dir: str, artefact_path: str, size: tuple[int, int]) -> dict:
    """Returns the time of a case, and the peak memory of this process in MiB."""
    import tensorflow as tf

    from deeplab_tf.config import EvalConfig
    from deeplab_tf.evaluation import artefacts
    from deeplab_tf.evaluation import prediction
    from deeplab_tf.runs import run_dir as run_dirs

    run = run_dirs.read(run_dir)
    settings = (run.model_config, run.data_config)
    if mode in MODES:
        model, eval_config = run_dirs.load_model(run), EvalConfig(**MODES[mode])
        label_of = prediction.label_function(model, *settings, eval_config=eval_config)
    else:
        label_of = artefacts.load_artefact(artefact_path, *settings)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for _ in range(2):
        label_of(image)
    seconds, start = [], time.perf_counter()
    while len(seconds) < MIN_RUNS or (
        len(seconds) < MAX_RUNS and time.perf_counter() - start < SECONDS_PER_CASE
    ):
        before = time.perf_counter()
        label_of(image)
        seconds.append(time.perf_counter() - before)
    result = {"ms": 1000 * statistics.median(seconds), "runs": len(seconds), "peak": peak_memory()}
    if tf.config.list_physical_devices("GPU"):
        result["gpu_peak"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] // 2**20
    return result


def peak_memory() -> int:
    """Returns the peak of this process' resident memory in MiB, TensorFlow's own included."""
    # Not getrusage: a child's figure begins with its parent's.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


def in_own_process(function: str, *arguments) -> dict | None:
    """Calls a function of this script in a new process; returns None if it fails, and prints why.

    The last line of its output is the result.
    """
    command = [sys.executable, __file__, "--call", json.dumps([function, *arguments])]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        was_killed = result.returncode < 0
        why = "killed, perhaps because memory ran out" if was_killed else (lines or ["?"])[-1]
        print(f"  {function} failed: {why}", flush=True)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def compare(cases: list[str]) -> None:
    """Prints time and memory of each case."""
    print(f"{'':<58}{'ms':>9}{'ratio':>7}{'runs':>6}{'peak MiB':>10}")
    whole = {}  # ms by model and size
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            model, size_name, mode = case.split(", ")
            size = tuple(map(int, size_name.split("x")))
            run_dir = os.path.join(folder, model)
            if not os.path.exists(run_dir):
                in_own_process("make_run", model, run_dir)
            path = ""
            if mode in ARTEFACTS:
                fixed_size = f"{size_name} " if mode == ".tflite" else ""
                path = f"{run_dir} {fixed_size}{ARTEFACTS[mode]}"
                if not os.path.exists(path):
                    in_own_process("make_artefact", mode, run_dir, path, size)
            result = in_own_process("measure", mode, run_dir, path, size)
            if result is None:
                print(f"{case:<58}   failed", flush=True)
                continue
            if mode == WHOLE:
                whole[model, size] = result["ms"]
            ratio = result["ms"] / whole.get((model, size), np.nan)
            gpu = f"  {result['gpu_peak']} MiB on the GPU" if "gpu_peak" in result else ""
            print(
                f"{case:<58}{result['ms']:9.1f}{ratio:7.2f}{result['runs']:6}{result['peak']:10}"
                f"{gpu}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="MobileNetV2 at 513x513 alone")
    parser.add_argument("--cases", default="", help="regular expression that case names contain")
    parser.add_argument("--list", action="store_true", help="prints the cases' names alone")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        function, *rest = json.loads(arguments.call)
        print(json.dumps(globals()[function](*rest)))
        return
    patterns = [arguments.cases, QUICK_CASES if arguments.quick else ""]
    cases = [name for name in case_names() if all(re.search(part, name) for part in patterns)]
    if arguments.list:
        print("\n".join(cases))
        return
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(devices[0]) if devices else {}
    print(
        f"{device.get('device_name', f'{os.cpu_count()} CPU cores')}, "
        f"load {os.getloadavg()[0]:.1f}, TensorFlow {tf.__version__}, {NUM_CLASSES} classes, "
        "output stride 16, float32"
    )
    compare(cases)


if __name__ == "__main__":
    main()
