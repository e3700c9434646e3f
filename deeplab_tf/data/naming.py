"""What follows from the names of folders and files: splits and roles."""

import functools
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from collections.abc import Sequence

from deeplab_tf.data import image_files

SPLITS = ("train", "val", "test")

_SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
LABEL_WORDS = frozenset((
    "ann", "anno", "annot", "annotation", "annotations", "anns", "gt", "gtcoarse", "gtfine", "gts",
    "groundtruth", "groundtruths", "lab", "label", "labeled", "labelled", "labelids", "labels",
    "labeltrainids", "lbl", "manual", "mask", "masks", "seg", "segm", "segmentation",
    "segmentations", "segs", "semantic", "semantics", "target", "targets", "truth", "truths",
))  # fmt: skip
IMAGE_WORDS = frozenset((
    "frames", "image", "images", "img", "imgs", "input", "inputs", "jpeg", "leftimg", "original",
    "originals", "photo", "photos", "picture", "pictures", "raw", "rgb", "sat",
))  # fmt: skip
# Files that lie beside labels and look like them, by folder and by the end of the name.
_OTHER_FOLDERS = frozenset((
    "depth", "inst", "instance", "instances", "object", "objects", "overlay", "overlays",
    "predict", "prediction", "predictions", "preview", "previews", "thumbnail", "thumbnails",
    "visualization", "visualizations", "viz",
))  # fmt: skip
_OTHER_ENDS = _OTHER_FOLDERS | {"color", "colored", "colour", "coloured", "instanceids"}
_MAX_CACHED = 2**12  # names
_ORDINAL = r"\d+(st|nd|rd|th)"


@functools.lru_cache(_MAX_CACHED)
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
    if stem_words & _OTHER_ENDS and re.search(r"[_\-. ]", stem):
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
    stems = [path.stem]
    for stem in stems:  # grows: `x_1_gtFine_labelIds`, `photo.jpg_mask`
        stems += [shorter for shorter in _without_affix(stem) if shorter not in stems]
    return stems


def _without_affix(stem: str) -> Iterator[str]:
    """What is left of a name without the ending of its image, or a word of a role or split."""
    words = LABEL_WORDS | IMAGE_WORDS
    inner = pathlib.PurePath(stem)
    if inner.suffix.lower() in image_files.ENDINGS:  # `photo.jpg.png`: a mask of photo.jpg
        yield inner.stem
    head, _, tail = stem.rpartition("_") if "_" in stem else stem.rpartition("-")
    if head and (letters_of(tail) in words or tail.lower() in _SPLIT_WORDS or tail == "L"):
        yield head
    start, _, rest = stem.partition("_")
    if rest and letters_of(start) in words:
        yield rest
    match = re.fullmatch(r"([A-Za-z]+)(\d.*|)", stem)  # `mask001`, or `mask` alone
    if match and match[1].lower() in words:
        yield match[2]


def names_of_mask(parts: Sequence[str], path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """The stem of the image and the name that a mask of a part of it may have.

    The name is empty where the mask is that of the whole image.
    """
    if len(parts) > 1 and role_of(parts[:-1]) == "label" and not role_of(parts[-1:]):
        yield parts[-1], path.stem  # masks/1/car.png
        yield path.stem, parts[-1]  # masks/car/1.png
    for stem in stems_of(path, ""):
        yield stem, ""
    for separator in ("_", "-"):
        pieces = path.stem.split(separator)
        for cut in range(len(pieces) - 1, 0, -1):
            yield separator.join(pieces[:cut]), separator.join(pieces[cut:])


def without_number(name: str) -> tuple[str, int]:
    """Returns the word and the number in the name of a mask; a word of a role does not count.

    >>> without_number("cell_12"), without_number("mask_3"), without_number("7")
    (('cell', 12), ('', 3), ('', 7))
    """
    match = re.fullmatch(r"(.*?)[_\-. ]*(\d{0,9})", name.lower())
    word = match[1] if match else name
    is_role = word in LABEL_WORDS | _OTHER_FOLDERS
    return "" if is_role else word, int(match[2] or 0) if match else 0


def context_of(parts: Sequence[str]) -> tuple[str, ...]:
    """The folders of a file without the words of roles and splits."""
    kept = []
    for part in parts:
        digits = "" if split_of(part) else "".join(re.findall(r"\d+", part))
        if words := "".join(_own_words(part)) + digits:
            kept.append(words)
    return tuple(kept)


def words_of_context(parts: Sequence[str]) -> tuple[str, ...]:
    """The same without numbers: folders such as `manual2` and `1st_manual` say nothing else."""
    return tuple(
        words for part in parts if (words := "".join(_own_words(re.sub(_ORDINAL, "", part))))
    )


def _own_words(part: str) -> list[str]:
    """The words of a folder that tell neither a role nor a split."""
    words = map(without_split, words_of(part))
    return [word for word in words if word and word not in LABEL_WORDS | IMAGE_WORDS]


def local_path(name: str) -> str:
    """The path that a name means, whether it is of Windows, a URL, or a query of Label Studio."""
    name = name.strip().replace("\\", "/")
    if "?d=" in name:
        name = name.partition("?d=")[2]
    if "://" in name:
        name = urllib.parse.urlsplit(name).path
    return urllib.parse.unquote(name)


@functools.lru_cache(_MAX_CACHED)  # folders have many files
def words_of(name: str) -> list[str]:
    """The words of a name in lower case, also those of `CamelCase`."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def without_split(word: str) -> str:
    """The rest of a word such as `trainannot` behind its split."""
    match = re.fullmatch(rf"(?:{'|'.join(_SPLIT_WORDS)})({'|'.join(_ROLE_WORDS)})?", word)
    return (match[1] or "") if match else word


def _affixes(stem: str) -> list[str]:
    """The first and the last word of a file name that are not numbers, in lower case."""
    words = [word for word in map(letters_of, re.split(r"[_\-. ]", stem)) if word]
    return [words[0], words[-1]] if words else []


def letters_of(text: str) -> str:
    """Returns a word without its digits, in lower case."""
    return re.sub(r"\d+(bit)?", "", text).lower()


_ROLE_WORDS = tuple(sorted(LABEL_WORDS | IMAGE_WORDS, key=len, reverse=True))
