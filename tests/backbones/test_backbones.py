"""Truths about every backbone."""

import keras
import numpy as np
import pytest

from deeplab_tf.backbones import BACKBONES, build_backbone
from deeplab_tf.backbones.mobilenet_v2 import make_divisible
from deeplab_tf.errors import UserError


def _scatter(model):
    """Weights that make batch norm do something, and keep activations at a moderate size."""
    generator = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(generator.uniform(0.5, 1.0, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(generator.normal(0, 0.1, variable.shape))
    return model.get_weights()


# The larger Xceptions differ in the number of equal units, and take long to build.
FINER_STRIDES = {
    **dict.fromkeys(BACKBONES, (16, 8, 4)),
    "xception_65": (8,),
    "xception_71": (4,),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_features_at_stride_32_equal_subsampled_features_at_smaller_strides(name):
    images = np.random.default_rng(0).uniform(0, 255, (1, 33, 65, 3)).astype("float32")
    coarse = build_backbone(name, output_stride=32)
    weights = _scatter(coarse)
    expected = coarse(images, training=False)["features"]
    assert expected.shape[1:3] == (2, 3)
    for output_stride in FINER_STRIDES[name]:
        fine = build_backbone(name, output_stride)
        fine.set_weights(weights)
        outputs = fine(images, training=False)
        step = 32 // output_stride
        np.testing.assert_allclose(
            outputs["features"][:, ::step, ::step],
            expected,
            atol=1e-4 * np.abs(expected).max(),
            err_msg=f"output stride {output_stride}",
        )
        assert outputs["stride_4"].shape[1:3] == (9, 17)
    # At even sizes, too, a stride leaves every second pixel, rounded up.
    outputs = fine(np.zeros((1, 38, 52, 3), "uint8"), training=False)
    assert outputs["features"].shape[1:3] == (-(-38 // output_stride), -(-52 // output_stride))
    assert outputs["stride_4"].shape[1:3] == (10, 13)


def test_mobilenet_has_features_for_a_decoder_at_strides_up_to_its_output_stride():
    assert set(build_backbone("mobilenet_v2", 8).output) == {"stride_4", "stride_8", "features"}
    features = build_backbone("mobilenet_v2", 16).output
    channels = {name: tensor.shape[-1] for name, tensor in features.items()}
    assert channels == {"stride_4": 144, "stride_8": 192, "stride_16": 576, "features": 320}


def test_multi_grid_multiplies_the_rates_of_the_last_block():
    backbone = build_backbone("xception_41", output_stride=8, multi_grid=[1, 2, 4])
    scope = "xception_41.exit_flow.block2.unit_1.xception_module"
    rates = [
        backbone.get_layer(f"{scope}.separable_conv{index}_depthwise").dilation_rate
        for index in (1, 2, 3)
    ]
    assert rates == [(4, 4), (8, 8), (16, 16)]


@pytest.mark.parametrize(
    "value, divisor, expected", [(32, 8, 32), (12, 8, 16), (18, 8, 24), (11, 8, 16), (2.4, 1, 3)]
)
def test_filters_are_rounded_to_multiples_but_lose_at_most_a_tenth(value, divisor, expected):
    assert make_divisible(value, divisor) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "resnet_18"}, "mobilenet_v2, xception_41"),
        ({"name": "mobilenet_v2", "output_stride": 12}, "4, 8, 16, 32"),
        ({"name": "mobilenet_v2", "depth_multiplier": 0}, "above 0"),
        ({"name": "mobilenet_v2", "multi_grid": (1, 2, 4)}, "multi_grid"),
        ({"name": "xception_65", "depth_multiplier": 0.5}, "single width"),
        ({"name": "xception_65", "multi_grid": (1, 2)}, "three"),
    ],
)
def test_a_wrong_argument_is_refused_by_saying_what_there_is(arguments, message):
    with pytest.raises(UserError, match=message):
        build_backbone(**arguments)


def test_the_decay_of_the_moving_statistics_is_the_originals_unless_given():
    def decays(**arguments):
        layers = build_backbone("mobilenet_v2", **arguments).layers
        return {
            layer.momentum
            for layer in layers
            if isinstance(layer, keras.layers.BatchNormalization)
        }

    assert decays() == {0.997}
    assert decays(batch_norm_decay=0.9) == {0.9}
