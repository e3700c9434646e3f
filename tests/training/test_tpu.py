"""The training step in the form that a TPU takes: compiled by XLA as a whole.

No TPU was ever tried. On a CPU, XLA builds the same program from the same operators, before it
turns it into instructions of the device.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from conftest import PLAIN_TRAINING
from conftest import short_mobilenet_v2
from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.config import TrainConfig
from deeplab_tf.runs import distribution
from deeplab_tf.training import train_step
from deeplab_tf.training import training_state

NUM_CLASSES, IGNORE_LABEL, SIZE = 5, 255, 33
# To stride 8, so that output stride 4 gives atrous depthwise convolution in the backbone, beside
# the dense one of ASPP.
THREE_UNITS = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 1, 2))
HOST_OPERATORS = ("PyFunc", "EagerPyFunc", "PyFuncStateless", "IteratorGetNext", "Print", "PrintV2")


@pytest.fixture(scope="module")
def step():
    """A replica's step of v3 in bfloat16, as `train` runs it, compiled by XLA as a whole."""
    strategy = distribution.get_strategy("one_device")
    keras.utils.set_random_seed(0)
    config = TrainConfig(
        **PLAIN_TRAINING | {"base_learning_rate": 0.05, "mixed_precision": "bfloat16"}
    )
    with strategy.scope(), layers.mixed_precision("bfloat16"), short_mobilenet_v2(THREE_UNITS):
        model = models.build_model(
            "v3", "mobilenet_v2", NUM_CLASSES, output_stride=4, atrous_rates=(2, 3),
            aspp_convs_filters=8, aspp_with_separable_conv=False,
        )  # fmt: skip
        state = training_state.for_model(model, config)
    steps = train_step.TrainSteps(state, config, strategy=strategy, ignore_label=IGNORE_LABEL)
    batch = {
        "image": tf.TensorSpec([2, SIZE, SIZE, 3], tf.float32),
        "label": tf.TensorSpec([2, SIZE, SIZE], tf.int32),
    }

    @tf.function(jit_compile=True, input_signature=[batch], autograph=False)
    def one_step(batch):
        return strategy.run(steps._whole_step, args=(batch,))

    return one_step


def graphs(graph: tf.Graph) -> list[tf.Graph]:
    """A graph and those of the functions that it calls."""
    inner = [function.graph for function in graph._functions.values()]
    return [graph, *inner]


def is_scratch(tensor: tf.Tensor) -> bool:
    """Whether a tensor is the scratch space of fused batch norm, which XLA leaves out."""
    if tensor.op.type == "ZerosLike":
        return is_scratch(tensor.op.inputs[0])
    return tensor.op.type == "FusedBatchNormV3" and tensor.value_index == 5


def make_batch() -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(0)
    label = generator.integers(0, NUM_CLASSES, (2, SIZE, SIZE)).astype(np.int32)
    image = label[..., None] * 50.0 + generator.uniform(0, 5, (2, SIZE, SIZE, 3))
    label[:, :4] = IGNORE_LABEL
    return {"image": tf.constant(image, tf.float32), "label": tf.constant(label)}


def test_every_shape_is_static_and_nothing_runs_on_the_host(step):
    operations = [
        operation
        for graph in graphs(step.get_concrete_function().graph)
        for operation in graph.get_operations()
    ]
    assert len(operations) > 500
    for operation in operations:
        assert operation.type not in HOST_OPERATORS, operation.name
        for output in operation.outputs:
            assert output.dtype not in (tf.string, tf.variant), operation.name
            is_known = output.shape.is_fully_defined() or is_scratch(output)
            assert is_known, f"{operation.name} {output.shape}"


def test_xla_compiles_the_step_and_the_loss_falls(step):
    batch = make_batch()
    losses = [float(step(batch)[0]) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    program = step.experimental_get_compiler_ir(batch)(stage="hlo")
    assert "bf16[" in program
    assert "<=" not in program  # a dimension that is known at run time only
    assert "callback" not in program and "infeed" not in program
