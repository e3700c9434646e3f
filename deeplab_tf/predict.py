"""Labels images, videos or a camera's frames with a trained model.

    python -m deeplab_tf.predict --run_dir=DIR --images='photos/*.jpg' --output_dir=DIR

For every image NAME it writes NAME.png, of the same size, whose pixel values are class ids and
whose palette is the dataset's colours; and NAME_overlay.png for the eye: the colours over the
image, with a legend below. A video becomes a video of overlays, NAME_overlay.mp4, and so does
--images=0, the first camera, until Ctrl-C or --max_frames. overview.png shows the first of them
together.

--label_ids=cityscapes also writes label_ids/NAME.png, with the ids that Cityscapes' test server
wants: run it on leftImg8bit/test/*/*.png and upload that folder. A file in place of the name, with
a line `CLASS: ID` per class, does it for any other server.

--model=PATH labels with what was made of the run, a SavedModel, .keras or .tflite file; the run
still tells the names and the colours of the classes.

What cannot be read is named and skipped, and then the exit code is 1.
"""

import collections
import dataclasses
import functools
import glob
import itertools
import os
import re
import tempfile
import time
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
from absl import flags
from PIL import Image
from PIL import ImageOps

from deeplab_tf import command_line
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import WHOLE_IMAGES
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import setting
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.drawing import server_ids
from deeplab_tf.drawing import video
from deeplab_tf.drawing import visualize
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import inference
from deeplab_tf.runs import run_dir as run_dirs

OVERVIEW = "overview"
OVERVIEW_IMAGES = 12
OVERVIEW_WIDTH = 480  # of one image in it, pixels
IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
FOLDER_ENDINGS = IMAGE_ENDINGS + video.VIDEO_ENDINGS  # what is taken from a folder
# What follows an image's name in the names of what is written for it.
OVERLAY, CONFIDENCE, PROBABILITIES = "_overlay", "_confidence", "_probabilities"
SUFFIXES = ("", OVERLAY, CONFIDENCE, PROBABILITIES)
LABEL_IDS_FOLDER = "label_ids"
PROGRESS_SECONDS = 2.0  # between two lines on a video


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """What is written beside labels and overlays, and how much of a video is labelled."""

    save_confidence: bool = setting(
        False,
        "Writes NAME_confidence.png too: the probability of the class that was found, 0 to 1 as "
        "grey 0 to 255. Of images only.",
    )
    save_probabilities: bool = setting(
        False,
        "Writes NAME_probabilities.npy too: those of all classes, float16 [height, width, "
        "classes]. Of images only.",
    )
    label_ids: str = setting(
        "",
        "Writes label_ids/NAME.png too, grey, with a test server's ids: cityscapes, or a file with "
        "a line `CLASS: ID` per class. Of images only.",
    )
    every_nth_frame: int = setting(1, "Labels every n-th frame of a video or a camera only.")
    max_frames: int = setting(0, "Labels so many frames of a video or a camera; 0 for all.")

    def __post_init__(self):
        for name, least in (("every_nth_frame", 1), ("max_frames", 0)):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"--{name}={value}; it must be {least} or more.")


DEFAULTS = PredictConfig()


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was found in an image; `probabilities` only where they were asked for."""

    label: np.ndarray  # class ids, int32 [H, W]
    probabilities: np.ndarray | None = None  # float32 [H, W, num_classes]


def predict(
    run_dir: str,
    images: str,
    output_dir: str,
    checkpoint: str = "best",
    crf_config: CrfConfig = NO_CRF,
    eval_config: EvalConfig = WHOLE_IMAGES,
    predict_config: PredictConfig = DEFAULTS,
    artefact: str = "",
) -> list[str]:
    """Writes a label PNG and an overlay for every image, and overlays of every video.

    Args:
        run_dir: Folder of a trained or imported run.
        images: A file, a folder, a glob (`**` looks into folders) or the index of a camera; or
            several of them, separated by commas.
        output_dir: Folder to write to; made if missing.
        checkpoint: "best" or "last".
        crf_config: The fully-connected CRF behind the network; by default none.
        eval_config: Scales, flips, windows and output stride of the network.
        predict_config: What else is written, and how much of a video is labelled.
        artefact: Labels with this SavedModel, `.keras` or `.tflite` file in place of the
            checkpoint, see `inference.load_artefact`.

    Returns:
        The label PNGs and videos written, in the order of the sorted images and videos.

    Raises:
        UserError: No image was found; the artefact cannot do what is asked for; or some images
            were unreadable, after all others were labelled.
    """
    paths = find_images(images)
    names = output_names(paths)
    _check_overwrites(paths, names, output_dir)
    run = run_dirs.read(run_dir)
    dataset = run.dataset
    label_ids = server_ids.read_label_ids(predict_config.label_ids, dataset.class_names)
    prediction_of = _prediction_function(
        run, checkpoint, artefact, crf_config, eval_config, predict_config
    )
    try:
        os.makedirs(output_dir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be made: {error}.") from error

    written, failures, overview = [], [], []
    started = time.monotonic()
    for number, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
        try:
            source = video.Reader(path) if video.is_video(path) else read_image(path)
        except UserError:  # no camera, which is no broken file
            raise
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failures.append(f"{path}: {error}")
            print(f"{number} of {len(paths)}  {path}: skipped, {error}", flush=True)
            continue
        if isinstance(source, video.Reader):
            output, overlay, label = label_video(
                source, prediction_of, output_dir, name, dataset, predict_config
            )
        else:
            prediction = prediction_of(source)
            label = prediction.label
            overlay = visualize.overlay(source, label, dataset.colors)
            output = write_prediction(
                output_dir, name, prediction, overlay, dataset, predict_config, label_ids
            )
        written.append(output)
        if len(overview) < OVERVIEW_IMAGES:
            overview.append((_narrow(overlay), _narrow(label)))
        height, width = label.shape
        speed = number / (time.monotonic() - started)
        print(
            f"{number} of {len(paths)}  {path} ({width}x{height}) -> {output}  {speed:.2f} files/s",
            flush=True,
        )
    if overview:
        _write_overview(os.path.join(output_dir, f"{OVERVIEW}.png"), overview, dataset)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} images could not be read; the others are in "
            f"{output_dir}. Repair or remove:\n  " + "\n  ".join(failures)
        )
    return written


def _prediction_function(
    run: run_dirs.Run,
    checkpoint: str,
    artefact: str,
    crf_config: CrfConfig,
    eval_config: EvalConfig,
    predict_config: PredictConfig,
) -> Callable[[np.ndarray], Prediction]:
    """A function of an image, uint8 [H, W, 3]; it computes probabilities only if needed."""
    settings = (run.model_config, run.data_config)
    crf_parameters = run_dirs.crf_parameters(run.folder, crf_config)
    needs_probabilities = predict_config.save_confidence or predict_config.save_probabilities
    if artefact and needs_probabilities:
        raise UserError(
            f"--model={artefact} gives labels, not how sure of them it is: leave out "
            "--save_confidence and --save_probabilities, or --model, to have them of the run."
        )
    if artefact:
        label_of = inference.load_artefact(artefact, *settings, crf_parameters, eval_config)
        return lambda image: Prediction(_of_run(label_of(image), artefact, run))
    model = run_dirs.load_model(run, checkpoint)
    if not needs_probabilities:
        label_of = inference.label_function(model, *settings, crf_parameters, eval_config)
        return lambda image: Prediction(label_of(image))
    probabilities_of = inference.probability_function(model, *settings, eval_config, crf_parameters)

    def prediction_of(image):
        probabilities = probabilities_of(image)
        return Prediction(np.argmax(probabilities, axis=-1).astype(np.int32), probabilities)

    return prediction_of


def _of_run(label: np.ndarray, artefact: str, run: run_dirs.Run) -> np.ndarray:
    """Lets through a label of an artefact, whose classes can be those of the run.

    Raises:
        UserError: The run has not so many.
    """
    if label.max() >= run.dataset.num_classes:
        raise UserError(
            f"--model={artefact} finds class {label.max()}, but the run in {run.folder} has "
            f"{run.dataset.num_classes} classes: give what was exported from this run."
        )
    return label


def find_images(images: str) -> list[str]:
    """Returns what `--images` stands for: files, sorted, after the indices of cameras.

    Args:
        images: A file, a folder, a glob or the index of a camera; or several with commas between.

    Raises:
        UserError: There is none, or one of several stands for none.
    """
    # As a whole first: a comma may belong to the name of a file or a folder.
    found = _find(images)
    parts = [images] if found or "," not in images else images.split(",")
    for part in parts:
        paths = _find(part.strip())
        if not paths and os.path.isdir(part.strip()):
            endings = ", ".join(FOLDER_ENDINGS)
            raise UserError(f"--images={part}: no file in this folder ends in {endings}.")
        if not paths:
            raise UserError(
                f"--images={part}: no file matches; give a file, a folder, a quoted glob such as "
                "'photos/*.jpg', or the number of a camera."
            )
        found = found + paths
    return sorted(set(found), key=lambda path: (video.camera_index(path) is None, path))


def _find(images: str) -> list[str]:
    """The files, or the camera, that one name stands for."""
    if os.path.isdir(images):
        names = [name for name in os.listdir(images) if name.lower().endswith(FOLDER_ENDINGS)]
        return [os.path.join(images, name) for name in names]
    if os.path.isfile(images) or video.camera_index(images) is not None:
        return [images]
    return [path for path in glob.glob(images, recursive=True) if os.path.isfile(path)]


def read_image(path: str) -> np.ndarray:
    """Reads an image as a viewer shows it: turned as its EXIF data say, in RGB.

    Returns:
        uint8 [H, W, 3].

    Raises:
        OSError: It is no image, or cut off.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it, not scale it
            image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
        return np.asarray(image.convert("RGB"))


def write_prediction(
    output_dir: str,
    name: str,
    prediction: Prediction,
    overlay: np.ndarray,
    dataset: DatasetInfo,
    predict_config: PredictConfig = DEFAULTS,
    label_ids: np.ndarray | None = None,
) -> str:
    """Writes the label PNG of one image and all that goes with it, each whole or not at all.

    Args:
        output_dir: Folder to write to.
        name: What the files' names begin with.
        prediction: What was found in the image.
        overlay: The label's colours over the image, uint8 [H, W, 3]; it gets a legend.
        dataset: The classes' names and colours.
        predict_config: What else is written.
        label_ids: A test server's id for every class, uint8 [num_classes]; None to write none.

    Returns:
        The label PNG.

    Raises:
        UserError: A file cannot be written.
    """
    label, probabilities = prediction.label, prediction.probabilities
    overlay = visualize.add_legend(overlay, label, dataset.class_names, dataset.colors)
    writers = {f"{name}{OVERLAY}.png": Image.fromarray(overlay).save}
    if predict_config.save_confidence:
        confidence = np.round(255 * probabilities.max(axis=-1)).astype(np.uint8)
        writers[f"{name}{CONFIDENCE}.png"] = Image.fromarray(confidence).save
    if predict_config.save_probabilities:
        writers[f"{name}{PROBABILITIES}.npy"] = functools.partial(
            np.save, arr=probabilities.astype(np.float16)
        )
    if label_ids is not None:
        server_label = Image.fromarray(label_ids[label])
        writers[os.path.join(LABEL_IDS_FOLDER, f"{name}.png")] = server_label.save
    writers[f"{name}.png"] = lambda path: visualize.write_label_png(path, label, dataset.colors)

    label_path = os.path.join(output_dir, f"{name}.png")
    try:
        if label_ids is not None:
            os.makedirs(os.path.join(output_dir, LABEL_IDS_FOLDER), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".new_") as folder:
            drafts = []
            for number, (output, write) in enumerate(writers.items()):
                drafts.append(os.path.join(folder, f"{number}_{os.path.basename(output)}"))
                write(drafts[-1])
            for output, draft in zip(writers, drafts, strict=True):
                os.replace(draft, os.path.join(output_dir, output))
    except OSError as error:
        raise UserError(f"{label_path} cannot be written: {error}.") from error
    return label_path


def label_video(
    reader: video.Reader,
    prediction_of: Callable[[np.ndarray], Prediction],
    output_dir: str,
    name: str,
    dataset: DatasetInfo,
    predict_config: PredictConfig = DEFAULTS,
) -> tuple[str, np.ndarray, np.ndarray]:
    """Writes the overlays of a video's frames as a video, without sound, whole or not at all.

    It is as long as the original. What a camera sees while a frame is being labelled is lost; the
    overlay before it stays for that long. Ctrl-C ends a camera's video, not the command.

    Args:
        reader: The video or the camera.
        prediction_of: Function of a frame, uint8 [H, W, 3].
        output_dir: Folder to write to.
        name: What the file's name begins with.
        dataset: The classes' colours.
        predict_config: Which frames are labelled, and how many.

    Returns:
        The video written; overlay, uint8 [H, W, 3], and label, int32 [H, W], of its first frame.

    Raises:
        UserError: The video cannot be written.
    """
    every_nth, limit = predict_config.every_nth_frame, predict_config.max_frames
    frames = itertools.islice(reader.frames(every_nth), limit or None)
    rate = reader.frames_per_second / every_nth
    counts = [count for count in (-(-reader.num_frames // every_nth), limit) if count]
    total = f" of {min(counts)}" if counts else ""
    first, started = None, time.monotonic()
    told = started
    try:
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".new_") as folder:
            draft = os.path.join(folder, f"{name}{OVERLAY}")
            with video.Writer(draft, rate, reader.height, reader.width) as writer:
                try:
                    for number, (seconds, frame) in enumerate(frames, start=1):
                        label = prediction_of(frame).label
                        overlay = visualize.overlay(frame, label, dataset.colors)
                        writer.write(overlay, seconds)
                        first = first or (overlay, label)
                        if number == 1 or time.monotonic() - told > PROGRESS_SECONDS:
                            told = time.monotonic()
                            speed = number / (told - started)
                            print(f"  frame {number}{total}  {speed:.2f} frames/s", flush=True)
                except KeyboardInterrupt:
                    if first is None or not reader.is_camera:
                        raise
            path = os.path.join(output_dir, os.path.basename(writer.path))
            os.replace(writer.path, path)
    except OSError as error:
        raise UserError(f"{name} cannot be written to {output_dir}: {error}.") from error
    speed = number / (time.monotonic() - started)
    print(f"  {number} frames labelled, {speed:.2f} frames/s", flush=True)
    return path, *first


def _write_overview(
    path: str, overview: Sequence[tuple[np.ndarray, np.ndarray]], dataset: DatasetInfo
) -> None:
    """Writes (overlay, label) pairs as one image, with one legend for all."""
    sheet = visualize.contact_sheet([overlay for overlay, _ in overview], columns=4)
    labels = np.concatenate([label.ravel() for _, label in overview])[np.newaxis]
    sheet = visualize.add_legend(sheet, labels, dataset.class_names, dataset.colors)
    Image.fromarray(sheet).save(path)


def _narrow(image: np.ndarray) -> np.ndarray:
    """Shrinks an overlay, or a label, to the width that it has in the overview."""
    height, width = image.shape[:2]
    if width <= OVERVIEW_WIDTH:
        return image
    size = (OVERVIEW_WIDTH, max(1, height * OVERVIEW_WIDTH // width))
    is_label = image.ndim == 2
    method = Image.Resampling.NEAREST if is_label else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize(size, method))


def output_names(paths: Sequence[str]) -> list[str]:
    """Returns a name per image: its own without the ending, or longer where two would collide.

    `a.jpg` and `a.png` become `a_jpg` and `a_png`; `x/a.jpg` and `y/a.jpg` become `x_a_jpg` and
    `y_a_jpg`; camera 0 becomes `camera_0`. Neither a name nor that of anything else written for
    the image meets another, on case-blind file systems too.
    """
    cameras = {path: video.camera_index(path) for path in paths}
    stems = [
        os.path.splitext(os.path.basename(path))[0] if cameras[path] is None else f"camera_{path}"
        for path in paths
    ]
    uses = collections.Counter(stem.lower() for stem in stems)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names, taken = [], {OVERVIEW}
    for path, stem in zip(paths, stems, strict=True):
        name = stem
        if uses[stem.lower()] > 1:
            name = re.sub(r"[/\\.]", "_", os.path.relpath(os.path.abspath(path), folder))
        while taken & _with_suffixes(name):
            name += "_"
        taken |= _with_suffixes(name)
        names.append(name)
    return names


def _with_suffixes(name: str) -> set[str]:
    return {f"{name}{suffix}".lower() for suffix in SUFFIXES}


def _check_overwrites(paths: Sequence[str], names: Sequence[str], output_dir: str) -> None:
    """Lets through only what leaves all images and videos as they are.

    Raises:
        UserError: One of them would be overwritten.
    """
    inputs = {os.path.realpath(path) for path in paths if video.camera_index(path) is None}
    outputs = [f"{OVERVIEW}.png"]
    for name in names:
        outputs += [f"{name}{suffix}.png" for suffix in SUFFIXES]
        outputs += [f"{name}{OVERLAY}.{ending}" for ending, _ in video.FORMATS]
        outputs.append(os.path.join(LABEL_IDS_FOLDER, f"{name}.png"))
    for output in outputs:
        path = os.path.join(output_dir, output)
        if os.path.realpath(path) in inputs:
            raise UserError(
                f"{path} is one of the images and would be overwritten: give another --output_dir."
            )


def main(_):
    predict(
        flags.FLAGS.run_dir,
        flags.FLAGS.images,
        flags.FLAGS.output_dir,
        flags.FLAGS.checkpoint,
        command_line.read_flags(CrfConfig),
        command_line.read_flags(EvalConfig),
        command_line.read_flags(PredictConfig),
        flags.FLAGS.model,
    )


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_string(
        "images",
        None,
        "File, folder, quoted glob or number of a camera; several with commas between (required).",
        required=True,
    )
    flags.DEFINE_string("output_dir", None, "Folder to write to (required).", required=True)
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which weights of the run.")
    flags.DEFINE_string(
        "model",
        "",
        "Labels with this SavedModel, .keras or .tflite file in place of the checkpoint.",
    )
    for config_class in (PredictConfig, EvalConfig, CrfConfig):
        command_line.define_flags(config_class)
    command_line.run(main)
