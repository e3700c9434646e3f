"""Evaluates a run, a model exported from it, or released weights.

    python -m deeplab_tf.eval --run_dir=DIR
    python -m deeplab_tf.eval --weights=NAME --data_dir=RECORDS

Prints the IoU of every class, mIoU and further figures, and writes them to metrics.json in the run
dir, with a line for every image in images.jsonl. The run dir of released weights is in the cache.
--report=FILE.html writes a page that shows them.
"""

import dataclasses
import os

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.settings import setting

find_run_dir = command_line.lazy_function("deeplab_tf.runs.imported_run", "find_run_dir")
evaluate_run = command_line.lazy_function("deeplab_tf.evaluation.run_evaluation", "evaluate_run")
print_metrics = command_line.lazy_function("deeplab_tf.evaluation.evaluate", "print_metrics")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.TrainedConfig):
    """The flags of this command alone."""

    split: str = config.split()
    model: str = config.model()
    engine: str = config.engine("tensorflow")
    data_dir: str = config.data_dir(default_help="the records of the run")
    dataset: str = config.dataset()
    max_damaged_share: float | None = config.max_damaged_share(None, "that of the run")
    max_image_pixels: int | None = config.max_image_pixels(None, "that of the run")
    border_width: int = setting(
        0,
        "Evaluates only pixels closer than this to a border between classes; 0 for all.",
        at_least=0,
        unit="pixels",
    )
    trimap_width: int = setting(
        0,
        "Also evaluates trimaps along the borders, from 1 pixel wide to this; the papers use 40.",
        at_least=0,
        unit="pixels",
    )
    boundary_iou: bool = setting(False, "Whether to measure the Boundary IoU, too.")
    report: str = setting(
        "",
        "HTML file to write, with figures, curves and images.",
        default_help="not written",
        is_path=True,
        is_common=True,
    )
    compare: str = setting(
        "",
        "Run dir that was evaluated before, for the report to compare with.",
        default_help="no comparison",
        is_path=True,
    )


def main(arguments: Arguments, eval_config: EvalConfig, crf_config: CrfConfig) -> None:
    from deeplab_tf.evaluation.inference import Inference
    from deeplab_tf.evaluation.run_evaluation import Data
    from deeplab_tf.evaluation.run_evaluation import Measures
    from deeplab_tf.runs import run_files

    run_dir = find_run_dir(arguments)
    figures = evaluate_run(
        run_dir,
        data=Data(
            data_dir=arguments.data_dir,
            dataset=arguments.dataset,
            split=arguments.split,
            max_damaged_share=arguments.max_damaged_share,
            max_image_pixels=arguments.max_image_pixels,
        ),
        inference=Inference(
            checkpoint=arguments.checkpoint,
            model=arguments.model,
            engine=arguments.engine,
            eval_config=eval_config,
            crf_config=crf_config,
        ),
        measures=Measures(
            border_width=arguments.border_width,
            trimap_width=arguments.trimap_width,
            boundary_iou=arguments.boundary_iou,
        ),
        report=arguments.report,
        compare=arguments.compare,
    )
    print_metrics(figures)
    paths = [os.path.join(run_dir, name) for name in (run_files.METRICS, run_files.IMAGES)]
    print("written to " + ", ".join([*paths, *filter(None, [arguments.report])]))


if __name__ == "__main__":
    command_line.run(main)
