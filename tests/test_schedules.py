"""Learning-rate schedules, against recorded values of the original."""

import json

import pytest

from deeplab_tf import schedules


@pytest.mark.parametrize("case", ["poly_voc", "poly_slow_start_none"])
def test_poly_equals_the_original(shared, case):
    recorded = json.loads((shared / "oracles/training/learning_rate.json").read_text())[case]
    arguments = recorded["arguments"]
    schedule = schedules.PolySchedule(
        arguments["base_learning_rate"],
        arguments["training_number_of_steps"],
        arguments["learning_power"],
        arguments["slow_start_step"],
        arguments["slow_start_learning_rate"],
    )
    for step, rate in recorded["step_to_learning_rate"].items():
        assert float(schedule(int(step))) == pytest.approx(rate, rel=1e-5, abs=1e-8), step


def test_poly_falls_from_the_base_rate_to_zero():
    schedule = schedules.PolySchedule(0.1, 100, power=0.9)
    rates = [float(schedule(step)) for step in (0, 50, 100, 101)]
    assert rates == pytest.approx([0.1, 0.1 * 0.5**0.9, 0.0, 0.0], abs=1e-7)


def test_a_schedule_survives_serialization():
    schedule = schedules.PolySchedule(0.1, 100, 0.9, 10, 0.01)
    again = schedules.PolySchedule.from_config(schedule.get_config())
    assert float(again(5)) == pytest.approx(0.01)
    assert float(again(50)) == float(schedule(50))
