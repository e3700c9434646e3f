"""What can be wrong with images and labels: the kinds of problems, and their error.

Building, checking, training and evaluation read files and records by the same functions, which
raise a `DataProblem`. So they agree about what is usable.
"""

import dataclasses

from deeplab_tf.errors import UserError

ERROR, WARNING = "error", "warning"  # not fit to train; to be looked at


@dataclasses.dataclass(frozen=True)
class Kind:
    """A problem that a single image, label, record or shard can have.

    Attributes:
        severity: `ERROR` or `WARNING`.
        what: What has the problem, in the plural, for reports.
        remedy: What to do about it, a sentence.
    """

    severity: str
    what: str
    remedy: str


KINDS = {
    "shard_damaged": Kind(
        ERROR, "shards damaged or cut off, whose other records were not read",
        "Copy the shard again, or build the records again.",
    ),
    "record_count": Kind(
        ERROR, "shards with another number of records than dataset_info.json says",
        "Copy the whole folder again, or build the records again.",
    ),
    "record_unreadable": Kind(
        ERROR, "records that are not a tf.train.Example with the keys of DeepLab",
        "Build the records again.",
    ),
    "image_damaged": Kind(
        ERROR, "images damaged or cut off", "Replace the image, or remove it with its label.",
    ),
    "image_format": Kind(
        ERROR, "images that are not an 8-bit RGB or grey JPEG or PNG",
        "Convert the image to an 8-bit RGB JPEG or PNG.",
    ),
    "image_too_large": Kind(
        ERROR, "images or labels larger than the limit, which were not decoded",
        "If that is the true size, raise the limit with --max_image_pixels, or cut the image up.",
    ),
    "image_missing": Kind(
        ERROR, "labels, records, or lines of a list, without an image",
        "Add the image under the label's name, or remove the label or the line.",
    ),
    "label_missing": Kind(
        ERROR, "images without a label",
        "Add a label with the image's name (only the extension may differ), or remove the image.",
    ),
    "same_name": Kind(
        ERROR, "files that differ from another one only in the extension",
        "Rename one of the two, with its label, or remove it.",
    ),
    "label_damaged": Kind(
        ERROR, "labels damaged, cut off, or without class ids", "Replace the label.",
    ),
    "label_jpeg": Kind(
        ERROR, "labels that are JPEGs, whose compression changes ids",
        "Export the labels again, as PNG. Converting the JPEGs does not bring the ids back.",
    ),
    "label_colors": Kind(
        ERROR, "labels in colours, which are not class ids",
        "Give the colour of every class (NAME RED GREEN BLUE, one class a line) in classes.txt or "
        "with --classes, or replace every colour by its id. For masks in two colours such as "
        "black and white, give --label_encoding=mask.",
    ),
    "size_mismatch": Kind(
        ERROR, "labels that differ in size from their image",
        "Export the label at the image's size, resized to the nearest id, never interpolated.",
    ),
    "size_field": Kind(
        WARNING, "records whose image/height or image/width is not that of the image",
        "Nothing here reads these fields, but other programs do: build the records again.",
    ),
    "ids_out_of_range": Kind(
        ERROR, "labels with ids that are neither a class nor the ignore label",
        "Map the ids into this range, or name more classes (--num_classes, --classes). One id "
        "that means `not labelled` is given by --ignore_label.",
    ),
    "exif_rotation": Kind(
        ERROR, "images that viewers turn (EXIF orientation), while training sees them as stored",
        "Turn the pixels, for instance by `mogrify -auto-orient`, and check that the labels fit.",
    ),
    "leak": Kind(
        ERROR, "images that are in another split too, which spoils evaluation",
        "Remove the image from one of the splits.",
    ),
    "near_leak": Kind(
        WARNING,
        "images that show nearly the same as one in another split (compressed again, resized, "
        "mirrored)",
        "Put both into one split: otherwise the figures look better than they are.",
    ),
    "duplicate": Kind(
        WARNING, "images that are in their split more than once", "Remove all copies but one.",
    ),
    "all_ignored": Kind(
        WARNING, "labels with ignored pixels only",
        "Remove the image and the label: they teach nothing.",
    ),
}  # fmt: skip


class DataProblem(UserError):
    """Something is wrong with one image, label or record.

    Args:
        kind: A key of `KINDS`.
        detail: What is wrong, a phrase whose subject is the image, label or record: "is a JPEG".
        subject: "image", "label" or "record".
        name: File or record; empty where only the caller knows it.
        remedy: What to do; by default that of the kind.
    """

    def __init__(
        self, kind: str, detail: str, *, subject: str = "image", name: str = "", remedy: str = ""
    ):
        self.kind = kind
        self.detail = detail
        self.subject = subject
        self.name = name
        self.remedy = remedy or KINDS[kind].remedy
        who = name if name and subject == "image" else f"{subject} {name}".strip()
        super().__init__(f"{who} {detail}. {self.remedy}")

    def named(self, name: str) -> "DataProblem":
        """Returns the same problem with the name of its file or record."""
        return DataProblem(
            self.kind, self.detail, subject=self.subject, name=name, remedy=self.remedy
        )

    @property
    def of_record(self) -> str:
        """Returns what is wrong as a sentence about a record: "its label is a JPEG"."""
        return (
            f"it {self.detail}" if self.subject == "record" else f"its {self.subject} {self.detail}"
        )
