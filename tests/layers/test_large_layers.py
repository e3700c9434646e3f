"""The layers that consist of layers: separable convolution, ASPP and its light form."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf.errors import UserError

LARGE_LAYERS = {
    "separable": lambda **kwargs: layers.AtrousSeparableConv2D(6, dilation_rate=2, **kwargs),
    "separable with strides": lambda **kwargs: layers.AtrousSeparableConv2D(
        6, (3, 5), strides=2, padding="symmetric", activation=layers.h_swish, **kwargs
    ),
    "separable without activation": lambda **kwargs: layers.AtrousSeparableConv2D(
        6, activation=None, batch_norm_momentum=0.9, batch_norm_epsilon=1e-2, **kwargs
    ),
    "ASPP": lambda **kwargs: layers.ASPP(6, rates=(2, 3), **kwargs),
    "dense ASPP of a window": lambda **kwargs: layers.ASPP(
        6, rates=(2,), separable=False, projection=False, pool_size=(3, 4), **kwargs
    ),
    "1x1 ASPP": lambda **kwargs: layers.ASPP(6, rates=(), image_pooling=False, **kwargs),
    "ASPP with squeeze and excitation": lambda **kwargs: layers.ASPP(
        6, rates=(2,), squeeze_and_excitation=True, gate=layers.q_sigmoid, **kwargs
    ),
    "LiteRASPP": lambda **kwargs: layers.LiteRASPP(6, pool_size=(3, 4), **kwargs),
}
FEATURES = np.random.default_rng(0).normal(size=(2, 9, 12, 5)).astype("float32")


@pytest.fixture(params=LARGE_LAYERS)
def make(request):
    return LARGE_LAYERS[request.param]


def _with_statistics(layer):
    """Builds a layer and gives it statistics as after training."""
    layer.build(FEATURES.shape)
    for variable in layer.non_trainable_variables:
        if variable.name.startswith("moving"):
            variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
    return layer


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, features):
        return self.layer(features)


def test_a_layer_computes_the_same_wherever_it_is_used(make):
    layer = _with_statistics(make())
    number_of_weights = len(layer.weights)
    expected = layer(FEATURES, training=False)
    np.testing.assert_array_equal(layer(FEATURES, training=False), expected)  # no new weights

    inputs = keras.Input((None, None, 5))
    models = [
        keras.Model(inputs, layer(inputs)),
        keras.Sequential([layer]),
        Subclassed(layer),
    ]
    for model in models:
        np.testing.assert_allclose(model(FEATURES, training=False), expected, atol=1e-5)
        assert len(model.weights) == number_of_weights

    graph = tf.function(
        lambda features: layer(features, training=False),
        input_signature=[tf.TensorSpec([None, None, None, 5])],
    )
    np.testing.assert_allclose(graph(FEATURES), expected, atol=1e-5)


def test_the_shape_of_the_output_is_known_in_advance(make):
    layer = make()
    shape = layer.compute_output_shape(FEATURES.shape)
    assert tuple(layer(FEATURES).shape) == tuple(shape)
    symbolic = layer(keras.Input((None, None, 5)))
    assert symbolic.shape == (None, None, None, shape[-1])


def test_every_layer_inside_is_built_with_the_layer(make):
    layer = make()
    layer.build((None, None, None, 5))
    assert layer.built and all(inner.built for inner in layers.all_layers(layer))


def test_two_layers_of_a_kind_go_into_one_model(make, tmp_path):
    inputs = keras.Input((None, None, 5))
    model = keras.Model(inputs, make()(make()(inputs)))
    assert len({variable.path for variable in model.weights}) == len(model.weights)
    model(FEATURES, training=True)  # moves the statistics
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(FEATURES, training=False), model(FEATURES, training=False))


def test_weights_of_a_subclassed_model_are_saved_and_loaded(make, tmp_path):
    trained, fresh = (Subclassed(_with_statistics(make())) for _ in range(2))
    expected = trained(FEATURES, training=False)
    trained.save_weights(tmp_path / "model.weights.h5")
    fresh(FEATURES)
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh(FEATURES, training=False), expected)


def test_the_config_makes_the_same_layer(make):
    layer = make(name="head")
    twin = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()


def test_training_moves_the_statistics_and_reaches_every_weight(make):
    layer = _with_statistics(make())
    before = [variable.numpy() for variable in layer.non_trainable_variables]
    layer(FEATURES, training=False)
    for variable, old in zip(layer.non_trainable_variables, before):
        np.testing.assert_array_equal(variable, old)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(layer(FEATURES, training=True)))
    gradients = tape.gradient(loss, [variable.value for variable in layer.trainable_variables])
    assert all(np.any(gradient) for gradient in gradients)
    for variable, old in zip(layer.non_trainable_variables, before):
        assert np.any(variable.numpy() != old), variable.path


def test_frozen_batch_norms_inside_a_layer_keep_their_statistics(make):
    model = keras.Sequential([keras.Input(FEATURES.shape[1:]), make()])
    layers.freeze_batch_norm(model)
    moving = [variable for variable in model.weights if variable.name.startswith("moving")]
    assert 2 * len(layers.batch_norms(model)) == len(moving) > 0
    before = [variable.numpy() for variable in moving]
    model(FEATURES, training=True)
    for variable, old in zip(moving, before):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.parametrize("attribute", ["frozen", "synchronized"])
def test_what_is_set_on_the_batch_norms_inside_is_saved(make, attribute, tmp_path):
    model = keras.Sequential([keras.Input(FEATURES.shape[1:]), make()])
    if attribute == "frozen":
        layers.freeze_batch_norm(model)
    else:
        layers.synchronize_batch_norm(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    norms = layers.batch_norms(loaded)
    assert len(norms) == len(layers.batch_norms(model))
    assert all(getattr(norm, attribute) for norm in norms)


@pytest.mark.parametrize("where", ["constructor", "attribute", "file"])
def test_an_untrainable_layer_neither_trains_nor_moves_its_statistics(make, where, tmp_path):
    layer = make(trainable=where != "constructor")
    layer.trainable = False
    if where == "file":
        keras.Sequential([keras.Input(FEATURES.shape[1:]), layer]).save(tmp_path / "model.keras")
        (layer,) = keras.saving.load_model(tmp_path / "model.keras").layers
    layer(FEATURES, training=False)
    moving = [variable for variable in layer.variables if variable.name.startswith("moving")]
    before = [variable.numpy() for variable in moving]
    layer(FEATURES, training=True)
    assert moving and not layer.trainable_variables
    for variable, old in zip(moving, before):
        np.testing.assert_array_equal(variable, old)
    layer.trainable = True
    assert layer.trainable_variables


@pytest.mark.parametrize("is_global", [False, True])
def test_mixed_precision_reaches_the_layers_inside(make, is_global):
    expected = make()
    expected.build(FEATURES.shape)
    with layers.mixed_precision("bfloat16" if is_global else ""):
        layer = make() if is_global else make(dtype="mixed_bfloat16")
    layer.build(FEATURES.shape)
    layer.set_weights(expected.get_weights())
    assert {inner.compute_dtype for inner in layers.all_layers(layer)} == {"bfloat16"}
    assert {variable.dtype for variable in layer.weights} == {"float32"}
    outputs = layer(FEATURES)
    assert outputs.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(outputs, "float32"), expected(FEATURES), atol=0.1)


def test_the_variables_of_an_aspp_have_the_originals_names():
    aspp = layers.ASPP(6, rates=(2, 3), name="anything")
    aspp.build(FEATURES.shape)
    names = {layers.official_name(variable) for variable in aspp.weights}
    batch_norm = ("gamma", "beta", "moving_mean", "moving_variance")
    convolutions = {
        "image_pooling": "weights",
        "aspp0": "weights",
        "aspp1_depthwise": "depthwise_weights",
        "aspp1_pointwise": "weights",
        "aspp2_depthwise": "depthwise_weights",
        "aspp2_pointwise": "weights",
        "concat_projection": "weights",
    }
    assert names == {f"{scope}/{kind}" for scope, kind in convolutions.items()} | {
        f"{scope}/BatchNorm/{kind}" for scope in convolutions for kind in batch_norm
    }


def test_a_separable_convolution_is_a_depthwise_and_a_pointwise_one():
    layer = _with_statistics(layers.AtrousSeparableConv2D(6, dilation_rate=3, name="conv"))
    weights = {layers.official_name(variable): variable.numpy() for variable in layer.weights}

    def normalize(x, scope):
        gamma, beta, mean, variance = (
            weights[f"{scope}/BatchNorm/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)

    x = tf.nn.depthwise_conv2d(
        FEATURES, weights["conv_depthwise/depthwise_weights"], [1] * 4, "SAME", dilations=(3, 3)
    )
    x = normalize(x, "conv_depthwise") @ weights["conv_pointwise/weights"][0, 0]
    np.testing.assert_allclose(layer(FEATURES), normalize(x, "conv_pointwise"), atol=1e-5)


def test_lite_r_aspp_weighs_a_1x1_convolution_by_image_pooling():
    layer = _with_statistics(layers.LiteRASPP(6, gate="sigmoid"))
    weights = {layers.official_name(variable): variable.numpy() for variable in layer.weights}
    mean = FEATURES.mean((1, 2), keepdims=True)
    gate = mean @ weights["image_pooling/weights"][0, 0] + weights["image_pooling/biases"]
    (branch,) = layer.branches
    expected = branch(FEATURES) * tf.sigmoid(gate)
    np.testing.assert_allclose(layer(FEATURES), expected, atol=1e-5)


def test_dropout_can_be_set():
    aspp = layers.ASPP(6, rates=(), dropout=0.75)
    outputs = np.asarray(aspp(np.ones((1, 40, 40, 5), "float32"), training=True))
    kept = outputs[..., outputs.any((0, 1, 2))]
    assert 0.15 < np.mean(kept != 0) < 0.35


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"squeeze_and_excitation": True, "projection": False}, "a single branch"),
        ({"squeeze_and_excitation": True, "image_pooling": False}, "add_image_level_feature"),
    ],
)
def test_an_aspp_refuses_what_cannot_be_weighed(arguments, message):
    with pytest.raises(UserError, match=message):
        layers.ASPP(**arguments)


def test_all_layers_are_found_once_at_any_depth():
    aspp = layers.ASPP(6, rates=(2,))
    inner = keras.Sequential([keras.Input((9, 12, 5)), aspp])
    inputs = keras.Input((9, 12, 5))
    model = keras.Model(inputs, keras.layers.Add()([inner(inputs), inner(inputs)]))
    found = layers.all_layers(model)
    assert len(set(found)) == len(found)
    assert {inner, aspp, *aspp.branches} <= set(found)
    names = [layer.name for layer in found]
    assert names.count("aspp1_depthwise") == 1 and names.count("concat_projection.dropout") == 1
