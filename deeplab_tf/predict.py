"""Labels pictures with a trained model.

    python -m deeplab_tf.predict --run_dir=DIR --images='photos/*.jpg' --output_dir=DIR

For every picture NAME it writes NAME.png, of the same size, whose pixel values are class ids and
whose palette is the dataset's colours; and NAME_overlay.png for the eye: the colours over the
picture, with a legend below. overview.png shows the first of them together.
"""

import collections
import glob
import os
import re
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from absl import flags
from PIL import Image
from PIL import ImageOps

from deeplab_tf import command_line
from deeplab_tf import inference
from deeplab_tf import run_dir as run_dirs
from deeplab_tf import visualize
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import CrfConfig
from deeplab_tf.errors import UserError
from deeplab_tf.records import DatasetInfo

OVERVIEW = "overview"
OVERVIEW_PICTURES = 12
OVERVIEW_WIDTH = 480  # of one picture in it, pixels
PICTURE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")  # what is taken from a folder


def predict(
    run_dir: str,
    images: str,
    output_dir: str,
    checkpoint: str = "best",
    crf_config: CrfConfig = NO_CRF,
) -> list[str]:
    """Writes a label PNG and an overlay for every picture.

    Args:
        run_dir: Folder of a trained or imported run.
        images: A file, a folder or a glob (`**` looks into folders).
        output_dir: Folder to write to; made if missing.
        checkpoint: "best" or "last".
        crf_config: The fully-connected CRF behind the network; by default none.

    Returns:
        The label PNGs written, in the order of the sorted pictures.

    Raises:
        UserError: No picture was found; or some were unreadable, after all others were labelled.
    """
    paths = find_pictures(images)
    outputs = _output_paths(paths, output_dir)
    run = run_dirs.read(run_dir)
    model = run_dirs.load_model(run, checkpoint)
    label_of = inference.label_function(
        model, run.model_config, run.data_config, run_dirs.crf_parameters(run_dir, crf_config)
    )
    try:
        os.makedirs(output_dir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be made: {error}.") from error

    written, failures, overview = [], [], []
    started = time.monotonic()
    for number, (path, (label_path, overlay_path)) in enumerate(zip(paths, outputs), start=1):
        try:
            image = read_picture(path)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failures.append(f"{path}: {error}")
            print(f"{number} of {len(paths)}  {path}: skipped, {error}", flush=True)
            continue
        label = label_of(image)
        overlay = visualize.overlay(image, label, run.dataset.colors)
        write_prediction(label_path, overlay_path, label, overlay, run.dataset)
        written.append(label_path)
        if len(overview) < OVERVIEW_PICTURES:
            overview.append((_narrow(overlay), _narrow(label)))
        height, width = label.shape
        speed = number / (time.monotonic() - started)
        print(
            f"{number} of {len(paths)}  {path} ({width}x{height}) -> {label_path}  "
            f"{speed:.2f} pictures/s",
            flush=True,
        )
    if overview:
        _write_overview(os.path.join(output_dir, f"{OVERVIEW}.png"), overview, run.dataset)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} pictures could not be read; the others are in "
            f"{output_dir}. Repair or remove:\n  " + "\n  ".join(failures)
        )
    return written


def find_pictures(images: str) -> list[str]:
    """Returns the files that a file name, a folder or a glob stands for, sorted.

    Raises:
        UserError: There is none.
    """
    if os.path.isdir(images):
        paths = [
            os.path.join(images, name)
            for name in os.listdir(images)
            if name.lower().endswith(PICTURE_ENDINGS)
        ]
        remedy = f"no file in this folder ends in {', '.join(PICTURE_ENDINGS)}"
    elif os.path.isfile(images):
        return [images]
    else:
        paths = [path for path in glob.glob(images, recursive=True) if os.path.isfile(path)]
        remedy = "no file matches; give a file, a folder or a quoted glob such as 'photos/*.jpg'"
    if not paths:
        raise UserError(f"--images={images}: {remedy}.")
    return sorted(paths)


def read_picture(path: str) -> np.ndarray:
    """Reads a picture as a viewer shows it: turned as its EXIF data say, in RGB.

    Returns:
        uint8 [H, W, 3].

    Raises:
        OSError: It is no picture, or cut off.
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I"):  # 16-bit grey: Pillow would clip it, not scale it
            picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
        return np.asarray(picture.convert("RGB"))


def write_prediction(
    label_path: str,
    overlay_path: str,
    label: np.ndarray,
    overlay: np.ndarray,
    dataset: DatasetInfo,
) -> None:
    """Writes the label PNG and the overlay of one picture, each whole or not at all.

    Args:
        label_path: Label PNG to write.
        overlay_path: Overlay PNG to write.
        label: Class ids, int32 [H, W].
        overlay: The label's colours over the picture, uint8 [H, W, 3]; it gets a legend.
        dataset: The classes' names and colours.

    Raises:
        UserError: A file cannot be written.
    """
    overlay = visualize.add_legend(overlay, label, dataset.class_names, dataset.colors)
    try:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(label_path), prefix=".new_") as new:
            visualize.write_label_png(os.path.join(new, "label.png"), label, dataset.colors)
            Image.fromarray(overlay).save(os.path.join(new, "overlay.png"))
            os.replace(os.path.join(new, "overlay.png"), overlay_path)
            os.replace(os.path.join(new, "label.png"), label_path)
    except OSError as error:
        raise UserError(f"{label_path} cannot be written: {error}.") from error


def _write_overview(
    path: str, overview: Sequence[tuple[np.ndarray, np.ndarray]], dataset: DatasetInfo
) -> None:
    """Writes (overlay, label) pairs as one picture, with one legend for all."""
    sheet = visualize.contact_sheet([overlay for overlay, _ in overview], columns=4)
    labels = np.concatenate([label.ravel() for _, label in overview])[np.newaxis]
    sheet = visualize.add_legend(sheet, labels, dataset.class_names, dataset.colors)
    Image.fromarray(sheet).save(path)


def _narrow(picture: np.ndarray) -> np.ndarray:
    """Shrinks an overlay, or a label, to the width that it has in the overview."""
    height, width = picture.shape[:2]
    if width <= OVERVIEW_WIDTH:
        return picture
    size = (OVERVIEW_WIDTH, max(1, height * OVERVIEW_WIDTH // width))
    is_label = picture.ndim == 2
    method = Image.Resampling.NEAREST if is_label else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(picture).resize(size, method))


def _output_paths(paths: Sequence[str], output_dir: str) -> list[tuple[str, str]]:
    """The label PNG and the overlay of every picture.

    Raises:
        UserError: A picture would be overwritten.
    """
    outputs = [
        (os.path.join(output_dir, f"{name}.png"), os.path.join(output_dir, f"{name}_overlay.png"))
        for name in output_names(paths)
    ]
    pictures = {os.path.realpath(path) for path in paths}
    for output in outputs:
        for path in output:
            if os.path.realpath(path) in pictures:
                raise UserError(
                    f"{path} is one of the pictures and would be overwritten: give another "
                    "--output_dir."
                )
    return outputs


def output_names(paths: Sequence[str]) -> list[str]:
    """Returns a name per picture: its own without the ending, or longer where two would collide.

    `a.jpg` and `a.png` become `a_jpg` and `a_png`; `x/a.jpg` and `y/a.jpg` become `x_a_jpg` and
    `y_a_jpg`. Neither a name nor its overlay's meets another, on case-blind file systems too.
    """
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    uses = collections.Counter(stem.lower() for stem in stems)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names, taken = [], {OVERVIEW}
    for path, stem in zip(paths, stems):
        name = stem
        if uses[stem.lower()] > 1:
            name = re.sub(r"[/\\.]", "_", os.path.relpath(os.path.abspath(path), folder))
        while taken & {name.lower(), f"{name}_overlay".lower()}:
            name += "_"
        taken |= {name.lower(), f"{name}_overlay".lower()}
        names.append(name)
    return names


def main(_):
    predict(
        flags.FLAGS.run_dir,
        flags.FLAGS.images,
        flags.FLAGS.output_dir,
        flags.FLAGS.checkpoint,
        command_line.read_flags(CrfConfig),
    )


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_string("images", None, "File, folder or quoted glob (required).", required=True)
    flags.DEFINE_string("output_dir", None, "Folder to write to (required).", required=True)
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which weights of the run.")
    command_line.define_flags(CrfConfig)
    command_line.run(main)
