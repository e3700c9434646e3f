"""What `pip install` puts on a machine."""

import importlib.metadata
import subprocess
import sys

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


def test_nothing_is_installed_under_the_bare_names_of_others():
    files = importlib.metadata.distribution("deeplab_tf").files
    top_level = {file.parts[0] for file in files if file.suffix == ".py"}
    assert not top_level & {"datasets", "export", "tests"}
