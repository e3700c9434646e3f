"""A trained run as notebooks use it: images in, label maps and overlays out."""

import os

import numpy as np
import PIL.Image

from deeplab_tf import files
from deeplab_tf import zoo
from deeplab_tf.data import band_files
from deeplab_tf.data import image_files
from deeplab_tf.drawing import overlays
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.inference import Inference
from deeplab_tf.runs import imported_run
from deeplab_tf.runs import run_dir as run_dirs

Image = np.typing.ArrayLike | str | os.PathLike | PIL.Image.Image


class LoadedRun:
    """A trained run that labels images; `load_run` makes it.

    An image is an array `[H, W, 3]` in RGB, uint8 in 0..255; the path of an image file; or a Pillow
    image. Grey arrays `[H, W]` get three equal channels, and an alpha channel is dropped. Values of
    other types are scaled as those of image files: floats in 0..1 by 255, 16 bits by their number
    of bits; values whose range is not clear are refused.

    A run on images of bands takes arrays `[H, W, bands]`: uint8 as the records hold them, or values
    of other types as the image files do, which are scaled as in training.

    Attributes:
        class_names: Name of each class, by its id.
        colors: RGB of each class, by its id.
    """

    def __init__(self, run: run_dirs.Run, inference: Inference):
        self.class_names: tuple[str, ...] = run.dataset.class_names
        self.colors: tuple[tuple[int, int, int], ...] = run.dataset.colors
        self._dataset = run.dataset
        self._label_of = inference.label_function(run)

    def predict(self, image: Image) -> np.ndarray:
        """Labels an image.

        Args:
            image: `[H, W, 3]` in RGB, uint8, or anything else that `LoadedRun` takes.

        Returns:
            The class id of every pixel, `[H, W]`, uint8, or uint16 with more than 256 classes.

        Raises:
            UserError: The array is not an image, or the file cannot be read.
        """
        labels = self._label_of(self._pixels(image))
        return labels.astype(np.uint8 if len(self.class_names) <= 256 else np.uint16)

    def overlay(
        self, image: Image, labels: np.typing.ArrayLike, opacity: float = 0.55
    ) -> np.ndarray:
        """Lays the colours of the classes over an image, with white borders between them.

        Args:
            image: `[H, W, 3]` in RGB, uint8, or anything else that `LoadedRun` takes.
            labels: Class ids, integers `[H, W]`, from `predict` or a label map.
            opacity: 0 shows the image only, 1 the colours only.

        Returns:
            An image, uint8 `[H, W, 3]`.

        Raises:
            UserError: The arrays are not an image and its labels.
        """
        pixels, labels = self._pixels(image), np.asarray(labels)
        if labels.dtype.kind not in "ui" or labels.shape != pixels.shape[:2] or labels.min() < 0:
            raise UserError(
                f"The labels are {labels.dtype} {list(labels.shape)}. Give class ids, integers "
                f"{list(pixels.shape[:2])} as the image has pixels."
            )
        return overlays.overlay(self._dataset.displayed(pixels), labels, self.colors, opacity)

    def _pixels(self, image: Image) -> np.ndarray:
        """Returns an image as the network takes it, uint8 [H, W, channels]."""
        if isinstance(image, str | os.PathLike):
            with files.local_copy(os.path.expanduser(image)) as copy:
                return band_files.read_image(copy, self._dataset)
        bands = self._dataset.bands
        if not bands:
            return image_files.image_of_array(image)
        pixels = np.asarray(image)
        if pixels.ndim != 3 or pixels.shape[2] != len(bands) or pixels.dtype.kind not in "uif":
            raise UserError(
                f"The image is {pixels.dtype} {list(pixels.shape)}. Give numbers "
                f"[H, W, {len(bands)}]: the bands {', '.join(band.name for band in bands)}."
            )
        return pixels if pixels.dtype == np.uint8 else band_files.scaled(pixels, None, bands)


def load_run(run_dir: str | os.PathLike, *, checkpoint: str = "best") -> LoadedRun:
    """Loads a trained run, to label images in a notebook.

    Args:
        run_dir: Folder that `deeplab_tf.train`, `deeplab_tf.import_checkpoint` or
            `deeplab_tf.export.hub` wrote; name of released weights (`python -m deeplab_tf.zoo
            list`), which are downloaded if necessary; or the address "hf://USER/REPO" of a
            published run.
        checkpoint: "best", the weights with the highest validation mIoU (the last ones without a
            validation), or "last".

    Returns:
        A `LoadedRun`, with `class_names`, `colors`, `predict(image)` and `overlay(image, labels)`.

    Raises:
        UserError: The folder is not a run dir, is damaged, or has no weights yet; or the address
            cannot be downloaded.

    Example:

    >>> import deeplab_tf
    >>> import numpy as np
    >>> run = deeplab_tf.load_run("RUN_DIR")
    >>> image = np.zeros((65, 97, 3), np.uint8)
    >>> labels = run.predict(image)
    >>> labels.shape, labels.dtype
    ((65, 97), dtype('uint8'))
    >>> run.overlay(image, labels).shape
    (65, 97, 3)
    """
    folder = os.fspath(run_dir)
    if folder in zoo.ENTRIES:
        folder = imported_run.run_dir_of_release(folder)
    run = run_dirs.read(os.path.expanduser(folder))
    return LoadedRun(run, Inference(checkpoint=checkpoint))
