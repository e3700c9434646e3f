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

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from absl import flags

from deeplab_tf import command_line
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import WHOLE_IMAGES
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import setting
from deeplab_tf.data import image_files
from deeplab_tf.drawing import predictions
from deeplab_tf.drawing import server_ids
from deeplab_tf.drawing import video
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import artefacts
from deeplab_tf.evaluation.prediction import label_function
from deeplab_tf.evaluation.prediction import probability_function
from deeplab_tf.runs import run_dir as run_dirs


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
            checkpoint, see `artefacts.load_artefact`.

    Returns:
        The label PNGs and videos written, in the order of the sorted images and videos.

    Raises:
        UserError: No image was found; the artefact cannot do what is asked for; or some images
            were unreadable, after all others were labelled.
    """
    paths = video.find_sources(images)
    names = predictions.output_names(paths)
    predictions.check_overwrites(paths, names, output_dir)
    run = run_dirs.read(run_dir)
    class_names, colors = run.dataset.class_names, run.dataset.colors
    label_ids = server_ids.read_label_ids(predict_config.label_ids, class_names)
    prediction_of = _prediction_function(
        run, checkpoint, artefact, crf_config, eval_config, predict_config
    )
    writer = predictions.PredictionWriter(
        output_dir,
        class_names,
        colors,
        save_confidence=predict_config.save_confidence,
        save_probabilities=predict_config.save_probabilities,
        label_ids=label_ids,
    )
    written, failures = [], []
    started = time.monotonic()
    for number, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
        progress = f"{number} of {len(paths)}"
        try:
            output = _write_prediction(writer, path, name, prediction_of, predict_config)
        except image_files.ImageFileError as error:
            failures.append(str(error))
        except OSError as error:
            failures.append(f"{path}: what was found cannot be written: {error}.")
        else:
            written.append(output)
            speed = number / (time.monotonic() - started)
            print(f"{progress}  {path} -> {output}  {speed:.2f} files/s", flush=True)
            continue
        print(f"{progress}  skipped: {failures[-1]}", flush=True)
    try:
        writer.write_overview()
    except OSError as error:
        failures.append(f"{predictions.OVERVIEW}.png cannot be written: {error}.")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} images could not be labelled; the others are in "
            f"{output_dir}. Repair or remove:\n  " + "\n  ".join(failures)
        )
    return written


def _write_prediction(
    writer: predictions.PredictionWriter,
    path: str,
    name: str,
    prediction_of: Callable[[np.ndarray], predictions.Prediction],
    predict_config: PredictConfig,
) -> str:
    """Labels an image, a video or what a camera sees; returns the main file that it wrote."""
    if not video.is_video(path):
        image = image_files.read_image(path)
        return writer.write(name, image, prediction_of(image))
    return writer.write_video(
        name,
        video.Reader(path),
        lambda frame: prediction_of(frame).label,
        every_nth_frame=predict_config.every_nth_frame,
        max_frames=predict_config.max_frames,
    )


def _prediction_function(
    run: run_dirs.Run,
    checkpoint: str,
    artefact: str,
    crf_config: CrfConfig,
    eval_config: EvalConfig,
    predict_config: PredictConfig,
) -> Callable[[np.ndarray], predictions.Prediction]:
    """A function of an image, uint8 [H, W, 3]; it computes probabilities only if needed."""
    settings = (run.model_config, run.data_config)
    inference = {
        "eval_config": eval_config,
        "crf_parameters": run_dirs.crf_parameters(run.folder, crf_config),
    }
    needs_probabilities = predict_config.save_confidence or predict_config.save_probabilities
    if artefact and needs_probabilities:
        raise UserError(
            f"--model={artefact} gives labels, not how sure of them it is: leave out "
            "--save_confidence and --save_probabilities, or --model, to have them of the run."
        )
    if artefact:
        label_of = artefacts.load_artefact(artefact, *settings, **inference)
        return lambda image: predictions.Prediction(_of_run(label_of(image), artefact, run))
    model = run_dirs.load_model(run, checkpoint)
    if not needs_probabilities:
        label_of = label_function(model, *settings, **inference)
        return lambda image: predictions.Prediction(label_of(image))
    probabilities_of = probability_function(model, *settings, **inference)

    def prediction_of(image):
        probabilities = probabilities_of(image)
        return predictions.Prediction(
            np.argmax(probabilities, axis=-1).astype(np.int32), probabilities
        )

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
