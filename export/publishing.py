"""Where an export appears, under its final name and only when it is complete.

An export is written to a draft folder beside its place (`files.draft_folder`) and renamed. A killed
export leaves nothing under a final name; the next export to the same place deletes its draft.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Collection
from collections.abc import Iterator

from deeplab_tf import files
from deeplab_tf.data import image_files
from deeplab_tf.errors import UserError
from deeplab_tf.export import asset_files

PAGE_GENERATOR = "deeplab_tf"  # what a page says that it was made by

_LARGEST_VERSION = 2**63 - 1  # TF Serving keeps versions in 64 bits


def parity_path(output: str) -> str:
    """Returns the path of an exported file's parity figures: FILE.parity.json."""
    return os.path.splitext(output)[0] + f".{asset_files.PARITY}"


class File:
    """The place of an export that is one file, with its parity figures beside it.

    Attributes:
        flag: What messages call the place.
    """

    def __init__(self, output: str, suffix: str):
        """Checks the place, so that nobody waits for an export that cannot be written.

        Args:
            output: The file; one that is there already is replaced.
            suffix: What its name must end in, such as ".tflite".

        Raises:
            UserError: It cannot be written.
        """
        self.flag = f"--output={output}"
        if not output.endswith(suffix) or files.as_path(output).is_dir():
            raise UserError(f"{self.flag} must be the name of a file that ends in {suffix}.")
        self._output = files.real(output)
        _check_writable(os.path.dirname(self._output), self.flag)

    def remove_drafts(self) -> None:
        """Deletes what killed exports have left."""
        files.remove_drafts(os.path.dirname(self._output))

    @contextlib.contextmanager
    def draft(self) -> Iterator[str]:
        """Makes a draft folder; yields the path of the draft in it."""
        with _errors_naming(self.flag), _workspace(os.path.dirname(self._output)) as folder:
            yield os.path.join(folder, os.path.basename(self._output))

    def parity_path(self, draft: str) -> str:
        """Returns where the parity figures of the draft belong."""
        return parity_path(draft)

    def publish(self, draft: str) -> str:
        """Gives the draft and its parity figures their final names; returns the file."""
        files.publish(parity_path(draft), parity_path(self._output))
        files.publish(draft, self._output)
        return self._output


class VersionFolder:
    """The place of an export that becomes the next version in a folder that TF Serving watches.

    TF Serving takes every folder whose name is a number. The name of a draft folder is not one, not
    even after this process was killed.

    Attributes:
        flag: What messages call the place.
    """

    def __init__(self, output_dir: str, version: int | None = None):
        """Checks the place, so that nobody waits for an export that cannot be written.

        Args:
            output_dir: The folder of all versions; made if missing.
            version: Number of the new version; None for one more than the highest.

        Raises:
            UserError: The folder cannot have that version.
        """
        self.flag = f"--output_dir={output_dir}"
        self._output_dir = files.real(output_dir)
        self._version = version
        if files.as_path(self._output_dir).is_file():
            raise UserError(f"{self.flag} is a file: give a folder.")
        graphs = (asset_files.SAVED_MODEL, f"{asset_files.SAVED_MODEL}txt")
        if any(files.as_path(self._output_dir, name).exists() for name in graphs):
            raise UserError(
                f"{self.flag} is a SavedModel, not a folder of versions: give another folder, or "
                "the one that it lies in."
            )
        if version is not None and not 1 <= version <= _LARGEST_VERSION:
            raise UserError(f"--model_version={version} must be between 1 and {_LARGEST_VERSION}.")
        if version in self._versions():
            raise UserError(
                f"{self.flag} has a version {version}, which a server may be reading: give "
                "another --model_version, or none for the next one."
            )
        _check_writable(self._output_dir, self.flag)

    def remove_drafts(self) -> None:
        """Deletes what killed exports have left."""
        files.remove_drafts(self._output_dir)

    @contextlib.contextmanager
    def draft(self) -> Iterator[str]:
        """Makes a draft folder; yields the path of the draft in it.

        If the export fails, a folder of versions that was made for it is deleted.
        """
        is_new = not files.is_remote(self._output_dir) and not os.path.exists(self._output_dir)
        with _errors_naming(self.flag):
            try:
                with _workspace(self._output_dir) as folder:
                    yield os.path.join(folder, "saved_model")
            finally:
                if is_new and os.path.isdir(self._output_dir) and not os.listdir(self._output_dir):
                    os.rmdir(self._output_dir)

    def parity_path(self, draft: str) -> str:
        """Returns where the parity figures of the draft belong: among its assets."""
        return os.path.join(draft, "assets", asset_files.PARITY)

    def publish(self, draft: str) -> str:
        """Gives the draft its number; returns its folder.

        In remote storage the folder appears file by file, and `saved_model.pb` last.
        """
        version = self._version or max(self._versions(), default=0) + 1
        folder = os.path.join(self._output_dir, str(version))
        try:
            if files.is_remote(folder):
                files.publish(draft, folder, last=asset_files.SAVED_MODEL)
            else:
                os.rename(draft, folder)
        except OSError as error:
            raise UserError(
                f"The export cannot become {folder}: {error}. If another export has taken the "
                "number meanwhile, start again."
            ) from error
        return folder

    def _versions(self) -> list[int]:
        folder = files.as_path(self._output_dir)
        if not folder.is_dir():
            return []
        return [int(path.name) for path in folder.iterdir() if re.fullmatch("[0-9]+", path.name)]


class PageFolder:
    """The place of an export that is a folder with a web page; an earlier page is replaced.

    Attributes:
        flag: What messages call the place.
    """

    def __init__(self, output_dir: str, page: str, others: Collection[str] = ()):
        """Checks the place, so that nobody waits for an export that cannot be written.

        Args:
            output_dir: The folder; made if missing.
            page: Name of the page in it.
            others: Names of what may lie beside the page, and is replaced with it.

        Raises:
            UserError: The folder cannot be written, or holds something else.
        """
        self.flag = f"--output_dir={output_dir}"
        self._folder, self._page = files.as_path(files.real(output_dir)), page
        if self._folder.is_file():
            raise UserError(f"{self.flag} is a file: give a folder.")
        strangers = _not_of_a_page(self._folder, page, others)
        if strangers:
            raise UserError(
                f"{self.flag} holds files that are not an earlier page, such as {strangers[0]}: "
                "give another folder, or one that does not exist."
            )
        _check_writable(str(self._folder.parent), self.flag)  # the draft is made there

    @contextlib.contextmanager
    def draft(self) -> Iterator[pathlib.Path]:
        """Makes a draft folder; what the block writes to it replaces the folder."""
        parent = self._folder.parent
        with _errors_naming(self.flag):
            parent.mkdir(parents=True, exist_ok=True)
            files.remove_drafts(parent)
            with files.draft_folder(parent) as workspace:
                draft = workspace / "page"
                draft.mkdir()
                yield draft
                if self._folder.is_dir():
                    files.remove_folder(self._folder)
                files.publish(draft, self._folder, last=self._page)


def _not_of_a_page(folder: pathlib.Path, page: str, others: Collection[str]) -> list[str]:
    """Returns the names in a folder that are not those of an earlier page."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if not image_files.is_litter(name)]
    if not _is_page(folder / page):
        return names
    return [name for name in names if name not in (page, *others)]


def _is_page(path: pathlib.Path) -> bool:
    """Whether a file is a page that an export has written."""
    try:
        beginning = path.read_bytes()[:4096]
    except OSError:
        return False
    return f'<meta name="generator" content="{PAGE_GENERATOR}">'.encode() in beginning


def _check_writable(folder: str, flag: str) -> None:
    """Refuses a folder that cannot be written to, or not be made.

    Remote storage says that only when it is written to.
    """
    if files.is_remote(folder):
        return
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(f"{flag} cannot be written: {folder} is not a folder to write to.")


@contextlib.contextmanager
def _workspace(parent: str) -> Iterator[pathlib.Path]:
    """Makes a draft folder in a folder, which is made if it is missing."""
    files.as_path(parent).mkdir(parents=True, exist_ok=True)
    with files.draft_folder(parent) as folder:
        yield folder


@contextlib.contextmanager
def _errors_naming(flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # such as a full disk
        raise UserError(f"{flag} cannot be written: {error}.") from error
