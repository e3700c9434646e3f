"""Exports a run, or released weights, as an ONNX file for other runtimes.

    python -m deeplab_tf.export.onnx --run_dir=DIR --output=FILE.onnx

ONNX Runtime and OpenVINO can run such a file. It is written only if ONNX Runtime can run it, and
its labels and scores agree with those of the Keras model. FILE.parity.json has the figures. Needs
the extra `onnx`.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.export.config import OnnxConfig
from deeplab_tf.export.config import ProofConfig

find_run_dir = command_line.lazy_function("deeplab_tf.runs.imported_run", "find_run_dir")
export_onnx = command_line.lazy_function("deeplab_tf.export.formats.onnx", "export_onnx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.TrainedConfig):
    """The flags of this command alone."""

    output: str = config.output()


def main(arguments: Arguments, onnx_config: OnnxConfig, proof_config: ProofConfig) -> None:
    from deeplab_tf.export import publishing

    figures = export_onnx(
        find_run_dir(arguments),
        arguments.output,
        checkpoint=arguments.checkpoint,
        onnx_config=onnx_config,
        proof_config=proof_config,
    )
    print(f"{arguments.output}: {figures.summary} ({publishing.parity_path(arguments.output)})")


if __name__ == "__main__":
    command_line.run(main)
