"""Learning-rate schedules, against recorded values of the original."""

import keras
import pytest
import tensorflow as tf

import original
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import UserError
from deeplab_tf.training import schedules


def built(policy: str, num_steps: int, **settings):
    return schedules.build(
        TrainConfig(
            learning_policy=policy,
            base_learning_rate=0.1,
            training_number_of_steps=num_steps,
            **settings,
        )
    )


@pytest.mark.parametrize(
    "case",
    [
        "poly_voc",
        "poly_power_1_end_lr",
        "poly_decay_steps_20000_end_lr",
        "poly_slow_start_none",
        "poly_slow_start_linear",
        "step_default",
        "step_slow_start",
        "cosine (not reachable from train.py flags)",
    ],
)
def test_every_policy_equals_the_original(case):
    recorded = original.load("learning_rate")[case]
    arguments = {  # the original took steps as floats, too
        name: int(value) if name.endswith(("step", "steps")) else value
        for name, value in recorded["arguments"].items()
    }
    if arguments.pop("slow_start_burnin_type", "none") == "linear":
        arguments["warmup_steps"] = arguments.pop("slow_start_step")
    schedule = schedules.build(TrainConfig(**arguments))
    for step, rate in recorded["step_to_learning_rate"].items():
        # float32 cannot tell the last steps of the cosine from 0.
        assert float(schedule(int(step))) == pytest.approx(rate, rel=1e-5, abs=1e-10), step


def test_poly_falls_from_the_base_rate_to_zero():
    schedule = schedules.PolySchedule(0.1, 100, power=0.9)
    rates = [float(schedule(step)) for step in (0, 50, 100, 101)]
    assert rates == pytest.approx([0.1, 0.1 * 0.5**0.9, 0.0, 0.0], abs=1e-7)


def test_cosine_falls_to_its_end():
    schedule = built("cosine", 100, end_learning_rate=0.02)
    rates = [float(schedule(step)) for step in (0, 50, 75, 100, 200)]
    quarter = 0.02 + 0.08 * (1 - 0.5**0.5) / 2
    assert rates == pytest.approx([0.1, 0.06, quarter, 0.02, 0.02], rel=1e-6)


@pytest.mark.parametrize("policy", ["poly", "step", "cosine"])
def test_warm_up_climbs_linearly_and_then_every_policy_begins(policy):
    schedule = built(policy, 60, warmup_steps=10, slow_start_learning_rate=0.0)
    rates = [float(schedule(step)) for step in (0, 1, 5, 10)]
    assert rates == pytest.approx([0.0, 0.01, 0.05, 0.1])
    without = built(policy, 50)
    for step in (0, 20, 49):
        assert float(schedule(10 + step)) == float(without(step))


@pytest.mark.parametrize("policy", ["poly", "step", "cosine"])
def test_a_schedule_survives_serialization(policy):
    schedule = built(policy, 100, slow_start_step=10, slow_start_learning_rate=0.01)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(again(5)) == pytest.approx(0.01)
    assert float(again(50)) == float(schedule(50))


def test_a_schedule_is_part_of_a_graph():
    schedule = built("poly", 100, warmup_steps=10)
    in_graph = tf.function(schedule, input_signature=[tf.TensorSpec([], tf.int64)])
    for step in (3, 30):
        assert float(in_graph(tf.constant(step, tf.int64))) == pytest.approx(float(schedule(step)))


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"slow_start_step": 5, "warmup_steps": 5}, "slow_start_step=5 and --warmup_steps=5 excl"),
        ({"warmup_steps": 100}, "--warmup_steps=100 must be less than --training_number_of_.*=100"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        built("poly", 100, **settings)
