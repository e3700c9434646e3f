"""What is told while a model trains."""

import itertools

import pytest

from deeplab_tf import training_log


def test_time_left_counts_training_steps_only(monkeypatch):
    # Starts and ends of calls, in seconds: compiling takes 30, then 2 steps take 1 second each;
    # the minute between is a validation.
    clock = iter([0, 30, 100, 102, 162, 164])
    monkeypatch.setattr(training_log.time, "perf_counter", lambda: next(clock))
    stopwatch = training_log.Stopwatch(steps_to_go=106, batch_size=8)
    assert stopwatch.time_left == "?"
    for _ in range(3):
        with stopwatch.time(2):
            pass
    assert stopwatch.time_left == "1:40"
    assert stopwatch.pictures_per_second == pytest.approx(8)


def test_hours_left_are_told_in_hours_and_minutes(monkeypatch):
    clock = itertools.count(step=100)
    monkeypatch.setattr(training_log.time, "perf_counter", lambda: next(clock))
    stopwatch = training_log.Stopwatch(steps_to_go=102, batch_size=1)
    for _ in range(2):
        with stopwatch.time(1):
            pass
    assert stopwatch.time_left == "2h46"
