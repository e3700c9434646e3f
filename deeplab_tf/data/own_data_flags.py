"""The flags that say what is known about a folder of images and labels.

`datasets.build` and `check_data` have them in common.
"""

from absl import flags

from deeplab_tf.data import label_files
from deeplab_tf.data import own_data
from deeplab_tf.data.annotations import formats
from deeplab_tf.data.annotations.common import Options


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_enum(
        "format", formats.AUTO, (formats.AUTO, *formats.FORMATS), "Format of the labels."
    )
    flags.DEFINE_enum(
        "label_encoding", "auto", ("auto", *label_files.ENCODINGS), "How label images hold classes."
    )
    flags.DEFINE_string("label_suffix", "", "What the names of label images end in, e.g. _mask.")
    flags.DEFINE_string("classes", "", "File of class names: NAME or NAME RED GREEN BLUE a line.")
    flags.DEFINE_float(
        "val_share", 0.2, "Share of the images for validation, where there is no such split.",
        lower_bound=0, upper_bound=0.9,
    )  # fmt: skip
    flags.DEFINE_enum(
        "unlabeled", None, ("background", "ignore"), "What pixels are that no annotation covers."
    )
    flags.DEFINE_enum("crowd", "ignore", ("ignore", "class"), "What COCO's crowd regions are.")
    flags.DEFINE_integer("line_width", 10, "Width of annotated lines, in pixels.", lower_bound=1)


def read() -> own_data.OwnDataOptions:
    """Returns what the flags say."""
    values = flags.FLAGS
    return own_data.OwnDataOptions(
        format=values.format,
        label_encoding=None if values.label_encoding == "auto" else values.label_encoding,
        label_suffix=values.label_suffix,
        classes=values.classes,
        val_share=values.val_share,
        drawing=Options(values.unlabeled, values.crowd, values.line_width),
    )
