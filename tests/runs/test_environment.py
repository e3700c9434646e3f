"""`describe --environment`: what a bug report needs, without secrets."""

import keras
import tensorflow as tf

import deeplab_tf
from conftest import REPOSITORY
from deeplab_tf import config
from deeplab_tf import describe
from deeplab_tf.runs import environment


def test_it_has_versions_devices_variables_and_flags_but_no_secrets(monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp")
    monkeypatch.setenv("DEEPLAB_TF_AUTH_TOKEN", "a1b2c3")
    describe.main(
        describe.Arguments(environment=True),
        config.ModelConfig(num_classes=5),
        config.DataConfig(train_crop_size=(65, 65)),
        config.TrainConfig(),
    )
    printed = capsys.readouterr().out
    lines = [line.strip() for line in printed.splitlines()]
    assert lines[0].startswith(f"deeplab_tf {deeplab_tf.__version__}, Python 3.")
    assert {f"tensorflow {tf.__version__}", f"keras {keras.__version__}", "CPU:0"} <= set(lines)
    assert {"XLA_FLAGS=--xla_dump_to=/tmp", "DEEPLAB_TF_AUTH_TOKEN=(hidden)"} <= set(lines)
    assert lines[lines.index("Flags other than the defaults:") + 1 :] == [
        "--num_classes=5",
        "--train_crop_size=65,65",
    ]
    assert "a1b2c3" not in printed


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "nobodys-package"))
    assert "\n  nobodys-package is not installed\n" in environment.describe_environment()


def test_its_packages_are_those_of_setup_py():
    declared = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    assert [package for package in environment.PACKAGES if f'"{package}' not in declared] == []
