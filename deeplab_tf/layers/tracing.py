"""Options for the layers that are made or traced inside a `with` block."""

import contextlib
import dataclasses
import functools

import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class GraphOptions:
    """How layers are traced; see `portable_graphs`, `local_graphs` and `fake_quantization`."""

    portable: bool = False
    local: bool = False
    means_by_pooling: bool = False
    fake_quantization: str = "all"


_options = GraphOptions()


def graph_options() -> GraphOptions:
    """Returns the options that layers are traced with at the moment."""
    return _options


@functools.cache
def has_cpus_only() -> bool:
    """Whether TensorFlow has no other devices than CPUs, whose kernels are fast in other cases."""
    return {device.device_type for device in tf.config.list_logical_devices()} == {"CPU"}


@contextlib.contextmanager
def portable_graphs(means_by_pooling: bool = False):
    """Traces graphs that run on any device, not only on devices like this one.

    Use it around the tracing of a model for export. Outside it, inference uses the dilated
    depthwise kernel where it works, which exists only on CPUs with oneDNN.

    Args:
        means_by_pooling: Whether to compute the mean over a map of known size as a pooling, which
            the GPU delegate of TensorFlow Lite supports; it may not support means over axes. In 8
            bits a pooling is less precise: its output has the scale of the map, whose largest value
            is far above the means.
    """
    with _replaced(portable=True, means_by_pooling=means_by_pooling):
        yield


@contextlib.contextmanager
def local_graphs():
    """Traces graphs of inference that this process runs itself and nobody converts.

    On a CPU, 1x1 convolutions of many channels become matrix products.
    """
    with _replaced(local=True):
        yield


@contextlib.contextmanager
def fake_quantization(what: str):
    """Chooses what the layers of a model of `models.quantize` round to 8 bits.

    Args:
        what: "all"; "activations", for a converter that quantises the kernels itself; or "none".
    """
    with _replaced(fake_quantization=what):
        yield


@contextlib.contextmanager
def _replaced(**options):
    global _options
    before = _options
    _options = dataclasses.replace(before, **options)
    try:
        yield
    finally:
        _options = before


@contextlib.contextmanager
def mixed_precision(dtype: str):
    """Makes layers created inside the block compute in `dtype`, with float32 weights.

    Args:
        dtype: "bfloat16" or "float16"; an empty string changes nothing.
    """
    before = keras.config.dtype_policy()
    if dtype:
        keras.config.set_dtype_policy(f"mixed_{dtype}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
