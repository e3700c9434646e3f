"""Files: read with one clear message when they are wrong, written whole or not at all.

`as_path` makes a path of any text: a local one is a `pathlib.Path`, and an address such as
gs://bucket/run is a `RemotePath` with the same methods.

Everything that is written appears under its name only when it is complete: it is written to a
draft beside its place, which is renamed. A process that is killed leaves at most a draft, whose
name begins with `.new_` and which `remove_drafts` deletes at the next start. Drafts for remote
storage are local and are uploaded. Where a storage cannot rename a folder, the file that makes the
folder complete comes last.

What only opens local files reads a copy: `local_copy` lasts as long as its context, `cached_copy`
is kept for the next command.
"""

import codecs
import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import tempfile
import time
import typing
from collections.abc import Iterable
from collections.abc import Iterator

import psutil

from deeplab_tf.errors import UserError
from deeplab_tf.remote_paths import RemotePath
from deeplab_tf.remote_paths import is_read_by_tensorflow
from deeplab_tf.remote_paths import is_remote

Path = str | os.PathLike

_DRAFT = ".new_"
# Host and process, then what `tempfile` adds; or the name that earlier exports used.
_DRAFT_NAME = re.compile(r"\.new_((?P<host>[^\W_]+)_(?P<process>\d+)|export)_\w+")
_SECONDS_OF_A_DEAD_DRAFT = 24 * 3600  # of another machine, whose processes cannot be looked up
_MAX_TEXT_BYTES = 64 * 2**20
_DOWNLOADS = 16  # at the same time
_TIME_TOLERANCE = 0.001  # seconds, between the time of a remote file and that of its copy
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]\w\w")  # in JSON, half of an escaped character
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def as_path(path: Path, *more: str) -> pathlib.Path:
    """Returns a path with the methods of `pathlib.Path`: local, or in remote storage.

    Args:
        path: A local path, or an address such as gs://bucket/run.
        *more: Names of folders and of a file below it.

    Returns:
        A `pathlib.Path`; or a `RemotePath`, which has the same methods.

    >>> as_path("ram://data", "shapes")
    RemotePath('ram://data/shapes')
    """
    text = os.fspath(path)
    if is_remote(text):
        return typing.cast(pathlib.Path, RemotePath(text, *more))
    if text.startswith("file://"):
        import urllib.parse  # takes a while, and this form is rare
        import urllib.request

        text = urllib.request.url2pathname(urllib.parse.urlsplit(text).path)
    return pathlib.Path(text, *more)


def absolute(path: Path) -> str:
    """Returns a path that does not depend on the working folder; links in it are kept."""
    path = as_path(path)
    return str(path) if is_remote(path) else os.path.abspath(path)


def real(path: Path) -> str:
    """Returns a path with `~` expanded and its links followed; an address stays as it is."""
    path = as_path(path).expanduser()
    return str(path) if is_remote(path) else os.path.realpath(path)


def expand(pattern: str) -> list[str]:
    """Returns the files that a glob stands for, sorted; `**` looks into folders."""
    if is_remote(pattern):
        return [str(path) for path in RemotePath(pattern).expand()]
    return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))


def read_text(path: Path, what: str = "file", *, max_bytes: int = _MAX_TEXT_BYTES) -> str:
    """Reads a text file in UTF-8, or in UTF-8, UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: The file.
        what: What it is, for messages, such as "class list".
        max_bytes: Larger files are refused.

    Returns:
        The text, without a byte order mark, lines ending in `\\n`.

    Raises:
        UserError: The file is missing, too large for a text, or not in one of these encodings.
    """
    path = as_path(path)
    try:
        if not path.is_file():
            raise UserError(f"There is no {what} {path}.")
        if path.stat().st_size > max_bytes:
            raise UserError(
                f"The {what} {path} has {path.stat().st_size / 2**20:.0f} MiB; a {what} has at "
                f"most {max_bytes // 2**20}. Give the right file."
            )
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read: {error.strerror or error}.") from error
    encoding = next(
        (name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8"
    )
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        line = content[: getattr(error, "start", 0)].count(b"\n") + 1
        raise UserError(
            f"The {what} {path} is not a UTF-8 text (line {line}): save it in UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(f"The {what} {path} is not a text: it holds NUL characters.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, what: str = "JSON file", *, max_bytes: int = _MAX_TEXT_BYTES):
    """Reads a JSON file.

    Args:
        path: The file.
        what: What it is, for messages, such as "dataset description".
        max_bytes: Larger files are refused.

    Returns:
        Whatever the JSON holds. The caller checks its fields.

    Raises:
        UserError: The file is missing, not a text, or not JSON; the message names the line.
    """
    text = read_text(path, what, max_bytes=max_bytes)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"The {what} {path} is not JSON (line {error.lineno}, column {error.colno}: "
            f"{error.msg})."
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number too long
        raise UserError(f"The {what} {path} is not usable JSON ({error}).") from error
    escapes = _SURROGATE.findall(text)
    if escapes and not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise UserError(
            f"The {what} {path} holds an escape such as {escapes[0]} that is half a character."
        )
    return value


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: names of files may be other bytes.

    >>> is_unicode("Stra\u00dfe"), is_unicode("\udcff.jpg")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sha256(path: Path) -> str:
    """Returns the SHA-256 digest of a local file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Gives a draft its final name when the block ends well, and deletes it otherwise.

    Args:
        path: The file or folder that is to appear; missing parent folders are made. A file that
            is there already is replaced, a folder must not be there.

    Yields:
        Path of the draft, a local one with the same ending, which the block writes.

    Raises:
        OSError: The disk is full or fails, or the place cannot be written to.
    """
    path = as_path(real(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_folder(path.parent) as folder:
        draft = folder / path.name
        yield draft
        publish(draft, path)


def publish(draft: Path, path: Path, last: str = "") -> None:
    """Gives a local draft of a file or folder its final name, or uploads it.

    Args:
        draft: The draft, in a `draft_folder` for the place.
        path: The place; a file that is there already is replaced, a folder must not be there.
        last: The file of a folder without which the folder is not complete, relative to it. It is
            uploaded last.

    Raises:
        OSError: The disk is full or fails, or the place cannot be written to.
    """
    if not is_remote(path):
        os.replace(draft, path)
    elif os.path.isdir(draft):
        _upload_folder(pathlib.Path(draft), RemotePath(path), last)
    else:
        RemotePath(path).upload(draft)


def _upload_folder(draft: pathlib.Path, path: RemotePath, last: str) -> None:
    place = path
    if path.can_rename_folders:
        place = path.with_name(f"{_DRAFT}{_host()}_{os.getpid()}_{path.name}")
    written = [file.relative_to(draft).as_posix() for file in draft.rglob("*") if file.is_file()]
    for name in _with_last(written, last):
        (place / name).upload(draft / name)
    if place != path:
        place.replace(path)


def move_folder(folder: Path, path: Path, last: str) -> None:
    """Gives a complete folder its final name.

    Args:
        folder: The folder, in the same storage.
        path: Its new path, where no complete folder may be.
        last: The file without which the folder is not complete, relative to it. Where a storage
            cannot rename folders, the files are copied one by one, and this one last.

    Raises:
        OSError: The disk is full or fails, or the place cannot be written to.
    """
    old, new = as_path(folder), as_path(path)
    if not isinstance(old, RemotePath) or not isinstance(new, RemotePath):
        old.rename(new)
        return
    if old.can_rename_folders:
        old.replace(new)
        return
    for name in _with_last([str(file.relative_to(old)) for file in old.find()], last):
        (old / name).copy_to(new / name)
    old.rmtree()


def _with_last(names: Iterable[str], last: str) -> list[str]:
    return sorted(names, key=lambda name: (name == last, name))


@contextlib.contextmanager
def draft_folder(parent: Path) -> Iterator[pathlib.Path]:
    """Makes a folder for drafts, on the file system of `parent`, and deletes it afterwards.

    For remote storage it is a local folder. `publish` gives a draft its place in either.
    """
    if is_remote(parent):
        parent = _temporary_folder()
    with tempfile.TemporaryDirectory(
        prefix=_draft_prefix(), dir=parent, ignore_cleanup_errors=True
    ) as name:
        yield pathlib.Path(name)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all.

    Names of files may hold what UTF-8 cannot; that is written as escapes.

    Raises:
        OSError: The disk is full or fails, or the place cannot be written to.
    """
    with replacing(path) as draft:
        draft.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value) -> None:
    """Writes a JSON file, whole or not at all.

    Raises:
        OSError: The disk is full or fails, or the place cannot be written to.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove_drafts(folder: Path) -> None:
    """Deletes what killed processes have left in a folder; drafts of running ones stay.

    Remote folders hold none: their drafts are local.
    """
    if is_remote(folder):
        return
    for path in pathlib.Path(folder).glob(f"{_DRAFT}*"):
        if _is_left_over(path):
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Deletes a folder; a kill half-way leaves a draft, and nothing under the folder's name.

    In remote storage it may leave some of the files.
    """
    path = as_path(path)
    if isinstance(path, RemotePath):
        path.rmtree()
        return
    with draft_folder(path.parent) as folder:
        os.replace(path, folder / path.name)


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[pathlib.Path]:
    """Yields a local path with the content of a file or folder, for what opens no addresses.

    That of a local one is its own path. Remote ones are copied, and the copy is deleted after the
    context.

    Raises:
        OSError: There is no such file or folder, or it cannot be read.
    """
    source = as_path(path)
    if not isinstance(source, RemotePath):
        yield source
        return
    with draft_folder(source) as folder:
        copy = folder / source.name
        _update_copy(source, copy)
        yield copy


def copy_of_prefix(prefix: Path) -> tempfile.TemporaryDirectory:
    """Copies the remote files whose paths begin with a prefix and a dot, as a checkpoint's do.

    Returns:
        The folder with the copies, which is deleted when nothing refers to it any more.

    Raises:
        OSError: They cannot be read.
    """
    path = as_path(prefix)
    folder = tempfile.TemporaryDirectory(
        prefix=_draft_prefix(), dir=_temporary_folder(), ignore_cleanup_errors=True
    )
    for file in path.parent.iterdir():
        if file.name.startswith(f"{path.name}."):
            typing.cast(RemotePath, file).download(os.path.join(folder.name, file.name))
    return folder


def cached_copy(path: Path) -> pathlib.Path:
    """Returns a local path with the content of a file or folder that is read several times.

    That of a local one is its own path. Remote ones are copied to the folder `remote` of
    `cache_folder`; what has been copied before is used again as long as size and time agree.

    Raises:
        OSError: There is no such file or folder, or it cannot be read.
    """
    source = as_path(path)
    if not isinstance(source, RemotePath):
        return source
    import filelock  # few commands come here

    key = hashlib.sha256(str(source.parent).encode()).hexdigest()[:16]
    folder = cache_folder() / "remote" / key
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f".lock_{source.name}"):
        _update_copy(source, folder / source.name)
    return folder / source.name


def for_tensorflow(path: Path) -> str:
    """Returns the path by which TensorFlow opens a file.

    That is the path itself, or a `cached_copy` of a file in a storage that TensorFlow does not
    know, such as s3://.

    Raises:
        OSError: There is no such file, or it cannot be read.
    """
    return os.fspath(path if is_read_by_tensorflow(path) else cached_copy(path))


def cache_folder() -> pathlib.Path:
    """Returns the folder of what is downloaded.

    It is the one that the environment variable DEEPLAB_TF_CACHE names, or the user's cache folder.
    """
    named = os.environ.get("DEEPLAB_TF_CACHE")
    if named:
        return pathlib.Path(named).expanduser()
    import platformdirs

    return pathlib.Path(platformdirs.user_cache_dir("deeplab_tf", appauthor=False))


class SyncedFolder:
    """A folder whose files grow while a command runs, such as logs.

    A local folder is written in place. For a remote one, a local copy is written, and `upload`
    writes the files that have changed to the remote folder.

    Attributes:
        path: Where to write.
    """

    def __init__(self, folder: Path, names: Iterable[str]):
        """Copies the existing files of a remote folder.

        Args:
            folder: The folder.
            names: Files and folders in it that are continued.

        Raises:
            OSError: They cannot be read.
        """
        self._place = as_path(folder)
        self._local = contextlib.ExitStack()
        self._uploaded: dict[pathlib.Path, tuple[int, int]] = {}
        self._last_upload = 0.0
        self.path = self._place
        if isinstance(self._place, RemotePath):
            self.path = self._local.enter_context(draft_folder(self._place))
            for name in names:
                if (self._place / name).exists():
                    _update_copy(self._place / name, self.path / name)

    def upload(self, at_most_every: float = 0.0) -> None:
        """Uploads the files that have changed.

        Args:
            at_most_every: Nothing is done if the last upload is more recent than this many seconds.

        Raises:
            OSError: They cannot be written.
        """
        if self.path == self._place or time.monotonic() - self._last_upload < at_most_every:
            return
        for file in sorted(file for file in self.path.rglob("*") if file.is_file()):
            status = file.stat()
            state = (status.st_size, status.st_mtime_ns)
            if self._uploaded.get(file) != state:
                publish(file, self._place / file.relative_to(self.path))
                self._uploaded[file] = state
        self._last_upload = time.monotonic()

    def close(self) -> None:
        """Uploads what has changed, and deletes the local copy of a remote folder."""
        with self._local:
            self.upload()


def _update_copy(source: RemotePath, copy: pathlib.Path) -> None:
    """Downloads what is new or has changed, and deletes what is no longer there."""
    if source.is_file():
        _update_file(source, copy)
        return
    if not source.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
    copy.mkdir(parents=True, exist_ok=True)
    names = {str(remote.relative_to(source)): remote for remote in source.find()}
    for file in [file for file in copy.rglob("*") if file.is_file()]:
        if file.relative_to(copy).as_posix() not in names:
            file.unlink()
    from concurrent import futures  # few commands come here

    with futures.ThreadPoolExecutor(_DOWNLOADS) as pool:
        list(pool.map(_update_file, names.values(), [copy / name for name in names]))


def _update_file(source: RemotePath, copy: pathlib.Path) -> None:
    if copy.is_file():
        there, here = source.stat(), copy.stat()
        # A storage without times says nothing of what has changed.
        is_same_time = there.st_mtime and abs(there.st_mtime - here.st_mtime) < _TIME_TOLERANCE
        if there.st_size == here.st_size and is_same_time:
            return
    with replacing(copy) as draft:
        source.download(draft)


def _is_left_over(path: pathlib.Path) -> bool:
    match = _DRAFT_NAME.fullmatch(path.name)
    if not match:
        return False  # somebody else's
    if match["host"] == _host() and match["process"]:
        process = int(match["process"])
        return not psutil.pid_exists(process) or process == os.getpid()
    try:
        return time.time() - path.stat().st_mtime > _SECONDS_OF_A_DEAD_DRAFT
    except OSError:
        return False


@functools.cache
def _temporary_folder() -> str:
    """The folder of local drafts and copies of remote files, without those of killed processes."""
    folder = tempfile.gettempdir()
    remove_drafts(folder)
    return folder


def _draft_prefix() -> str:
    return f"{_DRAFT}{_host()}_{os.getpid()}_"


def _host() -> str:
    return "".join(filter(str.isalnum, socket.gethostname())) or "host"
