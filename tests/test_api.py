"""The public names: their documentation, and that their examples run."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import subprocess
import sys

import keras
import pytest

import deeplab_tf
from conftest import REPOSITORY
from conftest import TINY_MODEL
from conftest import write_run_as_if_trained
from deeplab_tf import backbones
from deeplab_tf import layers
from deeplab_tf.backbones import resnet
from deeplab_tf.backbones import xception
from deeplab_tf.config import DataConfig
from deeplab_tf.data import records
from deeplab_tf.models.description import describe


def _is_public_layer(value) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, keras.layers.Layer)
        and value is not layers.Chain  # a part of other layers
    )


OBJECTS = {
    **{name: getattr(deeplab_tf, name) for name in deeplab_tf.__all__},
    **{function.__name__: function for function in backbones.BACKBONES.values()},
    **{name: getattr(layers, name) for name in layers.__all__},
    "describe": describe,
}
OBJECTS = {
    name: value
    for name, value in OBJECTS.items()
    if (name in deeplab_tf.__all__ and callable(value))
    or value in backbones.BACKBONES.values()
    or _is_public_layer(value)
    or name in ("describe", "h_swish", "q_sigmoid", "official_name")
}


@pytest.fixture(scope="module")
def short_backbones():
    """Backbones with few units, which are quick to build; their features have the same shapes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "UNITS", dict.fromkeys(resnet.UNITS, (1, 2, 2, 3)))
        for name, (entry_flow, _, decoder_strides) in xception.VARIANTS.items():
            patch.setitem(xception.VARIANTS, name, (entry_flow, 1, decoder_strides))
        yield


@pytest.mark.parametrize("name", OBJECTS)
def test_the_example_of_a_public_name_runs(name, short_backbones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Examples may write files.
    if name == "load_run":
        model = dataclasses.replace(TINY_MODEL, num_classes=3)
        info = records.numbered_classes("numbered", 3)
        write_run_as_if_trained("RUN_DIR", model, DataConfig(), info)
    (example,) = doctest.DocTestFinder(recurse=False).find(OBJECTS[name], name, globs={})
    assert example.examples, f"{name} has no example"
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example)
    assert result.failed == 0


@pytest.mark.parametrize("name", sorted(set(OBJECTS) - {"UserError"}))
def test_the_docstring_of_a_public_name_has_all_its_parts(name):
    docstring = inspect.getdoc(OBJECTS[name])
    function = OBJECTS[name]
    if inspect.isclass(function):
        function = vars(function).get("__init__", lambda: None)  # stock layers document their own
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert f"\n    {parameter.name}: " in docstring, parameter
    assert "\nReturns:" in docstring
    if "Args" in docstring and name in deeplab_tf.__all__:
        assert "\nRaises:" in docstring


def test_the_names_of_the_package_are_literal_and_exist():
    tree = ast.parse((REPOSITORY / "deeplab_tf/__init__.py").read_text(encoding="utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    assert dir(deeplab_tf) == sorted(names)
    assert all(hasattr(deeplab_tf, name) for name in names)
    with pytest.raises(AttributeError, match="DeepLabV4"):
        deeplab_tf.DeepLabV4  # noqa: B018


def test_editors_and_type_checkers_see_what_is_loaded_on_first_use():
    tree = ast.parse((REPOSITORY / "deeplab_tf/__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {node.names[0].name: node.module for node in block.body}
    assert set(seen) == set(deeplab_tf.__all__) - {"__version__"}
    for name, module in seen.items():
        assert getattr(deeplab_tf, name) is getattr(importlib.import_module(module), name), name


def test_the_help_of_the_package_is_a_table_of_contents():
    for name in set(deeplab_tf.__all__) - {"__version__"}:
        assert name in deeplab_tf.__doc__, name


def test_rooms_are_attributes_without_an_import_of_their_own():
    code = "import deeplab_tf; print(deeplab_tf.layers.ASPP(), deeplab_tf.backbones.VGG16)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
