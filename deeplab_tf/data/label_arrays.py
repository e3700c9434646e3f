"""Label maps in arrays of numpy and MATLAB.

Shapes are checked before numbers are read, so that a few bytes cannot ask for gigabytes.
"""

import math
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from deeplab_tf.data import image_files
from deeplab_tf.data.naming import LABEL_WORDS
from deeplab_tf.data.naming import words_of
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for

ENDINGS = (".npy", ".npz", ".mat")
_MAX_DEPTH = 4  # of structs within structs
_MAX_ARRAYS = 1000  # in one file
_COMPRESSED = 15  # type of a variable in a MATLAB file
_MAX_BYTES_PER_PIXEL = 8
_BYTES_AT_A_TIME = 2**20
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_array(path: str | os.PathLike, max_pixels: int = image_files.MAX_PIXELS) -> np.ndarray:
    """Returns the numbers of the only label map in a file, [H, W].

    In a `.mat` file it may lie in a struct.

    Args:
        path: The file.
        max_pixels: Larger arrays are refused before their numbers are read.

    Raises:
        UserError: The file is missing or damaged, or it is not clear which array is meant.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise UserError(f"label {path} is not an array file: these end in {', '.join(ENDINGS)}")
    if not os.path.isfile(path):
        raise UserError(f"there is no label {path}")
    if suffix == ".mat":
        return _only_map(dict(_in_structs(_load_mat(path, max_pixels))), path)
    try:
        return _read_numpy(path, max_pixels)
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise errors of every kind on damaged files
        raise UserError(f"label {path} cannot be read ({error}): replace it") from error


def read_bands(path: pathlib.Path, max_pixels: int = image_files.MAX_PIXELS) -> np.ndarray:
    """Returns the numbers of the only image in a `.npy` or `.npz` file, [H, W, N].

    Raises:
        ImageFileError: The file is damaged or too large, or holds something else.
    """
    try:
        name, header = _image_in(path)
        height, width = header.shape[:2]
        image_files.check_size(width, height, name=str(path), max_pixels=max_pixels)
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        image_files.check_num_values(width, height, header.shape[2], name=str(path))
        with np.load(path, allow_pickle=False) as archive:
            return archive[name.removesuffix(".npy")]
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise errors of every kind on damaged files
        raise image_files.ImageFileError(f"{path} cannot be read ({error}): replace it.") from error


def holds_image(path: pathlib.Path) -> bool:
    """Whether a `.npy` or `.npz` file holds an image of several bands, not a label map."""
    try:
        return bool(_image_in(path))
    except Exception:  # what is wrong is told when the file is read
        return False


def _image_in(path: pathlib.Path) -> tuple[str, np.ndarray]:
    """The name of the only array [H, W, N] in a file, and one of its shape and type."""
    headers = _read_headers(path)
    names = [
        name
        for name, header in headers.items()
        if header.ndim == 3 and header.size and header.dtype.kind in "uif"
    ]
    if len(names) != 1:
        shapes = ", ".join(f"{name} {header.shape}" for name, header in list(headers.items())[:10])
        raise image_files.ImageFileError(
            f"{path} has to hold one image, an array [height, width, bands]; it holds "
            f"{shapes or 'none'}."
        )
    return names[0], headers[names[0]]


def _read_headers(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays of the shapes and types that a file holds, by name; they take no memory."""
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as file:
            return {path.name: _read_header(file)}
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist()[:_MAX_ARRAYS]:
            with archive.open(name) as file:
                headers[name] = _read_header(file)
    return headers


def _read_numpy(path: pathlib.Path, max_pixels: int) -> np.ndarray:
    headers = _read_headers(path)
    label = _only_map(headers, path)
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as file:
            return _read_numbers(file, path, max_pixels)
    name = next(name for name, header in headers.items() if header is label)
    with zipfile.ZipFile(path) as archive:
        with archive.open(name) as file:
            return _read_numbers(file, path, max_pixels)


def _read_header(file: IO[bytes]) -> np.ndarray:
    """Returns an array of the shape and type that a file states, without allocating it."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADER_READERS:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = _HEADER_READERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return np.broadcast_to(np.zeros((), dtype), shape)


def _read_numbers(file: IO[bytes], path: pathlib.Path, max_pixels: int) -> np.ndarray:
    start = file.tell()
    height, width = _read_header(file).shape
    image_files.check_size(width, height, name=f"label {path}", max_pixels=max_pixels)
    file.seek(start)
    return np.lib.format.read_array(file, allow_pickle=False)


def _load_mat(path: pathlib.Path, max_pixels: int) -> dict[str, np.ndarray]:
    """Returns the variables of a MATLAB file; structs are indexed as `variables[name].field`."""
    with extra_for("Reading .mat files", extra="mat"):
        import scipy.io
    try:
        for name, shape, _ in scipy.io.whosmat(path):
            size = math.prod(shape)
            image_files.check_size(size, 1, name=f"{name} in label {path}", max_pixels=max_pixels)
        _check_unpacked_size(path, max_pixels)  # of what is in structs, too
        variables = scipy.io.loadmat(path, squeeze_me=False, struct_as_record=False)
    except UserError:
        raise
    except NotImplementedError as error:  # MATLAB 7.3 files are HDF5
        raise UserError(f"{path}: {error}; save it in MATLAB by `save(..., '-v7')`") from error
    except Exception as error:  # scipy's readers raise errors of every kind on damaged files
        raise UserError(f"label {path} cannot be read ({error}): replace it") from error
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def _check_unpacked_size(path: pathlib.Path, max_pixels: int) -> None:
    """Refuses a MATLAB file whose compressed variables hold far more than a label map.

    Reference: MAT-File Format, "Level 5 MAT-File Format": a header of 128 bytes, whose last two
    give the order of bytes; then variables, each behind its type and its length. Files of level 4
    have no such header, and nothing in them is compressed.
    """
    limit = _MAX_BYTES_PER_PIXEL * max_pixels
    with open(path, "rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        while order and len(header := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", header)
            if kind != _COMPRESSED:
                file.seek(length, os.SEEK_CUR)
                continue
            unpacker = zlib.decompressobj()
            packed, unpacked = file.read(length), 0
            while packed and unpacked <= limit:
                unpacked += len(unpacker.decompress(packed, _BYTES_AT_A_TIME))
                packed = unpacker.unconsumed_tail
            if unpacked > limit:
                raise UserError(
                    f"label {path} unpacks to more than {limit} bytes, which no label map within "
                    f"the limit of {max_pixels} pixels needs. If that is its true size, raise "
                    f"{image_files.MAX_PIXELS_FLAG}."
                )


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


def _only_map(arrays: dict[str, np.ndarray], path: pathlib.Path) -> np.ndarray:
    """Returns the one array that can be a label map."""
    maps = [array for array in arrays.values() if array.ndim == 2 and array.dtype.kind in "biuf"]
    if len(maps) > 1:  # lists of classes, beside the label map
        maps = [array for array in maps if min(array.shape) > 1]
    if len(maps) > 1:  # such as edges, beside the label map
        maps = [
            array
            for name, array in arrays.items()
            if not LABEL_WORDS.isdisjoint(words_of(name.rpartition(".")[2]))
            and any(array is other for other in maps)
        ]
    if len(maps) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:10])
        raise UserError(
            f"label {path} has to hold one array of ids [height, width]; it holds "
            f"{shapes or 'none'}"
        )
    return maps[0]
