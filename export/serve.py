r"""Serves an export over REST and gRPC as TF Serving does, for development.

    python -m deeplab_tf.export.serve --export_dir=EXPORT --rest_port=8501 --port=8500

EXPORT is the folder of all versions that `deeplab_tf.export.savedmodel` writes. All versions in it
are served; new ones are found within a second. Requests, answers, states and errors are those of TF
Serving, so that its clients work: `deeplab_tf.export.client`, curl and others. There is no batching
and no TLS. In production, run TF Serving on the same folder. Needs the extra `serving`.
"""

import dataclasses
import importlib

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import setting


def _port(default: int, protocol: str):
    return setting(default, f"Port of {protocol}. 0: any free port.", at_least=0, at_most=65535)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    export_dir: str = setting(
        REQUIRED, "The --output_dir of deeplab_tf.export.savedmodel.", is_path=True, is_common=True
    )
    rest_port: int = _port(8501, "REST")
    port: int = _port(8500, "gRPC")
    host: str = setting(
        "localhost",
        "Name or address to listen on. 0.0.0.0: other machines can connect.",
        may_be_empty=False,
    )
    model_name: str = setting("deeplab", "Name of the model in requests.", may_be_empty=False)
    version_labels: tuple[str, ...] = setting(
        (), "Labels of versions, as in models.config of TF Serving.", example="stable=1,canary=2"
    )
    max_request_mib: float = setting(
        64.0, "Largest request that is read.", above=0, at_most=2000, unit="MiB"
    )

    @property
    def versions_by_label(self) -> dict[str, int]:
        """The version of each label."""
        versions = {}
        for given in self.version_labels:
            label, _, number = given.partition("=")
            if not label or not number.isdecimal():
                raise UserError(
                    f"--version_labels={','.join(self.version_labels)} must be LABEL=VERSION, such "
                    "as stable=1,canary=2."
                )
            versions[label] = int(number)
        return versions


def main(arguments: Arguments) -> None:
    labels = arguments.versions_by_label
    with extra_for("Serving a model", extra="serving"):
        importlib.import_module("tensorflow_serving")
        importlib.import_module("grpc")
    from deeplab_tf.export.server import running

    running.run(
        arguments.export_dir,
        model_name=arguments.model_name,
        labels=labels,
        host=arguments.host,
        rest_port=arguments.rest_port,
        port=arguments.port,
        max_request_mib=arguments.max_request_mib,
    )


if __name__ == "__main__":
    command_line.run(main)
