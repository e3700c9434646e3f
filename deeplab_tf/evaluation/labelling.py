"""Labels of images, videos and cameras by a run, written to a folder."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import files
from deeplab_tf.config import LABELS_AND_OVERLAYS
from deeplab_tf.config import PredictConfig
from deeplab_tf.data import band_files
from deeplab_tf.data import bands
from deeplab_tf.data import image_files
from deeplab_tf.data import records
from deeplab_tf.data import threads
from deeplab_tf.drawing import predictions
from deeplab_tf.drawing import server_ids
from deeplab_tf.drawing import video
from deeplab_tf.drawing.geotiffs import OVERLAY_SIDE
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import geotiffs
from deeplab_tf.evaluation import views
from deeplab_tf.evaluation.inference import BEST_CHECKPOINT
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.runs import run_dir as run_dirs

_Predict = Callable[[np.ndarray], predictions.Prediction]  # of an image, uint8 [H, W, 3]


def predict(
    run_dir: str,
    images: str | Sequence[str],
    output_dir: str,
    *,
    inference: Inference = BEST_CHECKPOINT,
    predict_config: PredictConfig = LABELS_AND_OVERLAYS,
) -> list[str]:
    """Writes a label PNG and an overlay for every image, and overlays for every video.

    A GeoTIFF gets a label GeoTIFF in place of the PNG. Large ones are labelled in windows, in
    bounded memory; their overlay is smaller than they are.

    Args:
        run_dir: Folder of a trained or imported run.
        images: A file, a folder, a glob (`**` looks into folders) or the index of a camera, or
            several of them.
        output_dir: Folder to write to; made if it is missing.
        inference: Weights, views and CRF; by default the best checkpoint on whole images.
        predict_config: What else is written, and how much of a video is labelled.

    Returns:
        Paths of the label maps and videos, in the order of the sorted images and videos.

    Raises:
        UserError: No image was found; the run or the artefact cannot do what is asked for; or
            images could not be labelled, which is raised after all others were.
    """
    run = run_dirs.read(run_dir)
    arrays = band_files.ARRAY_ENDINGS if run.dataset.bands else ()
    paths = video.find_sources(images, arrays)
    names = predictions.output_names(paths)
    predictions.check_overwrites(paths, names, output_dir)
    labeller = Labeller(run, inference, predict_config)
    writer = prediction_writer(run, output_dir, predict_config)
    written, failures = _label_all(labeller, writer, paths, names)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} images or videos could not be labelled; the others "
            f"are in {output_dir}:\n  " + "\n  ".join(failures)
        )
    return written


def prediction_writer(
    run: run_dirs.Run, output_dir: str, predict_config: PredictConfig
) -> predictions.PredictionWriter:
    """Returns what writes the predictions of a run.

    Raises:
        UserError: The folder cannot be made, or `--label_ids` does not fit the classes.
    """
    class_names = run.dataset.class_names
    return predictions.PredictionWriter(
        output_dir,
        class_names,
        run.dataset.colors,
        save_confidence=predict_config.save_confidence,
        save_probabilities=predict_config.save_probabilities,
        label_ids=server_ids.read_label_ids(predict_config.label_ids, class_names),
        ignore_label=run.dataset.ignore_label,
    )


def _label_all(
    labeller: "Labeller",
    writer: predictions.PredictionWriter,
    paths: Sequence[str],
    names: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Labels images and videos; returns the main files written, and what failed.

    While the network labels an image, the next one is read, and the files of the one before are
    written.
    """
    report = _Report(len(paths))
    images = threads.one_ahead(labeller.read, paths)
    with threads.one_behind() as hand_over:
        for path, name, image in zip(paths, names, images, strict=True):
            try:
                write = labeller.label(path, name, image.result(), writer)
            except _FAILURES as error:
                write = functools.partial(_raise, error)
            hand_over(functools.partial(report.finish, path, write))
    try:
        writer.write_overview()
    except OSError as error:
        report.failures.append(describe_failure(predictions.OVERVIEW, error))
    return report.written, report.failures


class _Report:
    """Prints a line for every image, and collects what was written and what failed."""

    def __init__(self, num_images: int):
        self.written: list[str] = []
        self.failures: list[str] = []
        self._num_images, self._started = num_images, time.monotonic()

    def finish(self, path: str, write: Callable[[], str]) -> None:
        """Calls the function that writes the files of an image, and prints what became of it."""
        number = len(self.written) + len(self.failures) + 1
        progress = f"{number} of {self._num_images}"
        try:
            self.written.append(write())
        except _FAILURES as error:
            self.failures.append(describe_failure(path, error))
            print(f"{progress}  skipped: {self.failures[-1]}", flush=True)
        else:
            speed = number / (time.monotonic() - self._started)
            print(f"{progress}  {path} -> {self.written[-1]}  {speed:.2f} files/s", flush=True)


def _raise(error: Exception) -> str:
    raise error


# The errors of a single image, which do not affect the next one.
_FAILURES = (image_files.ImageFileError, OSError, MemoryError, tf.errors.ResourceExhaustedError)


def describe_failure(path: str, error: Exception) -> str:
    """Returns a sentence about an image that could not be labelled."""
    if isinstance(error, UserError):
        return str(error)  # which names the file
    if isinstance(error, OSError):
        return f"{path}: the result cannot be written ({error.strerror or error})."
    return (
        f"{path}: there is not enough memory. Give --window_size, e.g. 513,513, or a smaller one."
    )


class Labeller:
    """Labels images, videos and cameras, one after the other.

    Attributes:
        predict: Function of an image, uint8 [H, W, channels], that returns its prediction.
        dataset: The classes of the run, and how its images are displayed.
        max_pixels: Larger images are refused.
    """

    def __init__(self, run: run_dirs.Run, inference: Inference, predict_config: PredictConfig):
        self._run, self._inference, self._config = run, inference, predict_config
        self.max_pixels = predict_config.max_image_pixels or (
            image_files.MAX_WINDOWED_PIXELS
            if inference.eval_config.window_size
            else image_files.MAX_PIXELS
        )
        self.dataset = _displayed_as(run.dataset, predict_config.display_bands)
        if predict_config.save_confidence or predict_config.save_probabilities:
            self.predict = _with_probabilities(inference.probability_function(run))
        else:
            self.predict = self._labels_only(inference.label_function(run))

    def read(self, path: str) -> np.ndarray | None:
        """Reads an image; returns None for what is read while it is labelled."""
        if video.is_video(path):
            return None
        with _local(path) as local:
            return None if band_files.is_geotiff(local) else self._read_image(local)

    def label(
        self, path: str, name: str, image: np.ndarray | None, writer: predictions.PredictionWriter
    ) -> Callable[[], str]:
        """Labels a file or a camera.

        Args:
            path: The file, or the number of the camera.
            name: What the names of its files begin with.
            image: What `read` returned.
            writer: Writes the files.

        Returns:
            A function that writes the files and returns the path of the label map or the video.
        """
        if image is not None:
            label = self.predict(image)
            return lambda: writer.write(name, self.dataset.displayed(image), label)
        label_file = self._label_video if video.is_video(path) else self._label_geotiff
        with _local(path) as local:
            output = label_file(local, name, writer)
        return lambda: output

    def _label_video(self, path: str, name: str, writer: predictions.PredictionWriter) -> str:
        if self.dataset.bands:
            raise image_files.ImageFileError(
                f"{path} is a video, but the network takes images of "
                f"{self.dataset.num_channels} bands."
            )
        return writer.write_video(
            name,
            video.Reader(path),
            lambda frame: self.predict(frame).label,
            every_nth_frame=self._config.every_nth_frame,
            max_frames=self._config.max_frames,
        )

    def _label_geotiff(self, path: str, name: str, writer: predictions.PredictionWriter) -> str:
        config = self._config
        with contextlib.closing(band_files.RasterFile(pathlib.Path(path))) as file:
            in_windows = views.is_windowed(
                self._inference.eval_config, self._run.data_config, file.size
            )
            is_rgb = file.dtype == np.uint8 and not file.is_color_coded
            is_readable = self.dataset.bands or is_rgb
            needs_all = config.save_confidence or config.save_probabilities or config.label_ids
            if not is_readable:  # scaled by all of its values, or in the colours of a palette
                image = self._read_image(path)
            else:
                windowed = geotiffs.WindowedImage(file, self.dataset)
                if in_windows and not needs_all and self._rows_of:
                    small = self.dataset.displayed(windowed.small(OVERLAY_SIDE))
                    return writer.write_in_rows(name, small, self._rows_of(windowed), file)
                self._check_size(path, file.size)
                image = windowed[:, :]
            displayed = self.dataset.displayed(image)
            return writer.write(name, displayed, self.predict(image), file)

    @functools.cached_property
    def _rows_of(self) -> geotiffs.RowsOf | None:
        return self._inference.label_rows_function(self._run)

    def _read_image(self, path: str) -> np.ndarray:
        with self._size_hint():
            return band_files.read_image(path, self.dataset, max_pixels=self.max_pixels)

    def _check_size(self, path: str, size: tuple[int, int]) -> None:
        with self._size_hint():
            image_files.check_size(*size, name=path, max_pixels=self.max_pixels)

    @contextlib.contextmanager
    def _size_hint(self) -> Iterator[None]:
        try:
            yield
        except image_files.ImageSizeError as error:
            if self.max_pixels > image_files.MAX_PIXELS:
                raise
            raise image_files.ImageSizeError(
                f"{error} With --window_size=513,513, larger images are labelled in bounded memory."
            ) from error

    def _labels_only(self, label_of: Callable[[np.ndarray], np.ndarray]) -> _Predict:
        num_classes = self._run.dataset.num_classes

        def predict_image(image):
            label = label_of(image)
            if label.max() >= num_classes:
                raise UserError(
                    f"--model={self._inference.model} finds class {label.max()}, but the run "
                    f"in {self._run.folder} has {num_classes} classes: give a model that was "
                    "exported from this run."
                )
            return predictions.Prediction(label)

        return predict_image


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    """Yields a path that decoders open: the same, or that of a copy; errors name the given one."""
    if not files.is_remote(path):
        yield path
        return
    with files.local_copy(path) as copy:
        try:
            yield str(copy)
        except image_files.ImageFileError as error:
            raise image_files.ImageFileError(str(error).replace(str(copy), path)) from error


def _displayed_as(
    dataset: records.DatasetInfo, display_bands: Sequence[int]
) -> records.DatasetInfo:
    """Describes the images of a run, displayed in the bands that a person chose."""
    if not display_bands:
        return dataset
    if not dataset.bands:
        raise UserError("--display_bands is for images of bands, but those of the run are RGB.")
    rgb_bands = bands.check_rgb_bands(display_bands, dataset.num_channels, "display_bands")
    return dataclasses.replace(dataset, rgb_bands=rgb_bands)


def _with_probabilities(probabilities_of: Callable[[np.ndarray], np.ndarray]) -> _Predict:
    def predict_image(image):
        probabilities = probabilities_of(image)
        label = np.argmax(probabilities, axis=-1).astype(np.int32)
        return predictions.Prediction(label, probabilities)

    return predict_image
