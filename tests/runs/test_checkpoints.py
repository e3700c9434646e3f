"""Saving at any risk: kills between any two operations, damage, full disks, a second process."""

import os
import resource
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.runs import checkpoints


class Killed(BaseException):
    """Stands for what no process survives."""


def tiny_training(run_dir, value: float = 0.0, size: int = 3, **others):
    """A model whose weights are all `value`, its optimizer, and their checkpoints."""
    layers = [keras.Input((size,)), keras.layers.Dense(size), keras.layers.Dropout(0.5)]
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(model.trainable_variables)
    for variable in model.weights:
        variable.assign(np.full(variable.shape, value))
    state = checkpoints.TrainingCheckpoints(str(run_dir), model, optimizer, **others)
    return model, optimizer, state


def save(run_dir, *steps: int, size: int = 3) -> None:
    """Saves weights that are all the number of their step."""
    model, optimizer, state = tiny_training(run_dir, size=size)
    for step in steps:
        optimizer.iterations.assign(step)
        for variable in model.weights:
            variable.assign(np.full(variable.shape, step))
        state.save()


def resumed_step(run_dir) -> int:
    """Resumes; returns the step, which the weights then have to have too."""
    model, optimizer, state = tiny_training(run_dir, value=-1)
    assert state.resume()
    step = int(optimizer.iterations.numpy())
    for variable in model.weights:
        np.testing.assert_array_equal(variable.numpy(), step)
    return step


def test_the_newest_of_two_kept_checkpoints_is_resumed(tmp_path):
    save(tmp_path, 9, 10, 11)
    names = os.listdir(tmp_path / "checkpoints")
    assert sorted(names) == [
        f"ckpt-{step}.{kind}" for step in (10, 11) for kind in ("data-00000-of-00001", "index")
    ]
    assert resumed_step(tmp_path) == 11


def test_a_new_run_has_nothing_to_resume(tmp_path):
    assert not tiny_training(tmp_path)[2].resume()


def killed_before(operation: int, monkeypatch) -> list[str]:
    """Lets the process die before one of the operations on files; returns those done."""
    done = []

    def dying(name, function):
        def run(*arguments, **keywords):
            if len(done) == operation:
                raise Killed
            done.append(name)
            return function(*arguments, **keywords)

        return run

    for name in ("replace", "remove", "fsync"):
        monkeypatch.setattr(os, name, dying(name, getattr(os, name)))
    # A process that is killed does not tidy up.
    monkeypatch.setattr(checkpoint_files.shutil, "rmtree", lambda *_, **__: None)
    return done


@pytest.mark.parametrize("again", [False, True], ids=["new", "replaced"])
def test_a_kill_between_any_two_operations_leaves_a_whole_checkpoint(tmp_path, again):
    outcomes = []
    for operation in range(20):
        run_dir = tmp_path / str(operation)
        save(run_dir, 1, 2)
        step = 2 if again else 3
        with pytest.MonkeyPatch.context() as patch:
            killed_before(operation, patch)
            try:
                save(run_dir, step)
                was_killed = False
            except Killed:
                was_killed = True
        outcomes.append(resumed_step(run_dir))
        assert not os.path.exists(run_dir / "checkpoints/saving-0")
        indices = {name for name in os.listdir(run_dir / "checkpoints") if name.endswith("index")}
        assert len(os.listdir(run_dir / "checkpoints")) == 2 * len(indices)
        if not was_killed:
            break
    assert not was_killed and outcomes[-1] == step
    assert set(outcomes) == ({1, 2} if again else {2, 3})


def damage(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut off":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    else:
        content[len(content) // 3] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut off", "empty", "one bit"])
@pytest.mark.parametrize("kind", ["data-00000-of-00001", "index"])
def test_a_damaged_checkpoint_is_told_of_and_kept_and_the_one_before_is_resumed(
    tmp_path, capsys, how, kind
):
    save(tmp_path, 1, 2)
    damage(tmp_path / f"checkpoints/ckpt-2.{kind}", how)
    assert resumed_step(tmp_path) == 1
    told = capsys.readouterr().err
    assert "checkpoints/ckpt-2 is damaged" in told
    assert "checkpoints/damaged/ckpt-2" in told and "goes on from" in told
    assert (tmp_path / f"checkpoints/damaged/ckpt-2.{kind}").exists()
    assert resumed_step(tmp_path) == 1


def test_a_run_with_damaged_checkpoints_only_does_not_start_anew(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        damage(tmp_path / f"checkpoints/ckpt-{step}.index", "empty")
    with pytest.raises(UserError, match="No checkpoint in .* is whole"):
        resumed_step(tmp_path)
    assert (tmp_path / "checkpoints/ckpt-2.index").exists()


def test_a_checkpoint_of_another_training_is_refused_and_stays(tmp_path):
    save(tmp_path, 1)
    average = tf.Module()
    average.averages = [tf.Variable(0.0)]
    with pytest.raises(UserError, match="ckpt-1 is whole, but of another training"):
        tiny_training(tmp_path, average=average)[2].resume()
    assert resumed_step(tmp_path) == 1


def test_a_full_disk_is_told_and_the_last_good_checkpoint_is_kept(tmp_path):
    save(tmp_path, 1, 2, size=200)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # bytes; the weights take 160,000
    try:
        with pytest.raises(UserError, match="ckpt-3 could not be written: .*ckpt-2, is kept"):
            save(tmp_path, 3, size=200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    model, optimizer, state = tiny_training(tmp_path, size=200)
    assert state.resume() and int(optimizer.iterations.numpy()) == 2
    assert len(os.listdir(tmp_path / "checkpoints")) == 4


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the place of the folder")
    with pytest.raises(UserError, match="ckpt-1 could not be written.*There is none before it"):
        save(tmp_path, 1)


def test_the_best_weights_are_saved_only_when_better(tmp_path):
    model, optimizer, state = tiny_training(tmp_path, value=1)
    assert state.save_if_best(0.5)
    optimizer.iterations.assign(7)
    assert not state.save_if_best(0.5)
    assert checkpoints.find(str(tmp_path), "best").endswith("best/ckpt-0")
    assert state.save_if_best(0.6)
    assert checkpoints.find(str(tmp_path), "best").endswith("best/ckpt-7")
    assert len(os.listdir(tmp_path / "best")) == 2


def test_averaged_weights_are_preferred_where_a_run_keeps_them(tmp_path):
    average = tf.Module()
    average.averages = [tf.Variable(tf.fill([3, 3], 5.0)), tf.Variable(tf.fill([3], 6.0))]
    model, _, state = tiny_training(tmp_path, value=1, average=average)
    state.save()
    state.save_if_best(0.5)  # is called with the averages in the place of the weights
    for kind, expected in (("last", [5, 6]), ("best", [1, 1])):
        checkpoints.restore_weights(model, checkpoints.find(str(tmp_path), kind))
        assert [set(variable.numpy().ravel()) for variable in model.weights] == [
            {value} for value in expected
        ]


def test_a_second_process_in_the_run_dir_is_refused(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; file = open(sys.argv[1], 'w'); "
            "fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()",
            str(tmp_path / "lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="Another process trains in --run_dir"):
            tiny_training(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    tiny_training(tmp_path)


def test_only_last_and_best_can_be_asked_for(tmp_path):
    with pytest.raises(UserError, match="'newest' is neither of last, best"):
        checkpoints.find(str(tmp_path), "newest")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        checkpoints.find(str(tmp_path), "best")
