"""What all dataset builders share: the features of a record, and the checks on a picture and label.

A builder (`datasets/<name>/<name>_dataset_builder.py`) finds pictures and labels; this module makes
records of them, under the keys of the original DeepLab.
"""

import io
import pathlib
from collections.abc import Iterable
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from deeplab_tf.errors import UserError

# Decoded to three channels all the same: grey is repeated, palettes looked up, alpha dropped.
IMAGE_MODES = ("RGB", "L", "P", "RGBA", "LA")
LABEL_MODES = ("1", "L", "P", "I;16", "I")
EXIF_ORIENTATION = 0x0112


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose records have the keys, and the file names, of the original DeepLab."""

    def _get_filename_template(self, split_name: str):
        # `<split>-00000-of-00004.tfrecord`: what DeepLab readers find by `<split>-*`. TFDS keeps
        # the template in dataset_info.json and reads the folder back by it.
        template = super()._get_filename_template(split_name)
        return template.replace(template="{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}")

    def _generate_examples(self, pairs: Iterable[tuple[pathlib.Path, pathlib.Path]]):
        """Yields key and example of (image file, label file) pairs."""
        num_classes = len(self.info.metadata["class_names"])
        ignore_label = self.info.metadata["ignore_label"]
        seen = set()
        for image_path, label_path in pairs:
            if image_path.stem in seen:
                raise UserError(f"{image_path} is listed twice in one split: take it off once")
            seen.add(image_path.stem)
            yield image_path.stem, read_example(image_path, label_path, num_classes, ignore_label)

    def dataset_info(
        self,
        class_names: Sequence[str] = (),
        colors: Sequence[tuple[int, int, int]] = (),
        ignore_label: int = 255,
        **kwargs,
    ) -> tfds.core.DatasetInfo:
        """Returns what `_info` has to return.

        Args:
            class_names: One per class id; may be set later, by `self.info.metadata.update`.
            colors: RGB per class.
            ignore_label: Label of pixels that do not count.
            **kwargs: For `tfds.core.DatasetInfo`, e.g. `homepage`.
        """
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({
                "image": {
                    # No encoding is given: the bytes of a file stay as they are.
                    "encoded": tfds.features.Image(),
                    "filename": tfds.features.Text(),
                    "format": tfds.features.Text(),
                    "height": np.int64,
                    "width": np.int64,
                    "channels": np.int64,
                    "segmentation": {
                        "class": {
                            "encoded": tfds.features.Image(
                                shape=(None, None, 1), encoding_format="png", use_colormap=True
                            ),
                            "format": tfds.features.Text(),
                        }
                    },
                }
            }),
            metadata=tfds.core.MetadataDict(
                class_names=list(class_names),
                colors=[list(color) for color in colors],
                ignore_label=ignore_label,
            ),
            **kwargs,
        )


def encode_example(
    name: str, image_bytes: bytes, image_format: str, label: np.ndarray
) -> dict[str, dict]:
    """Returns one example for TFDS to write.

    Args:
        name: Of the picture, without extension.
        image_bytes: JPEG or PNG, written as it is.
        image_format: "jpeg" or "png".
        label: uint8 `[H, W]`, class ids and the ignore label.
    """
    height, width = label.shape
    return {
        "image": {
            "encoded": io.BytesIO(image_bytes),
            "filename": name,
            "format": image_format,
            "height": height,
            "width": width,
            "channels": 3,
            "segmentation": {
                "class": {
                    "encoded": io.BytesIO(cv2.imencode(".png", label)[1].tobytes()),
                    "format": "png",
                }
            },
        }
    }


def read_example(
    image_path: pathlib.Path, label_path: pathlib.Path, num_classes: int, ignore_label: int
) -> dict[str, dict]:
    """Reads a picture and its label, checks them, and returns one example for TFDS to write.

    Args:
        image_path: A JPEG or PNG; its bytes go into the record as they are.
        label_path: A PNG of class ids, greyscale or with a palette (whose indices are the ids).
        num_classes: Ids are 0 .. num_classes - 1 ...
        ignore_label: ... or this.

    Raises:
        UserError: One of the files is missing or damaged, or does not fit the other.
    """
    image_bytes, image_format, image_size = read_image(image_path)
    label = read_label(label_path, num_classes, ignore_label)
    label_size = (label.shape[1], label.shape[0])
    if label_size != image_size:
        raise UserError(
            "image and label differ in size (width x height): {}x{} in {}, {}x{} in {}; a label "
            "has one pixel per pixel of its image".format(
                *image_size, image_path, *label_size, label_path
            )
        )
    return encode_example(image_path.stem, image_bytes, image_format, label)


def read_image(path: pathlib.Path) -> tuple[bytes, str, tuple[int, int]]:
    """Returns a picture file's bytes, its format ("jpeg" or "png") and (width, height) in pixels.

    Raises:
        UserError: It is missing, damaged, or would not be read the same by everyone.
    """
    image_bytes, image = _open(path, "image")
    if image.format not in ("JPEG", "PNG"):
        raise UserError(f"{path} is a {image.format} file; images are JPEG or PNG: convert it")
    if image.mode not in IMAGE_MODES:
        raise UserError(
            f"{path} has pixels of mode {image.mode}; images are 8-bit RGB or greyscale: convert it"
        )
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        # TensorFlow shows the stored pixels, most viewers and label tools the turned ones.
        raise UserError(
            f"{path} is to be turned when shown (EXIF orientation {orientation}), so that it is "
            "not clear which way its label lies: turn the pixels themselves, for instance by "
            "`mogrify -auto-orient`"
        )
    return image_bytes, image.format.lower(), image.size


def read_label(path: pathlib.Path, num_classes: int, ignore_label: int) -> np.ndarray:
    """Returns a label file's class ids, uint8 `[H, W]`.

    Raises:
        UserError: It is missing, damaged, in colours instead of ids, or has ids out of range.
    """
    _, image = _open(path, "label")
    if image.format != "PNG":
        raise UserError(
            f"{path} is a {image.format} file; labels are PNGs, whose compression keeps every id"
        )
    if image.mode not in LABEL_MODES:
        raise UserError(
            f"{path} is a colour picture (mode {image.mode}); labels are one-channel PNGs whose "
            "pixel values are class ids: replace every colour by its id first"
        )
    label = np.array(image)
    ids = np.unique(label)
    wrong = [int(i) for i in ids if not 0 <= i < num_classes and i != ignore_label]
    if wrong:
        listed = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
        raise UserError(
            f"id{'s' * (len(wrong) > 1)} {listed} in label {path}, but there are {num_classes} "
            f"classes (0..{num_classes - 1}) and ignore_label {ignore_label}: map the ids into "
            "this range, or name more classes"
        )
    return label.astype(np.uint8)


def read_split_lists(
    folder: pathlib.Path, splits: Sequence[str], remedy: str
) -> dict[str, list[str]]:
    """Returns the lines of `<split>.txt` for every split that has such a list.

    Args:
        folder: Where the lists are.
        splits: Names of the splits that may be there.
        remedy: What to do if none is.

    Raises:
        UserError: There is no list, or one is empty.
    """
    lists = {split: folder / f"{split}.txt" for split in splits}
    lines = {}
    for split, path in lists.items():
        if not path.exists():
            continue
        lines[split] = [line.strip() for line in path.read_text("utf-8").splitlines()]
        lines[split] = [line for line in lines[split] if line]
        if not lines[split]:
            raise UserError(f"{path} is empty: list the pictures of the split, or delete it")
    if not lines:
        wanted = ", ".join(path.name for path in lists.values())
        raise UserError(f"there is no split list ({wanted}) in {folder}.\n{remedy}")
    return lines


def _open(path: pathlib.Path, kind: str) -> tuple[bytes, PIL.Image.Image]:
    """Returns a file's bytes and the picture, decoded to its last row."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"there is no {kind} {path}")
    content = path.read_bytes()
    try:
        image = PIL.Image.open(io.BytesIO(content))
        image.load()
    except PIL.UnidentifiedImageError as error:
        raise UserError(f"{kind} {path} is no picture, or a damaged one: replace it") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        raise UserError(
            f"{kind} {path} cannot be decoded to its end ({error}): replace it"
        ) from error
    return content, image
