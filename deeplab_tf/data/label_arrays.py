"""Label maps in arrays of numpy and MATLAB."""

import os
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np

from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for

ENDINGS = (".npy", ".npz", ".mat")
_MAX_DEPTH = 4  # of structs within structs


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Returns the numbers of the only label map in a file, [H, W].

    In a `.mat` file it may lie in a struct.

    Raises:
        UserError: The file is missing or damaged, or it is not clear which array is meant.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise UserError(f"label {path} is not an array file: these end in {', '.join(ENDINGS)}")
    if suffix == ".mat":
        arrays = dict(_in_structs(load_mat(path)))
    elif not path.is_file():
        raise UserError(f"there is no label {path}")
    else:
        try:
            loaded = np.load(path, allow_pickle=False)
            arrays = dict(loaded) if suffix == ".npz" else {path.name: loaded}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"label {path} cannot be read ({error}): replace it") from error
    maps = [array for array in arrays.values() if array.ndim == 2 and array.dtype.kind in "biuf"]
    if len(maps) > 1:  # lists of classes, beside the label map
        maps = [array for array in maps if min(array.shape) > 1]
    if len(maps) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise UserError(
            f"label {path} has to hold one array of ids [height, width]; it holds "
            f"{shapes or 'none'}"
        )
    return maps[0]


def load_mat(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the variables of a MATLAB file; structs are indexed as `variables[name].field`.

    Raises:
        UserError: It is missing or damaged, or scipy is not installed.
    """
    with extra_for("Reading .mat files", extra="mat"):
        import scipy.io
    if not pathlib.Path(path).is_file():
        raise UserError(f"there is no label {path}")
    try:
        variables = scipy.io.loadmat(path, squeeze_me=False, struct_as_record=False)
    except NotImplementedError as error:  # MATLAB 7.3 files are HDF5
        raise UserError(f"{path}: {error}; save it in MATLAB by `save(..., '-v7')`") from error
    except Exception as error:  # scipy's readers raise errors of every kind on damaged files
        raise UserError(f"label {path} cannot be read ({error}): replace it") from error
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def _in_structs(variables: dict, prefix: str = "", depth: int = 0) -> Iterator[tuple]:
    """Yields names and arrays, those in fields of single structs as well."""
    for name, value in variables.items():
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype != object:
            yield prefix + name, value
        elif value.size == 1 and depth < _MAX_DEPTH:
            fields = getattr(value.item(), "__dict__", {})
            own = {key: field for key, field in fields.items() if not key.startswith("_")}
            yield from _in_structs(own, f"{prefix}{name}.", depth + 1)
