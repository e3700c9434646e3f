"""Messages that a user reads."""

import importlib
import re

import pytest

from conftest import REPOSITORY
from deeplab_tf import errors


def test_a_missing_package_is_named_with_the_extra_that_installs_it(without_package):
    without_package("scipy")
    remedy = re.escape("pip install 'deeplab_tf[mat]'")
    with (
        pytest.raises(errors.UserError, match=f"^Reading .mat files needs .* scipy, .*{remedy}$"),
        errors.extra_for("Reading .mat files", extra="mat"),
    ):
        importlib.import_module("scipy.io")


def test_an_installed_package_that_fails_to_load_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise ImportError('libbroken.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="libbroken.so"), errors.extra_for("This", extra="fast"):
        importlib.import_module("broken")


def test_every_extra_that_a_message_names_is_one_of_setup_py():
    setup = (REPOSITORY / "setup.py").read_text()
    declared = set(re.findall(r'^(?:    |EXTRAS\[)"(\w+)"(?::|\] =) \[', setup, re.M))
    named = set()
    for folder in ("deeplab_tf", "export", "datasets"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            named.update(re.findall(r'extra_for\([^)]*extra="(\w+)"', path.read_text("utf-8")))
    assert named and named <= declared
