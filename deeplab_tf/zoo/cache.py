"""Released weights on this machine: where they are kept, and finding a checkpoint by name.

In the cache folder, every name has

    NAME/         the files of the archive
    NAME.json     where they came from, and the SHA-256 of the archive
    NAME.part     what an interrupted download has received
"""

import os
import pathlib
import re
import shutil
import sys
import time

import filelock

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.zoo import archives
from deeplab_tf.zoo.entries import ENTRIES
from deeplab_tf.zoo.entries import Entry
from deeplab_tf.zoo.entries import find_entry
from deeplab_tf.zoo.entries import imagenet_entries


def cache_dir() -> pathlib.Path:
    """Returns the folder of the released weights.

    It is `zoo` in the folder that the environment variable DEEPLAB_TF_CACHE names, or in the
    user's cache folder.
    """
    return files.cache_folder() / "zoo"


def folder_of(name: str) -> pathlib.Path:
    """Returns the folder that holds the weights of a name, once they are on this machine."""
    return cache_dir() / name


def is_cached(name: str) -> bool:
    """Whether the weights of a name are on this machine."""
    return folder_of(name).is_dir()


def imagenet_name(backbone: str) -> str | None:
    """Returns the name of the ImageNet weights of a backbone: of several, one that is cached.

    None if there are none in `ENTRIES`.
    """
    names = [entry.name for entry in imagenet_entries(backbone)]
    return next(filter(is_cached, names), names[0] if names else None)


def resolve(name_or_path: str | os.PathLike) -> str:
    """Returns the checkpoint that a name or a path stands for; downloads it if necessary.

    Args:
        name_or_path: A name of `ENTRIES`, or any path, which is returned as it is.

    Returns:
        Path of the checkpoint.

    Raises:
        UserError: The weights are not on this machine and cannot be downloaded; or the path looks
            like a misspelt name.
    """
    text = os.fspath(name_or_path)
    if text in ENTRIES:
        if not is_cached(text):
            download(text)
        return checkpoint_in(folder_of(text))
    looks_like_a_name = re.fullmatch(r"[a-z0-9_]+", text) and not os.path.exists(text)
    if looks_like_a_name and not pathlib.Path(text + ".index").exists():
        find_entry(text)  # raises, with the nearest names
    return text


def download(
    name: str, show_progress: bool = True, seconds_to_answer: float | None = None
) -> pathlib.Path:
    """Downloads released weights into the cache, unless they are there.

    A broken download is resumed. The archive must be the one that was downloaded first: its
    SHA-256 is kept, as the authors published none.

    Args:
        name: A name of `ENTRIES`.
        show_progress: Whether a progress bar is shown.
        seconds_to_answer: How long the server may take to answer; None for the usual limit of a
            download.

    Returns:
        Folder of the weights.

    Raises:
        UserError: There is no such name, no network, or the archive is damaged or another one.
    """
    entry = find_entry(name)
    folder = folder_of(name)
    if folder.is_dir():
        return folder
    locks = cache_dir().with_name("locks")
    try:
        for needed in (folder.parent, locks):
            needed.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder.parent} cannot be made ({error.strerror}): name another folder in the "
            "environment variable DEEPLAB_TF_CACHE."
        ) from error
    # Of several processes, such as the workers of a training, one downloads.
    with filelock.FileLock(locks / f"{name}.lock"):
        if not folder.is_dir():
            _download(entry, show_progress, seconds_to_answer)
    return folder


def _download(entry: Entry, show_progress: bool, seconds_to_answer: float | None) -> None:
    part = cache_dir() / f"{entry.name}.part"
    try:
        if seconds_to_answer:
            archives.check_reachable(entry.url, seconds_to_answer)
        archives.download(entry.url, part, show_progress)
    except UserError as error:
        raise UserError(
            f"{error} Without a network, fetch {entry.url} by other means and run `python -m "
            f"deeplab_tf.zoo add {entry.name} ARCHIVE`."
        ) from error
    try:
        _install(entry, part, entry.url)
    finally:
        part.unlink()  # or a damaged one would count as complete the next time


def add(name: str, path: str | os.PathLike) -> pathlib.Path:
    """Adds released weights that were fetched by other means to the cache.

    Args:
        name: A name of `ENTRIES`.
        path: The archive, or the folder that it was unpacked into. It stays as it is.

    Returns:
        Folder of the weights.

    Raises:
        UserError: There is no such name or path, or no checkpoint in it.
    """
    entry, given = find_entry(name), files.as_path(path).expanduser()
    if not given.exists():
        raise UserError(f"There is no {given}. Give an archive, or a folder of checkpoint files.")
    source = files.cached_copy(given)
    if source.is_file() and entry.is_archive and not archives.is_archive(source):
        raise UserError(
            f"{source} is not an archive such as {entry.file_name}. Give the archive, or the "
            "folder with the files of the checkpoint."
        )
    return _install(entry, source, str(given.resolve()))


def checkpoint_in(folder: pathlib.Path) -> str:
    """Returns the one checkpoint in a folder, whatever its name: a prefix, or a single file.

    Raises:
        UserError: There is none, or more than one.
    """
    found = [path.with_suffix("") for path in sorted(folder.glob("*.index"))]
    if not found:  # the format before 2016, or of Keras: one file
        found = sorted([*folder.glob("*.ckpt"), *folder.glob("*.h5")])
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{folder} must hold one checkpoint, and holds {names}.")
    return str(found[0])


def _install(entry: Entry, source: pathlib.Path, origin: str) -> pathlib.Path:
    """Puts the files of an archive or a folder in their place, once they hold a checkpoint."""
    folder, about = folder_of(entry.name), cache_dir() / f"{entry.name}.json"
    digest = files.sha256(source) if source.is_file() else None
    _check_digest(about, digest, origin)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        files.remove_drafts(folder.parent)
        if folder.is_dir():
            files.remove_folder(folder)
        with files.replacing(folder) as draft:
            draft.mkdir()
            if source.is_dir():
                archives.copy_files(source, draft)
            elif entry.is_archive:
                archives.unpack(source, draft)
            else:
                shutil.copyfile(source, draft / _name_in_cache(entry, source))
            checkpoint_in(draft)
        if digest:
            files.write_json(
                about,
                {
                    "name": entry.name,
                    "origin": origin,
                    "sha256": digest,
                    "bytes": source.stat().st_size,
                    "added": time.strftime("%Y-%m-%d"),
                },
            )
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}.") from error
    return folder


def _name_in_cache(entry: Entry, source: pathlib.Path) -> str:
    """The name of a file of Keras, whose ending says which version of Keras wrote it."""
    return source.name if source.suffix == ".h5" else entry.file_name


def _check_digest(about: pathlib.Path, digest: str | None, origin: str) -> None:
    """Compares an archive with the first one of its name."""
    if digest is None:
        return
    if not about.exists():
        print(
            f"SHA-256 of {origin}: {digest}. The authors published none to compare it with; it is "
            f"kept in {about}.",
            file=sys.stderr,
        )
        return
    record = files.read_json(about, "record of a download")
    first = record.get("sha256") if isinstance(record, dict) else None
    if not isinstance(first, str) or len(first) != len(digest):
        raise UserError(f"{about} does not hold a SHA-256: delete it and run the command again.")
    if first != digest:
        raise UserError(
            f"{origin} is another archive than the first one: its SHA-256 is {digest}, and not "
            f"{first}. If the new one is right, delete {about} and run the command again."
        )
