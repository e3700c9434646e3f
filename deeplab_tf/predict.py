"""Labels images, videos or the frames of a camera with a trained model.

    python -m deeplab_tf.predict --run_dir=DIR --images='photos/*.jpg' --output_dir=DIR
    python -m deeplab_tf.predict --weights=NAME --images='photos/*.jpg' --output_dir=DIR

For every image NAME, it writes NAME.png, whose pixel values are class ids, with the colours of the
classes as its palette; and NAME_overlay.png, the colours over the image, with a legend below. For a
video, it writes NAME_overlay.mp4. --images=0 is the first camera, until Ctrl-C or --max_frames.
overview.png shows the first overlays together.

--weights=NAME labels with released weights, which need no run: `python -m deeplab_tf.zoo list`
shows the names.

--label_ids=cityscapes also writes label_ids/NAME.png with the ids that the test server of
Cityscapes expects: run it on leftImg8bit/test/*/*.png and upload that folder. For another server,
give a file with a line `CLASS: ID` for every class.

--model=PATH labels with a SavedModel, .keras or .tflite file that was exported from the run, in
place of the run's checkpoint.

A file that cannot be read, or whose result cannot be written, is named and skipped; the exit code
is then 1.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import PredictConfig
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import setting

find_run_dir = command_line.lazy_function("deeplab_tf.runs.imported_run", "find_run_dir")
predict = command_line.lazy_function("deeplab_tf.evaluation.labelling", "predict")


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


def main(
    arguments: Arguments,
    predict_config: PredictConfig,
    eval_config: EvalConfig,
    crf_config: CrfConfig,
) -> None:
    from deeplab_tf.evaluation.inference import Inference

    predict(
        find_run_dir(arguments),
        arguments.images,
        arguments.output_dir,
        inference=Inference(
            checkpoint=arguments.checkpoint,
            model=arguments.model,
            engine=arguments.engine,
            eval_config=eval_config,
            crf_config=crf_config,
        ),
        predict_config=predict_config,
    )


if __name__ == "__main__":
    command_line.run(main)
