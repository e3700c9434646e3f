"""The files of a folder."""

import collections
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Hashable
from collections.abc import Iterable

from deeplab_tf.data import image_files
from deeplab_tf.data import naming
from deeplab_tf.data.wording import listed
from deeplab_tf.errors import UserError

_LITTER = frozenset((".ds_store", "thumbs.db", "desktop.ini", "__macosx"))
_UPLOAD_PREFIX = "^[0-9a-f]{8}-(?=.)"  # of Label Studio: `1a2b3c4d-photo.jpg`
_MAX_FILES = 2_000_000


@dataclasses.dataclass(frozen=True)
class Listing:
    """All files below a folder, except hidden ones and those that file managers leave behind."""

    root: pathlib.Path
    files: tuple[pathlib.Path, ...]  # sorted

    def parts(self, path: pathlib.Path) -> tuple[str, ...]:
        """Returns the names of the folders between the root and a file."""
        return path.parts[len(self.root.parts) : -1]

    def inner_parts(self, path: pathlib.Path) -> tuple[str, ...]:
        """Returns the same without the folders around all images, whose names say nothing."""
        parts = self.parts(path)
        return parts[num_common(parts, self.around) :]

    @functools.cached_property
    def around(self) -> tuple[str, ...]:
        """The names of the folders around all folders of images, such as that of an archive."""
        folders = {path.parent for path in self.images}
        if len(folders) == 1:
            folders = {folder.parent for folder in folders if folder != self.root}
        common = os.path.commonpath(folders) if folders else self.root
        return pathlib.Path(common).parts[len(self.root.parts) :]

    def examples(self, paths: Iterable[pathlib.Path]) -> str:
        """Returns some files for a message, and how many more there are."""
        return listed(path.relative_to(self.root).as_posix() for path in paths)

    def with_ending(self, *endings: str) -> list[pathlib.Path]:
        """Returns the files with one of these endings, which are in lower case."""
        return [path for path in self.files if path.suffix.lower() in endings]

    @functools.cached_property
    def images(self) -> list[pathlib.Path]:
        """The image files, label images among them."""
        return self.with_ending(*image_files.ENDINGS)

    def split_of(self, path: pathlib.Path) -> str:
        """Returns the split that the folders of a file name, or ""."""
        splits = [split for split in map(naming.split_of, self.parts(path)) if split]
        return splits[-1] if splits else ""

    def contents(self) -> str:
        """Returns the content for messages: "120 .jpg files and 120 .json files"."""
        counts = collections.Counter(path.suffix.lower() or "nameless" for path in self.files)
        words = [
            f"{count} {ending} file{'s' * (count > 1)}" for ending, count in counts.most_common(6)
        ]
        if not words:
            return "no file"
        return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)

    @functools.cached_property
    def _by_name(self) -> dict[str, list[pathlib.Path]]:
        return grouped((path.name.lower(), path) for path in self.images)

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[pathlib.Path]]:
        images = (path for path in self.images if naming.role_of(self.inner_parts(path)) != "label")
        return grouped((path.stem.lower(), path) for path in images)

    def find_image(self, name: str, near: pathlib.Path, split: str = "") -> pathlib.Path | None:
        """Returns the image that an annotation file means.

        Args:
            name: A file name or a path, of this machine or another, or a URL.
            near: The annotation file; of several images of the name, the nearest is taken.
            split: The split that the annotation file belongs to.

        Returns:
            The file, of another image format if need be; None if there is none.

        Raises:
            UserError: Several images fit equally well.
        """
        wanted = pathlib.PurePosixPath(naming.local_path(name))
        without_prefix = wanted.with_name(re.sub(_UPLOAD_PREFIX, "", wanted.name))
        found: list[pathlib.Path] = []
        for path in (wanted, without_prefix):
            found = found or self._by_name.get(path.name.lower(), [])
            found = found or self._by_stem.get(path.stem.lower(), [])
        if not found:
            return None

        def rank(path: pathlib.Path) -> tuple:
            return (
                num_common(reversed(path.parts[:-1]), reversed(wanted.parts[:-1])),
                self.split_of(path) == split if split else 0,
                naming.role_of(self.inner_parts(path)) != "label",
                path.suffix.lower() == wanted.suffix.lower(),
                num_common(path.parts[:-1], near.parts[:-1]),
                path.parent == near.parent,
            )

        ranked = sorted(found, key=rank)
        if len(ranked) > 1 and rank(ranked[-1]) == rank(ranked[-2]):
            raise UserError(
                f"{near} names the image {name}, which may be {ranked[-2]} or {ranked[-1]}: give "
                "the folder that holds one of them only."
            )
        return ranked[-1]


def list_folder(root: str | os.PathLike) -> Listing:
    """Lists a folder and all folders in it.

    Raises:
        UserError: There is no such folder, or it holds more files than any data set.
    """
    root = pathlib.Path(root).expanduser()
    if not os.path.isdir(root):
        raise UserError(f"There is no folder {root}.")
    found: list[pathlib.Path] = []
    visited = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not _is_litter(name))
        found += [pathlib.Path(folder, name) for name in names if not _is_litter(name)]
        if len(found) > _MAX_FILES:
            raise UserError(
                f"{root} holds more than {_MAX_FILES:,} files: give the folder of one data set."
            )
    return Listing(root, tuple(sorted(found)))


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def num_common(first: Iterable[str], second: Iterable[str]) -> int:
    """How many leading parts are equal."""
    count = 0
    for one, other in zip(first, second):
        if one != other:
            break
        count += 1
    return count


def grouped(items: Iterable[tuple[Hashable, object]]) -> dict:
    groups = collections.defaultdict(list)
    for key, value in items:
        groups[key].append(value)
    return dict(groups)
