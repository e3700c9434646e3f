"""Models also run on Keras' JAX backend, on the CPU."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
from conftest import short_mobilenet_v2
from deeplab_tf import layers

if importlib.util.find_spec("jax") is None:
    pytest.skip("needs jax, which is not installed", allow_module_level=True)

# Dense and separable atrous convolution, image pooling, and the decoder.
MODELS = {
    "v3": {
        "version": "v3",
        "aspp_with_separable_conv": False,
        "aspp_convs_filters": 32,
        # Batch norm of one pixel per image would amplify rounding.
        "add_image_level_feature": False,
    },
    "v3plus": {"version": "v3plus"},
}
BOTTLENECKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 64, 1, 2))
SETTINGS = {
    "backbone": "mobilenet_v2",
    "num_classes": 3,
    "depth_multiplier": 0.35,
    "output_stride": 4,  # atrous convolution in the backbone, too
    "atrous_rates": (2, 3),
}

ON_JAX = """
import sys
import jax, keras, numpy as np
import deeplab_tf.models  # registers the layers

assert keras.backend.backend() == "jax"
# Weights are loaded anyway, and JAX would compile a program for every shape that it draws.
for random in (keras.initializers.VarianceScaling, keras.initializers.TruncatedNormal):
    random.__call__ = keras.initializers.Zeros.__call__
folder = sys.argv[1]
images = np.load(f"{folder}/images.npy")
results = {}

def values(variables):
    return [variable.value for variable in variables]

for name in ("v3", "v3plus"):
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    state = values(model.trainable_variables), values(model.non_trainable_variables)
    infer = jax.jit(lambda *state: model.stateless_call(*state, images, training=False)[0])
    results[f"{name}_logits"] = infer(*state)

    if name == "v3":
        def loss_and_statistics(weights, statistics):
            logits, statistics = model.stateless_call(weights, statistics, images, training=True)
            return (logits**2).mean(), statistics

        differentiate = jax.jit(jax.value_and_grad(loss_and_statistics, has_aux=True))
        (results["loss"], statistics), gradients = differentiate(*state)
        for variable, gradient in zip(model.trainable_variables, gradients):
            results[f"gradient of {variable.path}"] = gradient
            variable.assign(np.asarray(variable) - 0.01 * np.asarray(gradient))
        for variable, value in zip(model.non_trainable_variables, statistics):
            results[variable.path] = value
            variable.assign(value)
        results["trained_logits"] = infer(
            values(model.trainable_variables), values(model.non_trainable_variables)
        )
        model.save(f"{folder}/trained.keras")
np.savez(f"{folder}/results.npz", **results)
"""


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    """Returns TensorFlow models, their folder, images, and the results of JAX on these."""
    folder = tmp_path_factory.mktemp("jax")
    keras.utils.set_random_seed(0)  # How far rounding goes depends on the weights.
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 65, 81, 3)).astype("float32")
    np.save(folder / "images.npy", images)
    models = {}
    for name, settings in MODELS.items():
        with short_mobilenet_v2(BOTTLENECKS):
            model = models[name] = deeplab_tf.build_model(**SETTINGS, **settings)
        for variable in model.non_trainable_variables:
            if variable.name.startswith("moving"):
                variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        for layer in layers.all_layers(model):
            # The two backends draw other numbers.
            if isinstance(layer, layers.ASPP):
                layer.dropout = 0.0  # Its dropout is made from this when it is loaded.
            elif isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        model.save(folder / f"{name}.keras")
    finished = subprocess.run(
        [sys.executable, "-c", ON_JAX, str(folder)],
        # Optimizing what runs once would take most of the time.
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return models, folder, images, np.load(folder / "results.npz")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_saved_from_tensorflow_gives_the_same_logits_on_jax(exchange, name):
    models, _, images, on_jax = exchange
    logits = models[name](images, training=False)
    np.testing.assert_allclose(on_jax[f"{name}_logits"], logits, atol=1e-4)


def test_a_training_step_on_jax_has_the_loss_gradients_and_statistics_of_tensorflow(exchange):
    _, folder, images, on_jax = exchange
    model = keras.saving.load_model(folder / "v3.keras")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(images, training=True) ** 2)
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    np.testing.assert_allclose(on_jax["loss"], loss, rtol=1e-4)
    got = [on_jax[f"gradient of {variable.path}"] for variable in model.trainable_variables]
    difference = tf.linalg.global_norm([a - b for a, b in zip(got, gradients)])
    # Rounding moves single pixels across the corners of ReLU6.
    assert difference < 0.01 * tf.linalg.global_norm(gradients)
    for variable in model.non_trainable_variables:
        if variable.name.startswith("moving"):
            np.testing.assert_allclose(
                on_jax[variable.path], variable, rtol=1e-4, atol=1e-5, err_msg=variable.path
            )


def test_a_model_trained_and_saved_on_jax_gives_the_same_logits_on_tensorflow(exchange):
    _, folder, images, on_jax = exchange
    logits = keras.saving.load_model(folder / "trained.keras")(images, training=False)
    np.testing.assert_allclose(on_jax["trained_logits"], logits, atol=1e-4)
    assert np.abs(on_jax["trained_logits"] - on_jax["v3_logits"]).max() > 1e-3
