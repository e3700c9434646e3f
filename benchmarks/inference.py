"""Time and memory of one image, by model, size, inference mode and artefact.

    python benchmarks/inference.py           # everything; more than an hour on 2 idle cores
    python benchmarks/inference.py --quick   # v3+ MobileNetV2 at 513x513, 2 minutes
    python benchmarks/inference.py --cases='v3plus, 513x513, (whole|flip)'
    python benchmarks/inference.py --ratios  # engines and peers at 513x513, about 10 minutes;
                                             # --cases=mobilenet for this network alone
    python benchmarks/inference.py --growth  # engines by size, classes and threads, 15 minutes
    python benchmarks/inference.py --predict # the command on 20 photos, a minute

Every case runs in a process of its own, so that its peak of resident memory is its own; TensorFlow
and the loading of the model are part of it. Weights are random, which changes neither time nor
memory. Times are medians of runs after the first two, which trace and warm up. `ratio` is the time
over that of the Keras model on the whole image, of the same model and size in the same run. On a
GPU, the peak of its memory is printed too.

--ratios times contestants in turn in one process, so that a change of the machine's speed meets all
of them. Engines and peers (the packages segmentation_models_pytorch, keras-hub and zeromodels) that
are not installed are named and left out. A peer that takes only multiples of some number gets an
image without the last row and column.

--growth gives every case a process of its own again. --predict tells how long the command takes to
its first result, and the share of the time after it that the network works.
"""

import argparse
import dataclasses
import importlib
import importlib.util
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
# Networks that only peers have, beside theirs.
MODELS_OF_PEERS: dict[str, dict] = {
    "resnet_v1_50 v3plus at output stride 32": {
        "version": "v3plus",
        "backbone": "resnet_v1_50",
        "output_stride": 32,
        "atrous_rates": (6, 12, 18),
        "aspp_with_separable_conv": False,
    },
    "resnet_v1_50 v3 at output stride 8": {
        "version": "v3",
        "backbone": "resnet_v1_50",
        "output_stride": 8,
        "atrous_rates": (12, 24, 36),
        "aspp_with_separable_conv": False,
    },
}
SIZES = ("513x513", "1024x2048")  # height, width
QUICK_CASES = "mobilenet_v2 v3plus, 513x513"
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
ENGINES = {  # and the modules that they need
    "tensorflow": (),
    "litert": ("ai_edge_litert",),
    "openvino": ("openvino", "tf2onnx"),
    "onnxruntime": ("onnxruntime", "tf2onnx"),
}
SMP, KERAS_HUB, ZEROMODELS = "segmentation_models_pytorch", "keras_hub", "zeromodels"
PEERS: dict[str, dict[str, str]] = {  # networks of --ratios, packages, and their backbones
    "mobilenet_v2 v3plus": {SMP: "mobilenet_v2"},
    "resnet_v1_50_beta v3plus": {SMP: "resnet50"},
    "xception_65 v3plus": {SMP: "tu-xception65"},
    "resnet_v1_50 v3plus at output stride 32": {KERAS_HUB: "resnet50"},
    "resnet_v1_50 v3 at output stride 8": {ZEROMODELS: "ResNet50"},
}
OURS = "tensorflow, as predict runs it"
TFLITE, FIXED, ANY = ".tflite, 513x513", "ONNX export, 513x513", "ONNX export, any size"
TARGETS = (
    (OURS, TFLITE, 1.2),
    (ANY, FIXED, 1.1),
    *((OURS, peer, 1.0) for peer in ("smp, compiled", "keras-hub", "zeromodels")),
)
GROWTH_MODEL = "mobilenet_v2 v3plus"
GROWTH_SIDES = (257, 513, 1025, 2049)  # with NUM_CLASSES classes
GROWTH_CLASSES = (2, 150)  # at 513x513
NUM_PHOTOS, PHOTO_SIZE = 20, (375, 500)
MIN_RUNS = 3
MAX_RUNS = 20
SECONDS_PER_CASE = 5.0
SECONDS_BETWEEN_CALLS = 0.05  # threads of some runtimes spin for a while after a call


def case_names() -> list[str]:
    """Returns all cases, as `MODEL, SIZE, MODE` or `MODEL, SIZE, ARTEFACT`."""
    return [
        f"{model}, {size}, {mode}"
        for model in MODELS
        for size in SIZES
        for mode in (*MODES, *ARTEFACTS)
    ]


def make_run(model_name: str, run_dir: str, num_classes: int = NUM_CLASSES) -> None:
    """Writes a run dir with random weights."""
    from deeplab_tf import build_model
    from deeplab_tf.config import DataConfig
    from deeplab_tf.config import ModelConfig
    from deeplab_tf.config import TrainConfig
    from deeplab_tf.data import records
    from deeplab_tf.runs import checkpoints
    from deeplab_tf.runs import run_dir as run_dirs

    config = ModelConfig(**(MODELS | MODELS_OF_PEERS)[model_name])
    dataset = records.numbered_classes("benchmark", num_classes)
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
    (seconds,) = time_in_turn([label_of], draw_image(size))
    result = {"ms": 1000 * statistics.median(seconds), "runs": len(seconds), "peak": peak_memory()}
    if tf.config.list_physical_devices("GPU"):
        result["gpu_peak"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] // 2**20
    return result


def measure_engine(engine: str, run_dir: str, size: tuple[int, int], num_threads: int) -> dict:
    """Returns the time of an engine on whole images, and the peak memory of this process in MiB."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])  # all engines obey
    (seconds,) = time_in_turn([engine_function(engine, run_dir)], draw_image(size))
    return {"ms": 1000 * statistics.median(seconds), "runs": len(seconds), "peak": peak_memory()}


def engine_function(engine: str, run_dir: str):
    """Returns the function from an image to its labels that `predict --engine` uses."""
    from deeplab_tf.config import EvalConfig
    from deeplab_tf.evaluation.inference import Inference
    from deeplab_tf.runs import run_dir as run_dirs

    inference = Inference(engine=engine, eval_config=EvalConfig(window_size=()))
    return inference.label_function(run_dirs.read(run_dir))


def draw_image(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def time_in_turn(functions: list, image: np.ndarray) -> list[list[float]]:
    """Returns the seconds of each call of each function, without the first two."""
    for function in functions:
        for _ in range(2):
            function(image)
    seconds: list[list[float]] = [[] for _ in functions]
    start = time.perf_counter()
    while len(seconds[0]) < MIN_RUNS or (
        len(seconds[0]) < MAX_RUNS
        and time.perf_counter() - start < SECONDS_PER_CASE * len(functions)
    ):
        first = len(seconds[0]) % len(functions)  # each has every place in the order
        for index in [*range(first, len(functions)), *range(first)]:
            time.sleep(SECONDS_BETWEEN_CALLS)
            before = time.perf_counter()
            functions[index](image)
            seconds[index].append(time.perf_counter() - before)
    return seconds


def is_installed(modules: tuple[str, ...]) -> bool:
    return all(map(importlib.util.find_spec, modules))


def print_ratios(pattern: str) -> None:
    """Prints the time of every engine, export and peer over that of ours."""
    names = [name for name in PEERS if re.search(pattern, name)]
    if len(names) > 1:  # each in a process of its own, as all contestants stay in memory
        for name in names:
            cases = f"--cases=^{re.escape(name)}$"
            subprocess.run([sys.executable, __file__, "--ratios", cases], check=True)
        return
    for model_name in names:
        with tempfile.TemporaryDirectory() as folder:
            run_dir = os.path.join(folder, "run")
            make_run(model_name, run_dir)
            contestants = our_functions(run_dir, folder) | peer_functions(PEERS[model_name])
            times = time_in_turn(list(contestants.values()), draw_image((513, 513)))
            medians = dict(zip(contestants, map(statistics.median, times), strict=True))
        print(f"\n{model_name}, 513x513, {len(times[0])} calls in turn")
        for name, seconds in medians.items():
            print(f"  {name:<38}{1000 * seconds:9.1f} ms{seconds / medians[OURS]:7.2f}")
        for first, second, target in TARGETS:
            if first in medians and second in medians:
                ratio = medians[first] / medians[second]
                print(f"  {first} / {second}: {ratio:.2f} (target: at most {target})", flush=True)


def our_functions(run_dir: str, folder: str) -> dict:
    """Returns a function from an image to its labels for every engine and export."""
    from deeplab_tf.evaluation import artefacts
    from deeplab_tf.evaluation import prediction
    from deeplab_tf.runs import run_dir as run_dirs

    run = run_dirs.read(run_dir)
    settings = (run.model_config, run.data_config)
    functions = {
        OURS: engine_function("tensorflow", run_dir),
        "tensorflow, batch norm not folded": prediction.label_function(
            run_dirs.load_model(run), *settings
        ),
    }
    for engine, modules in ENGINES.items():
        if not is_installed(modules):
            print(f"{engine} is not installed: left out")
        elif engine != "tensorflow":
            functions[engine] = engine_function(engine, run_dir)
    if is_installed(ENGINES["litert"]):
        path = os.path.join(folder, ARTEFACTS[".tflite"])
        make_artefact(".tflite", run_dir, path, (513, 513))
        functions[TFLITE] = artefacts.load_artefact(path, *settings, tell=lambda _: None)
    if is_installed(ENGINES["onnxruntime"]):
        functions |= {FIXED: onnx_function(run, (513, 513)), ANY: onnx_function(run, ())}
    return functions


def onnx_function(run, input_size: tuple[int, ...]):
    """Exports a run to ONNX, and returns the function from an image to the file's labels."""
    import onnxruntime

    from deeplab_tf import models
    from deeplab_tf.export.config import OnnxConfig
    from deeplab_tf.export.formats import onnx
    from deeplab_tf.runs import run_dir as run_dirs

    model = models.fold_batch_norm(run_dirs.load_model(run))
    content, _ = onnx.convert(model, run, OnnxConfig(input_size=input_size))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image: session.run(["labels"], {"images": image[np.newaxis]})[0]


def peer_functions(backbones: dict[str, str]) -> dict:
    """Returns a function from an image to its labels for every peer that is installed.

    Args:
        backbones: For packages, their names of a backbone.
    """
    makers = {SMP: smp_functions, KERAS_HUB: keras_hub_functions, ZEROMODELS: zeromodels_functions}
    functions: dict = {}
    for package, backbone in backbones.items():
        if is_installed((package,)):
            functions |= makers[package](backbone)
        else:
            print(f"{package} is not installed: left out")
    return functions


def smp_functions(encoder: str) -> dict:
    """The DeepLabv3+ of segmentation_models_pytorch, as it is and compiled."""
    smp, torch = map(importlib.import_module, (SMP, "torch"))
    model = smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=NUM_CLASSES).eval()

    def labels_by(network):
        def label_of(image):
            batch = np.float32(in_multiples(16, image).transpose(2, 0, 1)[np.newaxis]) / 255
            with torch.inference_mode():
                return network(torch.from_numpy(batch)).argmax(1).numpy()

        return label_of

    functions = {"smp": labels_by(model)}
    compiled = labels_by(torch.compile(model))
    try:
        compiled(draw_image((513, 513)))
    except Exception as error:  # without a C++ compiler, for example
        print(f"smp, compiled: left out ({type(error).__name__})")
        return functions
    return functions | {"smp, compiled": compiled}


def keras_hub_functions(backbone: str) -> dict:
    """The DeepLabv3+ of keras-hub: no atrous backbone, and a decoder without 3x3 convolutions."""
    backbones = importlib.import_module(KERAS_HUB).models
    assert backbone == "resnet50"
    encoder = backbones.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
    )
    network = backbones.DeepLabV3ImageSegmenter(
        backbone=backbones.DeepLabV3Backbone(
            image_encoder=encoder,
            low_level_feature_key="P2",
            spatial_pyramid_pooling_key="P5",
            upsampling_size=8,
            dilation_rates=[6, 12, 18],
        ),
        num_classes=NUM_CLASSES,
    )
    return {"keras-hub": labels_by_keras(network, 32)}


def zeromodels_functions(backbone: str) -> dict:
    """The DeepLabv3 of zeromodels, as torchvision has it."""
    package = importlib.import_module("zeromodels.models.deeplabv3")
    network = package.DeepLabV3SemanticSegment(backbone, NUM_CLASSES, image_size=512)
    return {"zeromodels": labels_by_keras(network, 8)}


def labels_by_keras(network, multiple: int):
    """Returns the function from an image to its labels that one writes around a Keras model."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def labels_of(image):
        return tf.argmax(network(image, training=False), axis=-1, output_type=tf.int32)

    return lambda image: labels_of(
        np.float32(in_multiples(multiple, image)[np.newaxis]) / 255
    ).numpy()


def in_multiples(size: int, image: np.ndarray) -> np.ndarray:
    """Cuts an image to the largest sides that are multiples of a size."""
    height, width = (side // size * size for side in image.shape[:2])
    return image[:height, :width]


def print_growth() -> None:
    """Prints time and memory of every engine by image size, number of classes and threads."""
    print(
        f"{GROWTH_MODEL}\n{'engine':<14}{'size':>11}{'classes':>9}{'threads':>9}{'ms':>9}{'MiB':>7}"
    )
    cases = [((side, side), NUM_CLASSES) for side in GROWTH_SIDES]
    cases += [((513, 513), classes) for classes in GROWTH_CLASSES]
    with tempfile.TemporaryDirectory() as folder:
        for engine, modules in ENGINES.items():
            if not is_installed(modules):
                print(f"{engine:<14} not installed: left out")
                continue
            for size, num_classes in cases:
                run_dir = os.path.join(folder, str(num_classes))
                if not os.path.exists(run_dir):
                    in_own_process("make_run", GROWTH_MODEL, run_dir, num_classes)
                for num_threads in sorted({1, min(2, os.cpu_count() or 1)}):
                    result = in_own_process("measure_engine", engine, run_dir, size, num_threads)
                    result = result or {"ms": np.nan, "peak": 0}
                    print(
                        f"{engine:<14}{size[0]:>6}x{size[1]:<4}{num_classes:>9}{num_threads:>9}"
                        f"{result['ms']:9.0f}{result['peak']:>7}",
                        flush=True,
                    )


def print_predict() -> None:
    """Prints the time of `predict` to its first result, and where the rest of it goes."""
    import cv2

    smooth = cv2.GaussianBlur(draw_image(PHOTO_SIZE).astype(float), (0, 0), 4)
    photo = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        run_dir, photos = os.path.join(folder, "run"), pathlib.Path(folder, "photos")
        photos.mkdir()
        for number in range(NUM_PHOTOS):
            cv2.imwrite(str(photos / f"{number:02}.jpg"), np.roll(photo, number, axis=1))
        in_own_process("make_run", GROWTH_MODEL, run_dir)
        for engine, modules in ENGINES.items():
            if not is_installed(modules):
                print(f"{engine:<14} not installed: left out")
                continue
            # The first call builds the engine's file.
            for _ in range(1 if engine == "tensorflow" else 2):
                seconds = seconds_of_results(engine, run_dir, str(photos), folder)
            network = in_own_process("measure_engine", engine, run_dir, PHOTO_SIZE, os.cpu_count())
            if len(seconds) < NUM_PHOTOS or network is None:
                print(f"{engine:<14} failed")
                continue
            loop = seconds[-1] - seconds[0]
            share = network["ms"] / 1000 * (NUM_PHOTOS - 1) / loop
            print(
                f"{engine:<14} first result after {seconds[0]:.1f} s; {NUM_PHOTOS - 1} more in "
                f"{loop:.1f} s, {share:.0%} of it in the network",
                flush=True,
            )


def seconds_of_results(engine: str, run_dir: str, photos: str, folder: str) -> list[float]:
    """Runs `predict`; returns the seconds from its start to the line about each photo."""
    command = [sys.executable, "-m", "deeplab_tf.predict", f"--engine={engine}"]
    command += [f"--run_dir={run_dir}", f"--images={photos}", f"--output_dir={folder}/out"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        return [time.perf_counter() - start for line in process.stdout if " -> " in line]


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
    parser.add_argument("--quick", action="store_true", help="v3+ MobileNetV2 at 513x513 alone")
    parser.add_argument("--cases", default="", help="regular expression that case names contain")
    parser.add_argument("--ratios", action="store_true", help="engines and peers in turn")
    parser.add_argument("--growth", action="store_true", help="by size, classes and threads")
    parser.add_argument("--predict", action="store_true", help="the command on 20 photos")
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
    if arguments.ratios and is_installed((SMP,)):
        importlib.import_module(SMP)  # PyTorch can crash if it is loaded after TensorFlow

    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(devices[0]) if devices else {}
    print(
        f"{device.get('device_name', f'{os.cpu_count()} CPU cores')}, "
        f"load {os.getloadavg()[0]:.1f}, TensorFlow {tf.__version__}, {NUM_CLASSES} classes, "
        "output stride 16, float32"
    )
    if arguments.ratios:
        print_ratios(arguments.cases)
    elif arguments.growth:
        print_growth()
    elif arguments.predict:
        print_predict()
    else:
        compare(cases)


if __name__ == "__main__":
    main()
