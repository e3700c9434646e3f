"""How much memory an evaluation takes."""

import sys

import psutil
import tensorflow as tf


def peak_memory_mib() -> int:
    """Returns the peak memory in MiB: of the GPU if there is one, else of the process."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] // 2**20
    return _peak_bytes_of_process() // 2**20


def _peak_bytes_of_process() -> int:
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10  # bytes there, KiB elsewhere
