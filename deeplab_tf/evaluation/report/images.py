"""The images on the page: image, label, prediction and errors side by side."""

import base64
import dataclasses
import io

import cv2
import numpy as np
from PIL import Image

from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.drawing import palettes
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation.report import formats

LONGEST_SIDE = 512  # of an image on the page, pixels
_JPEG_QUALITY = 82


@dataclasses.dataclass(frozen=True)
class Shown:
    """An image to show with what was predicted for it."""

    name: str
    miou: float
    image: np.ndarray  # uint8 [H, W, 3]
    label: np.ndarray  # int32 [H, W]
    prediction: np.ndarray  # int32 [H, W]

    def iou_per_class(self, info: DatasetInfo) -> dict[int, float]:
        """Returns the IoU of the classes in label or prediction by id, the lowest first."""
        matrix = metrics.confusion_matrix(
            self.label, self.prediction, info.num_classes, info.ignore_label
        )
        ious = metrics.segmentation_metrics(matrix, info.class_names)["iou_per_class"]
        present = [(iou, index) for index, iou in enumerate(ious.values()) if iou is not None]
        return {index: iou for iou, index in sorted(present)}

    def error_share(self, info: DatasetInfo) -> float:
        """Returns the share of the counted pixels that are wrong."""
        counted = self.label != info.ignore_label
        is_wrong = counted & (self.label != self.prediction)
        return int(is_wrong.sum()) / max(1, int(counted.sum()))

    def smaller(self) -> "Shown":
        """Returns the same with no side over `LONGEST_SIDE`; classes are never interpolated."""
        scale = min(1.0, LONGEST_SIDE / max(self.label.shape))
        size = tuple(max(1, round(side * scale)) for side in self.label.shape[::-1])
        label, prediction = (
            cv2.resize(classes.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
            for classes in (self.label, self.prediction)
        )
        image = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        return dataclasses.replace(self, image=image, label=label, prediction=prediction)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One of the four views of an image."""

    caption: str
    alt: str  # for those who cannot see it
    uri: str  # the image itself


def panels(shown: Shown, name: str, info: DatasetInfo) -> list[Panel]:
    """Draws an image, its label, its prediction and its errors.

    Args:
        shown: The image.
        name: Name of the image.
        info: The classes.
    """
    wrong = formats.percent(shown.error_share(info))
    small = shown.smaller()
    # Beyond all classes: painted as no class even if the ignore label is the id of one.
    label = np.where(small.label == info.ignore_label, info.num_classes, small.label)
    errors = _errors(small.image, label, small.prediction, info)
    painted_label = palettes.colorize(label, info.colors, -1)
    painted_prediction = palettes.colorize(small.prediction, info.colors, -1)
    return [
        Panel("image", f"Image {name}", _jpeg(small.image)),
        Panel("label", f"Label of {name}", _png(painted_label)),
        Panel("prediction", f"Prediction for {name}", _png(painted_prediction)),
        Panel(
            f"errors, {wrong}",
            f"Errors in {name}: {wrong} of the pixels, in the colours of the predicted classes",
            _jpeg(errors),
        ),
    ]


def _errors(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, info: DatasetInfo
) -> np.ndarray:
    """A pale image on which wrong pixels have the colour of the predicted class."""
    # Pale, since the colours of most classes are dark, and the background's is black.
    grey = 160 + cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 3
    errors = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    is_wrong = (label != prediction) & (label != info.num_classes)
    errors[is_wrong] = palettes.colorize(prediction, info.colors, -1)[is_wrong]
    return errors


def _jpeg(image: np.ndarray) -> str:
    # Colours are not subsampled, which would wash out the borders of errors; and not optimized,
    # since Pillow's buffer for that is too small for noise.
    options = {"quality": _JPEG_QUALITY, "subsampling": 0}
    return _data_uri(Image.fromarray(image), "jpeg", options)


def _png(painted: np.ndarray) -> str:
    image = Image.fromarray(painted)
    if (colors := image.getcolors(256)) is not None:
        image = image.quantize(len(colors), dither=Image.Dither.NONE)
    return _data_uri(image, "png", {"optimize": True})


def _data_uri(image: Image.Image, kind: str, options: dict) -> str:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
