"""Exports a run, or released weights, as a `.tflite` file for small devices.

    python -m deeplab_tf.export.tflite --run_dir=DIR --output=FILE.tflite --quantize=int8

The file is written only if it passes the checks: no operator is slow or missing on a phone, and the
labels agree with those of the Keras model. FILE.parity.json has the figures.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.export.config import CalibrationConfig
from deeplab_tf.export.config import TFLiteConfig
from deeplab_tf.export.config import TFLiteProofConfig

find_run_dir = command_line.lazy_function("deeplab_tf.runs.imported_run", "find_run_dir")
export_tflite = command_line.lazy_function("deeplab_tf.export.formats.tflite", "export_tflite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.TrainedConfig):
    """The flags of this command alone."""

    output: str = config.output()


def main(
    arguments: Arguments,
    tflite_config: TFLiteConfig,
    calibration_config: CalibrationConfig,
    proof_config: TFLiteProofConfig,
) -> None:
    from deeplab_tf.export import publishing

    figures, notes = export_tflite(
        find_run_dir(arguments),
        arguments.output,
        checkpoint=arguments.checkpoint,
        tflite_config=tflite_config,
        calibration_config=calibration_config,
        proof_config=proof_config,
    )
    for note in notes:
        print(note)
    print(f"{arguments.output}: {figures.summary} ({publishing.parity_path(arguments.output)})")


if __name__ == "__main__":
    command_line.run(main)
