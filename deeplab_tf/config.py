"""The configs: every setting of models, data, training and prediction, with its limits.

`command_line` makes flags of them, which carry the names of the official DeepLab flags where there
is one. Only the commands know flags: everything below takes configs or plain arguments. A command's
own flags are a config beside its `main`; those that several commands have are the functions below.
"""

import dataclasses

from deeplab_tf.errors import UserError
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import Config
from deeplab_tf.settings import setting

VERSIONS = ("v1", "v2", "v3", "v3plus")
BACKBONES = (
    "mobilenet_edgetpu",
    "mobilenet_v2",
    "mobilenet_v3_large_seg",
    "mobilenet_v3_small_seg",
    "resnet_v1_50",
    "resnet_v1_50_beta",
    "resnet_v1_101",
    "resnet_v1_101_beta",
    "vgg_16",
    "xception_41",
    "xception_65",
    "xception_71",
)
CRF_PRESETS = ("v1", "v2")
CRFS = ("", *CRF_PRESETS, "tuned")
OUTPUT_STRIDES = (4, 8, 16, 32)
MERGE_METHODS = ("max", "avg")
LOSS_TERMS = ("cross_entropy", "focal", "dice", "lovasz")  # each has a weight of its own
AUTO, TENSORFLOW = "auto", "tensorflow"
ENGINES = (AUTO, TENSORFLOW, "litert", "openvino", "onnxruntime")
CHECKPOINTS = ("best", "last")
LABEL_FORMATS = (
    "auto",
    "coco",
    "labelme",
    "cvat",
    "yolo",
    "label_studio",
    "masks_per_class",
    "masks_per_instance",
    "cvat_masks",
    "voc",
    "masks",
)
IMAGENET = "imagenet"  # of the weights of a backbone
NO_WEIGHTS = "none"
PNG, RECORDS = "png", "records"  # the forms in which labels are written
LABEL_ENCODINGS = ("auto", "palette", "grey", "color_map", "nearest_color", "mask", "array")


# Settings that several commands have. One name, one meaning.


def run_dir(default=REQUIRED):
    return setting(
        default,
        "Run dir: the folder of a training, with its settings, checkpoints and metrics.",
        is_path=True,
        is_common=True,
    )


def checkpoint():
    return setting(
        "best",
        "Weights of the run to use. best: those with the highest validation mIoU. last: the last "
        "ones.",
        choices=CHECKPOINTS,
    )


def engine(default: str):
    return setting(
        default,
        "Library that runs the network. auto: the fastest installed one whose labels agree with "
        "those of TensorFlow.",
        choices=ENGINES,
    )


def model():
    return setting(
        "",
        "SavedModel folder, .keras file or .tflite file to use in place of the run's checkpoint. "
        "A SavedModel is a program: load only models that you trust.",
        default_help="the checkpoint",
        is_path=True,
    )


def data_dir(default="", default_help=""):
    return setting(
        default,
        "Folder of the records, or the data_dir that was given to datasets.build.",
        default_help=default_help,
        is_path=True,
        is_common=True,
    )


def dataset():
    return setting("", "Name of the dataset, if data_dir has several.", is_common=True)


def split():
    return setting("", "Split to use.", default_help="the run's val_split", is_common=True)


def num_classes(default_help):
    return setting(None, "Number of classes.", default_help=default_help, at_least=1)


def ignore_label(default_help):
    return setting(None, "Label of pixels that are not counted.", default_help=default_help)


def classes(default_help):
    return setting(
        "",
        "Text file with one line for each class: NAME, or NAME RED GREEN BLUE.",
        default_help=default_help,
        is_path=True,
    )


def rgb_bands(default_help):
    return setting(
        (),
        "Numbers, from 1, of the bands of the records that are red, green and blue. Images are "
        "displayed with them. They get the pretrained weights of these colours; other bands get "
        "the mean of these weights.",
        default_help=default_help,
        at_least=1,
        length=3,
        example="3,2,1",
    )


def max_damaged_share(default, default_help=""):
    return setting(
        default,
        "Largest share of damaged records. They are left out and reported. The command stops if "
        "there are more than this share and more than one. 0: it stops at the first.",
        default_help=default_help,
        at_least=0,
        below=1,
        hint="it is a share, e.g. 0.01",
    )


def max_image_pixels(default, default_help=""):
    return setting(
        default,
        "Largest number of pixels (width x height) of an image or a label map. Larger ones are "
        "refused before they are decoded.",
        default_help=default_help,
        at_least=1,
        unit="pixels",
    )


def output_dir(default=REQUIRED, default_help=""):
    return setting(
        default, "Folder to write to.", default_help=default_help, is_path=True, is_common=True
    )


def beam_pipeline_options():
    return setting(
        (),
        "Options of the Apache Beam pipeline that does the work: the runner, such as DirectRunner "
        "for this machine, and its own options.",
        default_help="Beam is not used",
        example="runner=FlinkRunner,flink_master=HOST:8081,parallelism=64",
    )


def output():
    return setting(REQUIRED, "File to write.", is_path=True, is_common=True)


def num_images(default):
    return setting(default, "Number of images.", at_least=1)


def model_version(default_help):
    return setting(None, "Version number of the SavedModel.", default_help=default_help, at_least=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedConfig(Config):
    """The trained network that a command uses: that of a run, or a released one."""

    run_dir: str = run_dir(default="")
    weights: str = setting(
        "",
        "Name of released weights to use in place of a run. `python -m deeplab_tf.zoo list` shows "
        "the names. The weights are downloaded once.",
        is_common=True,
    )
    checkpoint: str = checkpoint()

    def __post_init__(self):
        super().__post_init__()
        _check(
            self.run_dir or self.weights,
            "--run_dir must be given, or --weights with the name of released weights. Pass --help "
            "for all flags.",
        )
        _check(
            not (self.run_dir and self.weights),
            f"--run_dir={self.run_dir} and --weights={self.weights} contradict each other: leave "
            "one out.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The arguments of `deeplab_tf.build_model`."""

    title = "model"

    version: str = setting("v3plus", "DeepLab version.", choices=VERSIONS, is_common=True)
    backbone: str = setting(
        "mobilenet_v2", "Network that extracts the features.", choices=BACKBONES, is_common=True
    )
    num_classes: int | None = num_classes("that of the records")
    in_channels: int | None = setting(
        None,
        "Number of channels of the images: 3 for RGB, otherwise the number of bands.",
        default_help="that of the records",
        at_least=1,
    )
    output_stride: int | None = setting(
        None,
        "Size of the input divided by the size of the last features of the backbone.",
        default_help="8 with v1 and v2, 32 with MobileNetV3, otherwise 16",
        choices=OUTPUT_STRIDES,
        is_common=True,
    )
    atrous_rates: tuple[int, ...] | None = setting(
        None,
        "Rates of the atrous convolutions in the ASPP; empty for none.",
        default_help="the paper's for the output stride",
        at_least=1,
        example="6,12,18",
    )
    multi_grid: tuple[int, ...] | None = setting(
        None,
        "Multipliers of the atrous rates in the three units of the last block.",
        default_help="1,2,4 with v3 and v3plus on a ResNet, otherwise 1,1,1",
        at_least=1,
        length=3,
        may_be_empty=False,
        example="1,2,4",
    )
    depth_multiplier: float = setting(
        1.0, "Factor by which the number of filters in a MobileNet is multiplied.", above=0
    )
    decoder_output_stride: tuple[int, ...] | None = setting(
        None,
        "Strides of the backbone's features that the decoder of v3plus uses, one for each stage "
        "of the decoder.",
        default_help="4, or 8 with MobileNetV3",
        at_least=1,
        example="4",
    )
    add_image_level_feature: bool | None = setting(
        None, "Whether the ASPP has image pooling.", default_help="true"
    )
    image_pooling_crop_size: tuple[int, ...] | None = setting(
        None,
        "Height,width of the part of the input that one window of image pooling covers.",
        default_help="the whole input, or 769,769 with MobileNetV3",
        at_least=1,
        length=2,
        may_be_empty=False,
        unit="pixels",
        example="513,513",
    )
    image_pooling_stride: tuple[int, ...] | None = setting(
        None,
        "Vertical,horizontal distance between the windows of image pooling.",
        default_help="1,1, or 4,5 with MobileNetV3",
        at_least=1,
        length=2,
        may_be_empty=False,
        unit="features",
        example="4,5",
    )
    image_se_uses_qsigmoid: bool | None = setting(
        None,
        "Whether squeeze and excitation uses a piecewise linear sigmoid.",
        default_help="true with MobileNetV3, otherwise false",
    )
    aspp_with_separable_conv: bool | None = setting(
        None, "Whether the ASPP has atrous separable convolutions.", default_help="true"
    )
    aspp_with_concat_projection: bool | None = setting(
        None,
        "Whether a convolution projects the concatenated branches of the ASPP.",
        default_help="false with MobileNetV3, otherwise true",
    )
    aspp_with_squeeze_and_excitation: bool | None = setting(
        None,
        "Whether the result of image pooling scales the channels of the ASPP.",
        default_help="true with MobileNetV3, otherwise false",
    )
    aspp_convs_filters: int | None = setting(
        None,
        "Filters in each branch of the ASPP.",
        default_help="256, or 128 with MobileNetV3",
        at_least=1,
    )
    dense_prediction_cell_json: str | None = setting(
        None,
        "Dense prediction cell to use in place of the ASPP: a JSON file, or the JSON itself.",
        is_path=True,
    )
    decoder_use_separable_conv: bool | None = setting(
        None, "Whether the decoder has separable convolutions.", default_help="true"
    )
    decoder_use_sum_merge: bool | None = setting(
        None,
        "Whether the decoder adds the low-level features instead of concatenating them.",
        default_help="true with MobileNetV3, otherwise false",
    )
    decoder_output_is_logits: bool | None = setting(
        None,
        "Whether the last convolution of the decoder computes the logits.",
        default_help="true with MobileNetV3, otherwise false",
    )
    decoder_filters: int | None = setting(
        None, "Filters of the decoder's two 3x3 convolutions.", default_help="256", at_least=1
    )
    fc6_kernel_size: int | None = setting(
        None,
        "Kernel size of fc6 in v1: 3 is LargeFOV, 4 and 7 are the paper's other fields of view.",
        default_help="3",
        at_least=1,
    )
    fc_filters: int | None = setting(
        None,
        "Filters of fc6 and fc7 on VGG-16.",
        default_help="1024, or 4096 with an fc6_kernel_size above 3",
        at_least=1,
    )
    last_block: int | None = setting(
        None,
        "Last block of a ResNet in v3's cascaded variant, which has no ASPP.",
        default_help="no cascade",
        choices=(4, 5, 6, 7),
    )
    image_pyramid: tuple[float, ...] = setting(
        (),
        "Scales at which the network sees its input; empty for the original scale only.",
        above=0,
        example="0.5,0.75,1",
    )
    merge_method: str = setting(
        "max", "How the logits of the image_pyramid are merged.", choices=MERGE_METHODS
    )
    batch_norm_decay: float | None = setting(
        None,
        "Decay of batch norm's moving statistics. The original's 0.997 and 0.9997 need tens of "
        "thousands of steps.",
        default_help="the original's; lower in a short training",
        above=0,
        below=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which records are read, and how they become training crops."""

    title = "data"

    data_dir: str = data_dir()
    dataset: str = dataset()
    train_split: str = setting("train", "Split to train on.", may_be_empty=False)
    val_split: str = setting("val", "Split to validate on; empty for no validation.")
    ignore_label: int | None = ignore_label("that of the records")
    train_crop_size: tuple[int, ...] = setting(
        None,
        "Height,width of the training crops.",
        is_automatic=True,
        default_help="about the size of the median image, at most 513 a side, or 321 on a CPU",
        at_least=1,
        length=2,
        may_be_empty=False,
        unit="pixels",
        example="321,321",
        is_common=True,
    )
    min_resize_value: int | None = setting(
        None,
        "Length to which the shorter side of every image is resized first; 0 for no resizing.",
        is_automatic=True,
        default_help="no resizing; small images with fine labels are enlarged up to twice, unless "
        "train_crop_size is given",
        at_least=0,
        unit="pixels",
    )
    max_resize_value: int | None = setting(
        None,
        "Largest longer side of images that min_resize_value "
        "resizes; longer images are resized to it.",
        default_help="no limit",
        at_least=1,
        unit="pixels",
    )
    resize_factor: int | None = setting(
        None,
        "Rounds the sides of images that min_resize_value "
        "resizes up to a multiple of this, plus 1.",
        default_help="no rounding",
        at_least=1,
        unit="pixels",
    )
    min_scale_factor: float = setting(
        None,
        "Smallest random scale of training images.",
        is_automatic=True,
        default_help="0.75 in runs of fewer than 10000 steps, otherwise 0.5",
        above=0,
    )
    max_scale_factor: float = setting(
        None,
        "Largest random scale of training images.",
        is_automatic=True,
        default_help="1.5 in runs of fewer than 10000 steps, otherwise 2",
        above=0,
    )
    scale_factor_step_size: float = setting(
        0.25, "Step between the random scales; 0 for any scale in between.", at_least=0
    )
    random_flip: bool = setting(
        True, "Whether half of the training images are flipped left to right."
    )
    vertical_flip: bool = setting(
        False, "Whether half of the training crops are flipped top to bottom."
    )
    quarter_turns: bool = setting(
        False,
        "Whether training crops are turned by 0, 90, 180 or 270 degrees; crops must be square.",
    )
    elastic_shift: float = setting(
        0.0,
        "Largest random shift of the grid points of an elastic distortion of the training crops; 0 "
        "disables it.",
        at_least=0,
        unit="pixels",
    )
    elastic_grid: int = setting(
        64, "Distance between the grid points of elastic_shift.", at_least=2, unit="pixels"
    )
    crop_max_class_share: float = setting(
        1.0,
        "Largest share of a training crop that one class may fill. Otherwise the crop is drawn "
        "again, up to ten times; 1 disables it.",
        above=0,
        at_most=1,
        hint="it is a share, e.g. 0.75",
    )
    max_rotation: float = setting(
        0.0,
        "Largest random rotation of training crops, in both directions; 0 disables it.",
        at_least=0,
        unit="degrees",
    )
    brightness: float = setting(
        0.0, "Random brightness factor drawn from [1-x, 1+x]; 0 disables it.", at_least=0
    )
    contrast: float = setting(
        0.0, "Random contrast factor drawn from [1-x, 1+x]; 0 disables it.", at_least=0
    )
    saturation: float = setting(
        0.0, "Random saturation factor drawn from [1-x, 1+x]; 0 disables it.", at_least=0
    )
    hue: float = setting(
        0.0,
        "Random hue shift drawn from [-x, x], where 1 is the whole colour circle; 0 disables it.",
        at_least=0,
        at_most=0.5,
    )
    max_blur_sigma: float = setting(
        0.0,
        "Largest standard deviation of the random blur of half of the training crops; 0 disables "
        "it.",
        at_least=0,
        unit="pixels",
    )
    oversample_classes: tuple[str, ...] = setting(
        (),
        "Names of the classes whose training images are used oversample_factor times per epoch.",
        example="pole,bicyclist",
    )
    oversample_factor: int = setting(
        2, "Number of times that images of oversample_classes are used per epoch.", at_least=1
    )
    extra_data_dirs: tuple[str, ...] = setting(
        (), "Folders of further records to take training images from.", is_path=True
    )
    data_weights: tuple[int, ...] = setting(
        (),
        "Relative number of images from data_dir and each of extra_data_dirs, e.g. 2,1.",
        default_help="their numbers of images",
        at_least=1,
        example="2,1",
    )
    max_damaged_share: float = max_damaged_share(0.01)
    max_image_pixels: int = max_image_pixels(2**26)
    decoded_cache_mib: int = setting(
        512,
        "Memory in which decoded images and label maps are kept for later epochs; 0 keeps none. "
        "With data_service, none are kept.",
        at_least=0,
        unit="MiB",
    )
    data_service: str = setting(
        "",
        "Address grpc://HOST:PORT of a deeplab_tf.data_service that prepares the batches.",
        default_help="train prepares them",
    )

    def __post_init__(self):
        super().__post_init__()
        _check(
            self.scale_range[0] <= self.scale_range[1],
            f"--min_scale_factor={self.scale_range[0]} must be at most "
            f"--max_scale_factor={self.scale_range[1]}.",
        )
        _check(
            self.min_resize_value or not (self.max_resize_value or self.resize_factor),
            "--max_resize_value and --resize_factor need --min_resize_value: give it too.",
        )
        crop = self.train_crop_size
        _check(
            not (self.quarter_turns and crop) or crop[0] == crop[1],
            f"--quarter_turns needs square crops, but --train_crop_size="
            f"{','.join(map(str, crop or ()))}: "
            "give two equal sides.",
        )

    @property
    def scale_range(self) -> tuple[float, float]:
        """The smallest and the largest random scale; those of the original until chosen."""
        return self.min_scale_factor or 0.5, self.max_scale_factor or 2.0

    @property
    def exported_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that exports of one size take by default.

        It is that of the training crop. Where images are resized first, it is enlarged to their
        shorter side, as long as the longer one stays within its limit.
        """
        height, width = self.train_crop_size or ORIGINAL_CROP_SIZE
        scale = max(1.0, (self.min_resize_value or 0) / min(height, width))
        if self.max_resize_value:
            scale = max(1.0, min(scale, self.max_resize_value / max(height, width)))
        return round(scale * height), round(scale * width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How a model is trained."""

    title = "training"

    # Length and start.
    training_number_of_steps: int = setting(
        None,
        "Optimizer steps of the whole run.",
        is_automatic=True,
        default_help="that of epochs, or 200 times the square root of the number of images",
        at_least=1,
        unit="steps",
        is_common=True,
    )
    epochs: float | None = setting(
        None,
        "Length of the whole run in passes over the training images, instead of "
        "training_number_of_steps.",
        default_help="not given",
        above=0,
        unit="epochs",
        is_common=True,
    )
    train_batch_size: int = setting(
        None,
        "Images per step, over all devices.",
        is_automatic=True,
        default_help="8 per GPU or TPU core, 4 on a CPU; fewer if they do not fit into memory",
        at_least=1,
        unit="images",
        is_common=True,
    )
    gradient_accumulation_steps: int = setting(
        1,
        "Number of parts in which a batch is computed, one after the other, to save memory.",
        at_least=1,
    )
    tf_initial_checkpoint: str = setting(
        IMAGENET,
        "Weights to start from. imagenet: those of the backbone, if they are in the cache or can "
        "be downloaded, and otherwise random ones. none or empty: random ones. Otherwise the name "
        "of released weights (python -m deeplab_tf.zoo list), a TensorFlow 1 checkpoint of a whole "
        "model or a backbone, or a run dir, whose best weights are taken.",
        is_path=True,
        is_common=True,
    )
    skip_mismatched: bool = setting(
        False,
        "Whether variables that tf_initial_checkpoint lacks, or has in another shape (other "
        "classes), keep their random values.",
    )
    rgb_bands: tuple[int, ...] = rgb_bands("those of the records")
    seed: int = setting(
        0, "Random seed. The same seed repeats the run.", at_least=0, at_most=2**32 - 1
    )

    # Optimizer and learning rate.
    optimizer: str = setting(
        None,
        "Optimizer.",
        is_automatic=True,
        default_help="momentum, or adamw from random weights where no base_learning_rate is given",
        choices=("momentum", "adamw"),
    )
    momentum: float = setting(0.9, "Momentum of the momentum optimizer.", at_least=0, below=1)
    weight_decay: float = setting(
        4e-5,
        "Weight decay of all kernels except depthwise ones; biases and batch norm have none. With "
        "momentum it is an L2 loss, with adamw it is decoupled.",
        at_least=0,
    )
    learning_policy: str = setting(
        "poly", "How the learning rate decays.", choices=("poly", "step", "cosine")
    )
    base_learning_rate: float = setting(
        None,
        "Learning rate at the start of the learning policy.",
        is_automatic=True,
        default_help="chosen from version, optimizer, initial weights and batch size",
        at_least=0,
        is_common=True,
    )
    learning_power: float = setting(0.9, "Power of the poly policy.", at_least=0)
    end_learning_rate: float = setting(
        0.0, "Learning rate that the poly and cosine policies end with.", at_least=0
    )
    decay_steps: int = setting(
        0, "Steps over which poly and cosine decay; 0 for the whole run.", at_least=0, unit="steps"
    )
    learning_rate_decay_factor: float = setting(
        0.1, "Factor by which the step policy multiplies the learning rate.", at_least=0
    )
    learning_rate_decay_step: int = setting(
        2000, "Steps between two decays of the step policy.", at_least=1, unit="steps"
    )
    slow_start_step: int = setting(
        0,
        "Steps at slow_start_learning_rate before the learning policy starts.",
        at_least=0,
        unit="steps",
    )
    warmup_steps: int = setting(
        None,
        "Steps over which the learning rate climbs from slow_start_learning_rate to "
        "base_learning_rate.",
        is_automatic=True,
        default_help="a twentieth of the run, or 0 with slow_start_step",
        at_least=0,
        unit="steps",
    )
    slow_start_learning_rate: float = setting(
        1e-4, "Learning rate during slow_start_step, and at the start of warmup_steps.", at_least=0
    )
    last_layer_gradient_multiplier: float = setting(
        1.0,
        "Factor by which the gradients of all layers after the backbone are multiplied.",
        at_least=0,
    )
    last_layers_contain_logits_only: bool = setting(
        False, "Whether last_layer_gradient_multiplier applies to the layers of the logits only."
    )
    backbone_gradient_multiplier: float = setting(
        1.0, "Factor by which the gradients of the backbone are multiplied.", at_least=0
    )
    clip_gradient_norm: float = setting(
        0.0, "Largest global norm of the gradients; 0 disables clipping.", at_least=0
    )
    moving_average_decay: float = setting(
        None,
        "Decay of the moving average of the weights. Evaluation and exports use this average. 0 "
        "disables it.",
        is_automatic=True,
        default_help="1 - 15 / steps",
        at_least=0,
        below=1,
    )

    # What is trained.
    fine_tune_batch_norm: bool = setting(
        True,
        "Whether batch norm is trained with the statistics of each batch. Batches should then "
        "have 12 images or more. Otherwise batch norm is frozen.",
        is_common=True,
    )
    batch_statistics_images: int = setting(
        128,
        "Number of training images on which the statistics of batch norm are measured before each "
        "validation, at the size of the images in evaluation; fewer if they are large. 0: the "
        "moving averages of the training are used.",
        at_least=0,
        unit="images",
    )
    frozen_scopes: tuple[str, ...] = setting(
        (), "Name scopes of the layers that are not trained.", example="resnet_v1_50/block1"
    )
    quantize_delay_step: int = setting(
        -1,
        "Step from which weights and feature maps are rounded to 8 bits, to fine-tune a trained "
        "model (tf_initial_checkpoint) for export.tflite --quantize=int8; -1 for never. Batch norm "
        "is frozen then.",
        at_least=-1,
        unit="steps",
    )

    @property
    def is_quantized(self) -> bool:
        """Whether the network is fine-tuned for 8 bits."""
        return self.quantize_delay_step >= 0

    # Loss: the sum of its terms.
    cross_entropy_weight: float = setting(
        1.0, "Weight of the cross-entropy in the loss.", at_least=0
    )
    class_weights: tuple[float, ...] = setting(
        (),
        "Weight of each class, in the order of the classes, in cross-entropy and focal loss; auto "
        "for the square roots of the median-frequency weights.",
        is_automatic=True,
        default_help="1 for all",
        at_least=0,
        example="0.5,1,2",
    )
    class_weights_steps: int = setting(
        0,
        "Number of steps at the start that use --class_weights. After them, every class has the "
        "weight 1. 0 for the whole run.",
        at_least=0,
        unit="steps",
    )
    top_k_percent_pixels: float = setting(
        1.0,
        "Share of the pixels that count in the cross-entropy: those with the largest loss. 1: all.",
        above=0,
        at_most=1,
        hint="it is a share, e.g. 0.25",
    )
    hard_example_mining_step: int = setting(
        0,
        "Steps over which top_k_percent_pixels falls from 1 to its value.",
        at_least=0,
        unit="steps",
    )
    focal_weight: float = setting(0.0, "Weight of the focal loss in the loss.", at_least=0)
    focal_gamma: float = setting(
        2.0, "Focusing exponent of the focal loss; 0 makes it cross-entropy.", at_least=0
    )
    dice_weight: float = setting(0.0, "Weight of the Dice loss in the loss.", at_least=0)
    lovasz_weight: float = setting(
        0.0, "Weight of the Lovász-softmax loss in the loss.", at_least=0
    )

    # Devices and speed.
    strategy: str = setting(
        "auto",
        "Devices to train on. auto: all TPU cores or GPUs that are found, otherwise the CPU; all "
        "workers if TF_CONFIG is set.",
        choices=("auto", "one_device", "mirrored", "multi_worker", "tpu"),
    )
    mixed_precision: str = setting(
        "",
        "Type to compute in; weights and loss stay in float32. Empty for float32.",
        choices=("", "bfloat16", "float16"),
    )
    jit_compile: bool = setting(
        False, "Whether XLA compiles the network. It slows down training on a CPU."
    )
    recompute_activations: bool = setting(
        False,
        "Whether the backward pass computes activations again instead of keeping them. Saves "
        "memory, takes up to a third more time, and does not change the results.",
    )
    steps_per_execution: int = setting(
        0,
        "Largest number of steps in one call of TensorFlow. A call ends at the next log, "
        "validation or checkpoint, and a stop waits for its end. 0: no other limit with several "
        "workers, about 5 seconds with one.",
        at_least=0,
        unit="steps",
    )
    profile_steps: tuple[int, ...] = setting(
        (),
        "First,last step of a profile for TensorBoard; empty for none.",
        at_least=0,
        length=2,
        example="100,110",
    )

    # Events.
    log_every_steps: int = setting(
        20, "Steps between two points of the loss curve.", at_least=1, unit="steps"
    )
    eval_every_steps: int = setting(
        None,
        "Steps between two validations.",
        is_automatic=True,
        default_help="a tenth of the run",
        at_least=1,
        unit="steps",
    )
    early_stopping_patience: int = setting(
        None,
        "Number of validations in a row without a better mIoU after which the run ends. 0: it "
        "does not end early.",
        is_automatic=True,
        default_help="5, or 0 if epochs or training_number_of_steps is given",
        at_least=0,
        unit="validations",
    )
    save_every_steps: int = setting(
        None,
        "Steps between two checkpoints.",
        is_automatic=True,
        default_help="eval_every_steps, at most 500",
        at_least=1,
        unit="steps",
    )

    def __post_init__(self):
        super().__post_init__()
        _check(
            (self.train_batch_size or 0) % self.gradient_accumulation_steps == 0,
            f"--train_batch_size={self.train_batch_size} must be a multiple of "
            f"--gradient_accumulation_steps={self.gradient_accumulation_steps}.",
        )
        _check(
            self.training_number_of_steps is None or self.epochs is None,
            f"--training_number_of_steps={self.training_number_of_steps} and "
            f"--epochs={self.epochs} both say how long the run is: give one of them.",
        )
        weights = [f"{term}_weight" for term in LOSS_TERMS]
        _check(
            any(getattr(self, name) for name in weights),
            f"The loss has no term: one of --{', --'.join(weights)} must be above 0.",
        )
        _check(
            any(self.class_weights or [1]),
            f"--class_weights={','.join(map(str, self.class_weights or ()))} must have a weight "
            "above 0.",
        )
        _check(
            not self.class_weights_steps or self.class_weights != (),
            f"--class_weights_steps={self.class_weights_steps} needs --class_weights.",
        )
        _check(
            not (self.recompute_activations and self.jit_compile),
            "--recompute_activations cannot be used with --jit_compile, where XLA decides what is "
            "computed again: leave one of them out.",
        )
        _check(
            not (self.recompute_activations and self.is_quantized),
            "--recompute_activations cannot be used with --quantize_delay_step, which follows the "
            "ranges of activations: leave one of them out.",
        )
        _check(
            not self.is_quantized or self.tf_initial_checkpoint not in ("", IMAGENET, NO_WEIGHTS),
            f"--quantize_delay_step={self.quantize_delay_step} fine-tunes a trained model: give "
            "its run dir as --tf_initial_checkpoint.",
        )
        _check(
            not self.profile_steps or self.profile_steps[0] < self.profile_steps[1],
            f"--profile_steps={','.join(map(str, self.profile_steps))} must be first,last step, "
            "e.g. 100,110.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrfConfig(Config):
    """The fully-connected CRF that refines predictions."""

    title = "CRF"

    crf: str = setting(
        "",
        "Parameters of the fully-connected CRF: those of the v1 or the v2 paper, or those that "
        "deeplab_tf.tune_crf found for the run. Empty for no CRF.",
        choices=CRFS,
        is_common=True,
    )
    crf_iterations: int | None = setting(
        None,
        "Number of mean-field updates.",
        default_help="that of --crf",
        at_least=0,
        at_most=1000,
    )
    crf_bilateral_weight: float | None = setting(
        None,
        "Weight of the kernel of position and colour.",
        default_help="that of --crf",
        at_least=0,
    )
    crf_bilateral_sigma_xy: float | None = setting(
        None,
        "Standard deviation of the kernel of position and colour, over positions.",
        default_help="that of --crf",
        above=0,
        unit="pixels",
    )
    crf_bilateral_sigma_rgb: float | None = setting(
        None,
        "Standard deviation of the kernel of position and colour, over colours.",
        default_help="that of --crf",
        above=0,
        unit="levels of 0 to 255",
    )
    crf_gaussian_weight: float | None = setting(
        None, "Weight of the kernel of position alone.", default_help="that of --crf", at_least=0
    )
    crf_gaussian_sigma_xy: float | None = setting(
        None,
        "Standard deviation of the kernel of position alone.",
        default_help="that of --crf",
        above=0,
        unit="pixels",
    )

    def __post_init__(self):
        super().__post_init__()
        given = [
            name
            for name, value in dataclasses.asdict(self).items()
            if name != "crf" and value is not None
        ]
        _check(
            self.crf or not given,
            f"--{given[0] if given else ''} needs a CRF: give --crf=v1, --crf=v2 or --crf=tuned "
            "too.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig(Config):
    """The inference modes: scales, flips and windows; by default, the whole image once."""

    title = "inference"

    eval_scales: tuple[float, ...] = setting(
        (1.0,),
        "Scales of the image over which probabilities are averaged; the papers use "
        "0.5,0.75,1,1.25,1.5,1.75.",
        above=0,
        may_be_empty=False,
        example="0.5,1,1.5",
        is_common=True,
    )
    add_flipped_images: bool = setting(
        False, "Whether probabilities are averaged over the mirrored image too.", is_common=True
    )
    window_size: tuple[int, ...] | None = setting(
        None,
        "Height,width of the windows in which images are processed; empty for whole images.",
        is_automatic=True,
        default_help="whole images, but windows as large as the training crops for images of more "
        "than 2097152 pixels in runs that do not resize images",
        at_least=1,
        length=2,
        unit="pixels",
        example="513,513",
    )
    window_overlap: float = setting(
        1 / 3,
        "Smallest overlap of neighbouring windows, as a share of their size.",
        at_least=0,
        below=1,
        hint="it is a share, e.g. 0.33",
    )
    eval_output_stride: int | None = setting(
        None,
        "Output stride in evaluation and prediction, e.g. 8 for a run that was trained with 16.",
        default_help="that of training",
        choices=OUTPUT_STRIDES,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """What is written besides labels and overlays, and how much of a video is labelled."""

    title = "output"

    save_confidence: bool = setting(
        False,
        "Whether to write NAME_confidence.png for each image: the probability of the predicted "
        "class, 0 to 1 as grey 0 to 255.",
    )
    save_probabilities: bool = setting(
        False,
        "Whether to write NAME_probabilities.npy for each image: the probabilities of all "
        "classes, float16 [height, width, classes].",
    )
    label_ids: str = setting(
        "",
        "Also writes label_ids/NAME.png for each image, with the class ids of a test server: "
        "cityscapes, or a file with a line `CLASS: ID` for each class.",
        default_help="not written",
        is_path=True,
    )
    every_nth_frame: int = setting(
        1, "Number n, to label only every n-th frame of a video or a camera.", at_least=1
    )
    max_frames: int = setting(
        0,
        "Largest number of frames to label of a video or a camera; 0 for all.",
        at_least=0,
        unit="frames",
    )
    display_bands: tuple[int, ...] = setting(
        (),
        "Numbers, from 1, of the bands that overlays show as red, green and blue, for images of "
        "other bands than RGB.",
        default_help="those that the records name",
        at_least=1,
        length=3,
        example="3,2,1",
    )
    max_image_pixels: int | None = max_image_pixels(
        None, "67108864, or 536870912 with --window_size"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnDataConfig(Config):
    """What is known about a folder of images and labels."""

    title = "own data"

    format: str = setting("auto", "Format of the labels.", choices=LABEL_FORMATS)
    label_encoding: str = setting(
        "auto", "How label images hold the classes.", choices=LABEL_ENCODINGS
    )
    label_suffix: str = setting(
        "", "Ending of the names of label images, e.g. _mask.", default_help="detected"
    )
    classes: str = classes("the class list in the folder")
    val_share: float = setting(
        0.2,
        "Share of the images for validation, if the data has no such split.",
        at_least=0,
        at_most=0.9,
        hint="it is a share, e.g. 0.2",
    )
    unlabeled: str | None = setting(
        None,
        "Label of pixels that no annotation covers.",
        default_help="what is usual in the format",
        choices=("background", "ignore"),
    )
    crowd: str = setting("ignore", "Label of COCO's crowd regions.", choices=("ignore", "class"))
    line_width: int = setting(10, "Width of annotated lines.", at_least=1, unit="pixels")
    bands: tuple[int, ...] = setting(
        (),
        "Numbers, from 1, of the bands of the images to use, in this order.",
        default_help="all except opacity; RGB for 8-bit images of three channels",
        at_least=1,
        example="2,3,4,8",
    )
    band_range: tuple[float, ...] = setting(
        (),
        "LOW,HIGH: the values that become 0 and 255. One pair for all bands, or one for each band.",
        default_help="0,255 for 8-bit images, otherwise the range of 99 % of the values in the "
        "training images",
        example="0,10000",
    )
    rgb_bands: tuple[int, ...] = rgb_bands("those that the files name, otherwise the first three")
    tile_size: tuple[int, ...] = setting(
        (),
        "Height,width of the tiles that larger images are cut into; empty for whole images.",
        at_least=1,
        length=2,
        unit="pixels",
        example="512,512",
    )
    tile_overlap: float = setting(
        0.0,
        "Smallest overlap of neighbouring tiles, as a share of their size.",
        at_least=0,
        below=1,
        hint="it is a share, e.g. 0.1",
    )
    max_image_pixels: int = max_image_pixels(2**26)

    def __post_init__(self):
        super().__post_init__()
        pairs = list(zip(self.band_range[::2], self.band_range[1::2]))
        _check(
            len(self.band_range) % 2 == 0 and all(low < high for low, high in pairs),
            f"--band_range={','.join(f'{value:g}' for value in self.band_range)} must be pairs "
            "LOW,HIGH with LOW below HIGH.",
        )


def _check(holds: object, problem: str) -> None:
    if not holds:
        raise UserError(problem)


NO_MODEL_SETTINGS = ModelConfig()
NO_DATA_SETTINGS = DataConfig()
NO_CRF = CrfConfig()
ONE_VIEW = EvalConfig()
ORIGINAL_CROP_SIZE = (513, 513)  # pixels; the original's on PASCAL VOC
LABELS_AND_OVERLAYS = PredictConfig()
