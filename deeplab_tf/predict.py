"""Labels images, videos or the frames of a camera with a trained model.

    python -m deeplab_tf.predict --run_dir=DIR --images='photos/*.jpg' --output_dir=DIR
    python -m deeplab_tf.predict --weights=NAME --images='photos/*.jpg' --output_dir=DIR

For every image NAME, it writes NAME.png, whose pixel values are class ids, with the colours of the
classes as its palette; and NAME_overlay.png, the colours over the image, with a legend below. For a
video, it writes NAME_overlay.mp4. --images=0 labels the frames of the first camera, until Ctrl-C or
--max_frames. overview.png shows the first overlays together.

--weights=NAME labels with released weights, which need no run: `python -m deeplab_tf.zoo list`
shows the names.

--label_ids=cityscapes also writes label_ids/NAME.png with the ids that the test server of
Cityscapes expects: run it on leftImg8bit/test/*/*.png and upload that folder. For another server,
give a file with a line `CLASS: ID` for every class.

--model=PATH labels with a SavedModel, .keras or .tflite file that was exported from the run, in
place of the run's checkpoint.

--beam_pipeline_options lets Apache Beam label on many machines; the images may then be shards of
records, and --labels_as=records writes records. See docs/guides/beam.md.

A file that cannot be read, or whose result cannot be written, is named and skipped; the exit code
is then 1.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import AUTO
from deeplab_tf.config import PNG
from deeplab_tf.config import RECORDS
from deeplab_tf.config import TENSORFLOW
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import PredictConfig
from deeplab_tf.errors import UserError
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import setting

find_run_dir = command_line.lazy_function("deeplab_tf.runs.imported_run", "find_run_dir")
predict = command_line.lazy_function("deeplab_tf.evaluation.labelling", "predict")
predict_by_beam = command_line.lazy_function("deeplab_tf.evaluation.labelling_by_beam", "predict")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.TrainedConfig):
    """The flags of this command alone."""

    model: str = config.model()
    engine: str = config.engine("auto")
    images: tuple[str, ...] = setting(
        REQUIRED,
        "Images and videos: files, folders or quoted globs, or the number of a camera; several "
        "separated by commas.",
        is_path=True,
        is_common=True,
    )
    output_dir: str = config.output_dir()
    beam_pipeline_options: tuple[str, ...] = config.beam_pipeline_options()
    labels_as: str = setting(
        PNG,
        "What to write with Apache Beam. png: label maps and overlays. records: records of images "
        "and labels.",
        choices=(PNG, RECORDS),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.labels_as == RECORDS and not self.beam_pipeline_options:
            raise UserError(
                "--labels_as=records needs --beam_pipeline_options; "
                "--beam_pipeline_options=runner=DirectRunner labels on this machine."
            )


def main(
    arguments: Arguments,
    predict_config: PredictConfig,
    eval_config: EvalConfig,
    crf_config: CrfConfig,
) -> None:
    from deeplab_tf.evaluation.inference import Inference

    is_by_beam = bool(arguments.beam_pipeline_options)
    # The fastest engine may be another one on every worker, with other labels at some borders.
    engine = TENSORFLOW if is_by_beam and arguments.engine == AUTO else arguments.engine
    labelled = arguments.images, arguments.output_dir
    configs = {
        "inference": Inference(
            checkpoint=arguments.checkpoint,
            model=arguments.model,
            engine=engine,
            eval_config=eval_config,
            crf_config=crf_config,
        ),
        "predict_config": predict_config,
    }
    if not is_by_beam:
        predict(find_run_dir(arguments), *labelled, **configs)
        return
    num_images = predict_by_beam(
        find_run_dir(arguments),
        *labelled,
        options=arguments.beam_pipeline_options,
        labels_as=arguments.labels_as,
        **configs,
    )
    print(f"{num_images} images labelled, in {arguments.output_dir}")


if __name__ == "__main__":
    command_line.run(main)
