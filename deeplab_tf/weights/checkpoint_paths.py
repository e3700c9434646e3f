"""Finding the checkpoint that a name, a path, a folder or an archive stands for."""

import contextlib
import os
import pathlib
import re
import tempfile
import typing
from collections.abc import Iterator

import tensorflow as tf

from deeplab_tf import files
from deeplab_tf import zoo
from deeplab_tf.errors import UserError
from deeplab_tf.weights import keras_applications
from deeplab_tf.weights.checkpoint_values import few
from deeplab_tf.zoo import archives

# A checkpoint PREFIX consists of these files; the last one is not needed.
_PARTS = re.compile(r"(?P<prefix>.+)\.(index|data-\d{5}-of-\d{5}|meta)")
_NEWEST = "checkpoint"  # the file that names the newest checkpoint of a folder
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_OTHER_FORMATS = {
    ".keras": "a Keras model (deeplab_tf.load_model loads it)",
    ".pb": "a frozen graph, whose weights are constants",
    ".pbtxt": "a graph without weights",
    ".h5": "an HDF5 file, and not the weights of a backbone from Keras Applications",
    ".hdf5": "an HDF5 file, and not the weights of a backbone from Keras Applications",
    ".tflite": "a TensorFlow Lite model",
    ".onnx": "an ONNX model",
    ".pth": "a file of PyTorch",
    ".pt": "a file of PyTorch",
    ".npz": "a file of NumPy arrays",
}
_WANTED = (
    "Give the prefix of a TensorFlow checkpoint (for model.ckpt.index and "
    "model.ckpt.data-00000-of-00001 that is model.ckpt), its folder, or the archive it came in"
)


class Located(typing.NamedTuple):
    """A checkpoint.

    Attributes:
        prefix: Prefix of its files; or the one file of it.
        origin: What to call it in messages: the prefix, or the archive that it is unpacked from.
    """

    prefix: str
    origin: str


@contextlib.contextmanager
def located(source: str | os.PathLike) -> Iterator[Located]:
    """Finds a checkpoint; that of an archive is unpacked for as long as the context lasts.

    Args:
        source: Name of a release (`python -m deeplab_tf.zoo list`); prefix of a checkpoint, or one
            of its files; the file of a checkpoint in TensorFlow's first format; a folder with a
            checkpoint; a tar or zip archive with one; or a file of Keras Applications.

    Yields:
        The checkpoint.

    Raises:
        UserError: There is no checkpoint; the message says what was found instead.
    """
    path = files.as_path(zoo.resolve(os.path.expanduser(source)))
    path = _without_part(path)
    if files.is_remote(path) and path.is_file():
        with files.local_copy(path) as copy, located(copy) as found:
            yield Located(found.prefix, str(path))
        return
    if path.is_dir() and not _has_part(path, "index"):
        path = _newest_in(path)
    if _has_part(path, "index"):
        yield _checked(path)
    elif path.suffix.lower() in keras_applications.SUFFIXES and keras_applications.is_weights(path):
        yield Located(str(path), str(path))
    elif path.suffix.lower() in _OTHER_FORMATS:
        raise UserError(_describe_other(path))
    elif path.is_file() and (path.name.endswith(_ARCHIVES) or archives.is_archive(path)):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            archives.unpack(path, folder)
            yield Located(_checked(_only_one_in(folder, path)).prefix, str(path))
    else:
        yield _checked(path)


def _without_part(path: pathlib.Path) -> pathlib.Path:
    """The prefix of a checkpoint where a path names one of its files; else the path."""
    if path.name == _NEWEST and path.is_file():
        return path.parent
    match = _PARTS.fullmatch(path.name)
    return path.with_name(match["prefix"]) if match else path


def _has_part(prefix: pathlib.Path, pattern: str) -> bool:
    folder = prefix.parent
    return folder.is_dir() and any(
        file.name.startswith(f"{prefix.name}.{pattern}") for file in folder.iterdir()
    )


def _checked(path: pathlib.Path) -> Located:
    """The checkpoint of this prefix, if its files are complete."""
    has_index, has_data = _has_part(path, "index"), _has_part(path, "data-")
    if has_index != has_data:
        missing = f"{path.name}.data-..." if has_index else f"{path.name}.index"
        raise UserError(
            f"The checkpoint {path} is not complete: {missing} is missing. Copy or download all of "
            "its files again."
        )
    if not has_index and not path.is_file():
        raise UserError(f"There is no checkpoint {path}{_others_in(path.parent)}. {_WANTED}.")
    return Located(str(path), str(path))


def _newest_in(folder: pathlib.Path) -> pathlib.Path:
    """The prefix of the newest checkpoint in a folder."""
    if (folder / "saved_model.pb").is_file():
        raise UserError(f"{folder} is a SavedModel, not a checkpoint. {_WANTED}.")
    newest = _named_newest(folder)
    if newest:
        return folder / newest
    found = _prefixes(folder)
    if len(found) != 1:
        raise UserError(
            f"{folder} is a folder without a `checkpoint` file that names the one to load. Give "
            f"the prefix itself: {few(found) if found else 'there is none in it'}."
        )
    return folder / found[0]


def _only_one_in(folder: pathlib.Path, archive: pathlib.Path) -> pathlib.Path:
    """The prefix of the newest checkpoint of an archive, in the folder it is unpacked in."""
    found = _prefixes(folder)
    newest = _named_newest(folder)
    if newest in found:
        return folder / newest
    if not found:
        names = few(sorted(os.listdir(folder))) or "nothing"
        raise UserError(f"{archive} has no checkpoint in it, but {names}. {_WANTED}.")
    if len(found) > 1:
        raise UserError(
            f"{archive} has several checkpoints: {few(found)}. Unpack it, and give one of them."
        )
    return folder / found[0]


def _named_newest(folder: pathlib.Path) -> str:
    """The name in a folder's `checkpoint` file; empty without a file, or if it is damaged."""
    if not (folder / _NEWEST).is_file():
        return ""
    try:
        with files.local_copy(folder / _NEWEST) as copy:
            state = tf.train.get_checkpoint_state(str(copy.parent))
    except (tf.errors.OpError, OSError, ValueError):
        return ""
    # The folder may have been moved since the file was written: only the name holds.
    return pathlib.PurePath(state.model_checkpoint_path).name if state else ""


def _prefixes(folder: pathlib.Path) -> list[str]:
    """The checkpoints in a folder: those of two files or more, or else those of one."""
    with_index = sorted(path.with_suffix("").name for path in folder.glob("*.index"))
    return with_index or sorted(path.name for path in folder.glob("*.ckpt") if path.is_file())


def _others_in(folder: pathlib.Path) -> str:
    found = _prefixes(folder) if folder.is_dir() else []
    return f"; {folder} has {few(found)}" if found else ""


def _describe_other(path: pathlib.Path) -> str:
    if not path.is_file():
        return f"There is no file {path}. {_WANTED}."
    what = _OTHER_FORMATS[path.suffix.lower()]
    return f"{path} is {what}, not a checkpoint{_others_in(path.parent)}. {_WANTED}."
