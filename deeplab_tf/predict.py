"""Labels images, videos or the frames of a camera with a trained model.

    python -m deeplab_tf.predict --run_dir=DIR --images='photos/*.jpg' --output_dir=DIR

For every image NAME, it writes NAME.png, whose pixel values are class ids, with the colours of the
classes as its palette; and NAME_overlay.png, the colours over the image, with a legend below. For a
video, it writes NAME_overlay.mp4. --images=0 is the first camera, until Ctrl-C or --max_frames.
overview.png shows the first overlays together.

--label_ids=cityscapes also writes label_ids/NAME.png with the ids that the test server of
Cityscapes expects: run it on leftImg8bit/test/*/*.png and upload that folder. For another server,
give a file with a line `CLASS: ID` for every class.

--model=PATH labels with a SavedModel, .keras or .tflite file that was exported from the run, in
place of the run's checkpoint.

A file that cannot be read, or whose result cannot be written, is named and skipped; the exit code
is then 1.
"""

import dataclasses
import time

import numpy as np
import tensorflow as tf
from absl import flags

from deeplab_tf import command_line
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import setting
from deeplab_tf.data import image_files
from deeplab_tf.drawing import predictions
from deeplab_tf.drawing import server_ids
from deeplab_tf.drawing import video
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.inference import BEST_CHECKPOINT
from deeplab_tf.evaluation.inference import Inference
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
    max_image_pixels: int | None = setting(
        None,
        "Images with more pixels than this (width x height) are refused before they are decoded. "
        f"By default {image_files.MAX_PIXELS}, or {image_files.MAX_WINDOWED_PIXELS} with "
        "--window_size.",
    )

    def __post_init__(self):
        for name, least in (("every_nth_frame", 1), ("max_frames", 0), ("max_image_pixels", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name}={value}; it must be {least} or more.")


DEFAULTS = PredictConfig()


def predict(
    run_dir: str,
    images: str,
    output_dir: str,
    *,
    inference: Inference = BEST_CHECKPOINT,
    predict_config: PredictConfig = DEFAULTS,
) -> list[str]:
    """Writes a label PNG and an overlay for every image, and overlays for every video.

    Args:
        run_dir: Folder of a trained or imported run.
        images: A file, a folder, a glob (`**` looks into folders) or the index of a camera; or
            several of them, separated by commas.
        output_dir: Folder to write to; made if it is missing.
        inference: Weights, views and CRF; by default the best checkpoint on whole images.
        predict_config: What else is written, and how much of a video is labelled.

    Returns:
        Paths of the label PNGs and videos, in the order of the sorted images and videos.

    Raises:
        UserError: No image was found; the run or the artefact cannot do what is asked for; or
            images could not be labelled, which is raised after all others were.
    """
    paths = video.find_sources(images)
    names = predictions.output_names(paths)
    predictions.check_overwrites(paths, names, output_dir)
    run = run_dirs.read(run_dir)
    class_names = run.dataset.class_names
    label_ids = server_ids.read_label_ids(predict_config.label_ids, class_names)
    labeller = _Labeller(run, inference, predict_config)
    writer = predictions.PredictionWriter(
        output_dir,
        class_names,
        run.dataset.colors,
        save_confidence=predict_config.save_confidence,
        save_probabilities=predict_config.save_probabilities,
        label_ids=label_ids,
    )
    written, failures = [], []
    started = time.monotonic()
    for number, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
        progress = f"{number} of {len(paths)}"
        try:
            written.append(labeller.label(path, name, writer))
        except _FAILURES as error:
            failures.append(_describe(path, error))
            print(f"{progress}  skipped: {failures[-1]}", flush=True)
        else:
            speed = number / (time.monotonic() - started)
            print(f"{progress}  {path} -> {written[-1]}  {speed:.2f} files/s", flush=True)
    try:
        writer.write_overview()
    except OSError as error:
        failures.append(_describe(predictions.OVERVIEW, error))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} images or videos could not be labelled; the others "
            f"are in {output_dir}:\n  " + "\n  ".join(failures)
        )
    return written


# What one image can fail of, without an effect on the next.
_FAILURES = (image_files.ImageFileError, OSError, MemoryError, tf.errors.ResourceExhaustedError)


def _describe(path: str, error: Exception) -> str:
    if isinstance(error, image_files.ImageFileError):
        return str(error)  # which names the file
    if isinstance(error, OSError):
        return f"{path}: the result cannot be written ({error.strerror or error})."
    return (
        f"{path}: there is not enough memory. Give --window_size, e.g. 513,513, or a smaller one."
    )


class _Labeller:
    """Labels images, videos and cameras, one after the other."""

    def __init__(self, run: run_dirs.Run, inference: Inference, predict_config: PredictConfig):
        self._run, self._inference, self._config = run, inference, predict_config
        self._max_pixels = predict_config.max_image_pixels or (
            image_files.MAX_WINDOWED_PIXELS
            if inference.eval_config.window_size
            else image_files.MAX_PIXELS
        )
        if predict_config.save_confidence or predict_config.save_probabilities:
            self._probabilities_of = inference.probability_function(run)
        else:
            self._probabilities_of, self._label_of = None, inference.label_function(run)

    def label(self, path: str, name: str, writer: predictions.PredictionWriter) -> str:
        """Labels a file or a camera; returns the path of the label PNG or the video."""
        if not video.is_video(path):
            image = image_files.read_image(path, max_pixels=self._max_pixels)
            return writer.write(name, image, self._predict(image))
        return writer.write_video(
            name,
            video.Reader(path),
            lambda frame: self._predict(frame).label,
            every_nth_frame=self._config.every_nth_frame,
            max_frames=self._config.max_frames,
        )

    def _predict(self, image: np.ndarray) -> predictions.Prediction:
        if self._probabilities_of:
            probabilities = self._probabilities_of(image)
            label = np.argmax(probabilities, axis=-1).astype(np.int32)
            return predictions.Prediction(label, probabilities)
        label = self._label_of(image)
        if label.max() >= self._run.dataset.num_classes:
            raise UserError(
                f"--model={self._inference.artefact} finds class {label.max()}, but the run in "
                f"{self._run.folder} has {self._run.dataset.num_classes} classes: give a model "
                "that was exported from this run."
            )
        return predictions.Prediction(label)


def main(_):
    predict(
        flags.FLAGS.run_dir,
        flags.FLAGS.images,
        flags.FLAGS.output_dir,
        inference=Inference(
            flags.FLAGS.checkpoint,
            flags.FLAGS.model,
            command_line.read_flags(EvalConfig),
            command_line.read_flags(CrfConfig),
        ),
        predict_config=command_line.read_flags(PredictConfig),
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
