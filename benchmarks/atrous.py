"""Speed-up of our atrous convolutions over the plain Keras layers, measured in the same run.

    python benchmarks/atrous.py            # everything, about 15 minutes on 2 idle cores
    python benchmarks/atrous.py --quick    # the smaller maps and a few rates, about 3 minutes

The kernels are 3x3 and the padding is "same". A second Keras layer is timed as a control: what it
differs by from the first one is noise. The three are called in a shuffled order, warm, in graphs of
static shape; what counts is the median. Rates above 32 reach over the whole map of 33x33.
"""

import argparse
import os
import random
import statistics
import time

import keras
import tensorflow as tf

from deeplab_tf import layers

RATES = (1, 2, 4, 6, 12, 18, 24, 36)
QUICK_RATES = (2, 6, 12, 24)
# Images, height and width, channels. 728 and 2048 are those of Xception's middle flow and of the
# features that ASPP gets; 33x33 is a crop of 513x513 at output stride 16.
QUICK_MAPS = ((2, 33, 728), (1, 65, 256))
MAPS = (*QUICK_MAPS, (4, 33, 2048))
DENSE_FILTERS = 256
MIN_CALLS = 5
SECONDS_PER_ROW = 4.0
# Of the dense convolution in training, these are what the summary tells.
SUMMARY_RATES = (12, 24)


def make_layer(form: str, is_stock: bool, rate: int) -> keras.layers.Layer:
    """A 3x3 atrous convolution, plain Keras or ours."""
    settings = {"dilation_rate": rate, "padding": "same", "use_bias": False}
    if form == "dense":
        layer_class = keras.layers.Conv2D if is_stock else layers.AtrousConv2D
        return layer_class(DENSE_FILTERS, 3, **settings)
    layer_class = keras.layers.DepthwiseConv2D if is_stock else layers.AtrousDepthwiseConv2D
    return layer_class(3, **settings)


def make_call(layer: keras.layers.Layer, images, phase: str):
    """A graph of the layer's forward pass, or of its forward and backward pass."""
    outputs = layer(images)
    upstream = tf.random.stateless_normal(outputs.shape, [0, 1], dtype=outputs.dtype)

    @tf.function(autograph=False)
    def forward():
        return layer(images, training=False)

    @tf.function(autograph=False)
    def forward_and_backward():
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
        return outputs, tape.gradient(outputs, [images, layer.kernel.value], upstream)

    return {"forward": forward, "training": forward_and_backward}[phase]


def median_seconds(calls: dict) -> dict:
    """The median time of each call, timed in turn in a shuffled order."""
    seconds = {name: [] for name in calls}
    for call in calls.values():  # warm-up
        call()
        call()
    start = time.perf_counter()
    while len(seconds["ours"]) < MIN_CALLS or time.perf_counter() - start < SECONDS_PER_ROW:
        for name in random.sample(list(calls), len(calls)):
            before = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - before)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller maps and fewer rates")
    parser.add_argument("--form", choices=["dense", "depthwise"], help="only this form")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    arguments = parser.parse_args()
    keras.config.set_floatx(arguments.dtype)

    device = tf.config.list_physical_devices("GPU") or [f"CPU, {os.cpu_count()} cores"]
    threads = tf.config.threading.get_intra_op_parallelism_threads() or "all"
    print(f"{device[0]}, {threads} threads, TensorFlow {tf.__version__}, {arguments.dtype}")
    print("form       map               rate  phase      stock ms  ours ms  times faster  control")
    faster, controls = {}, []
    for form in [arguments.form] if arguments.form else ["dense", "depthwise"]:
        for batch, size, channels in QUICK_MAPS if arguments.quick else MAPS:
            shape = (batch, size, size, channels)
            images = tf.random.stateless_normal(shape, [0, 2], dtype=arguments.dtype)
            for rate in QUICK_RATES if arguments.quick else RATES:
                for phase in ("forward", "training"):
                    calls = {
                        name: make_call(make_layer(form, name != "ours", rate), images, phase)
                        for name in ("stock", "ours", "control")
                    }
                    medians = median_seconds(calls)
                    ratio = medians["stock"] / medians["ours"]
                    control = medians["stock"] / medians["control"]
                    faster[form, phase, rate, shape] = ratio
                    controls.append(control)
                    print(
                        f"{form:<9}  {batch}x{size}x{size}x{channels:<7}  {rate:>5}  {phase:<8}  "
                        f"{medians['stock'] * 1000:9.1f}  {medians['ours'] * 1000:7.1f}  "
                        f"{ratio:12.2f}  {control:7.2f}",
                        flush=True,
                    )
    parts = [
        f"dense training at rate {rate} on {'x'.join(map(str, shape[1:]))}: {ratio:.1f}"
        for (form, phase, rate, shape), ratio in faster.items()
        if form == "dense" and phase == "training" and rate in SUMMARY_RATES
    ]
    slowest = min(faster, key=faster.__getitem__)
    parts.append(
        f"least of all {faster[slowest]:.2f} ({slowest[0]} {slowest[1]}, rate {slowest[2]}), "
        f"where the control reads {min(controls):.2f} to {max(controls):.2f}"
    )
    print("Speed-up: " + "; ".join(parts))


if __name__ == "__main__":
    main()
