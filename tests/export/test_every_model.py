"""Every backbone and every head is folded, and becomes a SavedModel and a `.tflite` file.

The networks are short: they have units of all kinds, but few of each, as tracing and converting
takes time for every unit. What an export computes is proved by the tests of each format.
"""

import dataclasses

import keras
import numpy as np
import pytest

from conftest import REPOSITORY
from conftest import short_mobilenet_v2
from deeplab_tf import build_model
from deeplab_tf import layers
from deeplab_tf import models
from deeplab_tf.backbones import BACKBONES
from deeplab_tf.backbones import mobilenet_edgetpu
from deeplab_tf.backbones import mobilenet_v3
from deeplab_tf.backbones import resnet
from deeplab_tf.backbones import vgg
from deeplab_tf.backbones import xception
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data.records import numbered_classes
from deeplab_tf.export import litert
from deeplab_tf.export import mobile_operators
from deeplab_tf.export import parity
from deeplab_tf.export import serving
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.formats import tflite
from deeplab_tf.models import VERSIONS
from deeplab_tf.runs import run_dir as run_dirs

# Every head is in one of them, and every backbone or a sibling: converting all pairs takes an hour.
MODELS = {
    "v1": {"version": "v1", "backbone": "vgg_16", "fc_filters": 16},
    "v2": {"version": "v2", "backbone": "resnet_v1_50"},
    "v2 on VGG": {"version": "v2", "backbone": "vgg_16", "fc_filters": 16},
    "v3 in cascade": {"version": "v3", "backbone": "resnet_v1_50_beta", "last_block": 5},
    "v3plus": {"version": "v3plus", "backbone": "xception_41", "aspp_convs_filters": 16},
    "v3 on the Edge TPU's network": {
        "version": "v3",
        "backbone": "mobilenet_edgetpu",
        "atrous_rates": (),
        "aspp_convs_filters": 16,
        "depth_multiplier": 0.25,
    },
    "v3plus with lite R-ASPP": {"version": "v3plus", "backbone": "mobilenet_v3_large_seg"},
    "v3plus with a dense prediction cell": {
        "version": "v3plus",
        "backbone": "mobilenet_v2",
        "dense_prediction_cell_json": str(REPOSITORY / "configs/dense_prediction_cell.json"),
    },
    "v3 on an image pyramid": {
        "version": "v3",
        "backbone": "mobilenet_v2",
        "aspp_convs_filters": 16,
        "image_pyramid": (0.5, 1.0),
    },
}
# Backbones that differ from one of these only in how many units they have, and how wide ones.
SIBLINGS = {
    "mobilenet_v3_small_seg",
    "resnet_v1_101",
    "resnet_v1_101_beta",
    "xception_65",
    "xception_71",
}
INT8 = TFLiteConfig(quantize="int8")


@pytest.fixture(autouse=True)
def short_networks():
    """While it lasts, every backbone has one unit of each kind, or two."""
    large = mobilenet_v3.LARGE
    with short_mobilenet_v2(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "UNITS", dict.fromkeys(resnet.UNITS, (1, 2, 1, 1)))
        patch.setattr(resnet, "FILTERS", 8)
        for name, (entry_flow, _, decoder_strides) in xception.VARIANTS.items():
            patch.setitem(xception.VARIANTS, name, (entry_flow, 1, decoder_strides))
        exit_flow = [(name, (32, 32, 32), *rest) for name, _, *rest in xception.EXIT_FLOW]
        patch.setattr(xception, "EXIT_FLOW", exit_flow)
        edgetpu = [(*block[:4], 1, block[5]) for block in mobilenet_edgetpu.BLOCKS]
        patch.setattr(mobilenet_edgetpu, "BLOCKS", edgetpu)
        patch.setattr(vgg, "BLOCKS", tuple((1, filters) for _, filters in vgg.BLOCKS))
        bottlenecks = (*large[:5], *large[6:8], *large[12:14])
        short = (bottlenecks, 32, {2: 4, 4: 8})
        patch.setitem(mobilenet_v3.VARIANTS, "mobilenet_v3_large_seg", short)
        yield


def run_of(settings: dict) -> run_dirs.Run:
    config = models.complete(ModelConfig(**settings), num_classes=3)
    side = 4 * config.output_stride + 1
    data_config = DataConfig(train_crop_size=(side, side))
    dataset = numbered_classes("invented", 3)
    return run_dirs.Run("", config, data_config, TrainConfig(), dataset)


def folded_with_equal_logits(model: keras.Model, image: np.ndarray) -> keras.Model:
    """Folds a model whose batch norms have weights as after training."""
    generator = np.random.default_rng(0)
    for norm in layers.batch_norms(model):
        for variable in norm.variables:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    folded = models.fold_batch_norm(model)
    assert not layers.batch_norms(folded)
    expected, got = (one(image[np.newaxis], training=False).numpy() for one in (model, folded))
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    return folded


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_folded_and_exported_to_both_formats(name, tmp_path):
    run = run_of(MODELS[name])
    keras.utils.set_random_seed(0)
    trained = build_model(**dataclasses.asdict(run.model_config))
    size = tflite.fixed_input_size(run)
    image = parity.draw_images((1, *size, 3), seed=0)[0]
    model = folded_with_equal_logits(trained, image)

    module = serving.ServingModule(model, run, str(tmp_path))
    with layers.portable_graphs():
        graph = module.serving_default.get_concrete_function().graph.as_graph_def()
    for body in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in body:
            assert "PyFunc" not in node.op, f"{node.name} needs this process"
            rates = node.attr["dilations"].list.i if "Depthwise" in node.op else ()
            assert max(rates, default=1) == 1, f"{node.name} needs a CPU with oneDNN"

    content = tflite.convert(model, INT8, size, [image])
    mobile_operators.refuse_slow_or_missing(litert.operators(content), INT8.quantize)


def test_no_backbone_and_no_version_is_left_out():
    assert {settings["version"] for settings in MODELS.values()} == set(VERSIONS)
    assert {settings["backbone"] for settings in MODELS.values()} | SIBLINGS == set(BACKBONES)
