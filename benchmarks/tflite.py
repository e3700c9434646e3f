"""Speed and accuracy of `.tflite` exports beside the original's quantised file.

    python benchmarks/tflite.py
    python benchmarks/tflite.py --checkpoint=DIR/model.ckpt --reference=FILE.tflite \
        --images='VOC/JPEGImages/*.jpg' --labels=VOC/SegmentationClass \
        --calibration='PHOTOS/*.jpg'

DeepLab v3 on MobileNetV2 at output stride 16 for VOC, with the original's weights
deeplabv3_mnv2_pascal, is exported as float32, float16 and int8, with a label for every pixel, or
for every fourth pixel in both directions (`/4`; repeating them up to the image is part of the
time). All files, and the original's deeplabv3_mnv2_pascal_quant.tflite, run in one process, on the
same interpreter, threads and images, in turn. `ratio` is a file's time over the original's, the
median over the rounds. `agree` is the share of labels that equal those of the float Keras model,
without the padding; `mIoU` is over the images that have a label map.

By default the files of ../shared are taken. There, int8 is calibrated with other images (street
scenes of CamVid) than those that the files are compared on. Calibration takes most of the time:
about a second per image.
"""

import argparse
import collections
import dataclasses
import glob
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from deeplab_tf import backbones
from deeplab_tf import crf
from deeplab_tf import import_checkpoint
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import image_files
from deeplab_tf.evaluation import fitting
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import prediction
from deeplab_tf.export import litert
from deeplab_tf.export import proof_images
from deeplab_tf.export.config import CalibrationConfig
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.config import TFLiteProofConfig
from deeplab_tf.export.formats import tflite
from deeplab_tf.runs import run_dir as run_dirs

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared"
BACKBONE = "mobilenet_v2"
NUM_CLASSES = 21
MODEL = ModelConfig(
    version="v3", backbone=BACKBONE, num_classes=NUM_CLASSES, output_stride=16, atrous_rates=()
)
SIZE = (513, 513)
IGNORE_LABEL = 255
PROOF_IMAGES = 4  # of each export; here they are compared more closely
REFERENCE = "original, int8"
EXPORTS = {
    "float32": TFLiteConfig(input_size=SIZE),
    "float16": TFLiteConfig(quantize="float16", input_size=SIZE),
    "float16 /4": TFLiteConfig(quantize="float16", result_stride=4, input_size=SIZE),
    "int8": TFLiteConfig(quantize="int8", input_size=SIZE),
    "int8 /4": TFLiteConfig(quantize="int8", result_stride=4, input_size=SIZE),
}
WANTED = ("float16 /4", "int8")  # should reach:
MAX_RATIO = 0.8
MIN_AGREEMENT = 0.985


class File:
    """A `.tflite` file that labels one image at a time."""

    def __init__(self, path: str, num_threads: int):
        content = pathlib.Path(path).read_bytes()
        self.mebibytes = len(content) / 2**20
        self.operators = collections.Counter(
            operator.name for operator in litert.operators(content) if not operator.unpacks_weights
        )
        self._interpreter = Interpreter(path, num_threads=num_threads)
        self._interpreter.allocate_tensors()
        (self._takes,) = self._interpreter.get_input_details()
        (self._returns,) = self._interpreter.get_output_details()
        # The nearest label of every pixel.
        self._nearest = np.ix_(
            *(
                np.floor(np.arange(side) * (labels - 1) / (side - 1) + 0.5).astype(int)
                for side, labels in zip(SIZE, self._returns["shape"][1:])
            )
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Class ids [H, W] of an image, uint8 [H, W, 3]."""
        self._interpreter.set_tensor(
            self._takes["index"], image[np.newaxis].astype(self._takes["dtype"])
        )
        self._interpreter.invoke()
        labels = self._interpreter.get_tensor(self._returns["index"])[0]
        return labels if labels.shape == SIZE else labels[self._nearest]


@dataclasses.dataclass(frozen=True)
class Photo:
    """An image in the size that the files take."""

    name: str
    image: np.ndarray  # uint8 [H, W, 3]
    is_inside: np.ndarray  # bool [H, W]: False in the padding
    label: np.ndarray | None  # int32 [H, W]


def read_images(patterns: str, label_folder: str) -> list[Photo]:
    """Reads images, and the label maps of the same names where there are any."""

    fitter = fitting.ImageFitter(backbones.pad_pixel(BACKBONE), size=SIZE)

    def fitted(image, label):
        return proof_images.fitted(proof_images.ProofImage("", image, label), fitter, IGNORE_LABEL)

    images = []
    for path in matching(patterns):
        image, label = image_files.read_image(path), None
        inside = fitted(image, np.zeros(image.shape[:2], np.int32))
        label_path = os.path.join(label_folder, f"{pathlib.Path(path).stem}.png")
        if os.path.exists(label_path):
            label = fitted(image, np.asarray(Image.open(label_path)).astype(np.int32)).label
        is_inside = inside.label != IGNORE_LABEL
        images.append(Photo(pathlib.Path(path).name, inside.image, is_inside, label))
    return images


def matching(patterns: str) -> list[str]:
    return sorted(path for pattern in patterns.split(",") for path in glob.glob(pattern))


def export_files(
    run_dir: str, calibration: str, num_calibration_images: int, folder: str
) -> dict[str, str]:
    """Exports a run by each of `EXPORTS`; returns the files."""
    paths = {}
    for name, config in EXPORTS.items():
        paths[name] = os.path.join(folder, f"{name.replace(' /', '_')}.tflite")
        tflite.export_tflite(
            run_dir,
            paths[name],
            tflite_config=config,
            calibration_config=CalibrationConfig(
                calibration_images=calibration, num_calibration_images=num_calibration_images
            ),
            proof_config=TFLiteProofConfig(num_proof_images=PROOF_IMAGES),
        )
    return paths


def keras_labels(run_dir: str, images: list[Photo]) -> list[np.ndarray]:
    """Returns the class ids that the run's Keras model finds, [H, W] each."""
    run = run_dirs.read(run_dir)
    label_of = prediction.label_function(
        run_dirs.load_model(run), run.model_config, run.data_config
    )
    return [label_of(image.image) for image in images]


def agreement(labels: list, expected: list, images: list[Photo]) -> float:
    """Returns the share of pixels with the expected labels, without the padding."""
    equal = sum(
        int(((ours == theirs) & image.is_inside).sum())
        for ours, theirs, image in zip(labels, expected, images)
    )
    return equal / sum(int(image.is_inside.sum()) for image in images)


def miou(labels: list, images: list[Photo]) -> float:
    """Returns the mIoU over the images that have a label map; NaN without any."""
    matrix = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for ours, image in zip(labels, images):
        if image.label is not None:
            matrix += metrics.confusion_matrix(image.label, ours, NUM_CLASSES, IGNORE_LABEL)
    names = tuple(map(str, range(NUM_CLASSES)))
    return metrics.segmentation_metrics(matrix, names)["miou"] if matrix.any() else np.nan


def times(files: dict[str, File], images: list[Photo], rounds: int) -> dict[str, list[float]]:
    """Returns the milliseconds of each file in each round, the median over the images."""
    for file in files.values():  # warm-up
        file(images[0].image)
    milliseconds = {name: [] for name in files}
    for number in range(rounds):
        taken = {name: [] for name in files}
        for image in images:
            # In turn, and from both ends, so that a change of the machine's speed meets all.
            for name in list(files)[:: 1 if number % 2 == 0 else -1]:
                started = time.perf_counter()
                files[name](image.image)
                taken[name].append(1000 * (time.perf_counter() - started))
        for name, values in taken.items():
            milliseconds[name].append(statistics.median(values))
    return milliseconds


def compare(files: dict[str, File], images, expected, rounds: int) -> dict[str, tuple]:
    """Prints a line for each file; returns ratio and agreement by name."""
    milliseconds = times(files, images, rounds)
    figures = {}
    print(f"{'':<18}{'ms':>8}{'ratio':>7}{'agree':>9}{'worst':>9}{'mIoU':>8}{'MiB':>7}{'ops':>5}")
    for name, file in files.items():
        labels = [file(image.image) for image in images]
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(milliseconds[name], milliseconds[REFERENCE])
        )
        agree = agreement(labels, expected, images)
        worst = min(agreement([a], [b], [c]) for a, b, c in zip(labels, expected, images))
        figures[name] = (ratio, agree)
        print(
            f"{name:<18}{statistics.median(milliseconds[name]):>8.1f}{ratio:>7.2f}{agree:>9.2%}"
            f"{worst:>9.2%}{miou(labels, images):>8.4f}{file.mebibytes:>7.2f}"
            f"{file.operators.total():>5}",
            flush=True,
        )
    print(f"{'Keras, float32':<51}{miou(expected, images):>8.4f}")
    for name, file in files.items():
        print(f"{name}: {', '.join(f'{op} {n}' for op, n in file.operators.most_common())}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data = SHARED / "data"
    parser.add_argument(
        "--checkpoint",
        default=str(SHARED / "checkpoints/deeplabv3_mnv2_pascal/model.ckpt"),
        help="prefix of the original's checkpoint",
    )
    parser.add_argument(
        "--reference",
        default=str(SHARED / "tflite/deeplabv3_mnv2_pascal_quant.tflite"),
        help="the original's quantised .tflite file",
    )
    parser.add_argument(
        "--images",
        default=f"{data}/VOC_mini/JPEGImages/*.jpg,{data}/photos/*.jpg",
        help="globs of images to compare on, separated by commas",
    )
    parser.add_argument(
        "--labels",
        default=f"{data}/VOC_mini/SegmentationClass",
        help="folder of label maps in VOC's encoding, for the mIoU",
    )
    parser.add_argument(
        "--calibration",
        default=f"{data}/CamVid/train/*.png",
        help="glob of other images to calibrate int8 with",
    )
    parser.add_argument(
        "--num_calibration_images",
        type=int,
        default=128,
        help="largest number of images to calibrate with",
    )
    parser.add_argument(
        "--threads", type=int, default=crf.num_cores(), help="threads of the interpreter"
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="rounds over the images that are timed"
    )
    arguments = parser.parse_args()
    for flag, found in (
        ("checkpoint", os.path.exists(f"{arguments.checkpoint}.index")),
        ("reference", os.path.exists(arguments.reference)),
        ("images", matching(arguments.images)),
        ("calibration", matching(arguments.calibration)),
    ):
        if not found:
            parser.error(f"--{flag}={getattr(arguments, flag)} is not there: give it")

    images = read_images(arguments.images, arguments.labels)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = os.path.join(folder, "run")
        import_checkpoint.import_checkpoint(
            arguments.checkpoint,
            model_config=MODEL,
            data_config=DataConfig(train_crop_size=SIZE),
            run_dir=run_dir,
        )
        paths = {REFERENCE: arguments.reference}
        paths |= export_files(
            run_dir, arguments.calibration, arguments.num_calibration_images, folder
        )
        files = {name: File(path, arguments.threads) for name, path in paths.items()}
        expected = keras_labels(run_dir, images)
        print(
            f"{arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}, {len(images)} "
            f"images at {SIZE[0]}x{SIZE[1]}, medians of {arguments.rounds} rounds"
        )
        figures = compare(files, images, expected, arguments.rounds)
    is_missed = False
    for name in WANTED:
        ratio, agree = figures[name]
        is_missed |= ratio > MAX_RATIO or agree < MIN_AGREEMENT
        print(
            f"{name}: ratio {ratio:.2f} (at most {MAX_RATIO} is wanted), agreement {agree:.2%} "
            f"(at least {MIN_AGREEMENT:.1%})"
        )
    sys.exit(is_missed)


if __name__ == "__main__":
    main()
