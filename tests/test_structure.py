"""The order of the house: a room imports only from the rooms above it."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import REPOSITORY

PACKAGE = REPOSITORY / "deeplab_tf"
# From the vocabulary down; a room may import from those before it. Commands come last.
ROOMS = (
    "errors",
    "keras_registration",
    "settings",
    "config",
    "start_up",
    "tensorflow_storage",
    "remote_paths",
    "files",
    "html_templates",
    "beam_pipelines",
    "fast",
    "command_line",
    "zoo",
    "layers",
    "weights",
    "backbones",
    "models",
    "crf",
    "data",
    "drawing",
    "data_report",
    "runs",
    "evaluation",
    "notebook",
    "training",
)
ENTRANCE = "__init__"  # the public names, each of which it imports on first use
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if not path.is_relative_to(PACKAGE / "datasets") and not path.is_relative_to(PACKAGE / "export")
)


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: pathlib.Path) -> set[str]:
    """First names below `deeplab_tf` that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_room_and_those_before_it(path):
    own = room_of(path)
    allowed = set(ROOMS if own not in ROOMS else ROOMS[: ROOMS.index(own) + 1])
    names = imported_names(path) - {own}
    assert names <= allowed, f"{path} imports {sorted(names - allowed)}"


@pytest.mark.parametrize(
    "path",
    sorted([*(REPOSITORY / "datasets").rglob("*.py"), *(REPOSITORY / "export").rglob("*.py")]),
    ids=lambda path: str(path.relative_to(REPOSITORY)),
)
def test_datasets_and_exports_import_no_command(path):
    names = imported_names(path) - {"datasets", "export"}
    assert names <= set(ROOMS), f"{path} imports {sorted(names - set(ROOMS))}"


def mapped_paths() -> set[pathlib.Path]:
    """Returns the files and folders that the table of the map names.

    A name without a folder lies in the folder of the path before it in its row.
    """
    text = (REPOSITORY / "WORKSPACE.md").read_text(encoding="utf-8")
    table = text[text.index("| to change | open |") :].partition("\n\n")[0]
    paths = set()
    for row in table.splitlines():
        folder = REPOSITORY
        for name in re.findall(r"`([\w./*]+(?:\.py|/|\.flagfile))`", row.split("|")[2]):
            if "NAME" in name:
                continue  # stands for any name
            path = REPOSITORY / name if "/" in name.rstrip("/") else folder / name
            folder = path if name.endswith("/") else path.parent
            paths.add(path)
    return paths


def test_every_path_on_the_map_exists():
    missing = [str(path) for path in mapped_paths() if not any(path.parent.glob(path.name))]
    assert missing == []


def test_every_module_is_on_the_map():
    modules = [
        *MODULES,
        *(REPOSITORY / "datasets").glob("*.py"),
        *(REPOSITORY / "export").rglob("*.py"),
        *(REPOSITORY / "benchmarks").glob("*.py"),
    ]
    paths = mapped_paths()
    missing = [
        str(path.relative_to(REPOSITORY))
        for path in modules
        if path.name != "__init__.py" and paths.isdisjoint([path, *path.parents])
    ]
    assert missing == []


def test_no_module_needs_what_only_some_systems_have():
    for path in MODULES:
        names = {
            name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        }
        assert names.isdisjoint({"fcntl", "resource", "pwd", "termios"}), path


def test_importing_the_package_loads_neither_tensorflow_nor_keras():
    code = "import sys, deeplab_tf; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()"
