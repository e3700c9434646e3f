"""Saving at any risk: kills, damage, full disks; and layers that nest differently."""

import os
import resource

import keras
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import layers
from deeplab_tf.data import record_order
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.runs import checkpoints
from deeplab_tf.training import optimizers
from deeplab_tf.weights import checkpoint_values


class Killed(BaseException):
    """Stands for what no process survives."""


def tiny_training(run_dir, value: float = 0.0, size: int = 3, **others):
    """A model whose weights are all `value`, its optimizer, and their checkpoints."""
    model = keras.Sequential(
        [
            keras.Input((size,)),
            keras.layers.Dense(size, name="dense"),
            keras.layers.Dropout(0.5, name="dropout"),
        ]
    )
    optimizer = optimizers.MomentumSGD()
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
    state.clean_up()
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


@pytest.mark.parametrize("order", [None, record_order.VERSION - 1, record_order.VERSION])
def test_a_run_that_read_records_in_another_order_resumes_and_says_so(tmp_path, order):
    _, _, state = tiny_training(tmp_path)
    if order is None:  # before checkpoints held it
        del state._variables["last"][checkpoint_values.RECORD_ORDER]
    else:
        state._record_order.assign(order)
    state.save()
    _, _, resumed = tiny_training(tmp_path)
    assert resumed.resume()
    assert resumed.is_of_other_order == (order != record_order.VERSION)
    resumed.save()
    _, _, again = tiny_training(tmp_path)
    assert again.resume() and not again.is_of_other_order


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
        assert not os.path.exists(run_dir / "checkpoints/saving")
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
def test_a_damaged_checkpoint_is_reported_and_kept_and_the_one_before_is_resumed(
    tmp_path, capsys, how, kind
):
    save(tmp_path, 1, 2)
    damage(tmp_path / f"checkpoints/ckpt-2.{kind}", how)
    assert resumed_step(tmp_path) == 1
    reported = capsys.readouterr().err
    assert "checkpoints/ckpt-2 is damaged" in reported
    assert "checkpoints/damaged/ckpt-2" in reported and "resumes from step 1" in reported
    assert (tmp_path / f"checkpoints/damaged/ckpt-2.{kind}").exists()
    assert resumed_step(tmp_path) == 1


def test_a_run_with_only_damaged_checkpoints_does_not_start_from_the_beginning(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        damage(tmp_path / f"checkpoints/ckpt-{step}.index", "empty")
    with pytest.raises(UserError, match="No checkpoint in .* is whole"):
        resumed_step(tmp_path)
    assert (tmp_path / "checkpoints/ckpt-2.index").exists()


def test_a_checkpoint_of_another_training_is_refused_and_stays(tmp_path):
    save(tmp_path, 1)
    average = tf.Module()
    average.averages = [tf.Variable(tf.zeros([3, 3])), tf.Variable(tf.zeros([3]))]
    with pytest.raises(UserError, match="ckpt-1 is whole, but belongs to another training"):
        tiny_training(tmp_path, average=average)[2].resume()
    assert resumed_step(tmp_path) == 1


def test_a_full_disk_is_reported_and_the_last_good_checkpoint_is_kept(tmp_path):
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


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
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


def test_an_equal_miou_is_not_better_however_it_is_rounded(tmp_path):
    _, _, state = tiny_training(tmp_path)
    for miou in (0.3, 0.4, 0.6, 0.7, 0.8):
        assert state.save_if_best(miou)
        assert not state.save_if_best(miou)


def flat_model() -> keras.Model:
    """A model of three layers with weights and two of dropout."""
    x = inputs = keras.Input((4,))
    for name in ("first", "head.second", "head.third_depthwise"):
        x = keras.layers.Dense(4, name=name)(x)
        x = keras.layers.Dropout(0.5, name=f"{name}.dropout")(x)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="head.BatchNorm")(x))


class Head(keras.layers.Layer):
    """The last layers of `flat_model`, in one."""

    def __init__(self):
        super().__init__(name="head")
        self.batch_norm = keras.layers.BatchNormalization(name="head.BatchNorm")  # comes first
        names = ("head.second", "head.third_depthwise")
        self.dense = [keras.layers.Dense(4, name=name) for name in names]
        self.dropout = [keras.layers.Dropout(0.5, name=f"{name}.dropout") for name in names]

    def build(self, shape):
        for layer in (*self.dense, self.batch_norm):
            layer.build(shape)

    def call(self, x):
        for dense, dropout in zip(self.dense, self.dropout):
            x = dropout(dense(x))
        return self.batch_norm(x)


def nested_model() -> keras.Model:
    """`flat_model` with the same names in other layers, and its weights in another order."""
    inputs = keras.Input((4,))
    backbone = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, name="first"),
            keras.layers.Dropout(0.5, name="first.dropout"),
        ]
    )
    return keras.Model(inputs, Head()(backbone(inputs)))


class Training:
    """A model with all that a training keeps, every value of it different from the others."""

    def __init__(self, model: keras.Model, optimizer, first_value: int):
        self.model, self.optimizer = model, optimizer
        optimizer.build(model.trainable_variables)
        self.average = optimizers.MovingAverage(checkpoints.averaged_variables(model), 0.9)
        self.loss_scale = optimizers.LossScale()
        slots = [variable for slot in optimizer.slots.values() for variable in slot]
        seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
        self.seeds = seeds
        for number, variable in enumerate(
            [*model.weights, *slots, *self.average.averages, *seeds, optimizer.iterations]
        ):
            dtype = keras.backend.standardize_dtype(variable.dtype)
            variable.assign(np.full(variable.shape, first_value + number, dtype))
        self.loss_scale.scale.assign(first_value)

    def checkpoints(self, run_dir) -> checkpoints.TrainingCheckpoints:
        return checkpoints.TrainingCheckpoints(
            str(run_dir), self.model, self.optimizer, self.average, self.loss_scale
        )

    @property
    def values(self) -> dict[str, float]:
        """A number of every variable, by names of its own."""
        names = [layers.official_name(weight) for weight in self.model.weights]
        trained = [layers.official_name(weight) for weight in self.model.trainable_variables]
        variables = dict(zip(names, self.model.weights))
        variables |= zip((f"average of {name}" for name in names), self.average.averages)
        for kind, slot in self.optimizer.slots.items():
            variables |= zip((f"{kind} of {name}" for name in trained), slot)
        variables |= {f"seed {index}": seed for index, seed in enumerate(self.seeds)}
        variables |= self.loss_scale.state | {"step": self.optimizer.iterations}
        return {name: float(np.max(variable.numpy())) for name, variable in variables.items()}


OPTIMIZERS = (optimizers.MomentumSGD, optimizers.AdamW)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_is_restored_into_layers_that_nest_differently(tmp_path, optimizer):
    written = Training(flat_model(), optimizer(), first_value=1)
    written.checkpoints(tmp_path).save()
    read = Training(nested_model(), optimizer(), first_value=500)
    orders = [[layers.official_name(weight) for weight in t.model.weights] for t in (written, read)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert read.checkpoints(tmp_path).resume()
    assert read.values == written.values


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", [flat_model, nested_model])
def test_a_checkpoint_of_version_0_1_is_restored_by_the_names_in_its_object_graph(
    tmp_path, optimizer, model
):
    written = Training(flat_model(), optimizer(), first_value=1)
    (tmp_path / "checkpoints").mkdir()
    tf.train.Checkpoint(  # as version 0.1 did
        model=written.model,
        optimizer=written.optimizer,
        best_miou=tf.Variable(0.5),
        seeds=[seed.value for seed in written.seeds],
        average=written.average,
        loss_scale=written.loss_scale,
    ).write(str(tmp_path / "checkpoints/ckpt-7"))
    read = Training(model(), optimizer(), first_value=500)
    state = read.checkpoints(tmp_path)
    assert state.resume()
    assert read.values == written.values
    assert float(state.best_miou) == 0.5


def test_the_checkpoint_of_a_run_has_the_names_of_the_original(tmp_path):
    Training(flat_model(), optimizers.AdamW(), first_value=1).checkpoints(tmp_path).save()
    names = tf.train.load_checkpoint(checkpoints.find(str(tmp_path), "last"))
    weight = "head/third_depthwise/depthwise_weights"
    expected = {weight, f"{weight}/Adam", f"{weight}/Adam_1", f"{weight}/ExponentialMovingAverage"}
    expected |= {"head/BatchNorm/moving_mean", "first/biases", "global_step", "dropout_seed/2"}
    assert expected <= names.get_variable_to_shape_map().keys()


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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    model, _, state = tiny_training(tmp_path, value=1)
    model.weights[1].assign([0, value, 0])
    state.save()
    with pytest.raises(UserError, match="ckpt-0 has weights that are NaN or inf.* dense/biases.*"):
        checkpoints.restore_weights(model, checkpoints.find(str(tmp_path), "last"))
    with pytest.raises(UserError, match="ckpt-0 has weights that are NaN or inf.* dense/biases.*"):
        tiny_training(tmp_path)[2].resume()


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    tiny_training(tmp_path, size=4)[2].save()
    model, _, _ = tiny_training(tmp_path, size=3)
    with pytest.raises(UserError, match=r"dense/weights: \[3, 3\] in the model, \[4, 4\] in the"):
        checkpoints.restore_weights(model, checkpoints.find(str(tmp_path), "last"))


def test_only_last_and_best_can_be_asked_for(tmp_path):
    with pytest.raises(UserError, match="'newest'; it must be one of last, best"):
        checkpoints.find(str(tmp_path), "newest")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        checkpoints.find(str(tmp_path), "best")
