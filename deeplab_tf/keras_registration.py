"""Makes the classes in saved models known to Keras as soon as Keras is imported.

Keras finds the classes in a `.keras` file only if the modules that define them have been imported.
Importing them here would load TensorFlow with every `import deeplab_tf`; so this waits for Keras.
"""

import importlib
import importlib.abc
import sys

_LAYERS = "deeplab_tf.layers"


def register_with_keras() -> None:
    """Imports the layers now if Keras is loaded, or else as soon as it is."""
    if "keras" in sys.modules:
        importlib.import_module(_LAYERS)
    else:
        sys.meta_path.insert(0, _WaitForKeras())


class _WaitForKeras(importlib.abc.MetaPathFinder):
    """Lets the other finders find Keras, and imports the layers once Keras has been imported."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        for finder in others:
            spec = finder.find_spec(fullname, path, target)
            if spec:
                self._import_layers_after(spec.loader)
                return spec
        return None

    def _import_layers_after(self, loader) -> None:
        """Makes a loader import the layers once it has executed its module."""

        def exec_module(module):
            del loader.exec_module  # restores the method of its class
            loader.exec_module(module)
            sys.meta_path.remove(self)
            importlib.import_module(_LAYERS)

        # Not done here: looking for Keras does not mean importing it; TensorFlow does so at its
        # start.
        loader.exec_module = exec_module
