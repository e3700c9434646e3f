"""How long a training takes from the command to the end of its first step.

    python benchmarks/start.py                           # two networks, some minutes
    python benchmarks/start.py --backbones=mobilenet_v2  # a minute

Each start trains on the drawn images of `shapes` with the default settings and random weights, on
crops of 513x513. It ends after the second step, which tells what a step takes by itself. A start
before the others is not counted: it compiles the input in numba, which is kept.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

BACKBONES = "mobilenet_v2,xception_65"
STARTS = 3
CROP = "513,513"


def build_dataset(folder: str) -> None:
    command = [sys.executable, "-m", "deeplab_tf.datasets.build", "--dataset=shapes"]
    subprocess.run([*command, f"--data_dir={folder}"], check=True, stdout=subprocess.DEVNULL)


def seconds_of_steps(data_dir: str, backbone: str) -> list[float]:
    """Starts a training; returns the seconds from its start to the end of the first two steps."""
    command = [sys.executable, "-m", "deeplab_tf.train", "--dataset=shapes"]
    command += [f"--data_dir={data_dir}", f"--backbone={backbone}", f"--train_crop_size={CROP}"]
    command += ["--tf_initial_checkpoint=none", "--log_every_steps=1"]
    with tempfile.TemporaryDirectory() as folder:
        command.append(f"--run_dir={folder}/run")
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None  # it is piped
            seconds: list[float] = []
            for line in process.stdout:
                if line.startswith("step "):
                    seconds.append(time.perf_counter() - start)
                if len(seconds) == 2:
                    break
            process.kill()
    if len(seconds) < 2:
        raise SystemExit(f"the training of {backbone} failed")
    return seconds


def seconds_to_import_tensorflow() -> float:
    start = time.perf_counter()
    code = "import tensorflow"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbones", default=BACKBONES, help="names, separated by commas")
    parser.add_argument("--data_dir", help="where `shapes` was built; by default it is built")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = arguments.data_dir or folder
        if not arguments.data_dir:
            build_dataset(data_dir)
        backbones = arguments.backbones.split(",")
        seconds_of_steps(data_dir, backbones[0])
        alone = statistics.median(seconds_to_import_tensorflow() for _ in range(STARTS))
        for backbone in backbones:
            starts = [seconds_of_steps(data_dir, backbone) for _ in range(STARTS)]
            first = statistics.median(before for before, _ in starts)
            step = statistics.median(after - before for before, after in starts)
            print(
                f"{backbone:<14} first step after {first:.1f} s, of which a step by itself takes "
                f"{step:.1f} s; `import tensorflow` alone takes {alone:.1f} s, {alone / first:.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
