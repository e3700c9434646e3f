"""Exports a run, or released weights, as an offline page for browsers.

    python -m deeplab_tf.export.web --run_dir=DIR --output_dir=DIR --single_file

Open index.html, or put the folder on any web server. The page works offline: the neural network
runs on the device of the person who opens the page, and images stay there. It takes files and
cameras, and shows the classes of an image, their shares and the class of each pixel.

The page is written only if its network agrees with the Keras model. parity.json has the figures.
LiteRT.js, which runs the network, is downloaded once by npm, or given by --litert_js.
"""

import dataclasses

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.export.config import TFLiteProofConfig
from deeplab_tf.export.config import WebConfig

find_run_dir = command_line.lazy_function("deeplab_tf.runs.imported_run", "find_run_dir")
export_web = command_line.lazy_function("deeplab_tf.export.formats.web", "export_web")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.TrainedConfig):
    """The flags of this command alone."""

    output_dir: str = config.output_dir()


def main(arguments: Arguments, web_config: WebConfig, proof_config: TFLiteProofConfig) -> None:
    page, figures, notes = export_web(
        find_run_dir(arguments),
        arguments.output_dir,
        checkpoint=arguments.checkpoint,
        web_config=web_config,
        proof_config=proof_config,
    )
    for note in notes:
        print(note)
    print(f"{page}: {figures.summary}")


if __name__ == "__main__":
    command_line.run(main)
