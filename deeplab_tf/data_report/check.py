"""The check of records, of two folders, or of a folder of own data; what it writes."""

import collections
import concurrent.futures
import os
import pathlib
import sys
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import PIL.Image

from deeplab_tf import files
from deeplab_tf.data import image_files
from deeplab_tf.data import label_files
from deeplab_tf.data import near_duplicates
from deeplab_tf.data import own_data
from deeplab_tf.data import records
from deeplab_tf.data.class_lists import read_class_list
from deeplab_tf.data_report import contact_sheet
from deeplab_tf.data_report import findings
from deeplab_tf.data_report import own_source
from deeplab_tf.data_report import sources
from deeplab_tf.data_report import statistics
from deeplab_tf.data_report.images import Candidate
from deeplab_tf.data_report.images import MeasuredImage
from deeplab_tf.data_report.images import measure
from deeplab_tf.data_report.report import Report
from deeplab_tf.data_report.report import Sample
from deeplab_tf.errors import UserError

_SAMPLES_PER_KIND = 2  # images of one problem on the contact sheet
_BAD_SAMPLES = 16  # images with problems on it, at most
_FINE_SAMPLES = 12  # images without, about

Progress = Callable[[int, int], None]  # of the images done, and of how many
Source = sources.Folders | sources.Shards | own_source.OwnSource


def check_records(
    data_dir: str | os.PathLike,
    *,
    dataset: str = "",
    num_classes: int | None = None,
    ignore_label: int | None = None,
    max_pixels: int = image_files.MAX_PIXELS,
    progress: Progress | None = None,
) -> Report:
    """Checks all splits of records.

    Args:
        data_dir: Folder of the records, or the data_dir they were built in.
        dataset: Which dataset, where data_dir holds several.
        num_classes: For records without a description.
        ignore_label: In place of what the records say.
        max_pixels: Larger images and labels are refused before they are decoded.
        progress: Called after every image.

    Raises:
        UserError: There are no records, or not all of their shards.
    """
    limits = records.Limits(max_image_pixels=max_pixels)
    source = records.find_records(
        data_dir,
        dataset,
        num_classes=num_classes,
        ignore_label=ignore_label,
        limits=limits,
        must_be_complete=False,
    )
    return _check(sources.Shards(source), progress)


def check_folders(
    images: str | os.PathLike,
    labels: str | os.PathLike,
    *,
    num_classes: int | None = None,
    ignore_label: int | None = None,
    options: own_data.OwnDataOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Checks a folder of images and one of labels, which have the same names.

    Splits are told from lists beside the folder of images (train.txt, val.txt, as the dataset
    `folder` has them), or else from folders in it (train/, val/).

    Args:
        images: Folder of images.
        labels: Folder of labels.
        num_classes: Number of classes, where there is no class list.
        ignore_label: Label of pixels that do not count; by default 255.
        options: Class list, encoding of the labels, and limit of sizes; the rest is not used.
        progress: Called after every image.

    Raises:
        UserError: A folder is missing or empty, or the classes are not known.
    """
    options = options or own_data.OwnDataOptions()
    encoding = options.label_encoding
    if encoding and encoding not in label_files.ENCODINGS:
        choices = ", ".join(label_files.ENCODINGS)
        raise UserError(f"--label_encoding={encoding}; it can be {choices}.")
    info = _describe_classes(pathlib.Path(images).name, num_classes, ignore_label, options)
    ids_by_color = {color: class_id for class_id, color in enumerate(info.colors)}
    source = sources.find_folders(
        images,
        labels,
        info,
        encoding=encoding,
        ids_by_color=ids_by_color if options.classes else None,
        max_pixels=options.max_pixels,
    )
    return _check(source, progress)


def _describe_classes(
    name: str, num_classes: int | None, ignore_label: int | None, options: own_data.OwnDataOptions
) -> records.DatasetInfo:
    """Describes the classes of two folders."""
    if options.classes:
        class_names, colors = read_class_list(options.classes)
        if num_classes not in (None, len(class_names)):
            raise UserError(
                f"--num_classes={num_classes}, but {options.classes} lists {len(class_names)}: "
                "give one of the two."
            )
        ignore_label = records.IGNORE_LABEL if ignore_label is None else ignore_label
        return records.DatasetInfo(name, class_names, colors, ignore_label)
    if num_classes is None or num_classes < 1:
        raise UserError("The classes are not known: give --num_classes=N, or --classes=FILE.")
    if options.label_encoding in ("color_map", "nearest_color"):
        raise UserError(
            f"--label_encoding={options.label_encoding} needs the colours of the classes: give "
            "--classes=FILE, with a line NAME RED GREEN BLUE for each."
        )
    return records.numbered_classes(name, num_classes, ignore_label)


def check_own_data(
    data: str | os.PathLike,
    options: own_data.OwnDataOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Checks a folder of images and labels as `datasets.build --dataset=folder` reads it.

    Args:
        data: The folder.
        options: What is known about it.
        progress: Called after every image.

    Raises:
        UserError: It is not clear what the folder holds, or which files belong together.
    """
    options = options or own_data.OwnDataOptions()
    # Of tiles, the images that they come from are compared here, and not below.
    has_tiles = bool(options.tiles.size)
    found = own_data.find_own_data(files.cached_copy(data), options, refuse_leaks=has_tiles)
    for note in found.notes:
        print(note)
    return _check(own_source.OwnSource(found), progress)


def write_report(report: Report, output_dir: str | os.PathLike) -> tuple[str, str]:
    """Writes report.json and contact_sheet.jpg, and returns their paths.

    Raises:
        UserError: They cannot be written.
    """
    folder = files.as_path(output_dir)
    report_path, sheet_path = folder / "report.json", folder / "contact_sheet.jpg"
    try:
        files.write_text(report_path, report.to_json())
        with files.replacing(sheet_path) as draft:
            PIL.Image.fromarray(contact_sheet.contact_sheet(report)).save(draft, quality=90)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {error}.") from error
    return str(report_path), str(sheet_path)


def _check(source: Source, progress: Progress | None) -> Report:
    collector = _Collector(source)
    for done, image in enumerate(_measure_all(source.candidates(), source.info), start=1):
        collector.add(image, done)
        if progress:
            progress(done, max(done, source.num_examples))
    return collector.report()


def _measure_all(
    candidates: Iterable[Candidate], info: records.DatasetInfo
) -> Iterator[MeasuredImage]:
    """Measures in as many threads as there are cores, and yields in order, holding few at once."""
    num_threads = os.cpu_count() or 1
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for candidate in candidates:
            waiting.append(pool.submit(measure, candidate, info))
            if len(waiting) > 4 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Collector:
    """Gathers the figures of all images: counts, problems, samples; no pixel is kept."""

    def __init__(self, source: Source):
        self._source = source
        self._splits: dict[str, statistics.SplitStatistics] = {}
        self._seen: dict[str, dict[bytes, str]] = {}  # by split, an image's name by its digest
        self._counts: collections.Counter = collections.Counter()
        self._names: dict[str, list[str]] = collections.defaultdict(list)
        self._encodings: dict[str, str] = {}
        self._looks: list[tuple[str, str, near_duplicates.Look]] = []  # split, name, look
        self._bad_samples: list[Sample] = []
        self._fine_samples: list[Sample] = []

    def add(self, image: MeasuredImage, number: int) -> None:
        """Takes in an image, the `number`th."""
        info = self._source.info
        if image.split:
            empty = statistics.SplitStatistics(info.num_classes, info.ignore_label)
            self._splits.setdefault(image.split, empty).add(image)
        if image.encoding:
            self._encodings.setdefault(image.encoding, image.name)
        self._find_equal(image)
        if image.look:
            self._looks.append((image.split, image.name, image.look))
        for problem in image.problems:
            where = f"{problem.name or image.name}: {problem.detail}".removesuffix(": ")
            self._count(problem.kind, where)
        self._keep_sample(image, number)

    def report(self) -> Report:
        """Returns the report of all images.

        Raises:
            UserError: There was none.
        """
        if not self._splits:
            raise UserError(f"There is no image in {self._source}.")
        for where in _near_leaks(self._looks):
            self._count("near_leak", where)
        info, splits = self._source.info, self._splits
        # There is more to see where there is an image.
        bad_samples = sorted(self._bad_samples, key=lambda sample: sample.image is None)
        return Report(
            str(self._source),
            info,
            splits,
            findings.find(info, splits, self._counts, self._names, self._encodings),
            bad_samples[:_BAD_SAMPLES] + self._fine_samples,
        )

    def _count(self, kind: str, where: str) -> None:
        self._counts[kind] += 1
        if len(self._names[kind]) < findings.MAX_NAMES:
            self._names[kind].append(where)

    def _keep_sample(self, image: MeasuredImage, number: int) -> None:
        step = max(1, self._source.num_examples // _FINE_SAMPLES)
        if any(self._counts[problem.kind] <= _SAMPLES_PER_KIND for problem in image.problems):
            self._bad_samples.append(_sample(image))
        elif not image.problems and number % step == 0:
            self._fine_samples.append(_sample(image))

    def _find_equal(self, image: MeasuredImage) -> None:
        """Adds a problem where the same pixels were seen before, and remembers these."""
        if not image.digest:
            return
        if isinstance(self._source, sources.Shards) and image.look and image.look.square is None:
            return  # without contrast: tiles of water or of no data are equal, but no leak
        for split, name_by_digest in self._seen.items():
            name = name_by_digest.get(image.digest)
            if name is None:
                continue
            if split == image.split:
                image.add("duplicate", f"equals {name}")
            elif statistics.is_leak(image.split, split):
                image.add("leak", f"in {image.split}, equals {name} in {split}")
        self._seen.setdefault(image.split, {}).setdefault(image.digest, image.name)


def _near_leaks(looks: list[tuple[str, str, near_duplicates.Look]]) -> Iterator[str]:
    """Yields images of different splits that show nearly the same."""
    for first, second, how in near_duplicates.find_alike([look for _, _, look in looks]):
        (split, name, _), (other_split, other, _) = looks[first], looks[second]
        if how != "equal" and statistics.is_leak(split, other_split):
            yield f"{other}: in {other_split}, {how} to {name} in {split}".replace(
                "mirrored to", "mirrored from"
            )


def _sample(image: MeasuredImage) -> Sample:
    problems = tuple(
        f"{problem.kind.replace('_', ' ')}: {problem.detail}".removesuffix(": ")
        for problem in image.problems
    )
    return Sample(image.name, problems, *image.thumbnail)


def progress_line() -> Progress | None:
    """A progress line that is updated on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        if done == total or done % 20 == 0:
            speed = done / (time.monotonic() - started)
            end = "\n" if done == total else ""
            print(
                f"\r  {done}/{total} images  {speed:.0f} images/s ",
                end=end, file=sys.stderr, flush=True,
            )  # fmt: skip

    return show
