"""Installs deeplab_tf; `datasets/` and `export/` become its sub-packages.

The two folders stay at the top of the repository, where a reader looks for them, and are linked
into `deeplab_tf/` for work in a checkout. Installing them under their bare names would shadow a
well-known package called `datasets`.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent


def sub_packages(folder: str) -> dict[str, str]:
    """Maps `deeplab_tf.<folder>` and every package below it to its directory."""
    folders = [ROOT / folder] + sorted(
        path for path in (ROOT / folder).iterdir() if any(path.glob("*.py"))
    )
    relative = [path.relative_to(ROOT).as_posix() for path in folders]
    return {"deeplab_tf." + path.replace("/", "."): path for path in relative}


LINKED = sub_packages("datasets") | sub_packages("export")

setuptools.setup(
    name="deeplab_tf",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "deeplab_tf/__init__.py").read_text())[1],
    description="DeepLab v1, v2, v3 and v3+ for TensorFlow and Keras 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=setuptools.find_packages(include=["deeplab_tf", "deeplab_tf.*"]) + list(LINKED),
    package_dir=LINKED,
    package_data={
        "": ["README.md", "CITATIONS.bib"],
        "deeplab_tf.evaluation.report": ["*.css", "*.js"],
        "deeplab_tf.export": ["tf_serving/*.txt"],
    },
    install_requires=[
        "tensorflow>=2.21",
        "keras>=3.12",
        "tensorflow-datasets>=4.9.9",
        "importlib_resources",  # needed by tensorflow-datasets when it builds, not asked for by it
        "numpy",
        "opencv-python",
        "absl-py",
        "tensorboard",  # no longer installed by tensorflow
        "ai-edge-litert>=2",  # runs and reads .tflite files, in the place of tf.lite
        "tensorflow-serving-api",  # protocol buffers of TF Serving: warm-up requests, the client
        "platformdirs",  # the cache of released weights
        "requests",  # their download
        "psutil",  # memory and processes, on every platform
        "pillow",  # palette PNGs: neither TensorFlow nor OpenCV reads or writes their class ids
    ],
    extras_require={
        # The input pipeline and the fully-connected CRF several times as fast as in TensorFlow.
        "fast": ["numba>=0.60"],
        "jax": ["jax"],  # Keras' other backend; only a test needs it
        "mat": ["scipy"],  # labels in MATLAB's .mat files
        "onnx": ["tf2onnx", "onnx", "onnxruntime"],
        "test": [
            "pytest",
            "pytest-xdist",  # two files at a time
            "dill",  # for tensorflow_datasets.testing
            "numba",
            "scipy",
            "tf2onnx",
            "onnx",
            "onnxruntime",
        ],
    },
)
