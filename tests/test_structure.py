"""The order of the house: a module imports only what stands above it in WORKSPACE.md."""

import ast
import pathlib

import pytest

from conftest import REPOSITORY

# Groups from the vocabulary down to the commands; a module may import from its own group.
GROUPS = (
    ("__init__", "errors", "config", "command_line", "records", "labels", "images", "visualize"),
    (
        "augmentations",
        "fast_crop",
        "remote_data",
        "input_pipeline",
        "training_data",
        "data_report",
        "video",
        "server_ids",
    ),
    ("layers", "backbones", "models"),
    ("losses", "metrics", "schedules", "optimizers", "crf"),
    (
        "tf1_checkpoint",
        "checkpoint_files",
        "checkpoints",
        "distribution",
        "preemption",
        "run_dir",
        "inference",
        "training_log",
        "train_step",
        "report",
    ),
    (
        "eval",
        "validation",
        "train",
        "supervise",
        "predict",
        "import_checkpoint",
        "describe",
        "tune_crf",
        "check_data",
        "data_service",
    ),
)
MODULES = sorted(
    path
    for path in (REPOSITORY / "deeplab_tf").rglob("*.py")
    if not path.is_relative_to(REPOSITORY / "deeplab_tf/datasets")
    and not path.is_relative_to(REPOSITORY / "deeplab_tf/export")
)


def group_of(name: str) -> int:
    return next(number for number, group in enumerate(GROUPS) if name in group)


def imported(path: pathlib.Path) -> set[str]:
    """First names below `deeplab_tf` that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deeplab_tf"):
            parts = node.module.split(".")
            names.update([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            names.update(
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("deeplab_tf.")
            )
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_its_own_group_and_those_above(path):
    own = path.relative_to(REPOSITORY / "deeplab_tf").parts[0].removesuffix(".py")
    for name in imported(path):
        assert name not in ("datasets", "export"), f"{path} imports deeplab_tf.{name}"
        assert group_of(name) <= group_of(own), f"{path} imports {name} from further down"


def test_every_module_is_in_a_group_and_on_the_map():
    workspace = (REPOSITORY / "WORKSPACE.md").read_text()
    for path in MODULES:
        name = path.relative_to(REPOSITORY / "deeplab_tf").parts[0].removesuffix(".py")
        group_of(name)
        if name != "__init__":
            assert name in workspace, f"WORKSPACE.md does not name {name}"


def test_importing_the_package_loads_neither_tensorflow_nor_keras():
    import subprocess
    import sys

    code = "import sys, deeplab_tf; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()"
