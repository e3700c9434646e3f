"""Runs the benchmarks in their short forms, and keeps what they print for the site.

    python benchmarks/refresh.py                  # all, below 20 minutes on 2 idle cores
    python benchmarks/refresh.py atrous crf       # only these

What a benchmark prints goes to a file of docs/results/measured/, below a head with its command, the
date and the machine. The site shows these files on the page "As measured". A benchmark that does
not fit into the time that is left is stopped and named; its old file stays.
"""

import argparse
import dataclasses
import datetime
import os
import pathlib
import re
import subprocess
import sys
import time

from deeplab_tf.runs import environment

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MEASURED = REPOSITORY / "docs" / "results" / "measured"
MAX_MINUTES = 20.0


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A script of this folder, in the form that takes minutes.

    Attributes:
        name: Its file without `.py`.
        arguments: What makes it short.
    """

    name: str
    arguments: tuple[str, ...] = ()

    @property
    def result(self) -> pathlib.Path:
        """Returns the file of what it prints: `train_step_quick.txt`."""
        words = re.findall(r"\w+", " ".join([self.name, *self.arguments]))
        return MEASURED / f"{'_'.join(words)}.txt"


# The quick ones first: if the time is up, the long ones are left out.
BENCHMARKS = (
    Benchmark("crf"),
    Benchmark("input_pipeline"),
    Benchmark("input_pipeline", ("--size=64x48", "--crop=65")),
    Benchmark("atrous", ("--quick",)),
    Benchmark("inference", ("--predict",)),
    Benchmark("inference", ("--ratios", "--cases=mobilenet")),
    Benchmark("train_step", ("--quick",)),
    Benchmark("inference", ("--quick",)),
)


def head(benchmark: Benchmark) -> str:
    """Returns the lines above what a benchmark prints: command, date, machine, versions."""
    command = " ".join(["python", f"benchmarks/{benchmark.name}.py", *benchmark.arguments])
    return f"{command}\n{datetime.date.today()}\n{environment.describe_machine()}\n\n"


def measure(benchmark: Benchmark, seconds: float, script: pathlib.Path) -> str | None:
    """Runs a benchmark.

    Args:
        benchmark: The benchmark.
        seconds: When it is stopped.
        script: Its file.

    Returns:
        What it printed; None if it was stopped.

    Raises:
        SystemExit: It failed.
    """
    try:
        result = subprocess.run(
            [sys.executable, str(script), *benchmark.arguments],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return None
    if result.returncode:
        sys.exit(f"error: benchmarks/{script.name} failed; its message is above.")
    return result.stdout


def main() -> None:
    """Runs the benchmarks that the command line names, or all."""
    names = list(dict.fromkeys(one.name for one in BENCHMARKS))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument("--max_minutes", type=float, default=MAX_MINUTES)
    given = parser.parse_args()
    if unknown := set(given.names) - set(names):
        parser.error(f"{sorted(unknown)} must be of {names}")
    MEASURED.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * given.max_minutes
    for benchmark in BENCHMARKS:
        if given.names and benchmark.name not in given.names:
            continue
        command = " ".join([benchmark.name, *benchmark.arguments])
        print(f"{command} ...", flush=True)
        script = REPOSITORY / "benchmarks" / f"{benchmark.name}.py"
        printed = measure(benchmark, max(0.0, end - time.monotonic()), script)
        if printed is None:
            print(f"{command} was stopped: {given.max_minutes:g} minutes are up.")
            continue
        benchmark.result.write_text(head(benchmark) + printed)
        print(printed)


if __name__ == "__main__":
    main()
