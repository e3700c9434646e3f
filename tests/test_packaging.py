"""What `pip install` puts on a machine."""

import ast
import importlib.metadata
import importlib.util
import pathlib
import re
import subprocess
import sys

import deeplab_tf
from conftest import REPOSITORY


def module_names() -> list[str]:
    """Every module of the repository, by the name that it is imported under."""
    names = []
    packages = {"deeplab_tf": "", "datasets": "deeplab_tf.", "export": "deeplab_tf."}
    for folder, package in packages.items():
        for path in (REPOSITORY / folder).rglob("*.py"):
            relative = path.relative_to(REPOSITORY).with_suffix("").as_posix()
            if "deeplab_tf/datasets" not in relative and "deeplab_tf/export" not in relative:
                names.append(package + relative.replace("/", ".").removesuffix(".__init__"))
    return names


def test_every_module_is_found_from_any_folder(tmp_path):
    code = (
        "import importlib.util, sys\n"
        "print([name for name in sys.argv[1:] if not importlib.util.find_spec(name)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *module_names()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_nothing_is_installed_under_the_bare_names_of_others(tmp_path):
    # From elsewhere: in the repository, Python finds what a build has left there.
    code = (
        "import importlib.metadata as m\n"
        "print(*{file.parts[0] for file in m.distribution('deeplab_tf').files})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not {"datasets", "export", "tests"} & set(result.stdout.split())


def test_the_script_lists_the_commands(tmp_path):
    code = (
        "import importlib.metadata as m, sys\n"
        "(script,) = m.entry_points(group='console_scripts', name='deeplab-tf')\n"
        "sys.argv = ['deeplab-tf']; script.load()()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "deeplab-tf COMMAND --help" in result.stdout


def declared_packages() -> set[str]:
    """Returns what `setup.py` requires, with all extras."""
    names = set()
    for node in ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign):
            continue
        if ast.unparse(node.targets[0]).partition("[")[0] in ("REQUIRED", "EXTRAS"):
            strings = (one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant))
            names.update(re.match(r"[\w-]+", one)[0].lower().replace("_", "-") for one in strings)
    return names


def test_every_package_that_is_imported_is_declared():
    distributions = importlib.metadata.packages_distributions()
    brought = {"flatbuffers", "protobuf", "llvmlite"}  # by tensorflow and numba, at their versions
    undeclared = {}
    for name in module_names():
        spec = importlib.util.find_spec(name)
        for node in ast.walk(ast.parse(pathlib.Path(spec.origin).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            elif isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            else:
                continue
            for module in {one.partition(".")[0] for one in imported}:
                if module in sys.stdlib_module_names or module == "deeplab_tf":
                    continue
                # One that is not installed has, we trust, the name of its module.
                found = distributions.get(module, [module])
                packages = {one.lower().replace("_", "-") for one in found}
                if packages.isdisjoint(declared_packages() | brought):
                    undeclared[module] = name
    assert undeclared == {}


def test_the_version_is_the_same_everywhere():
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {deeplab_tf.__version__}\n" in citation
    assert re.findall("^## (.*)", changes, re.MULTILINE)[0] == deeplab_tf.__version__
