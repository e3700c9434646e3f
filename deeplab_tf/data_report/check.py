"""The check of records, of two folders, or of a folder of own data; what it writes."""

import collections
import concurrent.futures
import os
import pathlib
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator

from PIL import Image

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
from deeplab_tf.data_report.images import Example
from deeplab_tf.data_report.images import MeasuredImage
from deeplab_tf.data_report.images import measure
from deeplab_tf.data_report.report import Report
from deeplab_tf.data_report.report import Sample
from deeplab_tf.errors import UserError

_SAMPLES_PER_KIND = 2  # images of one problem on the contact sheet
_BAD_SAMPLES = 16  # images with problems on it, at most
_FINE_SAMPLES = 12  # images without, about

Progress = Callable[[int, int], None]  # of the images done, and of how many


def check_records(
    data_dir: str | os.PathLike,
    *,
    dataset: str = "",
    num_classes: int | None = None,
    ignore_label: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Checks all splits of records.

    Args:
        data_dir: Folder of the records, or the data_dir they were built in.
        dataset: Which dataset, where data_dir holds several.
        num_classes: For records that do not say it themselves.
        ignore_label: In place of what the records say.
        progress: Called after every image.

    Raises:
        UserError: There are no records, or not all of their shards.
    """
    source = records.find_records(
        data_dir, dataset, num_classes, ignore_label, must_be_complete=False
    )
    return _check(sources.Shards(source), lambda example: measure(example, source.info), progress)


def check_folders(
    images: str | os.PathLike,
    labels: str | os.PathLike,
    *,
    num_classes: int | None = None,
    ignore_label: int | None = None,
    label_encoding: str | None = None,
    classes: str = "",
    progress: Progress | None = None,
) -> Report:
    """Checks a folder of images and one of labels, which have the same names.

    Splits are told from lists beside the folder of images (train.txt, val.txt, as the dataset
    `folder` has them), or else from folders in it (train/, val/).

    Args:
        images: Folder of images.
        labels: Folder of labels.
        num_classes: Number of classes, where `classes` does not say it.
        ignore_label: Label of pixels that do not count; by default 255.
        label_encoding: One of `label_files.ENCODINGS`; by default what each file looks like.
        classes: File of class names and colours, as `class_lists.read_class_list` reads it.
        progress: Called after every image.

    Raises:
        UserError: A folder is missing or empty, or the classes are not known.
    """
    name = pathlib.Path(images).name
    if label_encoding and label_encoding not in label_files.ENCODINGS:
        raise UserError(
            f"--label_encoding={label_encoding}; it can be {', '.join(label_files.ENCODINGS)}"
        )
    if classes:
        class_names, colors = read_class_list(classes)
        if num_classes not in (None, len(class_names)):
            raise UserError(
                f"--num_classes={num_classes}, but {classes} lists {len(class_names)}: give one "
                "of the two"
            )
        ignore_label = records.IGNORE_LABEL if ignore_label is None else ignore_label
        info = records.DatasetInfo(name, class_names, colors, ignore_label)
    elif num_classes is None or num_classes < 1:
        raise UserError("how many classes are there? Give --num_classes=N, or --classes=FILE")
    elif label_encoding == "color_map":
        raise UserError(
            "--label_encoding=color_map takes the colours of the classes: give --classes=FILE, "
            "with a line NAME RED GREEN BLUE for each"
        )
    else:
        info = records.numbered_classes(name, num_classes, ignore_label)
    ids_by_color = {color: i for i, color in enumerate(info.colors)} if classes else None
    return _check(
        sources.find_folders(images, labels, info),
        lambda example: measure(example, info, label_encoding, ids_by_color),
        progress,
    )


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
    found = own_data.find_own_data(data, options or own_data.OwnDataOptions(), refuse_leaks=False)
    for note in found.notes:
        print(note)
    return _check(own_source.OwnSource(found), lambda e: measure(e, found.info), progress)


def write_report(report: Report, output_dir: str | os.PathLike) -> tuple[str, str]:
    """Writes report.json and contact_sheet.jpg, and returns their paths.

    Raises:
        UserError: They cannot be written.
    """
    folder = pathlib.Path(output_dir)
    paths = folder / "report.json", folder / "contact_sheet.jpg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(report.to_json(), encoding="utf-8")
        Image.fromarray(contact_sheet.contact_sheet(report)).save(paths[1], quality=90)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written to: {error}") from error
    return str(paths[0]), str(paths[1])


def _check(
    source: sources.Folders | sources.Shards | own_source.OwnSource,
    measure_example: Callable[[Example], MeasuredImage],
    progress: Progress | None,
) -> Report:
    info, total = source.info, source.num_examples
    splits: dict[str, statistics.SplitStatistics] = {}
    seen: dict[str, dict[bytes, str]] = {}  # by split, an image's name by its digest
    counts: collections.Counter = collections.Counter()
    names: dict[str, list[str]] = collections.defaultdict(list)
    encodings: dict[str, str] = {}
    bad_samples, fine_samples = [], []
    looks: list[tuple[str, str, near_duplicates.Look]] = []  # split, name, look

    for done, image in enumerate(_measure_all(source.examples(), measure_example), start=1):
        if image.split:
            split = splits.setdefault(
                image.split, statistics.SplitStatistics(info.num_classes, info.ignore_label)
            )
            split.add(image)
        if image.encoding:
            encodings.setdefault(image.encoding, image.name)
        _find_duplicates(image, seen)
        if image.look:
            looks.append((image.split, image.name, image.look))
        is_new = False
        for problem in image.problems:
            counts[problem.kind] += 1
            is_new |= counts[problem.kind] <= _SAMPLES_PER_KIND
            if len(names[problem.kind]) < findings.MAX_NAMES:
                name = problem.name or image.name
                names[problem.kind].append(f"{name}: {problem.detail}".removesuffix(": "))
        if is_new:
            bad_samples.append(_sample(image))
        elif not image.problems and done % max(1, total // _FINE_SAMPLES) == 0:
            fine_samples.append(_sample(image))
        if progress:
            progress(done, max(done, total))
    if not splits:
        raise UserError(f"there is no image in {source}")
    for detail in _near_leaks(looks):
        counts["near_leak"] += 1
        if len(names["near_leak"]) < findings.MAX_NAMES:
            names["near_leak"].append(detail)
    bad_samples.sort(key=lambda sample: sample.image is None)  # there is more to see in the others
    return Report(
        str(source),
        info,
        splits,
        findings.find(info, splits, counts, names, encodings),
        bad_samples[:_BAD_SAMPLES] + fine_samples,
    )


def _measure_all(
    examples: Iterator[Example], measure_example: Callable[[Example], MeasuredImage]
) -> Iterator[MeasuredImage]:
    """Measures in as many threads as there are cores, and yields in order, holding few at once."""
    num_threads = os.cpu_count() or 1
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for example in examples:
            waiting.append(pool.submit(measure_example, example))
            if len(waiting) > 4 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _find_duplicates(image: MeasuredImage, seen: dict[str, dict[bytes, str]]) -> None:
    """Adds a problem where the same pixels were seen before, and remembers these."""
    if not image.digest:
        return
    for split, name_by_digest in seen.items():
        name = name_by_digest.get(image.digest)
        if name is None:
            continue
        if split == image.split:
            image.add("duplicate", f"equals {name}")
        elif statistics.is_leak(image.split, split):
            image.add("leak", f"in {image.split}, equals {name} in {split}")
    seen.setdefault(image.split, {}).setdefault(image.digest, image.name)


def _near_leaks(looks: list[tuple[str, str, near_duplicates.Look]]) -> Iterator[str]:
    """Yields what images of different splits show nearly the same."""
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
    """A line that is written over and over, on a terminal; None elsewhere."""
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
