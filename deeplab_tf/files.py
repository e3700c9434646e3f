"""Files: read with one clear message when they are wrong, written whole or not at all.

Everything that is written appears under its name only when it is complete: it is written to a
draft beside its place, which is renamed. A process that is killed leaves at most a draft, whose
name begins with `.new_` and which `remove_drafts` deletes at the next start.
"""

import codecs
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator

import psutil

from deeplab_tf.errors import UserError

Path = str | os.PathLike

_DRAFT = ".new_"
# Host and process, then what `tempfile` adds; or the name that earlier exports used.
_DRAFT_NAME = re.compile(r"\.new_((?P<host>[^\W_]+)_(?P<process>\d+)|export)_\w+")
_SECONDS_OF_A_DEAD_DRAFT = 24 * 3600  # of another machine, whose processes cannot be looked up
_MAX_TEXT_BYTES = 64 * 2**20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]\w\w")  # in JSON, half of an escaped character
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


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
    path = pathlib.Path(path)
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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Gives a draft its final name when the block ends well, and deletes it otherwise.

    Args:
        path: The file or folder that is to appear; missing parent folders are made. A file that
            is there already is replaced, a folder must not be there.

    Yields:
        Path of the draft, with the same ending, which the block writes.

    Raises:
        OSError: The disk is full or fails, or the place cannot be written to.
    """
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_folder(path.parent) as folder:
        draft = folder / path.name
        yield draft
        os.replace(draft, path)


@contextlib.contextmanager
def draft_folder(parent: Path) -> Iterator[pathlib.Path]:
    """Makes a folder for drafts, on the file system of `parent`, and deletes it afterwards."""
    prefix = f"{_DRAFT}{_host()}_{os.getpid()}_"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
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
    """Deletes what killed processes have left in a folder; drafts of running ones stay."""
    for path in pathlib.Path(folder).glob(f"{_DRAFT}*"):
        if _is_left_over(path):
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Deletes a folder; a kill half-way leaves a draft, and nothing under the folder's name."""
    path = pathlib.Path(path)
    with draft_folder(path.parent) as folder:
        os.replace(path, folder / path.name)


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


def _host() -> str:
    return "".join(filter(str.isalnum, socket.gethostname())) or "host"
