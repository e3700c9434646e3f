"""Code that numba compiles, where numba is installed and works."""

import functools
import importlib
import importlib.util
import re
import types
from collections.abc import Callable

from absl import logging


def load(name: str) -> types.ModuleType | None:
    """Returns a module of compiled functions, or None where TensorFlow has to be used instead.

    That is the case if numba is not installed, or if the installed version cannot compile the
    module, which uses interfaces of numba that change between versions. A warning says so, once.

    Args:
        name: A module with a function `try_out`, which calls every compiled function once.
    """
    if importlib.util.find_spec("numba"):
        return load_and_try(name)
    warn_that_numba_is_missing()
    return None


@functools.cache
def warn_that_numba_is_missing() -> None:
    """Says once that everything takes longer, and how to change that."""
    logging.warning(
        "numba is not installed, so TensorFlow prepares training crops and runs the CRF, which "
        "takes several times as long: pip install 'deeplab_tf[fast]'"
    )


@functools.cache
def load_and_try(name: str) -> types.ModuleType | None:
    """As `load`, where numba is installed."""
    try:
        module = importlib.import_module(name)
        module.try_out()
    except Exception as error:  # numba and LLVM fail in many ways
        logging.warning(
            "The installed numba cannot compile %s, so TensorFlow is used, which takes several "
            "times as long. Install a version that fits: pip install 'deeplab_tf[fast]' (%s: %s)",
            name,
            type(error).__name__,
            # Without the colours that numba adds where colorama is installed.
            re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0],
        )
        return None
    return module


def compiled(**options) -> Callable[[Callable], Callable]:
    """Decorates a function that numba compiles without Python's lock.

    The machine code is kept beside the source or in the user's cache folder. Where neither is
    writable, every process compiles again.

    Args:
        **options: Of `numba.njit`.
    """
    import numba

    def decorate(function):
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(nogil=True, **options)(function)

    return decorate
