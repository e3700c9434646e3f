"""Trainings that are killed, and what restarts them: real processes, really killed."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from conftest import REPOSITORY
from conftest import TINY_MODEL
from conftest import TWO_UNITS
from deeplab_tf import command_line
from deeplab_tf import supervise
from deeplab_tf.config import DataConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.errors import EXIT_INTERRUPTED
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.runs import checkpoints

NUM_STEPS = 10
# Without dropout, for which replicas draw numbers of their own.
MODEL = dataclasses.replace(TINY_MODEL, output_stride=8, aspp_with_concat_projection=False)
TRAINING = TrainConfig(
    training_number_of_steps=NUM_STEPS,
    train_batch_size=4,
    optimizer="momentum",  # AdamW makes steps of rounding errors
    moving_average_decay=0.9,
    batch_statistics_images=4,
    steps_per_execution=1,
    log_every_steps=1,
    save_every_steps=2,
    seed=3,
)

# Python runs this before `-m deeplab_tf.train`. It shortens the network, and kills or stops the
# process once for each file in a folder: kill-N and stop-N when the loop asks for the N-th time
# whether it has to stop, which it does after every step; save-N while the checkpoint of step N is
# written and lacks its last file.
SITE = f"""
import os, shutil, signal, sys, time

if "deeplab_tf.train" in sys.orig_argv:
    from deeplab_tf.runs import distribution
    from deeplab_tf.training import preemption
    from deeplab_tf.backbones import mobilenet_v2

    mobilenet_v2.BOTTLENECKS = {TWO_UNITS}
    folder = os.environ["ENDS"]
    looks = 0

    def is_time(event):
        try:
            os.remove(os.path.join(folder, f"{{event}}-of-{{distribution.worker_index()}}"))
        except FileNotFoundError:
            return False
        return True

    class StopSignal(preemption.StopSignal):
        @property
        def is_requested(self):
            global looks
            looks += 1
            if is_time(f"kill-{{looks}}"):
                shutil.copy(os.path.join(folder, "../run/metrics.jsonl"), folder)
                os.kill(os.getpid(), signal.SIGKILL)
            if is_time(f"stop-{{looks}}"):
                os.kill(os.getppid(), signal.SIGTERM)
                while not self._is_set:
                    time.sleep(0.01)
            return super().is_requested

    def replace(source, target):
        name = os.fspath(target)
        step = name.removesuffix(".index").rpartition("-")[2]
        if name.endswith(".index") and is_time(f"save-{{step}}"):
            os.kill(os.getpid(), signal.SIGKILL)
        os_replace(source, target)

    preemption.StopSignal, os_replace, os.replace = StopSignal, os.replace, replace
"""


class Run:
    """A run of the commands: its folders, and its flags."""

    def __init__(self, folder, source, *arguments: str, ends=()):
        (folder / "site").mkdir(parents=True)
        (folder / "ends").mkdir()
        (folder / "site/sitecustomize.py").write_text(SITE)
        for end in ends:
            (folder / "ends" / end).touch()
        self.folder = folder / "run"
        self._environment = os.environ | {
            "PYTHONPATH": f"{folder / 'site'}:{REPOSITORY}",
            "ENDS": str(folder / "ends"),
        }
        data = DataConfig(data_dir=source.folder, train_crop_size=(65, 65), val_split="")
        flagfile = folder / "flagfile"
        command_line.write_flagfile(str(flagfile), MODEL, data, TRAINING)
        self._arguments = [f"--flagfile={flagfile}", f"--run_dir={self.folder}", *arguments]

    def start(self, command: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", f"deeplab_tf.{command}", *self._arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def losses(self) -> dict[int, float]:
        return losses(self.folder / "metrics.jsonl")

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Everything in the checkpoint of the last step: weights, slots, averages, seeds."""
        return self.state_at(NUM_STEPS)

    def state_at(self, step: int) -> dict[str, np.ndarray]:
        """Everything in the last checkpoint, which must be of this step."""
        (prefix, *_) = checkpoint_files.find(str(self.folder / "checkpoints"))
        assert checkpoint_files.step_of(prefix) == step
        reader = tf.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def losses(path) -> dict[int, float]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["loss/total"] for line in lines if "loss/total" in line}


def end_of(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


@pytest.fixture(scope="module")
def ended(tiny_records, tmp_path_factory):
    """Runs with their exit codes and outputs; side by side they take half of the time."""
    folder = tmp_path_factory.mktemp("survival")
    whole = Run(folder / "whole", tiny_records)
    killed = Run(folder / "killed", tiny_records, ends=("save-4-of-0", "stop-5-of-0"))
    pair = Run(
        folder / "pair", tiny_records, "--workers=2", "--save_every_steps=4", ends=("kill-7-of-1",)
    )
    processes = [whole.start("train"), killed.start("supervise"), pair.start("supervise")]
    try:
        yield {
            run.folder.parent.name: (run, *end_of(process))
            for run, process in zip((whole, killed, pair), processes)
        }
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_killed_run_resumes_to_exactly_the_same_losses_and_state(ended):
    whole, exit_code, output = ended["whole"]
    assert exit_code == 0, output
    killed, exit_code, output = ended["killed"]
    assert exit_code == EXIT_INTERRUPTED, output
    assert "died with SIGKILL: restarts from step 2 (1 of 3" in output  # in saving step 4
    assert "stopped at step 7; run the same command again to resume" in output
    assert checkpoints.find(str(killed.folder), "last").endswith("ckpt-7")

    exit_code, output = end_of(killed.start("train"))
    assert exit_code == 0 and "resumes from step 7" in output, output
    assert killed.losses == whole.losses
    assert list(whole.losses) == list(range(1, NUM_STEPS + 1))
    assert_equal_states(killed.state, whole.state, rtol=0, atol=0)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_neither_losses_nor_state(tiny_records, tmp_path):
    # Long enough that most of the kills, which come 5 to 15 seconds after a start, meet steps.
    length = ("--training_number_of_steps=600", "--save_every_steps=5", "--log_every_steps=5")
    whole = Run(tmp_path / "whole", tiny_records, *length)
    killed = Run(tmp_path / "killed", tiny_records, *length)
    exit_code, output = end_of(whole.start("train"))
    assert exit_code == 0, output
    moments, num_kills = random.Random(0), 0
    for _ in range(20):
        process = killed.start("train")
        try:
            process.communicate(timeout=moments.uniform(5, 15))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            num_kills += 1
    exit_code, output = end_of(killed.start("train"))
    assert exit_code == 0, output
    print(f"{num_kills} of 20 starts were killed before they ended")
    assert killed.losses == whole.losses
    assert_equal_states(killed.state_at(600), whole.state_at(600), rtol=0, atol=0)


def test_two_processes_equal_one_with_the_whole_batch_although_one_is_killed(ended):
    whole, _, _ = ended["whole"]
    pair, exit_code, output = ended["pair"]
    assert exit_code == 0, output
    assert "died with SIGKILL: restarts from step 4" in output
    before = losses(pair.folder.parent / "ends/metrics.jsonl")
    assert {5, 6} <= before.keys()
    assert {step: pair.losses[step] for step in before} == before  # bit for bit
    # Two processes add up in another order than one.
    np.testing.assert_allclose(list(pair.losses.values()), list(whole.losses.values()), rtol=1e-5)
    assert_equal_states(pair.state, whole.state, rtol=1e-3, atol=5e-4)


def assert_equal_states(one: dict, other: dict, **tolerance) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], err_msg=name, **tolerance)


def supervised(tmp_path, code: str, max_restarts: int = 3, **arguments) -> int:
    return supervise.supervise(
        [sys.executable, "-c", code],
        run_dir=str(tmp_path),
        max_restarts=max_restarts,
        **arguments,
    )


def test_the_supervisor_gives_up_when_there_is_no_progress(tmp_path):
    code = f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); import sys; sys.exit(3)"
    with pytest.raises(
        UserError, match="died with exit code 3. It is not restarted: --max_restarts=1 "
    ):
        supervised(tmp_path, code, max_restarts=1)
    assert (tmp_path / "starts").read_text() == "xx"


def test_a_training_with_a_message_to_its_user_is_not_restarted(tmp_path, capfdbinary):
    code = "import sys; print('once'); sys.exit('error: no such records')"
    assert supervised(tmp_path, code) == 1
    assert capfdbinary.readouterr().out.splitlines() == [b"once", b"error: no such records"]


def test_a_stop_before_a_restart_starts_nothing(tmp_path):
    starts, stop = [], threading.Event()

    class Dying:
        has_message = False

        def wait(self, stop):
            threading.Timer(0.05, stop.set).start()
            return 3

    def start():
        starts.append(Dying())
        return starts[-1]

    exit_code = supervise._restart_until_it_ends(start, str(tmp_path), 3, stop)
    assert (exit_code, len(starts)) == (EXIT_INTERRUPTED, 1)


def test_every_worker_gets_the_addresses_of_all(tmp_path, capfdbinary):
    code = "import os; print(os.environ['TF_CONFIG'])"
    assert supervised(tmp_path, code, workers=2, port=2222) == 0
    lines = sorted(capfdbinary.readouterr().out.splitlines())
    assert supervised(tmp_path, code, hosts=["localhost:2222", "localhost:2223"], index=1) == 0
    assert capfdbinary.readouterr().out.splitlines() == lines[1:]
    for index, line in enumerate(lines):
        prefix, config = line.split(b"] ", 1)
        assert prefix == b"[worker %d" % index
        assert json.loads(config) == {
            "cluster": {"worker": ["localhost:2222", "localhost:2223"]},
            "task": {"type": "worker", "index": index},
        }


def test_a_training_that_another_machine_stopped_is_started_again(tmp_path):
    """It has saved and ended with 75, although nobody asked this machine to stop."""
    starts = tmp_path / "starts"
    code = (
        f"import sys; file = open({str(starts)!r}, 'a+'); file.write('x'); file.seek(0); "
        "sys.exit(0 if len(file.read()) > 1 else 75)"
    )
    assert supervised(tmp_path, code, hosts=["localhost:2222", "localhost:2223"]) == 0
    assert starts.read_text() == "xx"


def test_a_worker_that_dies_takes_the_others_with_it(tmp_path):
    code = (
        "import json, os, time; index = json.loads(os.environ['TF_CONFIG'])['task']['index']; "
        "time.sleep(60) if index else os.kill(os.getpid(), 9)"
    )
    started = time.monotonic()
    with pytest.raises(UserError, match="SIGKILL"):
        supervised(tmp_path, code, workers=2, max_restarts=0)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"workers": 0}, "--workers=0"),
        ({"workers": 2, "hosts": ["a:1", "b:1"]}, "--workers=2 .*--hosts"),
        ({"hosts": ["a:1", "b:1"], "index": 2}, "--index=2 must be between 0 and 1"),
    ],
)
def test_workers_that_do_not_fit_together_are_refused(tmp_path, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        supervised(tmp_path, "pass", **arguments)
