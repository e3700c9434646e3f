"""How mkdocstrings reads the docstrings of this project."""

import importlib
import inspect
import re
import textwrap

import griffe


class Docstrings(griffe.Extension):
    """Finds docstrings that are composed when a module is imported, and marks examples."""

    def on_function(self, *, func: griffe.Function, **kwargs) -> None:
        """Completes the docstring of a function."""
        if func.docstring is None and func.module.path.startswith("deeplab_tf.backbones."):
            function = getattr(importlib.import_module(func.module.path), func.name, None)
            if text := inspect.getdoc(function):
                func.docstring = griffe.Docstring(text, parent=func)
        self._mark_examples(func)

    def on_class(self, *, cls: griffe.Class, **kwargs) -> None:
        """Marks the examples of a class."""
        self._mark_examples(cls)

    def _mark_examples(self, owner: griffe.Object) -> None:
        """Makes the section that griffe knows of `Example:`, as Keras writes it."""
        if owner.docstring:
            owner.docstring.value = re.sub(
                r"^Example:\n\s*(>>> .*)\Z",
                lambda match: "Examples:\n" + textwrap.indent(match[1], "    "),
                owner.docstring.value,
                flags=re.MULTILINE | re.DOTALL,
            )
