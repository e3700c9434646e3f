"""What follows from the names of folders and files: splits and roles."""

import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from collections.abc import Sequence

SPLITS = ("train", "val", "test")
IMAGE_ENDINGS = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm", ".png",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
ARRAY_ENDINGS = (".mat", ".npy", ".npz")

_SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
LABEL_WORDS = frozenset((
    "ann", "anno", "annot", "annotation", "annotations", "anns", "gt", "gtcoarse", "gtfine", "gts",
    "groundtruth", "lab", "label", "labeled", "labelled", "labelids", "labels", "labeltrainids",
    "lbl", "manual", "mask", "masks", "seg", "segm", "segmentation", "segmentations", "segs",
    "target", "targets", "truth",
))  # fmt: skip
IMAGE_WORDS = frozenset((
    "frames", "image", "images", "img", "imgs", "input", "inputs", "jpeg", "leftimg", "original",
    "originals", "photo", "photos", "picture", "pictures", "raw", "rgb", "sat",
))  # fmt: skip
# Files that lie beside labels and look like them, by folder and by the end of the name.
_OTHER_FOLDERS = frozenset((
    "depth", "instance", "instances", "object", "objects", "overlay", "overlays", "predict",
    "prediction", "predictions", "preview", "previews", "thumbnail", "thumbnails",
    "visualization", "visualizations", "viz",
))  # fmt: skip
_OTHER_ENDS = _OTHER_FOLDERS | {"color", "colored", "colour", "coloured", "instanceids"}


def split_of(name: str) -> str:
    """Returns the split that the name of a folder or a list tells, or "".

    >>> split_of("train2017"), split_of("trainannot"), split_of("valid"), split_of("trainval")
    ('train', 'train', 'val', '')
    """
    found = set()
    for word in words_of(name):
        match = re.fullmatch(rf"({'|'.join(_SPLIT_WORDS)})({'|'.join(_ROLE_WORDS)})?", word)
        if match:
            found.add(_SPLIT_WORDS[match[1]])
    return found.pop() if len(found) == 1 else ""


def role_of(parts: Sequence[str], stem: str = "") -> str:
    """Returns "label", "image", "other", or "" if no word decides; inner folders come first.

    Args:
        parts: The folders of a file, from the outermost.
        stem: The file's name without its ending.
    """
    stem_words = set(_affixes(stem))
    if stem_words & _OTHER_ENDS:
        return "other"
    for part in reversed(parts):
        words = {without_split(word) for word in words_of(part)}
        for role, known in (
            ("other", _OTHER_FOLDERS),
            ("label", LABEL_WORDS),
            ("image", IMAGE_WORDS),
        ):
            if words & known:
                return role
    if stem_words & LABEL_WORDS or re.search(r"_L$|_GT$", stem):
        return "label"
    return ""


def stems_of(path: pathlib.Path, label_suffix: str) -> list[str]:
    """The names under which a file may be known: with and without what tells its role."""
    if label_suffix:
        return [path.stem.removesuffix(label_suffix)]
    # `x.nii.gz` and `photo.jpg.png`: masks that keep the ending of their image.
    stems = [path.stem]
    inner = pathlib.PurePath(path.stem)
    if inner.suffix.lower() in IMAGE_ENDINGS:
        stems.append(inner.stem)
    words = LABEL_WORDS | IMAGE_WORDS
    for stem in tuple(stems):
        head, _, tail = stem.rpartition("_") if "_" in stem else stem.rpartition("-")
        if head and (letters_of(tail) in words or tail == "L"):
            shorter = head
            inner_head, _, inner_tail = head.rpartition("_")
            if inner_head and letters_of(inner_tail) in words:  # `_gtFine_labelIds`
                shorter = inner_head
            stems += dict.fromkeys((head, shorter))
        start, _, rest = stem.partition("_")
        if rest and letters_of(start) in words:
            stems.append(rest)
    return list(dict.fromkeys(stems))


def classes_of_mask(parts: Sequence[str], stem: str) -> Iterator[tuple[str, str]]:
    """The stem of the image and the class that the place of a mask may tell."""
    if len(parts) > 1 and role_of(parts[:-1]) == "label" and not role_of(parts[-1:]):
        yield stem, parts[-1]
    for separator in ("_", "-"):
        pieces = stem.split(separator)
        for cut in range(len(pieces) - 1, 0, -1):
            yield separator.join(pieces[:cut]), separator.join(pieces[cut:])


def context_of(parts: Sequence[str]) -> tuple[str, ...]:
    """The folders of a file without the words of roles and splits."""
    kept = []
    for part in parts:
        words = [without_split(word) for word in words_of(part)]
        words = [word for word in words if word and word not in LABEL_WORDS | IMAGE_WORDS]
        digits = "" if split_of(part) else "".join(re.findall(r"\d+", part))
        if words or digits:
            kept.append("".join(words) + digits)
    return tuple(kept)


def local_path(name: str) -> str:
    """The path that a name means, whether it is of Windows, a URL, or a query of Label Studio."""
    name = name.strip().replace("\\", "/")
    if "?d=" in name:
        name = name.partition("?d=")[2]
    if "://" in name:
        name = urllib.parse.urlsplit(name).path
    return urllib.parse.unquote(name)


def words_of(name: str) -> list[str]:
    """The words of a name in lower case, also those of `CamelCase`."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def without_split(word: str) -> str:
    """The rest of a word such as `trainannot` behind its split."""
    match = re.fullmatch(rf"(?:{'|'.join(_SPLIT_WORDS)})({'|'.join(_ROLE_WORDS)})?", word)
    return (match[1] or "") if match else word


def _affixes(stem: str) -> list[str]:
    """The first and the last word of a file name that has several, in lower case."""
    pieces = re.split(r"[_\-. ]", stem)
    return [letters_of(pieces[0]), letters_of(pieces[-1])] if len(pieces) > 1 else []


def letters_of(text: str) -> str:
    """Returns a word without its digits, in lower case."""
    return re.sub(r"\d+(bit)?", "", text).lower()


_ROLE_WORDS = tuple(sorted(LABEL_WORDS | IMAGE_WORDS, key=len, reverse=True))
