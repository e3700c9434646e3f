"""The file systems of TensorFlow, such as gs:// and ram://, with the methods of fsspec's."""

import contextlib
import io
from collections.abc import Iterator

import fsspec
import tensorflow as tf

_gfile = tf.io.gfile


class TensorFlowFileSystem(fsspec.AbstractFileSystem):
    """`tf.io.gfile` for one scheme. Its errors are those of `pathlib`.

    fsspec's base class makes `find`, `glob` and the like of these methods.

    Args:
        scheme: Such as "gs". Paths have no scheme: "bucket/run".
    """

    cachable = False  # other processes write, too

    def __init__(self, scheme: str):
        super().__init__()
        self._scheme = scheme

    def info(self, path, **kwargs):
        with _readable_errors():
            status = _gfile.stat(self._address(path))
        return {
            "name": path,
            "size": status.length,
            "type": "directory" if status.is_directory else "file",
            "mtime": status.mtime_nsec / 1e9,
        }

    def modified(self, path):
        return self.info(path)["mtime"]

    def ls(self, path, detail=True, **kwargs):
        names = [path]
        if self.info(path)["type"] == "directory":
            with _readable_errors():
                listed = [name.rstrip("/") for name in _gfile.listdir(self._address(path))]
            names = [f"{path}/{name}".lstrip("/") for name in listed if name]
        return [self.info(name) for name in names] if detail else names

    def makedirs(self, path, exist_ok=False):
        with _readable_errors():
            _gfile.makedirs(self._address(path))

    def mkdir(self, path, create_parents=True, **kwargs):
        self.makedirs(path)

    def rm_file(self, path):
        with _readable_errors():
            _gfile.remove(self._address(path))

    def rm(self, path, recursive=False, maxdepth=None):
        for file in self.find(path):
            self.rm_file(file)
        # ram:// cannot delete a folder beside one whose name begins with its own name.
        with contextlib.suppress(FileNotFoundError), _readable_errors():
            _gfile.rmtree(self._address(path))

    def mv(self, path1, path2, **kwargs):
        with _readable_errors():
            _gfile.rename(self._address(path1), self._address(path2), overwrite=True)

    def cp_file(self, path1, path2, **kwargs):
        with _readable_errors():
            _gfile.copy(self._address(path1), self._address(path2), overwrite=True)

    def put_file(self, lpath, rpath, **kwargs):
        with _readable_errors():
            _gfile.copy(lpath, self._address(rpath), overwrite=True)

    def get_file(self, rpath, lpath, **kwargs):
        with _readable_errors():
            _gfile.copy(self._address(rpath), lpath, overwrite=True)

    def cat_file(self, path, start=None, end=None, **kwargs):
        with self._open(path) as file:
            file.seek(start or 0)
            return file.read(-1 if end is None else end - (start or 0))

    def _open(self, path, mode="rb", **kwargs):
        with _readable_errors():
            return io.BufferedReader(_GFile(_gfile.GFile(self._address(path), "rb")))

    def _address(self, path: str) -> str:
        return f"{self._scheme}://{path}"


class _GFile(io.RawIOBase):
    """A file of `tf.io.gfile` that is read, as Python's libraries expect a file to be."""

    def __init__(self, file):
        with _readable_errors():
            self._file, self._size = file, file.size()

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        with _readable_errors():
            self._file.seek(min(start + offset, self._size))
        return self.tell()

    def tell(self):
        with _readable_errors():
            return self._file.tell()

    def readinto(self, buffer):
        with _readable_errors():
            content = self._file.read(min(len(buffer), self._size - self._file.tell()))
        buffer[: len(content)] = content
        return len(content)

    def close(self):
        self._file.close()
        super().close()


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """Turns errors of TensorFlow's file systems into those of `pathlib`."""
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(error.message) from error
    except tf.errors.PermissionDeniedError as error:
        raise PermissionError(error.message) from error
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
