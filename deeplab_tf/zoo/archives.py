"""Archives of checkpoints: downloaded with resumption, verified, unpacked safely."""

import lzma
import pathlib
import queue
import shutil
import tarfile
import threading
import typing
import zipfile
import zlib

from deeplab_tf.errors import UserError

if typing.TYPE_CHECKING:
    import requests

# The largest released archive has 477 MB.
MAX_UNPACKED_BYTES = 4 * 2**30
MAX_MEMBERS = 1000
_CHUNK = 2**16  # bytes: what a broken connection may lose
_DAMAGES = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
)
_SECONDS = 30.0  # without a byte from the server


def download(url: str, path: pathlib.Path, show_progress: bool = True) -> None:
    """Downloads a file; what an interrupted download has left in `path` is kept and completed.

    Args:
        url: Address, http or https.
        path: The file to write. It is complete when the function returns.
        show_progress: Whether a progress bar is shown.

    Raises:
        UserError: There is no network, the server refuses, or the connection breaks; what was
            received stays in `path` for the next attempt.
    """
    import requests
    import tqdm

    received = path.stat().st_size if path.exists() else 0
    headers = {"Range": f"bytes={received}-"} if received else {}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_SECONDS) as response:
            if response.status_code == 416:  # nothing is left to send
                return
            response.raise_for_status()
            is_rest = response.status_code == 206
            if not is_rest:
                received = 0
            length = response.headers.get("Content-Length")
            total = received + int(length) if length else None
            with (
                open(path, "ab" if is_rest else "wb") as file,
                tqdm.tqdm(
                    total=total,
                    initial=received,
                    unit="B",
                    unit_scale=True,
                    desc=url.rpartition("/")[2],
                    disable=None if show_progress else True,
                ) as bar,
            ):
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except requests.RequestException as error:
        raise UserError(f"{url} cannot be downloaded: {_reason(error)}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    size = path.stat().st_size
    if total is not None and size != total:
        raise UserError(
            f"The download of {url} ended early, after {size} of {total} bytes. Run the same "
            "command again to resume it."
        )


def check_reachable(url: str, seconds: float) -> None:
    """Checks that a server answers, whatever the answer is.

    Args:
        url: Address, http or https.
        seconds: How long to wait, about.

    Raises:
        UserError: It does not answer in time, or there is no network.
    """
    import requests

    reasons: queue.Queue[str] = queue.Queue()

    def ask():
        try:
            requests.head(url, timeout=seconds)
            reasons.put("")
        except requests.RequestException as error:
            reasons.put(_reason(error))

    # In a thread, since looking up the name of a server has no time limit of its own.
    threading.Thread(target=ask, daemon=True).start()
    try:
        reason = reasons.get(timeout=seconds + 1)
    except queue.Empty:
        reason = f"there is no answer within {seconds:g} seconds"
    if reason:
        raise UserError(f"{url} cannot be downloaded: {reason}.")


def is_archive(path: pathlib.Path) -> bool:
    """Whether a file is a tar archive, compressed or not, or a zip archive."""
    if not path.is_file():
        return False
    try:
        return tarfile.is_tarfile(path) or zipfile.is_zipfile(path)
    except (EOFError, OSError):  # begins as a compressed file does, and is cut off or damaged
        return False


def unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Unpacks the files of an archive into a folder, all of them into it directly.

    Folders within the archive are left out, so that no name can lead outside. Links and devices
    are not unpacked.

    Args:
        archive: A tar archive, compressed or not, or a zip archive.
        folder: An empty folder.

    Raises:
        UserError: The archive is damaged, or holds more than `MAX_UNPACKED_BYTES` or
            `MAX_MEMBERS`.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                members = [item for item in opened.infolist() if not item.is_dir()]
                _unpack(
                    archive,
                    [(item.filename, item.file_size, item) for item in members],
                    opened.open,
                    folder,
                )
        else:
            with tarfile.open(archive) as opened:
                _unpack(archive, _tar_members(opened), opened.extractfile, folder)
                _read_to_the_end(opened.fileobj)
    except _DAMAGES as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{archive} is not a whole archive ({error}): fetch it again.") from error


def _read_to_the_end(file) -> None:
    """Reads what follows the last member, since the checksum of a compressed file is at its end."""
    total = 0
    while chunk := file.read(_CHUNK):
        total += len(chunk)
        if total > MAX_UNPACKED_BYTES:
            raise ValueError("it does not end after its last file")


def _tar_members(opened: tarfile.TarFile):
    """Name, size and header of every file, one after the other."""
    for member in opened:
        if member.isreg():
            yield member.name, member.size, member


def _unpack(archive: pathlib.Path, members, open_member, folder: pathlib.Path) -> None:
    total = 0
    for count, (name, size, member) in enumerate(members, start=1):
        if count > MAX_MEMBERS:
            raise UserError(f"{archive} holds more than {MAX_MEMBERS} files: not a checkpoint.")
        base = pathlib.PurePosixPath(name.replace("\\", "/")).name
        if not base or base.startswith("."):
            continue
        if total + size > MAX_UNPACKED_BYTES:
            raise UserError(
                f"{archive} unpacks to more than {MAX_UNPACKED_BYTES / 2**30:.0f} GiB, where the "
                "largest released checkpoint has half of one: it was not unpacked."
            )
        if (folder / base).exists():
            raise UserError(f"{archive} holds two files called {base}: unpack it by hand.")
        with open_member(member) as source, open(folder / base, "wb") as target:
            total += _copy(source, target, MAX_UNPACKED_BYTES - total)


def _copy(source, target, limit: int) -> int:
    """Copies at most `limit` bytes, whatever size the archive states."""
    copied = 0
    while chunk := source.read(_CHUNK):
        copied += len(chunk)
        if copied > limit:
            raise ValueError("a file in it is larger than it says")
        target.write(chunk)
    return copied


def copy_files(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the files of a folder, and of the folders in it, into another folder directly."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)


def _reason(error: "requests.RequestException") -> str:
    import requests

    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return "there is no connection to the server. Check the network"
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    return type(error).__name__ + ", " + str(error).partition("(Caused by")[0].strip(" :")[:200]
