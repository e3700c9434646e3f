"""What is reported while a model trains."""

import io
import itertools
import json
import os
import pathlib
import sys
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.training import log_files
from deeplab_tf.training import timing
from deeplab_tf.training import training_log

NAMES = ("road", "sky", "car")
COLORS = ((128, 64, 128), (70, 130, 180), (0, 0, 142))
VALUES = {"loss": 0.75, "cross_entropy": 0.5, "dice": 0.25, "gradient_norm": 2.0}


class Terminal(io.StringIO):
    """Stands for a terminal."""

    def isatty(self):
        return True

    def fileno(self):
        return 1


@pytest.fixture
def stopwatch(monkeypatch) -> timing.Stopwatch:
    """Has seen a step of 10 seconds, and has 4 to go."""
    clock = itertools.count(step=10)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    stopwatch = timing.Stopwatch(steps_to_go=6, batch_size=8)
    for _ in range(2):
        with stopwatch.time(1):
            pass
    return stopwatch


def make_log(run_dir, first_step: int = 0) -> training_log.TrainingLog:
    hparams = {"backbone": "vgg_16", "momentum": 0.9, "train_crop_size": (65, 65)}
    return training_log.TrainingLog(
        str(run_dir),
        total_steps=6,
        class_names=NAMES,
        colors=COLORS,
        hparams=hparams,
        first_step=first_step,
    )


def report_steps(log, stopwatch, steps, **values) -> None:
    for step in steps:
        with stopwatch.time(1):
            pass
        log.steps(step, VALUES | {"input_seconds": 2.5} | values, 0.01, stopwatch)


def validation_result() -> dict:
    matrix = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    return metrics.segmentation_metrics(matrix, NAMES) | {"confusion_matrix": matrix}


def lines(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def events(run_dir) -> event_accumulator.EventAccumulator:
    folder = str(run_dir / "tensorboard")
    return event_accumulator.EventAccumulator(folder, {"tensors": 0}).Reload()


def scalars(run_dir) -> dict[tuple[int, str], float]:
    accumulator = events(run_dir)
    return {
        (event.step, name): tf.make_ndarray(event.tensor_proto).item()
        for name in accumulator.Tags()["tensors"]
        if accumulator.SummaryMetadata(name).plugin_data.plugin_name == "scalars"
        for event in accumulator.Tensors(name)
    }


def test_time_left_counts_training_steps_only(monkeypatch):
    # Starts and ends of calls, in seconds: compiling takes 30, then 2 steps take 1 second each;
    # the minute between is a validation.
    clock = iter([0, 30, 100, 102, 162, 164])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    stopwatch = timing.Stopwatch(steps_to_go=106, batch_size=8)
    assert stopwatch.time_left == "?"
    for seconds_per_step in (15, 1, 1):
        with stopwatch.time(2):
            pass
        assert stopwatch.lap() == seconds_per_step
    assert stopwatch.time_left == "1:40"


def test_a_lap_is_the_mean_over_all_calls_since_the_last(monkeypatch):
    clock = iter([0, 2, 5, 11])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    stopwatch = timing.Stopwatch(steps_to_go=10, batch_size=8)
    for steps in (1, 3):
        with stopwatch.time(steps):
            pass
    assert stopwatch.lap() == (2 + 6) / 4


def test_hours_left_are_shown_in_hours_and_minutes(monkeypatch):
    clock = itertools.count(step=100)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    stopwatch = timing.Stopwatch(steps_to_go=102, batch_size=1)
    for _ in range(2):
        with stopwatch.time(1):
            pass
    assert stopwatch.time_left == "2h46"


def test_no_time_is_left_after_the_last_step_even_if_it_was_the_first_call():
    stopwatch = timing.Stopwatch(steps_to_go=2, batch_size=1)
    with stopwatch.time(steps=2):
        pass
    assert stopwatch.time_left == "0:00"


@pytest.mark.parametrize("seconds, steps", [(0.5, 4), (0.26, 2), (0.01, 1)])
def test_a_call_has_as_many_steps_as_take_the_seconds(monkeypatch, seconds, steps):
    clock = iter([0, 100, 200, 200.25])  # two steps that take a quarter of a second
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    stopwatch = timing.Stopwatch(steps_to_go=9, batch_size=1)
    with stopwatch.time(1):
        assert stopwatch.steps_within(seconds) == 1  # until the first call has compiled
    with stopwatch.time(2):
        assert stopwatch.steps_within(seconds) == 1
    assert stopwatch.steps_within(seconds) == steps


@pytest.mark.parametrize("input_seconds, work_seconds", [(0.04, 0.0), (0.0, 0.04)])
def test_waiting_for_batches_is_measured_and_work_is_not(input_seconds, work_seconds):
    def sleep(number, seconds):
        time.sleep(float(seconds))
        return number

    strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
    batches = tf.data.Dataset.range(100).batch(2, drop_remainder=True)
    batches = batches.map(
        lambda image: {
            "image": tf.ensure_shape(tf.numpy_function(sleep, [image, input_seconds], tf.int64), 2)
        }
    )

    @tf.function
    def steps(batches):
        total, waited = tf.constant(0, tf.int64), tf.constant(0.0)
        for _ in tf.range(10):
            batch, seconds = timing.next_batch(batches, (total, waited))
            per_replica = strategy.run(tf.reduce_sum, args=(batch["image"],))
            total += strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
            total = tf.ensure_shape(tf.numpy_function(sleep, [total, work_seconds], tf.int64), [])
            waited += seconds
        return total, waited

    total, waited = steps(iter(strategy.experimental_distribute_dataset(batches)))
    assert int(total) == sum(range(20))
    # Of the 0.4 seconds for 10 batches; some are made ahead, while the function is traced.
    assert (float(waited) > 0.2) == (input_seconds > 0)


def test_tensorboard_and_the_lines_hold_the_same_scalars(tmp_path, stopwatch):
    log = make_log(tmp_path)
    report_steps(log, stopwatch, [2])
    log.validation(2, validation_result(), [], is_best=True)
    log.close()
    steps, validation = lines(tmp_path)
    assert steps["step"] == validation["step"] == 2
    assert {name: value for name, value in steps.items() if name not in ("step", "time")} == {
        "loss/total": 0.75,
        "loss/cross_entropy": 0.5,
        "loss/dice": 0.25,
        "gradient_norm": 2.0,
        "learning_rate": 0.01,
        "images_per_second": 0.8,
        "input_wait_share": 0.25,
    }
    assert validation["validation_iou/road"] == 0.75
    assert validation["validation_iou/sky"] == pytest.approx(4 / 6)
    assert "validation_iou/car" not in validation  # occurs nowhere
    told = {
        (line["step"], name): value
        for line in (steps, validation)
        for name, value in line.items()
        if name not in ("step", "time")
    }
    # TensorBoard shows groups in the order of the alphabet: loss and miou first.
    moved = {"validation/miou": "miou/validation"} | {
        name: f"training/{name}" for _, name in told if "/" not in name
    }
    assert scalars(tmp_path) == pytest.approx(
        {(step, moved.get(name, name)): value for (step, name), value in told.items()}
    )


def test_tensorboard_has_images_and_hyperparameters(tmp_path):
    panel = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    log = make_log(tmp_path)
    log.validation(2, validation_result(), [panel, panel[::-1]], is_best=False)
    log.close()
    accumulator = events(tmp_path)

    def image(name):
        (event,) = accumulator.Tensors(name)
        return tf.io.decode_png(tf.make_ndarray(event.tensor_proto)[2]).numpy()

    np.testing.assert_array_equal(image("worst_images/0"), panel)
    np.testing.assert_array_equal(image("worst_images/1"), panel[::-1])
    assert image("validation/confusion_matrix").shape[-1] == 3
    (content,) = accumulator.PluginTagToContent("hparams").values()
    for setting in (b"vgg_16", b"momentum", b"(65, 65)"):
        assert setting in content


def test_a_run_that_resumes_reports_every_step_once(tmp_path, stopwatch):
    log = make_log(tmp_path)
    report_steps(log, stopwatch, [1, 2, 3], loss=1.0)
    log.close()
    # What a power cut leaves of a line and of an event.
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "ti')
    (event_file,) = (tmp_path / "tensorboard").iterdir()
    os.truncate(event_file, event_file.stat().st_size - 7)

    log = make_log(tmp_path, first_step=2)
    report_steps(log, stopwatch, [3, 4], loss=2.0)
    log.close()
    losses = [(line["step"], line["loss/total"]) for line in lines(tmp_path)]
    assert losses == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    in_tensorboard = [
        (event.step, tf.make_ndarray(event.tensor_proto).item())
        for event in events(tmp_path).Tensors("loss/total")
    ]
    # TensorBoard reads the files of one second in the order of their names.
    assert sorted(in_tensorboard) == losses


DAMAGED_LINES = [
    b"\0" * 4096 + b"\n",
    b"\n",
    b"garbage \xff\xfe\n",
    b"[" * 100_000 + b"\n",
    b'{"time": 1.0}\n',
    b'{"step": "2"}\n',
    b'{"step": NaN}\n',
    b"[1, 2]\n",
]


@pytest.mark.parametrize("damaged", DAMAGED_LINES, ids=lambda line: repr(line[:12]))
def test_a_damaged_line_is_left_out_and_reported_once(tmp_path, stopwatch, capsys, damaged):
    whole = b'{"step": 1, "loss/total": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(damaged + whole + damaged + damaged)
    log = make_log(tmp_path, first_step=2)
    report_steps(log, stopwatch, [3])
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 3]
    warning = f"warning: 3 damaged lines left out of {tmp_path / 'metrics.jsonl'}\n"
    assert capsys.readouterr().err == warning


def test_the_memory_for_a_line_is_bounded(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open(path, "wb") as file:
        file.truncate(2**28)  # as a power cut may leave it: NULs without a line break
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"step": 1}\n')
    tracemalloc.start()
    log_files.cut_lines(str(path), 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.read_bytes() == b'{"step": 1}\n'
    assert peak < 2**24


EVENT_FILE = "events.out.tfevents.1.host"


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"garbage", np.random.default_rng(0).bytes(3000)], ids=len
)
def test_damaged_files_of_tensorboard_do_not_block_a_resume(tmp_path, stopwatch, content):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / EVENT_FILE).write_bytes(content)
    (tmp_path / "tensorboard/folder.tfevents.x").mkdir()
    with tf.io.TFRecordWriter(str(tmp_path / "tensorboard" / f"{EVENT_FILE}.v2")) as writer:
        writer.write(b"\xff not an event")  # with the right checksum
    log = make_log(tmp_path, first_step=2)
    report_steps(log, stopwatch, [3])
    log.close()
    assert scalars(tmp_path)[3, "loss/total"] == 0.75


def test_what_was_reported_is_on_the_disk_at_once(tmp_path, stopwatch):
    log = make_log(tmp_path)
    report_steps(log, stopwatch, [1])
    assert lines(tmp_path)[0]["loss/total"] == 0.75
    assert scalars(tmp_path)[1, "loss/total"] == 0.75
    log.close()


def test_an_infinite_norm_leaves_a_line_of_json(tmp_path, stopwatch):
    log = make_log(tmp_path)
    report_steps(log, stopwatch, [1], gradient_norm=float("inf"))
    log.close()
    assert lines(tmp_path)[0]["gradient_norm"] is None


def test_a_run_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written.*exists"):
        make_log(tmp_path)


def fill_disk_under(path: pathlib.Path) -> None:
    """Makes every further write to a file of this process fail as on a full disk."""
    full = os.open("/dev/full", os.O_WRONLY)
    for descriptor in pathlib.Path("/proc/self/fd").iterdir():
        if os.path.realpath(descriptor) == str(path.resolve()):
            os.dup2(full, int(descriptor.name))
    os.close(full)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_is_reported_with_the_file(tmp_path, stopwatch):
    log = make_log(tmp_path)
    fill_disk_under(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="metrics.jsonl cannot be written.*No space left"):
        report_steps(log, stopwatch, [1])
    log.close()


def test_elsewhere_than_in_a_terminal_every_event_is_a_line(tmp_path, stopwatch, capsys):
    log = make_log(tmp_path)
    report_steps(log, stopwatch, [2, 4])
    log.validating(1, 2, 2.0)
    log.validation(4, validation_result(), [], is_best=True)
    log.close()
    first, second, validation = capsys.readouterr().out.splitlines()
    assert first == (
        "step 2/6  loss 0.7500  0:30 left  0.8 images/s  25% waiting for input  "
        "learning rate 0.01000"
    )
    assert second.startswith("step 4/6  ")
    assert validation == ("validation at step 4: miou 0.7083  pixel_accuracy 0.8333  (best so far)")


def test_a_terminal_has_progress_bars_in_one_line(tmp_path, stopwatch, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    log = make_log(tmp_path)
    report_steps(log, stopwatch, [3])
    log.validating(1, 2, 2.0)
    log.message("stays")
    log.close()
    shown = terminal.getvalue().replace("\x1b[A", "").replace("\n", "\r").split("\r")
    assert max(map(len, shown)) <= 80
    training = next(line for line in shown if "loss 0.7500" in line)
    assert training.startswith("training:  50%|") and "| 3/6 steps, loss 0.7500  0:30" in training
    assert any(
        line.startswith("validation:  50%|") and line.rstrip().endswith("1/2 images, 2.0 images/s")
        for line in shown
    )
    assert "stays" in shown
    assert terminal.getvalue().endswith("\n")  # what is printed next has a line of its own


def test_a_profile_is_written_between_two_steps(tmp_path):
    log = make_log(tmp_path)
    for step in range(4):
        log.profile(step, 1, 3)
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (step >= 3)
        tf.add(step, 1)
    log.close()


def test_workers_that_are_not_the_chief_report_nothing(tmp_path, stopwatch, capsys):
    log = training_log.Silence()
    report_steps(log, stopwatch, [1])
    log.validation(1, validation_result(), [], is_best=True)
    log.close()
    assert not capsys.readouterr().out
