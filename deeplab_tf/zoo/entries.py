"""The checkpoints that the authors of DeepLab released, and the settings of their networks.

None of them was downloaded for this table: names, addresses, figures and sizes are those of the
original's model zoo of March 2020.
"""

import dataclasses
import difflib
import os
import typing
from collections.abc import Mapping

from deeplab_tf.errors import UserError

# The authors' server. A mirror with the same file names can take its place.
_SERVER = "http://download.tensorflow.org/models"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A released checkpoint.

    Attributes:
        name: Its name in flags and arguments.
        archive: File name of its archive on the server, or the whole address. Weights of Keras
            Applications are a file ending in `.h5`.
        model: The arguments of `deeplab_tf.build_model`, without `num_classes`; for a classifier
            trained on ImageNet only `backbone` and `depth_multiplier`.
        data: What the weights were trained on: a key of `DATA_TERMS`.
        published: The authors' figures; mIoU in percent on the validation split unless it says
            otherwise. `OS` is the output stride.
        megabytes: Size of the archive; None where it is not published.
        records: How this network was trained and evaluated on its data: arguments of a
            `DataConfig` that differ from `RECORDS`.
    """

    name: str
    archive: str
    model: Mapping[str, typing.Any]
    data: str
    published: str = ""
    megabytes: float | None = None
    records: Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)

    @property
    def url(self) -> str:
        """Address of the archive; DEEPLAB_TF_ZOO_URL names a mirror that has all archives."""
        mirror = os.environ.get("DEEPLAB_TF_ZOO_URL")
        if "://" in self.archive and not mirror:
            return self.archive
        return f"{(mirror or _SERVER).rstrip('/')}/{self.file_name}"

    @property
    def file_name(self) -> str:
        """Name of the archive, or of the file of Keras Applications."""
        return self.archive.rpartition("/")[2]

    @property
    def is_archive(self) -> bool:
        """Whether the weights are in an archive."""
        return not self.archive.endswith(".h5")

    @property
    def is_backbone(self) -> bool:
        """Whether the checkpoint holds a backbone alone, without a DeepLab head."""
        return self.data == "imagenet"

    @property
    def data_settings(self) -> dict[str, typing.Any]:
        """The arguments of a `DataConfig` for the data of a whole network."""
        return {"dataset": self.data, **RECORDS[self.data], **self.records}


# The splits and the training crops of the original's documentation, by data.
RECORDS: dict[str, Mapping[str, typing.Any]] = {
    "voc2012": {"train_split": "train_aug", "val_split": "val", "train_crop_size": (513, 513)},
    "cityscapes": {
        "train_split": "train_fine",
        "val_split": "val_fine",
        "train_crop_size": (769, 769),
    },
    "ade20k": {"train_split": "train", "val_split": "val", "train_crop_size": (513, 513)},
}

# The terms of the data, which also apply to weights trained on it. The weights themselves were
# released with the code, under Apache-2.0.
DATA_TERMS = {
    "voc2012": "VOC 2012 and COCO: terms of Flickr",
    "cityscapes": "Cityscapes: non-commercial",
    "ade20k": "ADE20K: non-commercial research",
    "imagenet": "ImageNet: non-commercial research",
}


def _mobilenet_v2(depth_multiplier: float = 1.0) -> dict:
    """v3 on MobileNetV2 with the light head: no atrous branches."""
    return {
        "version": "v3",
        "backbone": "mobilenet_v2",
        "depth_multiplier": depth_multiplier,
        "atrous_rates": (),
        "output_stride": 16,
    }


def _v3plus(backbone: str, **settings) -> dict:
    return {"version": "v3plus", "backbone": backbone, "output_stride": 16, **settings}


def _mobilenet_v3(backbone: str) -> dict:
    """Lite R-ASPP, whose settings are the defaults of these backbones."""
    return {"version": "v3plus", "backbone": backbone, "output_stride": 32}


# arXiv:1809.04184, figure 5: the cell that the released Xception-71 has in place of the ASPP.
_CELL = (
    '[{"op": "conv", "kernel": 3, "rate": [1, 6], "input": -1}, '
    '{"op": "conv", "kernel": 3, "rate": [18, 15], "input": 0}, '
    '{"op": "conv", "kernel": 3, "rate": [6, 3], "input": 1}, '
    '{"op": "conv", "kernel": 3, "rate": [1, 1], "input": 0}, '
    '{"op": "conv", "kernel": 3, "rate": [6, 21], "input": 0}]'
)

_ENTRIES = (
    Entry(
        "mobilenetv2_dm05_coco_voc_trainaug",
        "deeplabv3_mnv2_dm05_pascal_trainaug_2018_10_01.tar.gz",
        _mobilenet_v2(0.5),
        "voc2012",
        "OS16 70.19",
        7.6,
    ),
    Entry(
        "mobilenetv2_dm05_coco_voc_trainaug_8bit",
        "deeplabv3_mnv2_dm05_pascal_train_aug_8bit_2019_04_26.tar.gz",
        _mobilenet_v2(0.5),
        "voc2012",
        "OS16 69.65 in 8 bits",
    ),
    Entry(
        "mobilenetv2_dm05_coco_voc_trainval",
        "deeplabv3_mnv2_dm05_pascal_trainval_2018_10_01.tar.gz",
        _mobilenet_v2(0.5),
        "voc2012",
        "OS8 71.83 test",
        7.6,
        {"train_split": "trainval"},
    ),
    Entry(
        "mobilenetv2_coco_voc_trainaug",
        "deeplabv3_mnv2_pascal_train_aug_2018_01_29.tar.gz",
        _mobilenet_v2(),
        "voc2012",
        "OS16 75.32; OS8, scales, flips 77.33",
        23,
    ),
    Entry(
        "mobilenetv2_coco_voc_trainaug_8bit",
        "deeplabv3_mnv2_pascal_train_aug_8bit_2019_04_26.tar.gz",
        _mobilenet_v2(),
        "voc2012",
        "OS16 74.26 in 8 bits",
    ),
    Entry(
        "mobilenetv2_coco_voc_trainval",
        "deeplabv3_mnv2_pascal_trainval_2018_01_29.tar.gz",
        _mobilenet_v2(),
        "voc2012",
        "OS8, scales, flips 80.25 test",
        23,
        {"train_split": "trainval"},
    ),
    Entry(
        "xception65_coco_voc_trainaug",
        "deeplabv3_pascal_train_aug_2018_01_04.tar.gz",
        _v3plus("xception_65"),
        "voc2012",
        "OS16 82.20; OS8, scales, flips 83.58",
        439,
    ),
    Entry(
        "xception65_coco_voc_trainval",
        "deeplabv3_pascal_trainval_2018_01_04.tar.gz",
        _v3plus("xception_65"),
        "voc2012",
        "OS8, scales, flips 87.80 test",
        439,
        {"train_split": "trainval"},
    ),
    Entry(
        "mobilenetv2_coco_cityscapes_trainfine",
        "deeplabv3_mnv2_cityscapes_train_2018_02_05.tar.gz",
        _mobilenet_v2(),
        "cityscapes",
        "OS16 70.71; OS8, scales, flips 73.57",
        23,
    ),
    Entry(
        "mobilenetv3_large_cityscapes_trainfine",
        "deeplab_mnv3_large_cityscapes_trainfine_2019_11_15.tar.gz",
        _mobilenet_v3("mobilenet_v3_large_seg"),
        "cityscapes",
        "OS32 72.41",
        17,
    ),
    Entry(
        "mobilenetv3_small_cityscapes_trainfine",
        "deeplab_mnv3_small_cityscapes_trainfine_2019_11_15.tar.gz",
        _mobilenet_v3("mobilenet_v3_small_seg"),
        "cityscapes",
        "OS32 68.99",
        5,
    ),
    Entry(
        "xception65_cityscapes_trainfine",
        "deeplabv3_cityscapes_train_2018_02_06.tar.gz",
        _v3plus("xception_65"),
        "cityscapes",
        "OS16 78.79; OS8, scales, flips 80.42",
        439,
    ),
    Entry(
        "xception71_dpc_cityscapes_trainfine",
        "deeplab_cityscapes_xception71_trainfine_2018_09_08.tar.gz",
        _v3plus("xception_71", dense_prediction_cell_json=_CELL),
        "cityscapes",
        "OS16 80.31",
        445,
    ),
    Entry(
        "xception71_dpc_cityscapes_trainval",
        "deeplab_cityscapes_xception71_trainvalfine_2018_09_08.tar.gz",
        _v3plus("xception_71", dense_prediction_cell_json=_CELL),
        "cityscapes",
        "OS8, scales, flips 82.66 test",
        446,
        {"train_split": "trainval_fine"},
    ),
    Entry(
        "mobilenetv2_ade20k_train",
        "deeplabv3_mnv2_ade20k_train_2018_12_03.tar.gz",
        _v3plus("mobilenet_v2", atrous_rates=()),
        "ade20k",
        "OS16 32.04",
        24.8,
        {
            "min_resize_value": 257,
            "max_resize_value": 257,
            "resize_factor": 16,
            "train_crop_size": (257, 257),
        },
    ),
    Entry(
        "xception65_ade20k_train",
        "deeplabv3_xception_ade20k_train_2018_05_29.tar.gz",
        _v3plus("xception_65"),
        "ade20k",
        "OS8, scales, flips 45.65",
        439,
        {"min_resize_value": 513, "max_resize_value": 513, "resize_factor": 16},
    ),
    Entry(
        "edgetpu_deeplab",
        "edgetpu-deeplab_2020_03_09.tar.gz",
        {
            "version": "v3",
            "backbone": "mobilenet_edgetpu",
            "atrous_rates": (),
            "aspp_convs_filters": 256,
            "output_stride": 32,
        },
        "cityscapes",
        "OS32 70.6; OS16 74.1",
    ),
    Entry(
        "edgetpu_deeplab_slim",
        "edgetpu-deeplab-slim_2020_03_09.tar.gz",
        {
            "version": "v3",
            "backbone": "mobilenet_edgetpu",
            "depth_multiplier": 0.75,
            "atrous_rates": (),
            "aspp_convs_filters": 128,
            "output_stride": 32,
        },
        "cityscapes",
        "OS32 70.0; OS16 73.2",
    ),
    Entry(
        "xception_41_imagenet",
        "xception_41_2018_05_09.tar.gz",
        {"backbone": "xception_41"},
        "imagenet",
        megabytes=288,
    ),
    Entry(
        "xception_65_imagenet",
        "deeplabv3_xception_2018_01_04.tar.gz",
        {"backbone": "xception_65"},
        "imagenet",
        "top-1 error 20.19",
        447,
    ),
    Entry(
        "xception_65_imagenet_coco",
        "xception_65_coco_pretrained_2018_10_02.tar.gz",
        {"backbone": "xception_65"},
        "imagenet",
        "trained further on COCO",
        292,
    ),
    Entry(
        "xception_71_imagenet",
        "xception_71_2018_05_09.tar.gz",
        {"backbone": "xception_71"},
        "imagenet",
        megabytes=474,
    ),
    Entry(
        "resnet_v1_50_beta_imagenet",
        "resnet_v1_50_2018_05_04.tar.gz",
        {"backbone": "resnet_v1_50_beta"},
        "imagenet",
        megabytes=274,
    ),
    Entry(
        "resnet_v1_101_beta_imagenet",
        "resnet_v1_101_2018_05_04.tar.gz",
        {"backbone": "resnet_v1_101_beta"},
        "imagenet",
        "top-1 error 22.40",
        477,
    ),
    # Of TensorFlow's image classification models, for backbones.
    Entry(
        "mobilenet_v2_imagenet",
        "https://storage.googleapis.com/mobilenet_v2/checkpoints/mobilenet_v2_1.0_224.tgz",
        {"backbone": "mobilenet_v2"},
        "imagenet",
    ),
    Entry(
        "resnet_v1_50_imagenet",
        "resnet_v1_50_2016_08_28.tar.gz",
        {"backbone": "resnet_v1_50"},
        "imagenet",
    ),
    Entry(
        "resnet_v1_101_imagenet",
        "resnet_v1_101_2016_08_28.tar.gz",
        {"backbone": "resnet_v1_101"},
        "imagenet",
    ),
    Entry(
        "vgg_16_imagenet",
        "vgg_16_2016_08_28.tar.gz",
        {"backbone": "vgg_16"},
        "imagenet",
    ),
    # Of Keras Applications: the networks that compute what the backbones here compute.
    Entry(
        "mobilenet_v2_imagenet_keras",
        f"{_KERAS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
        {"backbone": "mobilenet_v2"},
        "imagenet",
    ),
    Entry(
        "vgg_16_imagenet_keras",
        f"{_KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        {"backbone": "vgg_16"},
        "imagenet",
    ),
)
ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def find_entry(name: str) -> Entry:
    """Returns the entry of a name.

    Raises:
        UserError: There is no such name; the message suggests the nearest ones.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    close = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(close)}? " if close else ""
    raise UserError(
        f"{name!r} is neither a checkpoint nor the name of released weights. {hint}"
        "`python -m deeplab_tf.zoo list` shows all names."
    )


def imagenet_entries(backbone: str) -> list[Entry]:
    """Returns the ImageNet classifiers that a backbone can start from, the original's first."""
    names = (f"{backbone}_imagenet", f"{backbone}_imagenet_keras")
    return [ENTRIES[name] for name in names if name in ENTRIES]
