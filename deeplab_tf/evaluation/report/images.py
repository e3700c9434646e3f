"""Images on the page: image, label, prediction and errors side by side."""

import base64
import dataclasses
import io

import cv2
import numpy as np
from PIL import Image

from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.drawing import palettes
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation.report import markup

LONGEST_SIDE = 512  # of an image on the page, pixels
_JPEG_QUALITY = 82


@dataclasses.dataclass(frozen=True)
class Shown:
    """An image to be shown with what was predicted for it."""

    name: str
    miou: float
    image: np.ndarray  # uint8 [H, W, 3]
    label: np.ndarray  # int32 [H, W]
    prediction: np.ndarray  # int32 [H, W]

    def iou_per_class(self, info: DatasetInfo) -> dict[int, float]:
        """IoU by id of the classes in label or prediction, the lowest first."""
        matrix = metrics.confusion_matrix(
            self.label, self.prediction, info.num_classes, info.ignore_label
        )
        ious = metrics.segmentation_metrics(matrix, info.class_names)["iou_per_class"]
        present = [(iou, index) for index, iou in enumerate(ious.values()) if iou is not None]
        return {index: iou for iou, index in sorted(present)}

    @property
    def smaller(self) -> "Shown":
        """The same with no side longer than `LONGEST_SIDE`; classes are never interpolated."""
        scale = min(1.0, LONGEST_SIDE / max(self.label.shape))
        size = tuple(max(1, round(side * scale)) for side in self.label.shape[::-1])
        label, prediction = (
            cv2.resize(classes.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
            for classes in (self.label, self.prediction)
        )
        image = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        return dataclasses.replace(self, image=image, label=label, prediction=prediction)


def article(shown: Shown, number: int, info: DatasetInfo) -> str:
    """The HTML of one image: four panels, and the classes in it by IoU.

    Args:
        shown: The image.
        number: Its place among those shown, counted from 0.
        info: The classes.
    """
    name = shown.name or f"image {number + 1}"
    counts = shown.label != info.ignore_label
    is_wrong = counts & (shown.label != shown.prediction)
    wrong = markup.percent(np.count_nonzero(is_wrong) / max(1, np.count_nonzero(counts)))
    small = shown.smaller
    # Beyond all classes: painted as no class even where the ignore label is the id of one.
    label = np.where(small.label == info.ignore_label, info.num_classes, small.label)
    panels = {
        "image": (f"Image {name}", _jpeg(small.image)),
        "label": (f"Label of {name}", _png(palettes.colorize(label, info.colors, -1))),
        "prediction": (
            f"Prediction for {name}", _png(palettes.colorize(small.prediction, info.colors, -1))
        ),
        f"errors, {wrong}": (
            f"Errors in {name}: {wrong} of the pixels, in the colours of the classes that they "
            "were taken for", _jpeg(_errors(small.image, label, small.prediction, info))
        ),
    }  # fmt: skip
    height, width = small.label.shape
    figures = "".join(
        '<figure><button type="button" class="panel">'
        f'<img src="{uri}" alt="{markup.escape(alt)}" width="{width}" height="{height}" '
        f'decoding="async"></button><figcaption>{caption}</figcaption></figure>'
        for caption, (alt, uri) in panels.items()
    )
    classes = "".join(
        f'<li data-class="{index}" data-iou="{iou:.4f}">'
        f"{markup.class_button(index, info.class_names[index], info.colors[index])} "
        f"{markup.percent(iou)}</li>"
        for index, iou in shown.iou_per_class(info).items()
    )
    return (
        f'<article id="image-{number}" data-name="{markup.escape(name)}">'
        f"<h4>{markup.escape(name)} <span>mIoU {markup.percent(shown.miou)}</span></h4>"
        f'<div class="panels">{figures}</div>'
        f'<ul class="classes" aria-label="IoU by class, the lowest first">{classes}</ul></article>'
    )


def _errors(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, info: DatasetInfo
) -> np.ndarray:
    """A pale image on which wrong pixels have the colour of the class they were taken for."""
    # Pale, since the colours of most classes are dark, and the background's is black.
    grey = 160 + cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 3
    errors = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    is_wrong = (label != prediction) & (label != info.num_classes)
    errors[is_wrong] = palettes.colorize(prediction, info.colors, -1)[is_wrong]
    return errors


def _jpeg(image: np.ndarray) -> str:
    # Without subsampling of colours, which would wash out the borders of what is wrong; and not
    # optimized, since Pillow's buffer for that is too small for noise.
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
