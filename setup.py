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


def version() -> str:
    """Returns the version that `deeplab_tf/__init__.py` states."""
    text = (ROOT / "deeplab_tf/__init__.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"', text, re.MULTILINE)[0]


LINKED = sub_packages("datasets") | sub_packages("export")

# An upper bound stands where a private interface of the package is used. It is the next version
# after the last one that the tests passed with: raise it after running them.
REQUIRED = [
    "tensorflow>=2.21",
    # `_run_through_graph`, `_flatten_layers`, `_called`: what lies inside of layers and models
    "keras>=3.12,<3.16",
    "tensorflow-datasets>=4.9.10,<4.10",  # `_get_filename_template`: shards under DeepLab's names
    "importlib_resources",  # tensorflow-datasets needs it to build records, but does not declare it
    "numpy",
    "h5py",  # weights of Keras Applications
    "opencv-python>=4.12",  # older ones cannot choose the filters of a PNG
    "absl-py",
    "jinja2>=3.1",  # the page of an evaluation
    "markupsafe",  # what is HTML in it, and what is text
    "tensorboard",  # TensorFlow 2.21 no longer installs it
    "platformdirs",  # the cache of released weights
    "requests",  # their download
    "psutil",  # memory and processes on every platform
    "filelock>=3.12",  # one training at a time in a run dir, on every platform
    "tqdm",  # progress bars
    # Polygons of annotation files, rasterised as COCO's own tools do. datumaro reads these files
    # whole, but brings pandas and a second OpenCV.
    "pycocotools",
    "pyyaml",  # the class names of YOLO's data.yaml
    "pillow",  # palette PNGs: TensorFlow and OpenCV neither read nor write their class ids
]

# `deeplab_tf.errors.extra_for` names the extra where one is missing.
EXTRAS = {
    # The input pipeline and the fully-connected CRF, several times faster than in TensorFlow.
    "fast": ["numba>=0.60,<0.69"],  # `numba.core.cgutils`: vectors of eight floats
    # Exporting, running and describing .tflite files. `schema_py_generated`: their operators.
    "litert": ["ai-edge-litert>=2,<3"],
    # Warm-up requests in SavedModels; asking TF Serving over gRPC.
    "serving": ["tensorflow-serving-api", "grpcio"],
    "onnx": ["tf2onnx", "onnx", "onnxruntime"],
    # Another engine for `predict` and `eval`; its networks are converted by way of ONNX.
    "openvino": ["openvino>=2025", "tf2onnx", "onnx"],
    "hub": ["huggingface_hub>=2,<3"],  # models at addresses hf://USER/REPO
    "heif": ["pillow-heif"],  # HEIC images, as phones take them
    "geo": ["rasterio>=1.4"],  # GeoTIFFs, and TIFFs of several bands
    "mat": ["scipy"],  # labels in MATLAB's .mat files
    "jax": ["jax"],  # the network on Keras' other backend
    # s3:// files. Other storages of fsspec have packages of their own, which messages name.
    "remote": ["fsspec>=2025", "s3fs>=2025"],
}
EXTRAS["all"] = sorted({package for packages in EXTRAS.values() for package in packages})
# export.tflite --quantizer=litert. Not part of "all": it pins one version of ai-edge-litert.
EXTRAS["litert_quantizer"] = ["litert-quantizer>=0.11,<0.12"]
# CUDA and cuDNN for NVIDIA GPUs, for Linux only, and gigabytes: not part of "all".
EXTRAS["gpu"] = ["tensorflow[and-cuda]>=2.21"]
# The site of docs/. `docs/site` holds its settings.
EXTRAS["docs"] = [
    "mkdocs-material>=9.7,<10",
    "mkdocstrings[python]>=1,<2",  # the reference, from docstrings
    "latex2mathml",  # formulas without scripts
    "jupytext",  # notebooks, from the scripts in examples/
]
# Building records and labelling images on many machines. Not part of `all`: it takes 340 MB, and
# replaces protobuf and pyarrow by older versions.
EXTRAS["beam"] = ["apache-beam>=2.77,<3"]
EXTRAS["test"] = [
    # Tests that need OpenVINO are skipped without it: it takes 150 MB.
    *(package for package in EXTRAS["all"] if not package.startswith("openvino")),
    *EXTRAS["docs"],
    "hypothesis",
    "pytest",
    "pytest-xdist",  # two files at a time
    "dill",  # tensorflow_datasets.testing needs it, but does not declare it
    "trustme",  # certificates for servers of tests
    "moto[server]",  # an S3 server; the tests on s3:// are skipped without it
]
# The formatter's style and the type checker's findings change between versions.
EXTRAS["lint"] = ["ruff>=0.17,<0.18", "mypy>=2.4,<2.5"]

setuptools.setup(
    name="deeplab_tf",
    version=version(),
    description="DeepLab v1, v2, v3 and v3+ for TensorFlow and Keras 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={
        "Paper": "https://arxiv.org/abs/1802.02611",
        "Original": "https://github.com/tensorflow/models/tree/master/research/deeplab",
    },
    keywords="deeplab semantic-segmentation tensorflow keras atrous-convolution aspp crf",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    packages=setuptools.find_packages(include=["deeplab_tf", "deeplab_tf.*"]) + list(LINKED),
    package_dir=LINKED,
    package_data={
        "": ["README.md", "CITATIONS.bib"],
        "deeplab_tf": ["py.typed"],
        "deeplab_tf.evaluation.report": ["templates/*"],
        "deeplab_tf.export": ["tf_serving/*.txt", "web_page/*"],
    },
    entry_points={"console_scripts": ["deeplab-tf = deeplab_tf.__main__:main"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
)
