"""The optimizers, what they do by name, clipping, accumulation and moving averages."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import build_model
from deeplab_tf import layers
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.runs import distribution
from deeplab_tf.training import losses
from deeplab_tf.training import optimizers


def test_momentum_accumulates_gradients_before_the_learning_rate_is_applied():
    variable = keras.Variable([1.0])
    optimizer = optimizers.MomentumSGD(learning_rate=0.1, momentum=0.9)
    optimizer.build([variable])
    expected, accumulator = 1.0, 0.0
    for gradient, rate in ((2.0, 0.1), (-1.0, 0.01), (3.0, 0.5)):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant([gradient])], [variable])
        accumulator = 0.9 * accumulator + gradient
        expected -= rate * accumulator
        assert float(variable.value[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "key, logits_only",
    [
        ("gradient_multipliers_last_layer_10", False),
        ("gradient_multipliers_last_layer_10_logits_only", True),
    ],
)
def test_weight_decay_and_multipliers_equal_the_original_for_every_variable(
    shared, key, logits_only
):
    recorded = json.loads(
        (shared / "oracles/training/regularization_and_multipliers.json").read_text()
    )
    for variant, facts in recorded.items():
        names = [
            entry["name"]
            for entry in json.loads((shared / f"oracles/{variant}/variables.json").read_text())
            if "moving_" not in entry["name"]
        ]
        assert sum(map(optimizers.is_regularized, names)) == facts["number_regularized"]
        for name in names:
            expected = facts[key].get(name, 1.0)
            multiplier = optimizers.gradient_multiplier(
                name,
                last_layer_gradient_multiplier=10.0,
                last_layers_contain_logits_only=logits_only,
            )
            assert multiplier == expected, name


def test_the_backbone_multiplier_is_of_what_is_not_in_the_head():
    for name, expected in (
        ("resnet_v1_50/conv1/weights", 0.1),
        ("MobilenetV3/expanded_conv_3/squeeze_excite/Conv/biases", 0.2),
        ("aspp1_pointwise/weights", 10.0),
        ("logits/semantic/biases", 20.0),
    ):
        multiplier = optimizers.gradient_multiplier(
            name, last_layer_gradient_multiplier=10.0, backbone_gradient_multiplier=0.1
        )
        assert multiplier == pytest.approx(expected)
    multiplier = optimizers.gradient_multiplier(
        "aspp0/weights",
        last_layer_gradient_multiplier=10.0,
        last_layers_contain_logits_only=True,
        backbone_gradient_multiplier=0.1,
    )
    assert multiplier == 1.0


def small_model() -> keras.Model:
    """A backbone of a convolution, and logits; different numbers each time."""
    inputs = keras.Input([6, 6, 3])
    features = keras.layers.Conv2D(4, 3, padding="same", name="backbone.conv1")(inputs)
    logits = keras.layers.Conv2D(3, 1, bias_initializer="normal", name="logits.semantic")
    return keras.Model(inputs, logits(keras.ops.tanh(features)))


# Of the backbone's kernel and biases, and of the logits', with the settings below.
DECAYS = (0.01, 0.0, 0.01, 0.0)
MULTIPLIERS = (0.5, 1.0, 10.0, 20.0)


def built(name: str, variables, learning_rate=0.1) -> keras.optimizers.Optimizer:
    config = TrainConfig(
        optimizer=name,
        weight_decay=0.01,
        last_layer_gradient_multiplier=10.0,
        backbone_gradient_multiplier=0.5,
    )
    return optimizers.build(config, learning_rate, variables)


def test_momentum_decays_and_multiplies_by_name():
    variables = small_model().trainable_variables
    gradients = [tf.random.stateless_normal(v.shape, [7, 7]) for v in variables]
    optimizer = built("momentum", variables)
    weights, accumulators = [v.numpy() for v in variables], [0.0] * 4
    for _ in range(3):
        optimizer.apply(gradients, variables)
        for i, gradient in enumerate(gradients):
            total = (gradient + DECAYS[i] * weights[i]) * MULTIPLIERS[i]
            accumulators[i] = 0.9 * accumulators[i] + total
            weights[i] = weights[i] - 0.1 * accumulators[i]
    for variable, expected in zip(variables, weights):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_momentum_of_0_is_plain_gradient_descent():
    variables = small_model().trainable_variables
    optimizer = optimizers.MomentumSGD(0.5, momentum=0.0)
    optimizer.build(variables)
    before = [variable.numpy() for variable in variables]
    optimizer.apply([tf.ones(variable.shape) for variable in variables], variables)
    for variable, value in zip(variables, before):
        np.testing.assert_allclose(variable.numpy(), value - 0.5, rtol=1e-6)
    assert optimizer.slots == {}


def test_adamw_decays_beside_the_gradient_and_multiplies_the_rate_by_name():
    variables = small_model().trainable_variables
    optimizer = built("adamw", variables, 0.01)
    weights = [v.numpy().astype(np.float64) for v in variables]
    means, squares = [0.0] * 4, [0.0] * 4
    for step in range(1, 4):
        gradients = [tf.random.stateless_normal(v.shape, [step, 7]) for v in variables]
        optimizer.apply(gradients, variables)
        for i, gradient in enumerate(np.asarray(g) for g in gradients):
            means[i] = 0.9 * means[i] + 0.1 * gradient
            squares[i] = 0.999 * squares[i] + 0.001 * gradient**2
            unbiased = (means[i] / (1 - 0.9**step), squares[i] / (1 - 0.999**step))
            rate = 0.01 * MULTIPLIERS[i]
            weights[i] *= 1 - rate * DECAYS[i]
            weights[i] -= rate * unbiased[0] / np.sqrt(unbiased[1])
    for variable, expected in zip(variables, weights):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_an_optimizer_survives_serialization_and_checkpoints(name, tmp_path):
    variables = small_model().trainable_variables
    gradients = [tf.ones(variable.shape) for variable in variables]
    optimizer = built(name, variables)
    optimizer.apply(gradients, variables)
    again = type(optimizer).from_config(optimizer.get_config())
    again.build(variables)
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(optimizer=again).restore(path).assert_consumed()
    start = [variable.numpy() for variable in variables]
    optimizer.apply(gradients, variables)
    expected = [variable.numpy() for variable in variables]
    for variable, value in zip(variables, start):
        variable.assign(value)
    again.apply(gradients, variables)
    for variable, value in zip(variables, expected):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_frozen_scopes_are_neither_trained_nor_do_their_statistics_move():
    model = build_model("v3plus", "mobilenet_v2", 3, depth_multiplier=0.35, aspp_convs_filters=8)
    optimizers.freeze(model, ["MobilenetV2/Conv", "MobilenetV2/expanded_conv_1/"])
    scopes = ("MobilenetV2/Conv/", "MobilenetV2/expanded_conv_1/")
    names = [layers.official_name(variable) for variable in model.trainable_variables]
    assert not [name for name in names if name.startswith(scopes)]
    assert "MobilenetV2/expanded_conv_10/expand/weights" in names
    before = {v.path: v.numpy() for v in model.variables if "moving_mean" in v.path}
    model(np.random.default_rng(0).uniform(0, 255, [1, 65, 65, 3]), training=True)
    for variable in model.variables:
        if variable.path in before:
            moved = bool(np.any(variable.numpy() != before[variable.path]))
            assert moved != layers.official_name(variable).startswith(scopes), variable.path


def test_a_scope_that_is_not_there_cannot_be_frozen():
    model = small_model()
    with pytest.raises(UserError, match="'conv1' to freeze.* backbone/conv1, logits/semantic"):
        optimizers.freeze(model, ["conv1"])


def test_clipping_is_to_the_norm_of_all_gradients_together():
    gradients = [tf.constant([3.0]), tf.constant([[4.0]])]
    clipped, norm = optimizers.clip_by_global_norm(gradients, 1.0)
    assert float(norm) == pytest.approx(5)
    assert [float(tf.squeeze(gradient)) for gradient in clipped] == pytest.approx([0.6, 0.8])
    for clip_norm in (10.0, 0.0):
        clipped, norm = optimizers.clip_by_global_norm(gradients, clip_norm)
        assert float(norm) == pytest.approx(5)
        assert [float(tf.squeeze(gradient)) for gradient in clipped] == pytest.approx([3, 4])


def test_a_gradient_that_is_not_finite_is_not_clipped_away():
    for bad in (np.inf, np.nan):
        clipped, norm = optimizers.clip_by_global_norm([tf.constant([1.0, bad])], 1.0)
        assert not np.isfinite(norm) and not np.all(np.isfinite(clipped[0]))


def draw_batch(count: int):
    """Images, and labels with more and more ignored pixels."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, [count, 6, 6]).astype(np.int32)
    for index in range(count):
        label[index, :index] = 255
    return tf.constant(rng.normal(size=[count, 6, 6, 3]).astype(np.float32)), tf.constant(label)


def loss_gradients(model, images, label):
    """As in a training step of one replica: gradients of the mean, and the number of pixels."""
    with tf.GradientTape() as tape:
        loss_sum, count = losses.cross_entropy(model(images), label, 255)
        loss = tf.math.divide_no_nan(loss_sum, count)
    return tape.gradient(loss, model.trainable_variables), count


def test_small_batches_one_after_the_other_equal_a_large_one():
    model = small_model()
    images, label = draw_batch(6)
    accumulator = optimizers.GradientAccumulator(model.trainable_variables)
    expected, _ = loss_gradients(model, images, label)
    for _ in range(2):  # the second time shows that the first left nothing behind
        for start in (0, 2, 4):
            part = slice(start, start + 2)
            accumulator.add(*loss_gradients(model, images[part], label[part]))
        for gradient, whole in zip(accumulator.take(), expected):
            np.testing.assert_allclose(gradient, whole, rtol=1e-5, atol=1e-7)


def test_batches_without_a_pixel_that_counts_accumulate_to_zero():
    model = small_model()
    images, label = draw_batch(2)
    accumulator = optimizers.GradientAccumulator(model.trainable_variables)
    for _ in range(2):
        accumulator.add(*loss_gradients(model, images, tf.fill(label.shape, 255)))
    assert not any(np.any(gradient) for gradient in accumulator.take())


def test_a_moving_average_follows_its_closed_form():
    variable = keras.Variable([[1.0, -2.0]])
    average = optimizers.MovingAverage([variable], decay=0.6)
    expected = np.array([[1.0, -2.0]])
    for step in range(12):  # the ramp reaches 0.6 at step 12.5, and 0.5 at step 8
        variable.assign([[step, step**2]])
        average.update([variable], tf.constant(step))
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * np.array([[step, step**2]])
    np.testing.assert_allclose(average.averages[0], expected, rtol=1e-6)
    for step in range(100, 103):
        average.update([variable], tf.constant(step))
    distance = 0.6**3 * (expected - variable.numpy())
    np.testing.assert_allclose(average.averages[0], variable.numpy() + distance, rtol=1e-6)


def test_a_model_is_evaluated_with_its_averages_and_gets_its_weights_back():
    variables = small_model().trainable_variables
    average = optimizers.MovingAverage(variables, 0.9)
    weights = [variable.numpy() for variable in variables]
    for variable in variables:
        variable.assign(variable + 1 / 3)
    after = [variable.numpy() for variable in variables]
    with pytest.raises(KeyError):
        with average.swapped(variables):
            for variable, value in zip(variables, weights):
                np.testing.assert_array_equal(variable.numpy(), value)
            raise KeyError
    for variable, kept, value, of_average in zip(variables, after, weights, average.averages):
        np.testing.assert_array_equal(variable.numpy(), kept)
        np.testing.assert_array_equal(of_average.numpy(), value)
    average.reset(variables)
    np.testing.assert_array_equal(average.averages[0].numpy(), after[0])


def test_a_moving_average_is_saved_and_restored(tmp_path):
    variable = keras.Variable([1.0, 2.0])
    average = optimizers.MovingAverage([variable], 0.9)
    path = tf.train.Checkpoint(average=average).save(str(tmp_path / "checkpoint"))
    variable.assign([5.0, 5.0])
    again = optimizers.MovingAverage([variable], 0.9)
    tf.train.Checkpoint(average=again).restore(path).assert_consumed()
    np.testing.assert_array_equal(again.averages[0].numpy(), [1.0, 2.0])


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_two_replicas_clip_accumulate_and_average_as_one(name, tmp_path):
    images, label = draw_batch(8)
    start = small_model().get_weights()

    def trained(strategy) -> list[np.ndarray]:
        replicas = strategy.num_replicas_in_sync
        with strategy.scope():
            model = small_model()
            model.set_weights(start)
            variables = model.trainable_variables
            optimizer = built(name, variables, 0.01)
            accumulator = optimizers.GradientAccumulator(variables)
            average = optimizers.MovingAverage(variables, 0.9)

        def add(images, label):
            context = tf.distribute.get_replica_context()
            with tf.GradientTape() as tape:
                loss_sum, count = losses.cross_entropy(model(images), label, 255)
                count = context.all_reduce(tf.distribute.ReduceOp.SUM, count)
                loss = loss_sum / count
            accumulator.add(tape.gradient(loss, variables), count)

        def apply():
            gradients, norm = optimizers.clip_by_global_norm(accumulator.take(), 0.05)
            step = tf.identity(optimizer.iterations)
            optimizer.apply(gradients, variables)
            average.update(variables, step)
            return norm

        def share(images, batch):
            def of_replica(context):
                size = 4 // replicas
                first = 4 * batch + size * context.replica_id_in_sync_group
                return images[first : first + size]

            return strategy.experimental_distribute_values_from_function(of_replica)

        @tf.function
        def step():
            for batch in range(2):
                strategy.run(add, args=(share(images, batch), share(label, batch)))
            return strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(apply), axis=None)

        norms = [step().numpy() for _ in range(3)]
        path = tf.train.Checkpoint(average=average).save(str(tmp_path / "checkpoint"))
        average.reset(variables)
        tf.train.Checkpoint(average=average).restore(path).assert_consumed()
        weights = model.get_weights()
        with average.swapped(variables):
            averages = model.get_weights()
        assert all(map(np.array_equal, model.get_weights(), weights))
        return [np.array(norms), *weights, *averages]

    one = trained(distribution.get_strategy("one_device"))
    two = trained(distribution.get_strategy("mirrored"))
    assert min(one[0]) > 0.05  # there is something to clip
    for value, expected in zip(two, one):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
