"""The configs of exports, and the settings that all exports have."""

import dataclasses

from deeplab_tf import config
from deeplab_tf.data import image_files
from deeplab_tf.errors import UserError
from deeplab_tf.settings import Config
from deeplab_tf.settings import setting

QUANTIZATIONS = ("none", "float16", "dynamic", "int8")
_EXPORTED_SIZE = (
    "the train_crop_size of the run, enlarged until its shorter side is the run's min_resize_value"
)


def input_size(default_help):
    return setting(
        (),
        "Height,width of the images that the exported network takes.",
        default_help=default_help,
        at_least=1,
        length=2,
        unit="pixels",
        example="513,513",
    )


def num_proof_images(default):
    return setting(
        default,
        "Largest number of images on which the export is compared with the Keras model.",
        at_least=1,
    )


def max_miou_drop(default):
    return setting(
        default,
        "Largest accepted drop of the mIoU, compared with the Keras model.",
        at_least=0,
        at_most=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProofConfig(Config):
    """What an export is compared with its Keras model on, and what it may lose."""

    title = "proof"

    data_dir: str | None = config.data_dir(None, "the records of the run, or drawn images")
    proof_images: str | None = setting(
        None,
        "Quoted glob of images to compare the export with the Keras model on, such as real photos "
        "for imported weights. They have no labels, so there is no mIoU.",
        default_help="the validation split of the records, or drawn images",
        is_path=True,
        example="'photos/*.jpg'",
    )
    num_proof_images: int = num_proof_images(8)
    max_miou_drop: float = max_miou_drop(0.01)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedModelProofConfig(ProofConfig):
    """How a SavedModel is proved: it computes in float32, as the Keras model does."""

    max_miou_drop: float = max_miou_drop(0.001)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFLiteProofConfig(ProofConfig):
    """How a `.tflite` file is proved: on more images, since 8 bits move borders."""

    num_proof_images: int = num_proof_images(32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationConfig(Config):
    """The images whose ranges of values 8-bit files are calibrated with."""

    title = "int8 calibration"

    calibration_images: str | None = setting(
        None,
        "Quoted glob of images to calibrate int8 with.",
        default_help="the records",
        is_path=True,
    )
    num_calibration_images: int = setting(
        128, "Largest number of images to calibrate int8 with.", at_least=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingConfig(Config):
    """What a SavedModel serves besides labels, at which size, and what warms it up."""

    title = "serving"

    serving_size: tuple[int, ...] = setting(
        (),
        "Height,width that image files are shrunk to fit into and padded to, so that images of "
        "different sizes form batches. Rounded up to a multiple of the output stride plus 1.",
        default_help=_EXPORTED_SIZE,
        at_least=1,
        length=2,
        unit="pixels",
        example="513,513",
    )
    with_probabilities: bool = setting(
        False, "Whether the SavedModel also returns the probabilities of all classes."
    )
    with_confidence: bool = setting(
        False, "Whether the SavedModel also returns the probability of the predicted class."
    )
    max_image_pixels: int = config.max_image_pixels(image_files.MAX_PIXELS)
    warmup_batch_sizes: tuple[int, ...] = setting(
        (),
        "Batch sizes, besides 1, of the warm-up requests that TF Serving runs before it takes "
        "others.",
        at_least=1,
        unit="images",
        example="2,4,8",
    )

    def __post_init__(self):
        super().__post_init__()
        # TF Serving takes 1000 warm-up requests; there are four for every batch size.
        if len(self.warmup_batch_sizes) > 200:
            raise UserError(
                f"--warmup_batch_sizes has {len(self.warmup_batch_sizes)} numbers; give a few, "
                "e.g. 2,4,8."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFLiteConfig(Config):
    """What a `.tflite` file takes, computes in, and returns."""

    title = "TFLite"

    quantize: str = setting(
        "none",
        "Types in the file. none: float32. float16: weights of half the size, also for GPUs. "
        "dynamic: weights of a quarter of the size. int8: all in 8 bits, calibrated with images; "
        "takes uint8 pixels.",
        choices=QUANTIZATIONS,
        is_common=True,
    )
    result: str = setting(
        "labels",
        "What the file returns. labels: class ids, int32. scores: logits of all classes, uint8 "
        "with int8.",
        choices=("labels", "scores"),
    )
    result_stride: int = setting(
        1,
        "Distance between the pixels that get a result, a divisor of the output stride. 1: every "
        "pixel. 4: every fourth in both directions, which is faster; labels are then coarser.",
        at_least=1,
        unit="pixels",
    )
    input_size: tuple[int, ...] = input_size(
        f"{_EXPORTED_SIZE}; rounded up to multiples of the output stride plus 1"
    )
    quantizer: str = setting(
        "tensorflow",
        "What quantizes an int8 file. tensorflow: TensorFlow's converter. litert: the package "
        "litert-quantizer, for files of scores, and not for runs that were fine-tuned for 8 bits.",
        choices=("tensorflow", "litert"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebConfig(Config):
    """What a page that labels images in the browser holds."""

    title = "web page"

    single_file: bool = setting(
        False,
        "Whether index.html contains everything. Otherwise, the network and LiteRT.js are separate "
        "files.",
        is_common=True,
    )
    quantize: str = setting(
        "float16",
        "Types in the network's file. none: float32. float16: half the size. dynamic: weights of "
        "8 bits, a quarter of the size.",
        choices=("none", "float16", "dynamic"),
    )
    input_size: tuple[int, ...] = input_size(
        f"{_EXPORTED_SIZE}; rounded up to multiples of the output stride plus 1"
    )
    heading: str = setting("", "Heading of the page.", default_help="the name of the dataset")
    litert_js: str | None = setting(
        None,
        "Folder with the npm package @litertjs/core, such as node_modules.",
        default_help="the cache, which npm fills once",
        is_path=True,
    )
    cdn: bool = setting(
        False, "Whether the page loads LiteRT.js from cdn.jsdelivr.net. It then needs a network."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.cdn and self.litert_js is not None:
            raise UserError("--cdn and --litert_js contradict each other: leave one out.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxConfig(Config):
    """What an ONNX file takes."""

    title = "ONNX"

    input_size: tuple[int, ...] = input_size("any number of images of any size")


LABELS_ALONE = ServingConfig()
LABELS_IN_FLOAT32 = TFLiteConfig()
ANY_SIZE = OnnxConfig()
FOLDER_WITH_LITERT_JS = WebConfig()
CALIBRATION_BY_RECORDS = CalibrationConfig()
ONNX_PROOF = ProofConfig()
SAVEDMODEL_PROOF = SavedModelProofConfig()
TFLITE_PROOF = TFLiteProofConfig()
