"""Whether memory stays flat: a long training, then an evaluation and a labelling of many images.

    python benchmarks/soak.py                             # 1,000 steps and 500 images
    python benchmarks/soak.py --steps=200 --images=100

Each part runs in a process of its own, on drawn images and a small network. The resident memory is
read twice a second. The first third of a part is its warm-up: graphs are traced and buffers fill.
Printed is the slope of a line through the rest, per 1,000 steps or images, and how far the memory
strays from that line.
"""

import argparse
import multiprocessing
import pathlib
import tempfile
import time

import cv2
import numpy as np
import psutil

SECONDS_BETWEEN_READINGS = 0.5
CROP = 97


def records_of(folder: pathlib.Path, num_images: int) -> str:
    """Builds records of drawn images: 32 to train on, and `num_images` to evaluate on."""
    from deeplab_tf.datasets import building
    from deeplab_tf.datasets.shapes import drawing

    raw = folder / "raw"
    for name in ("images", "labels"):
        (raw / name).mkdir(parents=True)
    for split, count in (("train", 32), ("val", num_images)):
        names = [f"{split}_{index}" for index in range(count)]
        for index, name in enumerate(names):
            image, label = drawing.draw(split, index)
            cv2.imwrite(str(raw / "images" / f"{name}.jpg"), image[..., ::-1])
            cv2.imwrite(str(raw / "labels" / f"{name}.png"), label)
        (raw / f"{split}.txt").write_text("\n".join(names) + "\n")
    (raw / "classes.txt").write_text("\n".join(drawing.CLASS_NAMES) + "\n")
    return building.build("folder", folder / "records", raw).folder


def train(folder: pathlib.Path, data_dir: str, steps: int) -> None:
    """Trains, with a validation at the end."""
    from deeplab_tf import config
    from deeplab_tf.training import loop

    loop.train(
        config.ModelConfig(
            version="v3", depth_multiplier=0.35, atrous_rates=(), aspp_convs_filters=32
        ),
        config.DataConfig(data_dir=data_dir, train_crop_size=(CROP, CROP)),
        config.TrainConfig(
            training_number_of_steps=steps,
            train_batch_size=4,
            save_every_steps=max(1, steps // 10),
            eval_every_steps=max(1, steps // 10),
        ),
        str(folder / "run"),
    )


def evaluate(folder: pathlib.Path) -> None:
    """Evaluates the run on all validation images."""
    from deeplab_tf import eval as evaluation

    evaluation.evaluate_run(str(folder / "run"))


def predict(folder: pathlib.Path) -> None:
    """Labels all validation images."""
    from deeplab_tf import predict as labelling

    images = str(folder / "raw" / "images" / "val_*.jpg")
    labelling.predict(str(folder / "run"), images, str(folder / "predictions"))


def readings_of(function, *arguments) -> tuple[np.ndarray, np.ndarray]:
    """Runs a function in a process of its own; returns seconds, and resident memory in MiB."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    seconds, sizes, start = [], [], time.monotonic()
    watched = psutil.Process(process.pid)
    while process.is_alive():
        try:
            sizes.append(watched.memory_info().rss / 2**20)
            seconds.append(time.monotonic() - start)
        except psutil.Error:
            break
        time.sleep(SECONDS_BETWEEN_READINGS)
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} ended with exit code {process.exitcode}")
    return np.array(seconds), np.array(sizes)


def report(name: str, count: int, unit: str, seconds: np.ndarray, sizes: np.ndarray) -> None:
    """Prints the slope of memory behind the warm-up."""
    # The last reading may be of a process that frees its memory.
    is_warm = (seconds > seconds[-1] / 3) & (np.arange(len(seconds)) < len(seconds) - 1)
    per_second, level = np.polyfit(seconds[is_warm], sizes[is_warm], 1)
    line = per_second * seconds[is_warm] + level
    slope = per_second * seconds[-1] / count * 1000
    strays = np.abs(sizes[is_warm] - line).max()
    print(
        f"{name:<9} {count} {unit} in {seconds[-1]:.0f} s: {slope:+.1f} MiB per 1,000 {unit} "
        f"(within {strays:.1f} MiB of the line), peak {sizes.max():.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000, help="Training steps.")
    parser.add_argument("--images", type=int, default=500, help="Images to evaluate and label.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data_dir = records_of(folder, given.images)
        report("train", given.steps, "steps", *readings_of(train, folder, data_dir, given.steps))
        report("eval", given.images, "images", *readings_of(evaluate, folder))
        report("predict", given.images, "images", *readings_of(predict, folder))


if __name__ == "__main__":
    main()
