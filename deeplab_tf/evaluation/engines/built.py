"""The files of engines: built once, and found again by what they were built from."""

import dataclasses
import glob
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

import deeplab_tf
from deeplab_tf import files
from deeplab_tf.config import EvalConfig
from deeplab_tf.data.json_fields import JsonObject
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
from deeplab_tf.evaluation.artefacts.answers import reason
from deeplab_tf.evaluation.engines import formats
from deeplab_tf.evaluation.engines import runtimes
from deeplab_tf.evaluation.network import Network
from deeplab_tf.evaluation.network import without_last_resize
from deeplab_tf.remote_paths import is_remote
from deeplab_tf.runs import checkpoints
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files


@dataclasses.dataclass(frozen=True)
class Engine:
    """How an engine gets its file, and runs it.

    Attributes:
        packages: Distributions that it needs, and the modules that they install.
        extra: The extra of `setup.py` that installs them.
        ending: Ending of its file.
        write: Writes the file of a model.
        open: Returns the function that runs a file.
    """

    packages: dict[str, str]
    extra: str
    ending: str
    write: Callable[[keras.Model, str], None]
    open: Callable[[str], runtimes.LogitsOf]

    @property
    def is_installed(self) -> bool:
        return all(map(importlib.util.find_spec, self.packages.values()))


_TO_ONNX = {"tf2onnx": "tf2onnx", "onnx": "onnx"}

ENGINES = {
    "openvino": Engine(
        {"openvino": "openvino", **_TO_ONNX},
        extra="openvino",
        ending=".onnx",
        write=formats.write_onnx,
        open=runtimes.open_openvino,
    ),
    "litert": Engine(
        {"ai-edge-litert": "ai_edge_litert"},
        extra="litert",
        ending=".tflite",
        write=formats.write_tflite,
        open=runtimes.open_litert,
    ),
    "onnxruntime": Engine(
        {"onnxruntime": "onnxruntime", **_TO_ONNX},
        extra="onnx",
        ending=".onnx",
        write=formats.write_onnx,
        open=runtimes.open_onnxruntime,
    ),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """The network of a run, for engines to build their files from.

    Attributes:
        digest: Hash of its weights and settings, and of the version of this package.
        folders: Where files are looked for and built: the first that can be written to.
        load: Loads the network as a Keras model for inference.
    """

    digest: str
    folders: Sequence[pathlib.Path]
    load: Callable[[], keras.Model]

    def find(self, name: str) -> pathlib.Path | None:
        """Returns the path of a file with this name, or None if it was not written yet."""
        found = (folder / name for folder in self.folders if (folder / name).is_file())
        return next(found, None)

    def write(self, name: str, write: Callable[[str], None]) -> pathlib.Path:
        """Writes a file whole or not at all, in the first folder that can be written to.

        Raises:
            UserError: None of them can.
        """
        problem: OSError | None = None
        for folder in self.folders:
            try:
                with files.replacing(folder / name) as draft:
                    write(str(draft))
            except OSError as error:
                problem = error
            else:
                return folder / name
        raise UserError(f"{self.folders[-1]} cannot be written to: {problem}.") from problem


def source_of_run(
    run: run_dirs.Run, checkpoint: str, eval_config: EvalConfig, load: Callable[[], keras.Model]
) -> Source:
    """Describes the network of a run.

    Args:
        run: The run.
        checkpoint: "best" or "last".
        eval_config: Its `eval_output_stride` counts.
        load: Loads the network as a Keras model for inference, at that output stride.

    Raises:
        UserError: There is no such checkpoint.
    """
    made_from = dataclasses.asdict(run.model_config) | {
        "at": eval_config.eval_output_stride,
        "deeplab_tf": deeplab_tf.__version__,  # which decides how layers become operators
    }
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode())
    for path in _weight_files(run.folder, checkpoint):
        digest.update(files.sha256(path).encode())
    folders = [files.cache_folder() / "engines"]
    if not is_remote(run.folder):  # engines read local files
        folders.insert(0, files.as_path(run.folder, run_files.ENGINES))
    return Source(digest.hexdigest(), folders, load)


def _weight_files(folder: str, checkpoint: str) -> list[pathlib.Path]:
    if run_dirs.is_published(folder):
        return [files.as_path(folder, run_files.KERAS_WEIGHTS)]
    prefix = files.as_path(checkpoints.find(folder, checkpoint))
    return sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.*"))


def load_network(name: str, source: Source) -> Network:
    """Loads a network to be run by another engine than TensorFlow; builds its file if needed.

    Args:
        name: A key of `ENGINES`.
        source: The network.

    Raises:
        UserError: A package is missing; or the network cannot be converted, or not be loaded.
    """
    engine = ENGINES[name]
    with extra_for(f"--engine={name}", engine.extra):
        for module in engine.packages.values():
            importlib.import_module(module)
    path, stride = _file_of(engine, source)
    try:
        run = engine.open(str(path))
    except Exception as error:  # a damaged file raises errors of many kinds
        raise UserError(
            f"{path} cannot be used ({reason(error)}): delete it, and it will be built again."
        ) from error

    def logits_of(images):  # the files take one image at a time
        return tf.concat([run(image) for image in np.asarray(images)[:, np.newaxis]], axis=0)

    return Network(logits_of, stride)


def _file_of(engine: Engine, source: Source) -> tuple[pathlib.Path, float]:
    """Returns the file of an engine, and the stride of its logits; builds it if there is none."""
    versions = {name: importlib.metadata.version(name) for name in sorted(engine.packages)}
    made_by = {"tensorflow": tf.__version__, "keras": keras.__version__, **versions}
    made_from = source.digest + json.dumps(made_by) + engine.ending
    name = hashlib.sha256(made_from.encode()).hexdigest()[:20] + engine.ending
    found = source.find(name)
    if found is not None:
        stride = read_stride(found)
        if stride is not None:
            return found, stride
        print(f"{found} is incomplete or damaged: it is built again", flush=True)
    model = source.load()
    _, stride = without_last_resize(model)
    path = source.write(name, lambda draft: engine.write(model, draft))
    about = {"stride": stride, "sha256": files.sha256(path), "made_by": made_by}
    files.write_json(_about(path), about)
    return path, stride


def read_stride(path: pathlib.Path) -> float | None:
    """Returns the stride of the logits of an engine's file; None if the file is damaged.

    The file must be what was built: engines may crash on others.
    """
    try:
        about = JsonObject(files.read_json(_about(path)), _about(path).name, "Delete it.")
        is_intact = about.text("sha256") == files.sha256(path)
        stride = about.number("stride")
    except UserError:
        return None
    return stride if is_intact and stride > 0 else None


def _about(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(f"{path.suffix}.json")
