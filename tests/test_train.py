"""Training: the numbers of the original, resuming, and what a user may get wrong."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import original
from conftest import PLAIN_TRAINING
from conftest import TINY_MODEL
from conftest import TWO_UNITS
from conftest import short_mobilenet_v2
from conftest import write_run_as_if_trained
from deeplab_tf import config
from deeplab_tf import eval as evaluation
from deeplab_tf import layers
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import loop
from deeplab_tf.training import optimizers
from deeplab_tf.training import train_step
from deeplab_tf.training import training_state
from original import rule


def train_tiny(run_dir, source: records.Records, model=TINY_MODEL, data=None, **settings):
    settings = {"training_number_of_steps": 4, "train_batch_size": 2, "seed": 3} | settings
    data = {"train_crop_size": (65, 65), "val_split": ""} | (data or {})
    with short_mobilenet_v2(TWO_UNITS):
        return loop.train(
            model,
            config.DataConfig(**({"data_dir": source.folder} | data)),
            config.TrainConfig(**PLAIN_TRAINING | settings),
            str(run_dir),
        )


def last_weights(run_dir) -> dict[str, np.ndarray]:
    with short_mobilenet_v2(TWO_UNITS):
        model = run_dirs.load_model(run_dirs.read(str(run_dir)), "last")
    return {layers.official_name(v): v.numpy() for v in model.weights if "seed" not in v.path}


def last_state(run_dir) -> dict[str, np.ndarray]:
    """All that a run resumes from: weights, optimizer, averages, random numbers."""
    reader = tf.train.load_checkpoint(checkpoints.find(str(run_dir), "last"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_equal_states(one, other):
    state, others = last_state(one), last_state(other)
    assert state.keys() == others.keys()
    for name in state:
        np.testing.assert_array_equal(state[name], others[name], err_msg=name)


class Stopped(Exception):
    """Stands for whatever ends a process."""


SETTINGS = {"save_every_steps": 2, "log_every_steps": 1, "moving_average_decay": 0.9}


@pytest.fixture(scope="module")
def whole_run(tiny_records, tmp_path_factory):
    """A run of four steps that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train_tiny(folder, tiny_records, **SETTINGS)
    return folder


def test_a_run_that_was_stopped_resumes_to_exactly_the_same_weights_and_averages(
    whole_run, tiny_records, tmp_path, monkeypatch
):
    save, saved = checkpoints.TrainingCheckpoints.save, []

    def save_and_stop(self):
        save(self)
        saved.append(self)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.TrainingCheckpoints, "save", save_and_stop)
        with pytest.raises(Stopped):
            train_tiny(tmp_path, tiny_records, **SETTINGS)
    assert checkpoints.find(str(tmp_path), "last").endswith("ckpt-2")
    train_tiny(tmp_path, tiny_records, **SETTINGS)
    assert len(saved) == 1
    assert_equal_states(whole_run, tmp_path)


def contents(folder) -> dict[str, tuple[bytes, int]]:
    """The bytes and the time of change of every file in a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


def test_a_finished_run_says_so_and_stays_as_it_is(whole_run, tiny_records, tmp_path, capsys):
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    assert train_tiny(tmp_path, tiny_records, **SETTINGS | {"train_batch_size": 4}) == {}
    output = capsys.readouterr().out
    assert "Nothing is left to train" in output and "is at step 4 of 4" in output
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"optimizer": "adamw"}, "optimizer was 'momentum' and is 'adamw'"),
        ({"moving_average_decay": 0.0}, "moving_average_decay was 0.9 and is 0.0"),
        (
            {"frozen_scopes": ("MobilenetV2/Conv",)},
            "frozen_scopes was .*MobilenetV2",
        ),
        ({"class_weights": (1.0,)}, "--class_weights has 1"),
        ({"train_batch_size": 3, "gradient_accumulation_steps": 2}, "multiple of"),
        ({"slow_start_step": 9}, "--slow_start_step=9 must be less"),
    ],
)
def test_a_refused_start_changes_nothing_in_the_run_dir(
    whole_run, tiny_records, tmp_path, settings, complaint
):
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    settings = SETTINGS | {"training_number_of_steps": 6} | settings
    with pytest.raises(UserError, match=complaint):
        train_tiny(tmp_path, tiny_records, **settings)
    assert contents(tmp_path) == before


def test_a_start_that_is_refused_after_it_has_resumed_changes_nothing(
    whole_run, tiny_records, tmp_path
):
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    settings = SETTINGS | {"training_number_of_steps": 6}
    with pytest.raises(UserError, match="no class 'nothing' to oversample"):
        train_tiny(tmp_path, tiny_records, data={"oversample_classes": ("nothing",)}, **settings)
    assert contents(tmp_path) == before


def test_a_refused_start_leaves_no_new_folder(tiny_records, tmp_path):
    with pytest.raises(UserError, match="There is no checkpoint"):
        train_tiny(tmp_path / "new", tiny_records, tf_initial_checkpoint=str(tmp_path / "none"))
    assert os.listdir(tmp_path) == []


def test_imported_weights_are_not_trained_in_their_own_folder(tiny_records, tmp_path):
    data = config.DataConfig(data_dir=tiny_records.folder)
    model = dataclasses.replace(TINY_MODEL, num_classes=7)
    with short_mobilenet_v2(TWO_UNITS):
        write_run_as_if_trained(str(tmp_path), model, data, tiny_records.info)
    with pytest.raises(UserError, match=f"imported weights.*--tf_initial_checkpoint={tmp_path}"):
        train_tiny(tmp_path, tiny_records)


def test_a_kill_at_any_moment_of_a_start_leaves_a_run_dir_that_reads_and_resumes(
    whole_run, tmp_path, monkeypatch
):
    class Killed(BaseException):
        """Stands for what no process survives."""

    before = run_dirs.read(str(whole_run))
    after = dataclasses.replace(before.train_config, training_number_of_steps=6)
    replace, states = os.replace, []
    for operation in range(4):
        folder = tmp_path / str(operation)
        shutil.copytree(whole_run, folder)
        count = 0

        def killed_replace(*arguments, survivors=operation):
            nonlocal count
            count += 1
            if count > survivors:
                raise Killed
            replace(*arguments)

        run = dataclasses.replace(before, folder=str(folder), train_config=after)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed_replace)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the dead do not tidy up
            with contextlib.suppress(Killed):
                run_dirs.write(run)
        states.append(run_dirs.read(str(folder)).train_config.training_number_of_steps)
        if count <= operation:
            break
        run_dirs.write(run)
        assert run_dirs.read(str(folder)).train_config == after
        assert not list(folder.glob(".new_*"))
    assert states == [4, 4, 6]  # the two files are written one after the other


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scale(tiny_records, tmp_path):
    train_tiny(tmp_path, tiny_records, fine_tune_batch_norm=False)
    weights = last_weights(tmp_path)
    assert set(weights["aspp0/BatchNorm/moving_mean"]) == {0}
    assert len(set(weights["aspp0/BatchNorm/gamma"])) > 1


def test_the_run_dir_has_what_eval_and_tensorboard_need(tiny_run_dir, tiny_records):
    run = run_dirs.read(tiny_run_dir)
    assert run.model_config == dataclasses.replace(
        TINY_MODEL, num_classes=7, in_channels=3, output_stride=16
    )
    assert run.dataset == tiny_records.info
    tags = set()
    for name in os.listdir(os.path.join(tiny_run_dir, "tensorboard")):
        path = os.path.join(tiny_run_dir, "tensorboard", name)
        for event in tf.compat.v1.train.summary_iterator(path):
            tags.update(value.tag for value in event.summary.value)
    assert {"training/gradient_norm", "training/learning_rate"} <= tags
    assert {"worst_images/0", "validation/confusion_matrix", "validation_iou/background"} <= tags
    groups = sorted({tag.split("/")[0] for tag in tags - {"_hparams_/session_start_info"}})
    assert groups[:2] == ["loss", "miou"]  # TensorBoard shows them first


def test_the_best_checkpoint_has_the_miou_that_training_reported(tiny_run_dir):
    with short_mobilenet_v2():
        result = evaluation.evaluate_run(tiny_run_dir)
    lines = pathlib.Path(tiny_run_dir, "metrics.jsonl").read_text().splitlines()
    (reported,) = [line for line in map(json.loads, lines) if "validation/miou" in line]
    assert result["miou"] == pytest.approx(reported["validation/miou"])


def recorded_batch() -> dict[str, np.ndarray]:
    """The images and label maps of the recorded steps of training."""
    record = original.load("training")
    images, labels = rule.images(**record["images"]), []
    for blocks in record["labels"]:
        ends = [*blocks["rows"][1:], images.shape[1]], [*blocks["columns"][1:], images.shape[2]]
        label = np.repeat(blocks["ids"], np.diff([0, *ends[0]]), axis=0)
        labels.append(np.repeat(label, np.diff([0, *ends[1]]), axis=1))
    return {"image": images.astype(np.float32), "label": np.int32(labels)}


@pytest.mark.parametrize(
    "case, settings",
    [
        ("frozen_bn", {"fine_tune_batch_norm": False}),
        (
            "hard_mining",
            {
                "fine_tune_batch_norm": False,
                "top_k_percent_pixels": 0.25,
                "hard_example_mining_step": 2,
            },
        ),
    ],
)
def test_three_steps_of_training_equal_the_original(case, settings):
    recorded = original.load("training")[case]
    step = Step(
        config.ModelConfig(
            version="v3",
            backbone="mobilenet_v2",
            num_classes=21,
            depth_multiplier=0.5,
            atrous_rates=(),
        ),
        base_learning_rate=0.0005,
        last_layer_gradient_multiplier=10.0,
        weight_decay=4e-5,
        **settings,
    )
    variables = {
        layers.official_name(variable): variable
        for variable in step.model.weights
        if "seed" not in variable.path
    }
    for name, variable in variables.items():
        variable.assign(rule.variable(name, tuple(variable.shape)))
    batch = recorded_batch()
    for cross_entropy in recorded["cross_entropy"]:
        assert step(batch)["cross_entropy"] == pytest.approx(cross_entropy, rel=2e-5)
    for name, expected in recorded["after"].items():
        values = variables[name].numpy().ravel()
        some = values[:: max(1, len(values) // 8)][:9]
        np.testing.assert_allclose(some, expected, atol=2e-5, err_msg=name)


class Step:
    """Training steps on batches from memory, without dropout; the model is the tiny one."""

    def __init__(self, model_config=None, **settings):
        model_config = model_config or dataclasses.replace(TINY_MODEL, num_classes=3)
        train_config = config.TrainConfig(**PLAIN_TRAINING | settings)
        strategy = tf.distribute.get_strategy()
        keras.utils.set_random_seed(7)
        self.state = training_state.build(model_config, train_config, strategy)
        self.model = self.state.model
        for layer in layers.all_layers(self.model):
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0
        train_step.check(self.state, train_config, strategy)
        self.train_steps = train_step.TrainSteps(
            self.state, train_config, strategy=strategy, ignore_label=255
        )

    def __call__(self, *batches: dict, steps: int = 1) -> dict[str, float]:
        signature = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), batches[0])
        dataset = tf.data.Dataset.from_generator(lambda: batches, output_signature=signature)
        values = self.train_steps(iter(dataset.repeat()), steps)
        return {name: float(value) for name, value in values.items()}

    def weights(self) -> dict[str, np.ndarray]:
        return {layers.official_name(v): v.numpy() for v in self.model.weights}


@pytest.fixture
def tiny_step():
    """`Step` on a model of two units."""
    with short_mobilenet_v2(TWO_UNITS):
        yield Step


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Four images; the first two have many pixels that do not count."""
    random = np.random.default_rng(0)
    label = random.integers(0, 3, (4, 17, 17), dtype=np.int32)
    label[:2, :10] = 255
    return {"image": random.integers(0, 256, (4, 17, 17, 3), dtype=np.uint8), "label": label}


def part(batch: dict, rows: slice) -> dict:
    return {name: values[rows] for name, values in batch.items()}


def test_a_batch_in_two_parts_trains_as_the_whole_with_frozen_batch_norm(tiny_step, batch):
    settings = {"fine_tune_batch_norm": False, "clip_gradient_norm": 0.5}
    whole, parts = tiny_step(**settings), tiny_step(gradient_accumulation_steps=2, **settings)
    for _ in range(2):
        one = whole(batch)
        two = parts(part(batch, slice(0, 2)), part(batch, slice(2, 4)))
        for name in ("loss", "cross_entropy", "gradient_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)
    expected = whole.weights()
    for name, value in parts.weights().items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)


@pytest.fixture
def plain_values(tiny_step, batch) -> dict[str, float]:
    """Of the first step in float32."""
    return tiny_step()(batch)


def test_other_precisions_recomputation_and_xla_compute_the_same_step(
    tiny_step, plain_values, batch
):
    for settings, tolerance in (
        ({"jit_compile": True}, 1e-4),
        ({"recompute_activations": True}, 1e-6),
        ({"mixed_precision": "bfloat16"}, 0.02),
        ({"mixed_precision": "float16"}, 0.005),
    ):
        step = tiny_step(**settings)
        values = step(batch)
        for name in ("loss", "gradient_norm"):
            assert values[name] == pytest.approx(plain_values[name], rel=tolerance), settings
        assert step(batch)["loss"] < values["loss"]
        assert {variable.dtype for variable in step.model.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_rounding_to_8_bits_begins_at_its_step_in_a_network_that_xla_compiles_too(tiny_step, batch):
    settings = {
        "tf_initial_checkpoint": "RUN_DIR",
        "quantize_delay_step": 1,
        "base_learning_rate": 0.0,  # rounding alone changes the gradients
    }
    compiled = tiny_step(jit_compile=True, **settings)
    before, after = (compiled(batch)["gradient_norm"] for _ in range(2))
    assert after != pytest.approx(before, rel=1e-3)


def test_a_float16_step_that_overflows_leaves_the_weights_and_halves_the_scale(tiny_step, batch):
    step = tiny_step(mixed_precision="float16", weight_decay=0.0, fine_tune_batch_norm=False)
    scale, before = step.state.loss_scale.scale, step.weights()
    scale.assign(2.0**60)
    step(batch)
    for name, value in step.weights().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert float(scale) == 2.0**59
    scale.assign(2.0**10)
    step(batch)
    assert np.any(step.weights()["aspp0/weights"] != before["aspp0/weights"])
    assert float(scale) == 2.0**10


def test_float16_gradients_that_no_scale_makes_finite_end_the_training(
    tiny_step, batch, monkeypatch
):
    clip = optimizers.clip_by_global_norm
    monkeypatch.setattr(
        optimizers, "clip_by_global_norm", lambda gradients, _: (clip(gradients, 0)[0], np.nan)
    )
    step = tiny_step(mixed_precision="float16")
    step.state.loss_scale.scale.assign(2.0)
    assert step(batch, steps=3)["finite_steps"] == 1  # the second is at a scale of 1


def test_frozen_scopes_do_not_move_and_all_others_do(tiny_step, batch):
    step = tiny_step(frozen_scopes=("MobilenetV2/Conv", "MobilenetV2/expanded_conv_1"))
    before = step.weights()
    step(batch)
    moved = {name for name, value in step.weights().items() if np.any(value != before[name])}
    frozen = {"MobilenetV2/Conv", "MobilenetV2/expanded_conv_1"}
    assert not {name for name in moved if "/".join(name.split("/")[:2]) in frozen}
    kernels = {name for name in before if name.endswith("/weights")}
    assert len(kernels - moved) == 3  # one of the first scope, two of the other


def test_every_term_of_the_loss_is_reported_and_their_sum_is_the_loss(tiny_step, batch):
    step = tiny_step(
        class_weights=(0.5, 1.0, 2.0), focal_weight=0.5, dice_weight=0.3, lovasz_weight=0.2
    )
    values = step(batch, steps=2)
    terms = [values[name] for name in ("cross_entropy", "focal", "dice", "lovasz")]
    assert min(terms) > 0 and sum(terms) == pytest.approx(values["loss"], rel=1e-5)
    assert values["gradient_norm"] > 0 and values["finite_steps"] == 2


def test_the_losses_of_a_step_do_not_depend_on_the_steps_of_its_call(tiny_step, batch):
    batches = [part(batch, slice(first, first + 2)) for first in range(3)]
    together = tiny_step()(*batches, steps=3)
    alone = tiny_step()
    first, second = alone(*batches[:2], steps=2), alone(batches[2], steps=1)
    for name in ("loss", "gradient_norm"):
        mean = (first[name] * 2 + second[name]) / 3
        assert np.float32(mean) == np.float32(together[name]), name


def test_steps_run_in_one_call_until_something_is_due():
    train_config = config.TrainConfig(
        training_number_of_steps=95,
        log_every_steps=20,
        eval_every_steps=50,
        save_every_steps=30,
        profile_steps=(33, 36),
    )
    ends, step = [], 0
    while step < 95:
        step += loop.steps_to_next_event(step, train_config)
        ends.append(step)
    assert ends == [20, 30, 33, 36, 40, 50, 60, 80, 90, 95]
    short = dataclasses.replace(train_config, steps_per_execution=8)
    assert loop.steps_to_next_event(0, short) == 8
    assert loop.steps_to_next_event(32, short) == 1


def test_another_model_in_the_run_dir_is_refused(tiny_run_dir, tiny_records):
    other = dataclasses.replace(TINY_MODEL, depth_multiplier=0.5)
    with pytest.raises(UserError, match="depth_multiplier was 0.35 and is 0.5"):
        train_tiny(tiny_run_dir, tiny_records, model=other)


@pytest.mark.parametrize(
    "model, data, settings, complaint",
    [
        ({"num_classes": 3}, {}, {}, "--num_classes=3.* 7 classes"),
        ({}, {"train_split": "training"}, {}, "'training'.*train, val"),
        ({}, {"data_dir": "/no/such/folder"}, {}, "/no/such/folder"),
        ({}, {}, {"strategy": "many"}, "many.*mirrored"),
        ({}, {}, {"frozen_scopes": ("no_such_scope",)}, "no_such_scope.*MobilenetV2/Conv"),
        ({}, {}, {"strategy": "mirrored", "jit_compile": True}, "--jit_compile.* 2 devices"),
        ({}, {}, {"class_weights": (1.0, 2.0)}, "--class_weights has 2 .* 7 classes"),
    ],
)
def test_a_wrong_setting_is_one_message(tiny_records, tmp_path, model, data, settings, complaint):
    model = dataclasses.replace(TINY_MODEL, **model)
    with pytest.raises(UserError, match=complaint):
        train_tiny(tmp_path, tiny_records, model, data, **settings)


def test_a_loss_that_is_not_finite_names_its_images_and_the_checkpoint_before(
    tiny_records, tmp_path
):
    data = {"train_crop_size": (65, 65), "data_dir": tiny_records.folder}
    with pytest.raises(UserError, match="from step 2 on.*--base_learning_rate") as caught:
        train_tiny(tmp_path, tiny_records, base_learning_rate=1e30, save_every_steps=1)
    assert os.listdir(tmp_path / "checkpoints") == ["ckpt-1.index", "ckpt-1.data-00000-of-00001"]
    assert str(tmp_path / "checkpoints/ckpt-1") in str(caught.value)
    batches = training_data.make_batches(
        [tiny_records],
        config.DataConfig(**data),
        batch_size=2,
        pad_pixel=(127.5, 127.5, 127.5),
        seed=3,
        start_step=1,
    )
    names = next(iter(batches))["name"].numpy()
    assert ", ".join(name.decode() for name in names) in str(caught.value)


def test_gradients_that_are_not_finite_end_the_training(tiny_records, tmp_path, monkeypatch):
    # As ReLU6 gives numbers for NaN, the loss can stay finite.
    monkeypatch.setattr(
        optimizers, "clip_by_global_norm", lambda gradients, _: (gradients, tf.constant(np.nan))
    )
    with pytest.raises(UserError, match="The gradients are not finite from step 1 on"):
        train_tiny(tmp_path, tiny_records)


def test_a_training_that_runs_out_of_memory_says_what_takes_less(
    tiny_records, tmp_path, monkeypatch
):
    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating [2,513,513,64]")

    monkeypatch.setattr(train_step, "TrainSteps", lambda *_, **__: exhausted)
    with pytest.raises(UserError, match="OOM when.*recompute.*batch.*crop.*output_stride.*mixed"):
        train_tiny(tmp_path, tiny_records)
