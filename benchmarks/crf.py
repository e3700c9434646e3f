"""Time of the fully-connected CRF, and of the reference in the same run if it is installed.

    python benchmarks/crf.py [CASE.npz ...]

Without arguments the images are drawn: one that holds few of its 21 classes and one that holds
all of its 11. A CASE.npz holds `image` (uint8 [H, W, 3]), `unary_chw` (energies, float [C, H, W])
and `params` (JSON: bi_w, bi_xy_std, bi_rgb_std, pos_w, pos_xy_std). The reference is the package
`pydensecrf`, which computes on one thread; it is built from source with a C++ compiler
(`pip install pydensecrf2`).

Wall seconds count on an idle machine only; CPU seconds, of all threads, are printed beside them.
Every image is taken as the first of its size: the kept lattice of positions is dropped before.
"""

import json
import os
import pathlib
import resource
import statistics
import sys
import time

import cv2
import numpy as np

from deeplab_tf import crf
from deeplab_tf.crf import lattice
from deeplab_tf.datasets.shapes import drawing

try:
    import pydensecrf.densecrf
except ImportError:
    pydensecrf = None

RUNS = 7
ITERATIONS = 10
BATCH_SIZE = 4
V1 = {}  # the defaults
V2 = {"bilateral_sigma_xy": 67.0, "bilateral_sigma_rgb": 3.0, "gaussian_sigma_xy": 1.0}


def drawn_image(height: int, width: int, num_classes: int, num_present: int):
    """A drawn image with grain, and probabilities of its blurred labels.

    Returns:
        uint8 [H, W, 3]; float32 [H, W, C], where C - `num_present` classes are improbable.
    """
    random = np.random.default_rng(0)
    image, label = drawing.draw("benchmark", 0)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    stripes = np.arange(width) * num_present // width  # every present class occurs
    label = (label + stripes) % num_present
    blurred = [cv2.blur((label == c).astype(np.float32), (9, 9)) for c in range(num_classes)]
    noise = random.normal(0, 0.7, [-(-height // 8), -(-width // 8), num_classes])
    noise[..., num_present:] *= 0.3
    noise = noise.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    logits = np.log(np.stack(blurred, axis=-1) + 1e-3) + noise
    likelihoods = np.exp(logits)
    return image, (likelihoods / likelihoods.sum(axis=-1, keepdims=True)).astype(np.float32)


def recorded_image(path: str):
    """The image, its probabilities and the parameters of a CASE.npz."""
    case = np.load(path)
    names = {
        "bi_w": "bilateral_weight",
        "bi_xy_std": "bilateral_sigma_xy",
        "bi_rgb_std": "bilateral_sigma_rgb",
        "pos_w": "gaussian_weight",
        "pos_xy_std": "gaussian_sigma_xy",
    }
    recorded = json.loads(str(case["params"]))
    parameters = {ours: recorded[theirs] for theirs, ours in names.items()}
    likelihoods = np.exp(-case["unary_chw"].astype(np.float32).transpose(1, 2, 0))
    return case["image"], likelihoods / likelihoods.sum(-1, keepdims=True), parameters


def reference(image, probabilities, parameters: dict, iterations: int) -> np.ndarray:
    """The same by pydensecrf, float32 [H, W, C]."""
    height, width, num_classes = probabilities.shape
    energies = -np.log(np.maximum(probabilities, 1e-30)).reshape(-1, num_classes).T
    model = pydensecrf.densecrf.DenseCRF2D(width, height, num_classes)
    model.setUnaryEnergy(np.ascontiguousarray(energies, np.float32))
    model.addPairwiseGaussian(
        sxy=parameters.get("gaussian_sigma_xy", 3.0), compat=parameters.get("gaussian_weight", 3.0)
    )
    model.addPairwiseBilateral(
        sxy=parameters.get("bilateral_sigma_xy", 49.0),
        srgb=parameters.get("bilateral_sigma_rgb", 5.0),
        rgbim=np.ascontiguousarray(image),
        compat=parameters.get("bilateral_weight", 4.0),
    )
    return np.array(model.inference(iterations)).T.reshape(probabilities.shape)


def ours(image, probabilities, parameters: dict, iterations: int, **options) -> np.ndarray:
    lattice.build_of_positions.cache_clear()
    return crf.dense_crf(image, probabilities, iterations=iterations, **parameters, **options)


def seconds(function, *arguments, **options) -> tuple[float, float]:
    """Returns wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments, **options)
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(name: str, image: np.ndarray, probabilities: np.ndarray, parameters: dict) -> None:
    """Prints how long an image takes, every way in turn, and how far the results agree."""
    ways = {} if pydensecrf is None else {"reference": (reference, {})}
    for num_threads in sorted({1, crf.num_cores()}):
        for screen in (False, True):
            label = f"{num_threads} thread(s){', screened' if screen else ''}"
            ways[label] = (ours, {"num_threads": num_threads, "screen_classes": screen})
    case = (image, probabilities, parameters)
    results = {  # and warm-up
        way: function(*case, ITERATIONS, **options) for way, (function, options) in ways.items()
    }
    times = {way: [] for way in ways}
    for _ in range(RUNS):  # in turn, so that a change of the machine's speed meets all
        for way, (function, options) in ways.items():
            built = seconds(function, *case, 0, **options)
            whole = seconds(function, *case, ITERATIONS, **options)
            times[way].append((*built, *whole))
    height, width, num_classes = probabilities.shape
    kept = int((results["1 thread(s), screened"].max(axis=(0, 1)) > 0).sum())
    print(f"\n{name}: {width}x{height}, {num_classes} classes, {kept} after screening")
    print(f"{'':<24}{'lattices':>10}{'iterations':>12}{'whole':>9}{'CPU':>9}{'ratio':>7}  labels")
    first = next(iter(ways))
    for way in ways:
        built, _, whole, cpu = map(statistics.median, zip(*times[way], strict=True))
        ratios = [one[2] / other[2] for one, other in zip(times[first], times[way], strict=True)]
        same = np.mean(results[way].argmax(-1) == results[first].argmax(-1))
        print(
            f"{way:<24}{built:>9.3f}s{whole - built:>11.3f}s{whole:>8.3f}s{cpu:>8.3f}s"
            f"{statistics.median(ratios):>7.2f}  {same:.3%}"
        )


def growth() -> None:
    """Prints how the time of an image grows with its pixels and classes."""
    print(f"\ngrowth, {crf.num_cores()} thread(s): lattices, iterations")
    for side, num_classes in ((160, 21), (321, 21), (642, 21), (321, 2), (321, 11), (321, 42)):
        image = (*drawn_image(side, side, num_classes, num_classes), V1)
        built, whole = (
            statistics.median(seconds(ours, *image, iterations)[0] for _ in range(RUNS))
            for iterations in (0, ITERATIONS)
        )
        print(f"  {side}x{side}, {num_classes:>2} classes: {built:.3f}s, {whole - built:.3f}s")


def batches() -> None:
    """Prints the time of an image alone and in a batch."""
    image, probabilities = drawn_image(321, 321, 21, 21)
    batch = [np.stack([array] * BATCH_SIZE) for array in (image, probabilities)]
    alone = statistics.median(
        seconds(ours, image, probabilities, V1, ITERATIONS, num_threads=1)[0] for _ in range(RUNS)
    )
    together = statistics.median(
        seconds(ours, *batch, V1, ITERATIONS)[0] / BATCH_SIZE for _ in range(RUNS)
    )
    print(f"\none image, 1 thread: {alone:.3f}s; in a batch of {BATCH_SIZE}: {together:.3f}s each")


def main() -> None:
    image, probabilities = drawn_image(48, 64, 3, 3)
    first = seconds(crf.dense_crf, image, probabilities)[0]
    print(f"{crf.num_cores()} core(s), load {os.getloadavg()[0]:.1f}, medians of {RUNS} runs")
    print(f"first call (compiles, or loads what was compiled): {first:.1f}s")
    if pydensecrf is None:
        print("pydensecrf is not installed: ratios are to one thread of ours")
    if sys.argv[1:]:
        for path in sys.argv[1:]:
            compare(pathlib.Path(path).stem, *recorded_image(path))
    else:
        few, many = drawn_image(321, 321, 21, 3), drawn_image(360, 480, 11, 11)
        compare("few classes present, v1's values", few[0], few[1], V1)
        compare("all classes present, v1's values", many[0], many[1], V1)
        compare("all classes present, v2's values", many[0], many[1], V2)
    growth()
    batches()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory of this process: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
