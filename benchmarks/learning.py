"""What the defaults learn: own data, from the folder to the mIoU, with the commands of the README.

    python benchmarks/learning.py membrane=FOLDER fruit=FOLDER
    python benchmarks/learning.py camvid=FOLDER --flagfile=configs/X.flagfile --start=WEIGHTS
    python benchmarks/learning.py camvid=FOLDER --flagfile=... --start=WEIGHTS --crf=v2
    python benchmarks/learning.py shapes

Each NAME=FOLDER is a folder that `datasets.build` takes, `shapes` the embedded data. Every part is
a command in a process of its own. Without --flagfile, `train` gets no flag but its two folders and,
with --start, the weights to start from. Printed is a row for each: images, steps, minutes of the
training, and mIoU and pixel accuracy of `eval` on the images for validation. With --crf there is a
second row, with the CRF.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import tensorflow as tf

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PUBLISHED = ("camvid", "shapes", "voc2012", "cityscapes", "ade20k")
ROW = "{:<12}{:>14}{:>8}{:>10}{:>8}{:>16}".format


def run(command: str, *arguments: str) -> None:
    """Runs a command of the package."""
    subprocess.run(
        [sys.executable, "-m", f"deeplab_tf.{command}", *filter(None, arguments)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


def learn(
    name: str, raw: str, folder: pathlib.Path, *, flagfile: str, start: str, crf: str
) -> list[str]:
    """Builds, trains and evaluates; returns the rows of the table."""
    data, run_dir = folder / "data", folder / "run"
    run(
        "datasets.build",
        f"--dataset={name if name in PUBLISHED else 'folder'}",
        raw and f"--manual_dir={raw}",
        f"--data_dir={data}",
    )
    begin = time.perf_counter()
    run(
        "train",
        flagfile and f"--flagfile={flagfile}",
        start and f"--tf_initial_checkpoint={start}",
        f"--data_dir={data}",
        f"--run_dir={run_dir}",
    )
    minutes = (time.perf_counter() - begin) / 60
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    steps = max(json.loads(line)["step"] for line in lines)
    info = next(data.rglob("dataset_info.json"))
    splits = {
        split["name"]: sum(map(int, split["shardLengths"]))
        for split in json.loads(info.read_text())["splits"]
    }
    images = f"{splits.get('train', 0)} + {splits.get('val', 0)}"
    rows = []
    for each in ["", crf] if crf else [""]:
        figures = evaluate(run_dir, each)
        shown = (f"{figures[key]:.3f}" for key in ("miou", "pixel_accuracy"))
        rows.append(ROW(f"{name} {each}".strip(), images, steps, f"{minutes:.1f}", *shown))
    return rows


def evaluate(run_dir: pathlib.Path, crf: str) -> dict:
    """Returns the metrics of `eval`, behind a CRF unless its name is empty."""
    run("eval", f"--run_dir={run_dir}", crf and f"--crf={crf}")
    return json.loads((run_dir / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--flagfile", default="", help="settings of the training")
    parser.add_argument("--start", default="", help="weights to start from")
    parser.add_argument("--crf", default="", help="CRF to evaluate with, too, such as v2")
    parser.add_argument("--output_dir", help="where to keep records and runs")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for one in arguments.data:
            name, _, raw = one.partition("=")
            flagfile = arguments.flagfile
            if name == "shapes" and not flagfile:  # its images are small, and have a recipe
                flagfile = str(REPOSITORY / "configs/shapes_v3plus_mobilenet_v2.flagfile")
            folder = pathlib.Path(arguments.output_dir or temporary) / name
            rows += learn(
                name,
                raw,
                folder,
                flagfile=flagfile,
                start=arguments.start,
                crf=arguments.crf,
            )
    print(f"\n{os.cpu_count()} cores, {platform.processor()}, TensorFlow {tf.__version__}")
    print(ROW("data", "train + val", "steps", "minutes", "mIoU", "pixel accuracy"))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
