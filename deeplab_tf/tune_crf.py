"""Searches for the best CRF parameters of a run.

    python -m deeplab_tf.tune_crf --run_dir=DIR

It evaluates parameters on a few validation images, as the papers did: first on a coarse grid over
the weight and the standard deviations of the bilateral kernel, then on a finer grid around the best
point. After every improvement, it writes the best parameters to crf.json in the run dir. eval,
predict and export.savedmodel use them with --crf=tuned.
"""

import dataclasses
import os

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.settings import setting

tune_crf = command_line.lazy_function("deeplab_tf.evaluation.crf_search", "tune_crf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    run_dir: str = config.run_dir()
    num_images: int = config.num_images(20)
    split: str = config.split()
    checkpoint: str = config.checkpoint()
    preset: str = setting(
        "v1", "Paper whose parameters the search starts from.", choices=config.CRF_PRESETS
    )


def main(arguments: Arguments) -> None:
    from deeplab_tf.evaluation import crf_search
    from deeplab_tf.runs import run_files

    found = crf_search.tune_crf(**dataclasses.asdict(arguments))
    gain = found["miou"] - found["miou_without_crf"]
    parameters = crf_search.to_text(found["parameters"])
    print(f"miou {found['miou']:.4f} ({gain:+.4f} by the CRF) with {parameters}")
    path = os.path.join(arguments.run_dir, run_files.CRF)
    print(f"written to {path}: use it with --crf=tuned")


if __name__ == "__main__":
    command_line.run(main)
