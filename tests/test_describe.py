"""The figures of `describe`, against the papers and against measurements."""

import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from conftest import REPOSITORY
from conftest import TINY_MODEL
from deeplab_tf import build_model
from deeplab_tf import layers
from deeplab_tf.backbones import build_backbone
from deeplab_tf.describe import describe

LIGHT = {"version": "v3", "backbone": "mobilenet_v2", "atrous_rates": ()}


def described(size=(513, 513), num_classes=21, batch_size=1, **arguments):
    return describe(build_model(num_classes=num_classes, **arguments), size, batch_size)


def functional(function, channels=3):
    image = keras.Input((None, None, channels))
    return keras.Model(image, function(image))


@pytest.mark.parametrize(
    "published, arguments",
    [
        (2.75, LIGHT),  # arXiv:1801.04381, table 7
        (54.17, {"version": "v3plus", "backbone": "xception_65"}),  # arXiv:1802.02611, table 5
    ],
)
def test_multiply_adds_are_the_published_ones_without_the_other_operations_counted_there(
    published, arguments
):
    model = build_model(num_classes=21, **arguments)
    description = describe(model, (513, 513), 1)
    total = description.total.multiply_adds / 1e9
    assert 0.997 * published < total < published

    def elements(suffix):
        rows = [row for row in description.layers if row.name.endswith(suffix)]
        return sum(np.prod(row.output_shape) for row in rows)

    kernels = sum(np.prod(v.shape) for v in model.trainable_variables if v.name == "kernel")
    image = 513 * 513 * 3
    # Initializers and weight decay, additions, the scaling of pixels, argmax.
    besides = 2.5 * kernels + elements("/add") / 2 + image + elements("upsampled_logits") / 2
    assert total + besides / 1e9 == pytest.approx(published, abs=0.01)


def test_resnet_has_the_published_multiply_adds_with_and_without_a_decoder():
    # arXiv:1802.02611, table 3
    description = described(
        version="v3plus",
        backbone="resnet_v1_101_beta",
        aspp_with_separable_conv=False,
        decoder_use_separable_conv=False,
    )
    total = description.total.multiply_adds / 1e9
    behind = [part for part in description.parts if part.name in ("decoder", "logits")]
    coarse_logits = 256 * 21 * 33 * 33
    v3 = total + (coarse_logits - sum(part.multiply_adds for part in behind)) / 1e9
    assert 0.997 * 81.02 < v3 < 81.02
    # The decoder costs the same at any output stride: 297.92 - 276.18 by that table's rows at 8,
    # but 101.28 - 81.02 by those at 16.
    assert total == pytest.approx(81.02 + (297.92 - 276.18), rel=3e-3)
    assert total == pytest.approx(101.28, rel=1.4e-2)


EDGETPU = {"version": "v3", "backbone": "mobilenet_edgetpu", "atrous_rates": (), "num_classes": 19}
SLIM = {"depth_multiplier": 0.75, "aspp_convs_filters": 128}


@pytest.mark.parametrize(
    "billions, arguments",
    [
        # 5.6, 7.1, 3.5 and 4.3 were published, with two operations for each output of batch norm.
        (5.488, EDGETPU),
        (7.069, {**EDGETPU, "output_stride": 16}),
        (3.402, {**EDGETPU, **SLIM}),
        (4.221, {**EDGETPU, **SLIM, "output_stride": 16}),
    ],
)
def test_the_network_for_the_edge_tpu_costs_what_its_table_of_blocks_says(billions, arguments):
    total = described(**arguments).total
    assert total.computed_multiply_adds / 1e9 == pytest.approx(billions, abs=6e-4)


@pytest.mark.parametrize(
    "millions, arguments",
    [
        (3.603283, EDGETPU),  # counted on the original
        (1.942187, {**EDGETPU, **SLIM}),
        (2.11, LIGHT),  # arXiv:1801.04381, table 7
        (4.52, {"version": "v3", "backbone": "mobilenet_v2", "aspp_with_separable_conv": False}),
        (20.5, {"version": "v1", "backbone": "vgg_16"}),  # arXiv:1412.7062, table 2: LargeFOV
        # arXiv:1905.02244, table 8
        (1.51, {"version": "v3plus", "backbone": "mobilenet_v3_large_seg", "num_classes": 19}),
        (0.47, {"version": "v3plus", "backbone": "mobilenet_v3_small_seg", "num_classes": 19}),
    ],
)
def test_parameters_are_the_published_ones_to_the_last_digit(millions, arguments):
    digits = len(str(millions).partition(".")[2])
    assert round(described(**arguments).total.parameters / 1e6, digits) == millions


def test_a_separable_convolution_has_a_sixth_of_the_weights_of_a_dense_one():
    def separable(image):
        x = layers.AtrousDepthwiseConv2D(3, use_bias=False, padding="same")(image)
        return layers.AtrousConv2D(16, 1, use_bias=False)(x)

    dense = functional(layers.AtrousConv2D(16, 3, use_bias=False, padding="same"))
    totals = [describe(model, (10, 20), 1).total for model in (dense, functional(separable))]
    assert [total.parameters for total in totals] == [432, 27 + 48]
    assert [total.multiply_adds for total in totals] == [432 * 200, 75 * 200]


@pytest.mark.parametrize("size, rate, counted", [(33, 6, 36), (33, 18, 36), (65, 1, 65), (5, 6, 6)])
def test_a_side_counts_up_to_the_next_multiple_of_the_rate(size, rate, counted):
    conv = layers.AtrousConv2D(4, 3, dilation_rate=rate, use_bias=False, padding="same")
    total = describe(functional(conv), (size, size), 1).total
    assert total.multiply_adds == counted**2 * 108
    assert total.computed_multiply_adds == size**2 * 108


def seen(model, size: int) -> tuple[int, int]:
    """Returns the height and width of what an output pixel next to the middle depends on."""
    images = tf.fill((1, size, size, model.input.shape[-1]), 255.0)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = model(images, training=False)
        output = tf.reduce_sum(outputs[:, outputs.shape[1] // 2 + 1, outputs.shape[2] // 2 + 1])
    gradient = tf.reduce_sum(tape.gradient(output, images), [0, 3]).numpy()
    rows, columns = np.nonzero(gradient)
    return np.ptp(rows) + 1, np.ptp(columns) + 1


def with_positive_weights(model):
    """Makes all weights positive, so that no dependence cancels out."""
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(tf.fill(variable.shape, 1 / np.prod(variable.shape[:3])))
    return model


@pytest.mark.parametrize("kernel_size, rate", [(3, 1), (3, 12), (4, 4), (7, 4), (1, 6)])
def test_a_kernel_at_a_rate_covers_what_lies_between_its_weights(kernel_size, rate):
    conv = layers.AtrousConv2D(1, kernel_size, dilation_rate=rate, padding="same")
    model = with_positive_weights(functional(conv))
    covered = kernel_size + (kernel_size - 1) * (rate - 1)
    assert describe(model, (65, 65), 1).total.receptive_field == (covered, covered)
    assert seen(model, 65) == (covered, covered)


def coarse_and_back(image):
    x = layers.AtrousConv2D(2, 3, strides=2, padding="same")(image)
    x = keras.layers.AveragePooling2D(3, strides=2, padding="same")(x)
    x = layers.AtrousDepthwiseConv2D(3, dilation_rate=(1, 2), padding="same")(x)
    branches = [x, layers.AtrousConv2D(2, (1, 3), dilation_rate=(1, 3), padding="same")(x)]
    return layers.ResizeLike()(keras.layers.Add()(branches), image)


def test_the_receptive_field_is_where_the_gradient_is():
    backbone = build_backbone("xception_41", output_stride=8)
    name = "xception_41.entry_flow.block3.unit_1.xception_module.add"
    entry_flow = keras.Model(backbone.input, backbone.get_layer(name).output)
    for model, size, expected in (
        (functional(coarse_and_back), 129, (19, 51)),
        (entry_flow, 129, (91, 91)),
    ):
        with_positive_weights(model)
        assert describe(model, (size, size), 1).total.receptive_field == expected
        assert seen(model, size) == expected


def test_image_pooling_sees_everything_but_its_windows_do_not():
    whole = functional(layers.ImagePooling())
    window = functional(layers.ImagePooling(pool_size=(5, 9), strides=(4, 5)))
    assert describe(whole, (17, 33), 1).total.receptive_field == (np.inf, np.inf)
    assert describe(window, (17, 33), 1).total.receptive_field == (5, 9)


def test_a_network_that_sees_two_scales_has_its_parameters_once():
    network = functional(layers.AtrousConv2D(2, 3, use_bias=False, padding="same"))

    def at_two_scales(image):
        resize = layers.ResizeLike()
        small = network(layers.ScaleImage(0.5)(image))
        return keras.layers.Maximum()([network(image), resize(small, image)])

    description = describe(functional(at_two_scales), (65, 65), 1)
    assert description.total.parameters == 54
    assert description.total.multiply_adds == 54 * (65 * 65 + 33 * 33)
    conv = next(row for row in description.layers if row.parameters)
    assert conv.output_shape == (65, 65, 2)
    # A kernel of 3 and the resizing before it see 2 * (3 - 1) + 2 pixels, that behind it 2 more.
    assert description.total.receptive_field == (8, 8)


def test_parts_are_blocks_and_branches_and_add_up_to_the_layers():
    model = dataclasses.replace(TINY_MODEL, version="v3plus", num_classes=3, atrous_rates=(6,))
    description = described((65, 65), **dataclasses.asdict(model))
    names = [part.name for part in description.parts]
    blocks = [f"MobilenetV2/expanded_conv_{index}" for index in range(1, 17)]
    assert names[:18] == ["MobilenetV2/Conv", "MobilenetV2/expanded_conv", *blocks]
    assert set(names[18:]) == {
        *("image_pooling", "aspp0", "aspp1", "concat_projection"),
        *("decoder", "logits", "upsampled_logits"),
    }
    shapes = {part.name: part.output_shape for part in description.parts}
    assert shapes["decoder"] == (17, 17, 256) and shapes["aspp1"] == (5, 5, 32)
    for field in ("parameters", "multiply_adds", "activations"):
        parts, rows = (
            sum(getattr(row, field) for row in rows)
            for rows in (description.parts, description.layers)
        )
        assert parts == rows == getattr(description.total, field)


def test_what_several_gradients_need_is_kept_once():
    def conv_batch_norm_twice(image):
        blocks = layers.ConvBlocks()
        first = blocks.conv(8, 3, "a")  # keeps the image, its output, its ReLU
        second = blocks.conv(4, 1, "b", activation=None)  # keeps its output
        return layers.call_in_order([*first, *second], image)

    memory = describe(functional(conv_batch_norm_twice), (16, 16), 5).memory
    assert memory.activations == 5 * 16 * 16 * (3 + 8 + 8 + 4) * 4
    assert memory.workspace == 5 * 16 * 16 * (3 + 1 + 3 * 4) * 4 + memory.gradients
    trained, moving = 3 * 3 * 3 * 8 + 8 * 4 + 2 * (8 + 4), 2 * (8 + 4)
    assert memory.gradients == memory.momentum == 4 * trained
    assert memory.weights == 4 * (trained + moving)


MEASUREMENT = """
import ctypes
import sys
import keras
import tensorflow as tf
from deeplab_tf import layers
from deeplab_tf.models import recomputation
from deeplab_tf.training import losses, optimizers
from deeplab_tf.describe import describe

def memory(kind):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if kind in line)

blocks = layers.ConvBlocks(momentum=0.9, epsilon=1e-3)
image = keras.Input((None, None, 3))
x = layers.call_in_order(blocks.conv(32, 3, "stem", strides=2), image)
for unit in range(4):
    branch = [
        *blocks.conv(96, 1, f"{unit}/expand", "relu6"),
        *blocks.depthwise(3, f"{unit}/depthwise", rate=1 + unit),
        *blocks.conv(32, 1, f"{unit}/project", None),
    ]
    x = keras.layers.Add()([x, layers.call_in_order(branch, x)])
x = keras.layers.Conv2D(21, 1)(keras.layers.Dropout(0.1)(x))
model = keras.Model(image, layers.ResizeLike()(x, image))
variables = model.trainable_variables
optimizer = optimizers.MomentumSGD(0.01, momentum=0.9)
optimizer.build(variables)

shape = (None, None, None)
is_recomputed = sys.argv[1] == "recomputed"
network = recomputation.RecomputingNetwork(model) if is_recomputed else model
@tf.function(input_signature=[tf.TensorSpec((*shape, 3)), tf.TensorSpec(shape, tf.int32)])
def step(images, label):
    with tf.GradientTape() as tape:
        loss, count = losses.cross_entropy(network(images, training=True), label, 255)
    optimizer.apply(tape.gradient(loss, variables), variables)

for size, batch_size in ((33, 1), (257, 8)):
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = memory("VmRSS")  # has weights and momentum
    open("/proc/self/clear_refs", "w").write("5")  # forgets the highest use so far
    label = tf.zeros((batch_size, size, size), tf.int32)
    step(tf.ones((batch_size, size, size, 3)), label)
description = describe(model, (size, size), batch_size)
estimate = description.memory_if_recomputed if is_recomputed else description.memory
print(memory("VmHWM") - before, estimate.total - estimate.weights - estimate.momentum)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or bool(tf.config.list_physical_devices("GPU")),
    reason="measures the memory of a Linux process",
)
def test_a_real_training_step_takes_the_estimated_memory():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEASUREMENT, kind], stdout=subprocess.PIPE, text=True
        )
        for kind in ("plain", "recomputed")
    ]
    outputs = [process.communicate()[0] for process in processes]
    (measured, estimated), (recomputed, estimated_recomputed) = (
        map(int, output.split()) for output in outputs
    )
    assert estimated == pytest.approx(measured, rel=0.25)
    assert estimated_recomputed == pytest.approx(recomputed, rel=0.25)
    assert recomputed < measured / 2


def test_the_command_prints_a_table_that_fits_a_terminal():
    result = subprocess.run(
        [
            *(sys.executable, "-m", "deeplab_tf.describe", "--layers"),
            "--flagfile=configs/voc2012_v3_mobilenet_v2.flagfile",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    total = next(line for line in lines if line.startswith("total")).split()
    assert total[:5] == ["total", "513x513x21", "2,113,557", "2.742", "all"]
    assert "  depthwise/BatchNorm" in result.stdout
    assert "Memory of a training step of 16 images" in result.stdout
