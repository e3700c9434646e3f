"""How long a training step takes, and its peak memory, beside plain Keras 3 and a peer in one run.

    python benchmarks/train_step.py            # everything, about 40 minutes on 2 idle cores
    python benchmarks/train_step.py --quick    # 257x257 without Xception, about 4 minutes
    python benchmarks/train_step.py --cases=v3plus_xception --mixed_precision=bfloat16

"ours" is the step of `deeplab_tf.train`: all of it but reading images and saving; "recomputed" is
the same with --recompute_activations. "plain" is the same network, cloned with stock layers in the
place of ours (Conv2D and DepthwiseConv2D with a dilation_rate, BatchNormalization,
GlobalAveragePooling2D), and the step that one writes for it: a gradient tape, the cross-entropy and
SGD with momentum, without weight decay, the ignore label and what a log is told. Resizing with
aligned corners, which Keras does not have, stays: in both it is TensorFlow's own kernel. Before it
is timed, the clone's logits are compared with those of ours.

"smp" is DeepLabV3Plus of segmentation_models_pytorch with the nearest encoder, in channels-last
order; it is left out where that package or PyTorch is not installed. Its sides must be multiples of
16: where ours is 257, it is 256, whose maps have 13 % fewer positions at stride 16. The cases of
256 and 512 have maps of equal sizes.

Each has a process of its own, whose peak is printed with the estimate of `describe`. They take
turns, so that a change of the machine's speed meets all. The batch is the same in every step. The
figure is the median.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

if "--worker=smp" in sys.argv:  # PyTorch can crash if it is loaded after TensorFlow
    import segmentation_models_pytorch  # noqa: F401

import keras
import numpy as np
import tensorflow as tf

from deeplab_tf import describe
from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.config import TrainConfig
from deeplab_tf.runs import distribution
from deeplab_tf.training import train_step
from deeplab_tf.training import training_state

NUM_CLASSES = 21
IGNORE_LABEL = 255
WARM_UP_STEPS = 2
MIN_TURNS = 5
SECONDS_PER_CASE = 20.0
# Those that a training chooses itself, of the original.
SETTINGS: dict = {
    "optimizer": "momentum",
    "base_learning_rate": 0.007,
    "training_number_of_steps": 30000,
    "warmup_steps": 0,
    "moving_average_decay": 0.0,
    "class_weights": (),
}
STRATEGY = functools.partial(distribution.get_strategy, "one_device")
STOCK_LAYERS = {
    layers.AtrousConv2D: keras.layers.Conv2D,
    layers.AtrousDepthwiseConv2D: keras.layers.DepthwiseConv2D,
    layers.BatchNorm: keras.layers.BatchNormalization,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, and the batch that it is trained on."""

    version: str
    backbone: str
    size: int
    batch_size: int
    is_quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.version}_{self.backbone}_{self.size}"

    def build_model(self) -> keras.Model:
        settings: dict = {"aspp_with_separable_conv": False} if self.version == "v3" else {}
        return models.build_model(
            self.version, self.backbone, NUM_CLASSES, output_stride=16, **settings
        )

    def make_batch(self) -> dict[str, tf.Tensor]:
        shape = (self.batch_size, self.size, self.size)
        return {
            "image": tf.random.stateless_uniform((*shape, 3), [0, 1], 0, 256, tf.int32),
            "label": tf.random.stateless_uniform(shape, [0, 2], 0, NUM_CLASSES, tf.int32),
        }


BACKBONES = ("mobilenet_v2", "resnet_v1_50", "resnet_v1_50_beta", "xception_65")
CASES = (
    *(
        Case("v3plus", backbone, size, 2, is_quick=size == 257 and backbone != "xception_65")
        for size in (256, 257, 512, 513)
        for backbone in BACKBONES
    ),
    Case("v3", "resnet_v1_50_beta", 513, 2),  # dense ASPP
)
ENCODERS_OF_SMP = {
    "mobilenet_v2": "mobilenet_v2",
    "resnet_v1_50": "resnet50",
    "resnet_v1_50_beta": "resnet50",
    "xception_65": "tu-xception65",
}


def with_stock_layers(model: keras.Model) -> keras.Model:
    """Returns the same network with the same weights, without our convolutions and batch norms."""

    def stock(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layers.all_layers(layer):
            return keras.models.clone_model(
                layers.as_model(layer, layer.input), clone_function=stock
            )
        config = layer.get_config()
        if isinstance(layer, layers.ImagePooling):
            return keras.layers.GlobalAveragePooling2D(
                keepdims=True, name=layer.name, dtype=layer.dtype_policy
            )
        if isinstance(layer, layers.BatchNorm):
            del config["frozen"]
        return STOCK_LAYERS.get(type(layer), type(layer)).from_config(config)

    clone = keras.models.clone_model(model, clone_function=stock, recursive=True)
    weights = {layers.official_name(weight): weight for weight in model.weights}
    for weight in clone.weights:
        weight.assign(weights[layers.official_name(weight)])
    return clone


def largest_difference(model: keras.Model, other: keras.Model, size: int) -> float:
    """How far the logits of two networks are apart, as a share of the largest."""
    image = tf.random.stateless_uniform((1, size, size, 3), [0, 3], 0, 256)
    logits, others = (np.asarray(network(image, training=False)) for network in (model, other))
    return float(np.abs(logits - others).max() / np.abs(logits).max())


def our_step(model: keras.Model, batch: dict[str, tf.Tensor], is_recomputed: bool = False):
    """The step that `train` runs, on one batch again and again."""
    strategy = STRATEGY()
    config = TrainConfig(**SETTINGS, recompute_activations=is_recomputed)
    with strategy.scope():
        state = training_state.for_model(model, config)
    steps = train_step.TrainSteps(state, config, strategy=strategy, ignore_label=IGNORE_LABEL)
    batches = distribution.distribute_batches(
        strategy, lambda _: tf.data.Dataset.from_tensors(batch).cache().repeat()
    )
    return lambda: float(steps(batches, 1)["loss"])


def plain_step(model: keras.Model, batch: dict[str, tf.Tensor]):
    """A step as one writes it."""
    optimizer = keras.optimizers.SGD(0.007, momentum=0.9)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(image, label):
        with tf.GradientTape() as tape:
            loss = cross_entropy(label, model(image, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    return lambda: float(step(batch["image"], batch["label"]))


def smp_step(case: Case, dtype: str):
    """A step of segmentation_models_pytorch as its users write it."""
    import segmentation_models_pytorch
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    network = segmentation_models_pytorch.DeepLabV3Plus(
        ENCODERS_OF_SMP[case.backbone], encoder_weights=None, classes=NUM_CLASSES
    )
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.007, momentum=0.9)
    cross_entropy = torch.nn.CrossEntropyLoss(ignore_index=IGNORE_LABEL)
    size = case.size // 16 * 16
    images = torch.rand(case.batch_size, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (case.batch_size, size, size))
    is_mixed = {"": False, "bfloat16": True}[dtype]

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            loss = cross_entropy(network(images).float(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def keras_step(case: Case, kind: str, dtype: str, facts: dict):
    """The step of a model of ours or of its clone; fills in what is known of it."""
    batch = case.make_batch()  # starts TensorFlow
    facts["start"] = _status_bytes("VmRSS")
    keras.utils.set_random_seed(0)
    scope = contextlib.nullcontext() if kind == "plain" else STRATEGY().scope()
    with scope, layers.mixed_precision(dtype):
        model = case.build_model()
    network = model
    if kind == "plain":  # cloned before `describe` calls the layers with a size of their own
        network = with_stock_layers(model)
        facts["difference"] = largest_difference(model, network, size=97)
    description = describe.describe(model, (case.size, case.size), case.batch_size)
    is_recomputed = kind == "recomputed"
    memory = description.memory_if_recomputed if is_recomputed else description.memory
    facts["foreseen"] = memory.total
    if kind == "plain":
        return plain_step(network, batch)
    return our_step(network, batch, is_recomputed)


def work(case: Case, kind: str, dtype: str) -> None:
    """Steps whenever a line comes in; tells the seconds of each, and the memory in the end.

    Memory is in bytes: what the process takes when all of TensorFlow is loaded, its peak, and what
    `describe` foresees of the difference.
    """
    facts: dict = {}
    if kind == "smp":
        facts["start"] = _status_bytes("VmRSS")
        step = smp_step(case, dtype)
    else:
        step = keras_step(case, kind, dtype, facts)
    for _ in range(WARM_UP_STEPS):
        facts["loss"] = step()
    _tell(facts)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        _tell(time.perf_counter() - start)
    _tell({"peak": _status_bytes("VmHWM")})


class Worker:
    """A process that runs `work`."""

    def __init__(self, case: Case, kind: str, dtype: str):
        command = [sys.executable, __file__, f"--cases={case.name}", f"--mixed_precision={dtype}"]
        self._process = subprocess.Popen(
            [*command, f"--worker={kind}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._hear()

    def step(self) -> float:
        """Returns the seconds that a step takes."""
        print("step", file=self._process.stdin, flush=True)
        return self._hear()

    def end(self) -> None:
        assert self._process.stdin is not None  # it is piped
        self._process.stdin.close()
        self.facts |= self._hear()
        self._process.wait()

    def _hear(self):
        assert self._process.stdout is not None  # it is piped
        line = self._process.stdout.readline()
        if not line:
            sys.exit("A worker ended early: was there enough memory for both?")
        return json.loads(line)


def measure(case: Case, kinds: dict[str, tuple[str, str]]) -> dict[str, tuple[float, dict]]:
    """Lets workers take turns.

    Args:
        case: What is trained.
        kinds: For each name, one of "ours", "recomputed", "plain" and "smp", and its dtype.

    Returns:
        For each name, the median seconds of a step, and what its worker tells.
    """
    workers = {name: Worker(case, *kind) for name, kind in kinds.items()}
    seconds = {name: [] for name in workers}
    start, turns = time.perf_counter(), 0
    while turns < MIN_TURNS or time.perf_counter() - start < SECONDS_PER_CASE:
        turns += 1
        for name, worker in workers.items():
            seconds[name].append(worker.step())
    for worker in workers.values():
        worker.end()
    return {name: (statistics.median(seconds[name]), workers[name].facts) for name in workers}


def _tell(value) -> None:
    print(json.dumps(value), flush=True)


def _status_bytes(key: str) -> int:
    """What Linux says of this process: VmRSS, its memory now, or VmHWM, its peak."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the small cases only")
    parser.add_argument("--cases", default="", help="only cases whose name has this in it")
    parser.add_argument(
        "--mixed_precision", default="", help="bfloat16 or float16: ours in that too"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.cases in case.name]
    if arguments.worker:
        case = next(case for case in CASES if case.name == arguments.cases)
        work(case, arguments.worker, arguments.mixed_precision)
        return
    has_smp = importlib.util.find_spec("segmentation_models_pytorch") is not None
    if not has_smp:
        print("segmentation_models_pytorch is not installed: no peer is measured")
    device = tf.config.list_physical_devices("GPU") or [f"CPU, {os.cpu_count()} cores"]
    print(f"{device[0]}, TensorFlow {tf.__version__}, Keras {keras.__version__}")
    print(f"{'':<54}   ms/step  images/s  as fast  peak MiB  foreseen   loss")
    for case in cases:
        if not arguments.quick or case.is_quick:
            compare(case, kinds_of(case, has_smp, arguments.mixed_precision))


def kinds_of(case: Case, has_smp: bool, mixed_precision: str) -> dict[str, tuple[str, str]]:
    """What is measured of a case, by name: as for `measure`."""
    kinds = {name: (name, "") for name in ("plain", "ours", "recomputed")}
    if mixed_precision:
        kinds[f"ours, {mixed_precision}"] = ("ours", mixed_precision)
    if has_smp and case.version == "v3plus":
        kinds["smp"] = ("smp", "")
        if mixed_precision == "bfloat16":
            kinds["smp, bfloat16"] = ("smp", "bfloat16")
    return kinds


def compare(case: Case, kinds: dict[str, tuple[str, str]]) -> None:
    """Prints what is measured of a case; how fast is told beside plain Keras."""
    results = measure(case, kinds)
    plain_seconds = results["plain"][0]
    for name, (seconds, facts) in results.items():
        grown = facts["peak"] - facts["start"]
        foreseen = f"{facts['foreseen'] / 2**20:8.0f}" if "foreseen" in facts else f"{'':8}"
        print(
            f"{f'{case.name}, batch {case.batch_size}, {name}':<54} {seconds * 1000:9.0f}  "
            f"{case.batch_size / seconds:8.2f}  {plain_seconds / seconds:7.2f}  "
            f"{grown / 2**20:8.0f}  {foreseen}  {facts['loss']:5.3f}",
            flush=True,
        )
    difference = results["plain"][1]["difference"]
    print(f"  the logits of plain and ours differ by {difference:.1e} of the largest")


if __name__ == "__main__":
    main()
