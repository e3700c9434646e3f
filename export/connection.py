"""How a model server is reached, by any protocol; and the messages when that fails."""

import dataclasses
import re

from deeplab_tf import files
from deeplab_tf.errors import UserError

# The signature of `serving.ServingModule` that the client calls, its input and its output.
SIGNATURE, INPUT, OUTPUT = "serving_bytes", "image_bytes", "mask_png_bytes"
REMEDY = "serve a model that `python -m deeplab_tf.export.savedmodel` has written"
TOKEN_VARIABLE = "DEEPLAB_TF_AUTH_TOKEN"
LONGEST_TIMEOUT = 86400  # seconds

_PORTS = "TF Serving answers REST at port 8501 and gRPC at 8500 by default"
_LONGEST_ERROR = 300  # characters of a server's message that are shown


class RefusedError(UserError):
    """The server got the request and does not accept what is in it."""


class NotFoundError(UserError):
    """The server has no such model, or no such version of it."""


@dataclasses.dataclass(frozen=True)
class Connection:
    """How a model on a server is reached.

    Attributes:
        server: HOST:PORT.
        model_name: The name that the server gives to the model.
        model_version: Version of the model; None for the highest that is served.
        version_label: Label of the version, such as "canary", in its place; None for none.
        timeout: Longest time for one request, from connecting to its last byte, in seconds.
        max_answer_bytes: Larger answers are not read.
        tls: Whether to connect by TLS and check the server's certificate.
        ca_certificates: PEM file of the authorities to trust; None for those of the system.
        auth_token: Sent with each request, as `Authorization: Bearer ...`; None for none.
    """

    server: str
    model_name: str = "deeplab"
    model_version: int | None = None
    version_label: str | None = None
    timeout: float = 60.0
    max_answer_bytes: int = 64 * 2**20
    tls: bool = False
    ca_certificates: str | None = None
    auth_token: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        host, _, port = self.server.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(
                f"--server={self.server} must be an address such as localhost:8501; {_PORTS}."
            )
        if self.model_version is not None and self.version_label:
            raise UserError("Give --model_version or --version_label, not both.")
        if not 0 < self.timeout <= LONGEST_TIMEOUT:
            raise UserError(
                f"--timeout={self.timeout} must be above 0 and at most {LONGEST_TIMEOUT} seconds."
            )
        if self.max_answer_bytes < 1:
            raise UserError("--max_answer_mib must be above 0.")
        if self.ca_certificates is not None and not self.tls:
            raise UserError("--ca_certificates needs --tls.")
        if self.auth_token is not None and not re.fullmatch("[!-~]+", self.auth_token):
            raise UserError("The authorisation token must be printable ASCII without spaces.")

    @property
    def host(self) -> str:
        """The server's name or address."""
        return self.server.rpartition(":")[0].removeprefix("[").removesuffix("]")  # of IPv6

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self.server.rpartition(":")[2])

    def read_ca_certificates(self) -> str | None:
        """Returns the PEM text of the authorities to trust; None for those of the system."""
        if self.ca_certificates is None:
            return None
        return files.read_text(self.ca_certificates, "certificate file")

    def timeout_error(self) -> UserError:
        return UserError(
            f"{self.server} gives no complete answer within {self.timeout:g} seconds: raise "
            "--timeout, or lower --batch_size. The first request after a start takes longest if "
            "the model has no warm-up."
        )

    def unreachable_error(self, protocol: str, why: object) -> UserError:
        tls = "without TLS (see --tls)" if not self.tls else "by TLS"
        return UserError(
            f"no server at --server={self.server} answers {protocol} {tls} ({printable(why)}): "
            f"start the server, or correct the address or --protocol. {_PORTS}."
        )

    def certificate_error(self, why: object) -> UserError:
        return UserError(
            f"the certificate of {self.server} is not trusted ({printable(why)}): give the PEM "
            "file of its authority by --ca_certificates, and its host name by --server."
        )

    def too_large_error(self) -> UserError:
        return UserError(
            f"{self.server} answers with more than {self.max_answer_bytes / 2**20:g} MiB: raise "
            "--max_answer_mib if that is right, or lower --batch_size."
        )

    def unauthorised_error(self, why: object) -> UserError:
        return UserError(
            f"{self.server} refuses this client ({printable(why)}): give a token by "
            f"--auth_token_file or the environment variable {TOKEN_VARIABLE}."
        )

    def refused_error(self, why: object) -> RefusedError:
        return RefusedError(f"{self.server} refuses the request: {printable(why)}")

    def status_error(self, status: object, why: object) -> UserError:
        return UserError(
            f"{self.server} answers with status {status}: {printable(why)!r}. {_PORTS}; if it is "
            "TF Serving, its log says more."
        )

    def misfit_error(self, what: str) -> UserError:
        """The error for an answer that TF Serving would not give for one of our exports."""
        return UserError(f"{self.server} answers {what}; {REMEDY}.")


def printable(text: object) -> str:
    """Returns a text of a server without control characters, and not too long."""
    shown = str(text)[:_LONGEST_ERROR]
    return "".join(one if one.isprintable() else " " for one in shown).strip()
