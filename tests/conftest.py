"""What several tests share: tiny records and a tiny run, made once on the true code path."""

import contextlib
import dataclasses
import importlib
import logging
import pathlib
import sys
from collections.abc import Iterator

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import browsers
from deeplab_tf import __main__ as overview
from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf import settings
from deeplab_tf.backbones import mobilenet_v2
from deeplab_tf.data import records
from deeplab_tf.datasets import build
from deeplab_tf.datasets.shapes import drawing

# Two devices to spread training over; to be said before TensorFlow looks for devices.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TINY_SPLITS = {"train": 8, "val": 4}

TINY_MODEL = config.ModelConfig(
    version="v3",
    backbone="mobilenet_v2",
    depth_multiplier=0.35,
    atrous_rates=(),
    aspp_convs_filters=32,
    batch_norm_decay=0.9,
)


# The original's settings, in place of those that a training chooses itself.
PLAIN_TRAINING = {
    "training_number_of_steps": 30000,
    "train_batch_size": 8,
    "base_learning_rate": 0.007,
    "warmup_steps": 0,
    "moving_average_decay": 0.0,
    "class_weights": (),
    "eval_every_steps": 1000,
    "save_every_steps": 500,
    "early_stopping_patience": 0,
    "batch_statistics_images": 0,
}

# As mobilenet_v2.BOTTLENECKS: every stride, and units that add their input.
SIX_UNITS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2), (6, 64, 2, 2))
TWO_UNITS = ((1, 16, 1, 1), (6, 24, 1, 2))  # up to stride 4


@contextlib.contextmanager
def short_mobilenet_v2(bottlenecks=SIX_UNITS):
    """While it lasts, `mobilenet_v2` is built of these units instead of its 17.

    Tracing the 17 takes most of the time of a test that trains two steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v2, "BOTTLENECKS", bottlenecks)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_downloads(tmp_path_factory):
    """No test, and no process that one starts, asks the network for weights, or uses others'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPLAB_TF_ZOO_URL", "http://127.0.0.1:9")  # where nothing listens
        patch.setenv("DEEPLAB_TF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def short_network():
    """`short_mobilenet_v2` for a module's tests: what `tiny_run_dir` is loaded with."""
    with short_mobilenet_v2():
        yield


# The commands whose flags are made from configs.
COMMANDS = tuple(f"deeplab_tf.{name}" for name in overview.NAMES if name != "zoo")


def configs_of(command: str) -> list[type[settings.Config]]:
    """The config classes that a command's flags are made from."""
    return command_line.configs_of(importlib.import_module(command).main)


@pytest.fixture
def without_package(monkeypatch):
    """A function that makes importing a package fail, as if it were not installed."""

    def hide(package: str):
        # An import of a submodule that is already loaded does not consult its package.
        loaded = [name for name in sys.modules if name.startswith(f"{package}.")]
        for name in [package, *loaded]:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[browsers.Browser]:
    """A browser without a window; the test is skipped where none is installed."""
    with browsers.running_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="session")
def modules() -> pathlib.Path:
    """The packages of npm that run exports in a browser; the test is skipped without them."""
    folder = REPOSITORY / "tests/web/node_modules"
    if not folder.is_dir():
        pytest.skip("needs packages of npm: npm ci --prefix tests/web --ignore-scripts")
    return folder


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of recorded truths beside the repository; the test is skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the recorded truths and real weights in {folder}, which is not there")
    return folder


@pytest.fixture(scope="session")
def s3_bucket():
    """The address of an empty bucket on an S3 server in this process."""
    pytest.importorskip("s3fs", reason="s3:// needs s3fs: pip install s3fs")
    server_module = pytest.importorskip(
        "moto.server", reason="the S3 server of the tests needs moto: pip install 'moto[server]'"
    )
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # of every request
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem(use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def tiny_raw(tmp_path_factory) -> pathlib.Path:
    """Images and labels of `shapes` in the layout of the `folder` dataset."""
    root = tmp_path_factory.mktemp("raw")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    for split, count in TINY_SPLITS.items():
        names = [f"{split}_{index}" for index in range(count)]
        for index, name in enumerate(names):
            image, label = drawing.draw(split, index)
            cv2.imwrite(str(root / "images" / f"{name}.jpg"), image[..., ::-1])
            cv2.imwrite(str(root / "labels" / f"{name}.png"), label)
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
    (root / "classes.txt").write_text("\n".join(drawing.CLASS_NAMES) + "\n")
    return root


@pytest.fixture(scope="session")
def tiny_records(tiny_raw, tmp_path_factory) -> records.Records:
    """Records of 8 training and 4 validation images, in two shards each."""
    return build.build("folder", tmp_path_factory.mktemp("records"), tiny_raw, num_shards=2)


@pytest.fixture(scope="session")
def tiny_run_dir(tiny_records, tmp_path_factory) -> str:
    """A run dir after two steps of training and a validation; not to be written to.

    It is of a short network: to load it, use `short_network`.
    """
    from deeplab_tf import train

    folder = str(tmp_path_factory.mktemp("run"))
    with short_mobilenet_v2():
        train.train(
            TINY_MODEL,
            config.DataConfig(data_dir=tiny_records.folder, train_crop_size=(65, 65)),
            config.TrainConfig(
                **PLAIN_TRAINING | {"training_number_of_steps": 2, "train_batch_size": 2}
            ),
            folder,
        )
    return folder


def write_run_as_if_trained(
    folder: str,
    model_config: config.ModelConfig,
    data_config: config.DataConfig,
    dataset: records.DatasetInfo,
) -> None:
    """Makes a run dir whose model has weights as after training.

    No statistic has its initial value, and the network finds several classes in an image. It takes
    a second, where training takes ten.
    """
    from deeplab_tf import build_model
    from deeplab_tf.export import parity
    from deeplab_tf.runs import checkpoints
    from deeplab_tf.runs import run_dir as run_dirs

    run_dirs.create(folder, model_config, data_config, config.TrainConfig(), dataset)
    keras.utils.set_random_seed(0)
    model = build_model(**dataclasses.asdict(model_config) | {"in_channels": dataset.num_channels})
    generator = np.random.default_rng(0)
    for variable in model.non_trainable_variables:
        if variable.name.startswith("moving"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    shape = (1, 65, 65, dataset.num_channels)
    logits = model(parity.draw_images(shape, seed=0), training=False)
    biases = model.trainable_variables[-1]  # of the logits
    biases.assign_sub(tf.reduce_mean(logits, axis=[0, 1, 2]))  # so that no class wins everywhere
    checkpoints.save_weights(model, folder)
