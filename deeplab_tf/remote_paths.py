"""Paths in remote storage, such as gs://bucket/folder, with the methods of `pathlib.Path`.

TensorFlow's own file systems (gs://, ram:// and those of its plugins) are used where TensorFlow
knows the scheme, and those of fsspec elsewhere (s3://, hdfs://, memory:// and more). etils' epath,
which TFDS uses, knows four schemes only, and asks TensorFlow for s3://, which it no longer has.
"""

import contextlib
import datetime
import errno
import functools
import io
import os
import pathlib
import re
import secrets
import sys
import tempfile
import types
import typing
from collections.abc import Iterator

from deeplab_tf import start_up
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for

# Two letters at least: C:/ is a drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(/?)")
_LOCAL_SCHEME = "file"
# These rename whole folders in one step. Object stores copy file by file instead, but a file in
# them appears only when it is complete.
_RENAME_FOLDERS = ("hdfs", "webhdfs", "viewfs", "sftp", "ssh", "smb")
_OBJECT_STORES = ("abfs", "abfss", "adl", "az", "gcs", "gs", "oci", "oss", "s3", "s3a")
_INSTALL = {"abfs": "adlfs", "az": "adlfs", "gcs": "gcsfs", "hdfs": "pyarrow", "s3a": "s3fs"}
_INTERMEDIATE = ".new_"
_NUMBERS = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    PermissionError: errno.EACCES,
}


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is an address of remote storage.

    >>> is_remote("gs://bucket/run"), is_remote("/data/run"), is_remote("C://data")
    (True, False, False)
    """
    match = _SCHEME.match(os.fspath(path))
    return match is not None and match[1].lower() != _LOCAL_SCHEME


class RemotePath(pathlib.PurePosixPath):
    """A path in remote storage: joined, split and compared like a `pathlib` path.

    Methods have the names, arguments and errors of `pathlib.Path`; errors of the storage are
    `OSError`s. Folders need not be made in object stores, where a folder without files does not
    exist.

    >>> path = RemotePath("gs://bucket/run")
    >>> str(path / "flags.txt"), path.name
    ('gs://bucket/run/flags.txt', 'run')
    """

    # The first part is the scheme, as "gs:"; or as "hdfs::" in hdfs:///folder, without a host.
    if sys.version_info < (3, 12):

        def __new__(cls, *parts):
            return super().__new__(cls, *map(_without_slashes, parts))

    else:

        def __init__(self, *parts):
            super().__init__(*map(_without_slashes, parts))

    def __str__(self):
        first, *rest = self.parts or ("",)
        if not first.endswith(":"):
            return super().__str__()  # relative to another path
        slashes = "///" if first.endswith("::") else "//"
        return f"{first.rstrip(':')}:{slashes}{'/'.join(rest)}"

    def __fspath__(self):
        return str(self)

    @property
    def scheme(self) -> str:
        """The scheme of the address, such as "gs"."""
        return self.parts[0].rstrip(":")

    @property
    def appears_whole(self) -> bool:
        """Whether a file that is written appears only when it is complete."""
        return self.scheme in _OBJECT_STORES

    @property
    def can_rename_folders(self) -> bool:
        """Whether a folder is renamed in one step."""
        return self.scheme in _RENAME_FOLDERS

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> "RemotePath":
        return self

    def resolve(self, strict: bool = False) -> "RemotePath":
        return self

    def expanduser(self) -> "RemotePath":
        return self

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def stat(self) -> types.SimpleNamespace:
        """Returns `st_size` in bytes, and `st_mtime` and `st_mtime_ns`, which may be 0."""
        with self._storage() as (system, path):
            seconds = _modified(system, path)
            size = system.info(path).get("size") or 0
        return types.SimpleNamespace(
            st_size=size, st_mtime=seconds, st_mtime_ns=round(seconds * 10**9)
        )

    def open(self, mode: str = "r", encoding: str | None = None) -> typing.IO:
        """Opens the file to be read; `files.replacing` writes."""
        if set(mode) - set("rbt"):
            raise ValueError(f"mode is {mode!r}; remote files are only read in place")
        with self._storage() as (system, path):
            if system.info(path)["type"] == "directory":
                raise IsADirectoryError(str(self))
            file = system.open(path, "rb")
        return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8")

    def read_bytes(self) -> bytes:
        with self._storage() as (system, path):
            return system.cat_file(path)

    def write_bytes(self, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            draft = pathlib.Path(folder) / "draft"
            draft.write_bytes(content)
            self.upload(draft)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def iterdir(self) -> Iterator["RemotePath"]:
        with self._storage() as (system, path):
            listed = [name.strip("/") for name in system.ls(path, detail=False)]
        # Some object stores list a folder in itself.
        names = {os.path.basename(name) for name in listed if name != path.strip("/")}
        return (self / name for name in sorted(names - {""}))

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        with self._storage() as (system, path):
            found = system.glob(f"{path.rstrip('/')}/{pattern}")
            return iter([self._child(path, name) for name in sorted(found)])

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        found = self.find()
        return (path for path in found if pattern == "*" or path.match(pattern))

    def find(self, max_depth: int | None = None) -> list["RemotePath"]:
        """Returns all files below this folder, sorted; with `max_depth` 1, those in it."""
        with self._storage() as (system, path):
            return sorted(self._child(path, name) for name in system.find(path, max_depth))

    def expand(self) -> list["RemotePath"]:
        """Returns the files that this path stands for as a glob, sorted."""
        base = next(path for path in self.parents if not _is_pattern(str(path)))
        pattern = str(self.relative_to(base))
        return sorted(path for path in base.glob(pattern) if path.is_file())

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if self.appears_whole:
            return  # an object store has no folders to make
        with self._storage() as (system, path):
            if system.exists(path) and not (exist_ok and system.isdir(path)):
                raise FileExistsError(str(self))
            system.makedirs(path, exist_ok=True)

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the file; object stores do not tell whether there was one."""
        with contextlib.suppress(*[FileNotFoundError] * missing_ok):
            with self._storage() as (system, path):
                system.rm_file(path)

    def rmtree(self) -> None:
        """Deletes a folder and all that is in it."""
        with self._storage() as (system, path):
            system.rm(path, recursive=True)

    def replace(self, target: str | os.PathLike) -> "RemotePath":
        """Gives a file another name; a file of that name is replaced."""
        target = RemotePath(target)
        with self._storage() as (system, path), target._storage() as (_, new):
            system.mv(path, new)
        return target

    def upload(self, source: str | os.PathLike) -> None:
        """Writes the content of a local file to this path, where it appears when it is complete."""
        self.parent.mkdir(parents=True, exist_ok=True)
        if self.appears_whole:
            with self._storage() as (system, path):
                system.put_file(os.fspath(source), path)
            return
        draft = self.with_name(f"{_INTERMEDIATE}{secrets.token_hex(8)}")
        with draft._storage() as (system, path):
            system.put_file(os.fspath(source), path)
        draft.replace(self)

    def copy_to(self, target: "RemotePath") -> None:
        """Copies a file to another path of the same storage, which copies it itself."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._storage() as (system, path), target._storage() as (_, new):
            system.cp_file(path, new)

    def download(self, target: str | os.PathLike) -> None:
        """Writes the content of this file to a local file, with its time."""
        with self._storage() as (system, path):
            system.get_file(path, os.fspath(target))
            seconds = _modified(system, path)
        os.utime(target, (seconds, seconds))

    def _kind(self) -> str | None:
        """Returns "file", "directory", or None for neither; what cannot be asked is an error."""
        # fsspec's `exists` and the like answer no where there is no connection.
        with self._storage() as (system, path), contextlib.suppress(FileNotFoundError):
            return system.info(path)["type"]
        return None

    def _child(self, folder: str, name: str) -> "RemotePath":
        return self / name.strip("/").removeprefix(folder.strip("/")).lstrip("/")

    @contextlib.contextmanager
    def _storage(self) -> Iterator[tuple[typing.Any, str]]:
        """Yields the file system and the path in it; its errors become `OSError`s."""
        try:
            yield _file_system_of(str(self))
        except UserError:
            raise
        except Exception as error:  # of many kinds: each storage has its own
            raise _as_os_error(error, str(self)) from error


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _without_slashes(part):
    """Returns a part of a path with its scheme as a part of its own: `gs://b` becomes `gs:/b`."""
    if isinstance(part, pathlib.PurePath):
        return part
    text = os.fspath(part)
    match = _SCHEME.match(text)
    if not match:
        return text
    return f"{match[1].lower()}{'::' if match[2] else ':'}/{text[match.end() :]}"


def _as_os_error(error: Exception, address: str) -> OSError:
    """Returns an error of a storage as one that names the address, with the number of its kind."""
    number = getattr(error, "errno", None)
    if not isinstance(number, int):
        number = next((n for kind, n in _NUMBERS.items() if isinstance(error, kind)), errno.EIO)
    if number == errno.EIO:
        lines = str(error).splitlines() or [type(error).__name__]
        return OSError(number, getattr(error, "strerror", None) or lines[0], address)
    return OSError(number, os.strerror(number), address)


def is_read_by_tensorflow(path: str | os.PathLike) -> bool:
    """Whether TensorFlow itself opens files at a path: a local one, or of a scheme that it has."""
    return not is_remote(path) or RemotePath(path).scheme in _tensorflow_schemes()


@functools.cache
def _tensorflow_schemes() -> frozenset[str]:
    if "tensorflow" not in sys.modules:
        with start_up.filtered_stderr():
            import tensorflow  # noqa: F401 - its first import prints
    import tensorflow as tf

    return frozenset(tf.io.gfile.get_registered_schemes())


def _file_system_of(address: str) -> tuple[typing.Any, str]:
    """Returns the file system, with fsspec's methods, of an address, and the path in it."""
    scheme = RemotePath(address).scheme
    with extra_for(f"Reading {scheme}:// files", extra="remote"):
        import fsspec
    if scheme in _tensorflow_schemes():
        from deeplab_tf.tensorflow_storage import TensorFlowFileSystem

        return TensorFlowFileSystem(scheme), address.partition("://")[2].rstrip("/")
    try:
        # Other processes write, too: listings must not be kept.
        return fsspec.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        package = _INSTALL.get(scheme, f"{scheme}fs")
        raise UserError(
            f"{address} cannot be opened: {error}. For {scheme}:// files: pip install {package}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{address} cannot be opened: neither TensorFlow nor fsspec has a file system "
            f"{scheme}:// ({error}). Give a local path, or gs://, s3://, hdfs:// and the like."
        ) from error


def _modified(system, path: str) -> float:
    """Returns when a file was changed, in seconds; 0 where the storage does not know."""
    try:
        time = system.modified(path)
    except (NotImplementedError, KeyError):
        return 0.0
    return time.timestamp() if isinstance(time, datetime.datetime) else float(time or 0)
