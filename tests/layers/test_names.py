"""The original's names of variables."""

import keras

from deeplab_tf import layers


def test_official_names_of_variables():
    inputs = keras.Input((9, 9, 3))
    x = layers.AtrousSeparableConv2D(4, name="decoder.decoder_conv0")(inputs)
    x = keras.layers.Conv2D(2, 1, name="logits.semantic")(x)
    inner = keras.Model(inputs, x)
    outer_inputs = keras.Input((9, 9, 3))
    model = keras.Model(outer_inputs, inner(outer_inputs))
    assert [layers.official_name(variable) for variable in model.trainable_variables] == [
        "decoder/decoder_conv0_depthwise/depthwise_weights",
        "decoder/decoder_conv0_depthwise/BatchNorm/gamma",
        "decoder/decoder_conv0_depthwise/BatchNorm/beta",
        "decoder/decoder_conv0_pointwise/weights",
        "decoder/decoder_conv0_pointwise/BatchNorm/gamma",
        "decoder/decoder_conv0_pointwise/BatchNorm/beta",
        "logits/semantic/weights",
        "logits/semantic/biases",
    ]
