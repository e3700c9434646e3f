"""What a bug report needs: versions, the machine and its devices, settings."""

import importlib.metadata
import os
import pathlib
import platform
import re

import psutil
import tensorflow as tf

import deeplab_tf
from deeplab_tf import settings
from deeplab_tf.settings import Config

# Packages whose versions explain differences between two machines, as pip calls them.
PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "tensorflow-datasets",
    "opencv-python",
    "h5py",
    "pillow",
    "numba",
    "ai-edge-litert",
    "tensorflow-serving-api",
    "grpcio",
    "tf2onnx",
    "onnxruntime",
    "huggingface_hub",
    "rasterio",
    "jax",
)
# Environment variables that change what TensorFlow, its libraries or deeplab_tf do.
_VARIABLES = re.compile(r"(TF|XLA|CUDA|NVIDIA|TPU|KERAS|JAX|NUMBA|OMP|DEEPLAB_TF)_.*|KMP_.*")
_SECRETS = re.compile(r".*(TOKEN|KEY|SECRET|PASSWORD).*")
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def describe_environment(*configs: Config) -> str:
    """Returns what a bug report needs, as text.

    Args:
        *configs: Settings; those that are not the defaults are listed.

    Returns:
        Lines of text: versions, the machine, its devices, environment variables whose values are
        no secrets, and settings as flags.
    """
    return "\n".join(
        [
            f"deeplab_tf {deeplab_tf.__version__}, Python {platform.python_version()}",
            platform.platform(),
            describe_machine(),
            *_section("Packages", map(_version, PACKAGES)),
            *_section("Devices", map(_device, tf.config.list_physical_devices())),
            *_section("TensorFlow's build", _build()),
            *_section("Environment variables", _variables()),
            *_section("Flags other than the defaults", _flags(configs)),
        ]
    )


def describe_machine() -> str:
    """Returns the processor, its cores, the memory and the GPUs, in one line."""
    gpus = map(_device, tf.config.list_physical_devices("GPU"))
    memory = psutil.virtual_memory().total / 2**30
    return ", ".join([_cpu(), f"{os.cpu_count()} CPU cores", f"{memory:.1f} GiB memory", *gpus])


def _section(title: str, lines) -> list[str]:
    """Returns the lines of a section, or nothing if it has none."""
    lines = [f"  {line}" for line in lines]
    return ["", f"{title}:", *lines] if lines else []


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is not installed"


def _cpu() -> str:
    """Returns the name of the processor, and which of its vector units matter for speed."""
    path = pathlib.Path("/proc/cpuinfo")  # on Linux
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    name = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)", text, re.MULTILINE)
    features = [one for one in _CPU_FEATURES if flags and one in flags[1].split()]
    return " ".join([name[1] if name else platform.processor() or platform.machine(), *features])


def _device(device: tf.config.PhysicalDevice) -> str:
    name = device.name.removeprefix("/physical_device:")
    details = tf.config.experimental.get_device_details(device)
    facts = [details.get("device_name", "")]
    if "compute_capability" in details:
        facts.append(f"compute capability {'.'.join(map(str, details['compute_capability']))}")
    return " ".join([name, ", ".join(filter(None, facts))]).strip()


def _build() -> list[str]:
    """Returns the versions of CUDA and cuDNN that TensorFlow was built for, if it was."""
    build = tf.sysconfig.get_build_info()
    return [f"{name} {build[name]}" for name in ("cuda_version", "cudnn_version") if name in build]


def _variables() -> list[str]:
    return [
        f"{name}={'(hidden)' if _SECRETS.fullmatch(name) else value}"
        for name, value in sorted(os.environ.items())
        if _VARIABLES.fullmatch(name)
    ]


def _flags(configs: tuple[Config, ...]) -> list[str]:
    return [
        f"--{one.name}={one.to_text(getattr(config, one.name))}"
        for config in configs
        for one in settings.settings_of(type(config))
        if getattr(config, one.name) != one.default
    ]
