"""Exports a run, or released weights, as a SavedModel for servers.

    python -m deeplab_tf.export.savedmodel --run_dir=RUN --output_dir=EXPORT
    python -m deeplab_tf.export.savedmodel --weights=NAME --output_dir=EXPORT

EXPORT is the base folder that TF Serving watches. The export becomes its next version: EXPORT/1,
EXPORT/2 and so on. It is written only if it can be loaded and agrees with the Keras model.
assets/parity.json has the figures.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import CrfConfig
from deeplab_tf.export.config import SavedModelProofConfig
from deeplab_tf.export.config import ServingConfig

find_run_dir = command_line.lazy_function("deeplab_tf.runs.imported_run", "find_run_dir")
export_savedmodel = command_line.lazy_function(
    "deeplab_tf.export.formats.savedmodel", "export_savedmodel"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.TrainedConfig):
    """The flags of this command alone."""

    output_dir: str = config.output_dir()
    model_version: int | None = config.model_version("one more than the highest in output_dir")


def main(
    arguments: Arguments,
    serving_config: ServingConfig,
    crf_config: CrfConfig,
    proof_config: SavedModelProofConfig,
) -> None:
    folder, figures = export_savedmodel(
        find_run_dir(arguments),
        arguments.output_dir,
        checkpoint=arguments.checkpoint,
        model_version=arguments.model_version,
        serving_config=serving_config,
        crf_config=crf_config,
        proof_config=proof_config,
    )
    print(f"{folder}: {figures.summary} (assets/parity.json)")


if __name__ == "__main__":
    command_line.run(main)
