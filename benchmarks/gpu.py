"""Times v3+ and atrous convolution on one GPU, by Keras' JAX backend.

    python benchmarks/gpu.py                                      # below ten minutes on one GPU
    python benchmarks/gpu.py --backbones=mobilenet_v2 --size=65 --batch_size=1 --max_minutes=2

The script needs no TensorFlow: `pip install jax[cuda13] keras filelock platformdirs psutil
requests` and `PYTHONPATH=.` are enough. It prints two Markdown tables, with the device and the
date.

The first table holds a row for each network and dtype: the milliseconds of a batch, the images per
second, and the TFLOP/s that follow from the multiply-adds of `describe` (2 FLOPs for each; a
training step counts 3 times the forward pass). A training step is the forward pass, the
cross-entropy without ignored pixels, the gradients, and SGD with momentum.

The second table compares two forms of atrous convolution: the dilated kernel, which Keras uses on
JAX, and space-to-batch, which stock Keras uses on TensorFlow. The results of the two are compared
before they are timed.

Each time is the median of calls that end when the device has finished. Weights and images are
random numbers: GPUs are faster on zeros. When the time of the script is up, it says what it has not
measured.
"""

import argparse
import contextlib
import datetime
import functools
import os
import statistics
import time
import unittest.mock
from collections.abc import Callable
from collections.abc import Iterator
from typing import NamedTuple

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from jax import numpy as jnp

from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.models import description

BACKBONES = ("mobilenet_v2", "resnet_v1_50_beta", "xception_65")
DTYPES = ("float32", "bfloat16")
NUM_CLASSES = 21
IGNORE_LABEL = 255
WARM_UP_CALLS = 2
MIN_CALLS = 3

# Height and width, channels, rates. 33x33 is a crop of 513x513 at output stride 16: the features
# that ASPP gets, and Xception's exit flow. 65x65 is the same at output stride 8.
ATROUS_MAPS = ((33, 2048, (6, 12, 18)), (33, 1536, (2,)), (65, 2048, (12, 24, 36)))
DENSE_FILTERS = 256
LARGEST_DIFFERENCE = {"float32": 1e-2, "bfloat16": 5e-2}  # of the largest value; GPUs use TF32


class Timing(NamedTuple):
    """How long a batch takes."""

    seconds: float
    compile_seconds: float


class Clock:
    """Knows when the time of the whole script is up."""

    def __init__(self, max_minutes: float):
        self._end = time.monotonic() + 60 * max_minutes

    @property
    def is_up(self) -> bool:
        return time.monotonic() > self._end


def time_call(call: Callable[[], object], seconds: float) -> Timing:
    """Returns the median time of a call, after it was compiled and warmed up.

    Args:
        call: Returns arrays that may not have been computed yet.
        seconds: How long to measure; at least `MIN_CALLS` calls are made.
    """
    start = time.perf_counter()
    for _ in range(WARM_UP_CALLS):
        jax.block_until_ready(call())
    compile_seconds = time.perf_counter() - start
    times: list[float] = []
    while len(times) < MIN_CALLS or sum(times) < seconds:
        before = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - before)
    return Timing(statistics.median(times), compile_seconds)


@contextlib.contextmanager
def initializers_without_compiling() -> Iterator[None]:
    """Lets NumPy draw initial weights: JAX compiles a program for every shape that it draws."""
    generator = np.random.default_rng(0)

    def draw(self, shape, dtype=None, **_):
        fan_in = np.prod(shape[:-1])
        return jnp.asarray(generator.normal(0, fan_in**-0.5, shape), dtype or "float32")

    with contextlib.ExitStack() as stack:
        for random in (keras.initializers.VarianceScaling, keras.initializers.TruncatedNormal):
            stack.enter_context(unittest.mock.patch.object(random, "__call__", draw))
        yield


def build_model(backbone: str, dtype: str) -> keras.Model:
    """Returns v3+ at output stride 16, with float32 weights."""
    with initializers_without_compiling():
        with layers.mixed_precision("" if dtype == "float32" else dtype):
            return models.build_model("v3plus", backbone, NUM_CLASSES, output_stride=16)


def make_batch(batch_size: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns images, uint8 [B, H, W, 3], and labels, int32 [B, H, W], on the device."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, size, size, 3), np.uint8)
    labels = generator.integers(0, NUM_CLASSES, (batch_size, size, size), np.int32)
    labels[:, ::16] = IGNORE_LABEL
    return jnp.asarray(images), jnp.asarray(labels)


def forward_call(model: keras.Model, images: jax.Array) -> Callable[[], object]:
    """Returns a call that computes the class ids of a batch."""

    @jax.jit
    def labels_of(trainable, other, images):
        logits, _ = model.stateless_call(trainable, other, images, training=False)
        return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

    state = _values(model.trainable_variables), _values(model.non_trainable_variables)
    return lambda: labels_of(*state, images)


def training_call(model: keras.Model, images: jax.Array, labels: jax.Array) -> Callable[[], object]:
    """Returns a call that makes a training step and returns the loss."""
    optimizer = keras.optimizers.SGD(0.007, momentum=0.9)
    optimizer.build(model.trainable_variables)

    def loss_of(trainable, other, images, labels):
        logits, other = model.stateless_call(trainable, other, images, training=True)
        counts = labels != IGNORE_LABEL
        losses = keras.losses.sparse_categorical_crossentropy(
            jnp.where(counts, labels, 0), logits, from_logits=True
        )
        return jnp.sum(losses * counts) / jnp.sum(counts), other

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        trainable, other, slots = state
        (loss, other), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            trainable, other, images, labels
        )
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return (trainable, other, slots), loss

    variables = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    # Copies: a step overwrites its state, which the model must keep.
    state = jax.tree.map(jnp.array, tuple(map(_values, variables)))

    def call():
        nonlocal state
        state, loss = step(state, images, labels)
        return loss

    return call


def _values(variables) -> list[jax.Array]:
    return [variable.value for variable in variables]


def network_row(backbone: str, dtype: str, arguments: argparse.Namespace, clock: Clock) -> str:
    """Returns the row of a network in the first table."""
    model = build_model(backbone, dtype)
    size = (arguments.size, arguments.size)
    described = description.describe(model, size, arguments.batch_size).total
    images, labels = make_batch(arguments.batch_size, arguments.size)
    phases = {
        1: lambda: forward_call(model, images),
        3: lambda: training_call(model, images, labels),
    }
    cells, compile_seconds = [], 0.0
    for passes, make_call in phases.items():
        timing = _time_or_reason(make_call, arguments.seconds, clock)
        if isinstance(timing, str):
            cells += [timing, "", ""]
            continue
        rate = arguments.batch_size / timing.seconds
        flops = 2 * passes * described.computed_multiply_adds * rate
        cells += [f"{1000 * timing.seconds:.2f}", f"{rate:.1f}", f"{flops / 1e12:.2f}"]
        compile_seconds += timing.compile_seconds
    return _line(backbone, dtype, *cells, f"{compile_seconds:.0f}")


def _time_or_reason(
    make_call: Callable[[], Callable[[], object]], seconds: float, clock: Clock
) -> Timing | str:
    """Returns the time of a call, or why there is none."""
    if clock.is_up:
        return "not measured: time is up"
    try:
        return time_call(make_call(), seconds)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return "out of memory"


def dilated_conv(images, kernel, rate: int):
    """A dense, or depthwise [h, w, C, 1], convolution by the dilated kernel."""
    function = keras.ops.depthwise_conv if kernel.shape[-1] == 1 else keras.ops.conv
    return function(images, kernel, padding="same", dilation_rate=rate)


def space_to_batch_conv(images, kernel, rate: int):
    """The same, by a plain convolution of the pixels of each phase."""
    batch, height, width, channels = images.shape
    rows, columns = -(-height // rate), -(-width // rate)
    pads = [(0, 0), (0, rows * rate - height), (0, columns * rate - width), (0, 0)]
    phases = jnp.pad(images, pads).reshape(batch, rows, rate, columns, rate, channels)
    phases = phases.transpose(2, 4, 0, 1, 3, 5).reshape(-1, rows, columns, channels)
    outputs = dilated_conv(phases, kernel, 1)
    outputs = outputs.reshape(rate, rate, batch, rows, columns, -1).transpose(2, 3, 0, 4, 1, 5)
    return outputs.reshape(batch, rows * rate, columns * rate, -1)[:, :height, :width]


def atrous_row(
    case: tuple[int, int, int], dtype: str, is_dense: bool, arguments: argparse.Namespace
) -> str:
    """Returns a row of the second table: milliseconds by the two forms.

    Args:
        case: Height and width, channels, rate.
        dtype: Of images and kernel.
        is_dense: Whether the convolution is dense, or depthwise.
        arguments: Those of the command line.
    """
    side, channels, rate = case
    keys = jax.random.split(jax.random.key(0), 3)
    filters = DENSE_FILTERS if is_dense else 1
    images = jax.random.normal(keys[0], (arguments.batch_size, side, side, channels), dtype)
    kernel = jax.random.normal(keys[1], (3, 3, channels, filters), dtype)
    upstream = jax.random.normal(keys[2], (*images.shape[:3], filters if is_dense else channels))
    upstream = upstream.astype(dtype)
    milliseconds, results = [], []
    for form in (dilated_conv, space_to_batch_conv):
        forward = jax.jit(functools.partial(form, rate=rate))

        @jax.jit
        def with_gradients(images, kernel, upstream, form=form):
            outputs, pull_back = jax.vjp(functools.partial(form, rate=rate), images, kernel)
            return outputs, *pull_back(upstream)

        results.append(jax.device_get(with_gradients(images, kernel, upstream)))
        for call in (
            functools.partial(forward, images, kernel),
            functools.partial(with_gradients, images, kernel, upstream),
        ):
            milliseconds.append(1000 * time_call(call, arguments.seconds / 4).seconds)
    difference = max(map(_difference, *results))
    if difference > LARGEST_DIFFERENCE[dtype]:
        raise SystemExit(f"The two forms differ by {difference:.1e} at rate {rate}, {dtype}.")
    name = f"{'dense' if is_dense else 'depthwise'} {side}x{side}x{channels}, rate {rate}"
    dilated, dilated_training, by_phases, by_phases_training = milliseconds
    return _line(
        name,
        dtype,
        f"{dilated:.3f}",
        f"{by_phases:.3f}",
        f"{by_phases / dilated:.2f}",
        f"{dilated_training:.3f}",
        f"{by_phases_training:.3f}",
        f"{by_phases_training / dilated_training:.2f}",
    )


def _difference(array, other) -> float:
    """How far two arrays are apart, as a share of the largest value."""
    array, other = np.asarray(array, np.float32), np.asarray(other, np.float32)
    return float(np.abs(array - other).max() / np.abs(other).max())


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def print_networks(arguments: argparse.Namespace, clock: Clock) -> None:
    """Prints the first table."""
    phases = ("forward", "training")
    heads = [f"{phase} {unit}" for phase in phases for unit in ("ms", "images/s", "TFLOP/s")]
    print(_line("v3plus on", "dtype", *heads, "compiling s"))
    print(_line(*["---"] * 9))
    for backbone in arguments.backbones.split(","):
        for dtype in arguments.dtypes.split(","):
            print(network_row(backbone, dtype, arguments, clock), flush=True)


def print_atrous_forms(arguments: argparse.Namespace, clock: Clock) -> None:
    """Prints the second table."""
    phases = ("forward", "training")
    columns = ("dilated ms", "space-to-batch ms", "ratio")
    heads = [f"{phase} {column}" for phase in phases for column in columns]
    print(_line("atrous convolution 3x3", "dtype", *heads))
    print(_line(*["---"] * 8))
    cases = [(side, channels, rate) for side, channels, rates in ATROUS_MAPS for rate in rates]
    for case in cases[: arguments.atrous_cases]:
        for dtype in arguments.dtypes.split(","):
            for is_dense in (True, False):
                if clock.is_up:
                    print(f"Time is up before rate {case[-1]} on {case[0]}x{case[0]}, {dtype}.")
                    return
                print(atrous_row(case, dtype, is_dense, arguments), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--size", type=int, default=513, help="height and width of images")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0, help="time of each measurement")
    parser.add_argument("--max_minutes", type=float, default=9.0, help="time of the whole script")
    parser.add_argument(
        "--atrous_cases", type=int, default=None, help="how many of the maps and rates; all"
    )
    arguments = parser.parse_args()
    clock = Clock(arguments.max_minutes)
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), {datetime.date.today()}, "
        f"JAX {jax.__version__}, Keras {keras.__version__}, batches of {arguments.batch_size}, "
        f"{arguments.size}x{arguments.size}\n"
    )
    print_networks(arguments, clock)
    print()
    print_atrous_forms(arguments, clock)


if __name__ == "__main__":
    main()
