r"""Labels images with a model behind TF Serving, over REST or gRPC.

    python -m deeplab_tf.export.client --server=localhost:8501 --protocol=rest \
        --images='photos/*.jpg' --output_dir=DIR --palette=EXPORT/1/assets/palette.json

Image files are sent to the signature `serving_bytes`. Files that are not JPEG or PNG of 8 bits per
channel, and photos with an EXIF rotation, are first converted to upright PNGs. For every image
NAME, the command writes the same files as `deeplab_tf.predict`: NAME.png, the class ids with a
palette, and NAME_overlay.png. It prints how long the answer took. Images that cannot be read, or
that the server refuses, are named and skipped; the exit code is then 1.

--tls connects with TLS. A token for the server comes from --auth_token_file, or from the
environment variable DEEPLAB_TF_AUTH_TOKEN.

In Python:

    with client.Client("localhost:8501", "rest", "deeplab") as server:
        labels = server.predict([image_bytes, other_image_bytes])

Over REST, TensorFlow is not imported. Over gRPC, it is, by `tensorflow_serving.apis`.
"""

import dataclasses
import io
import os
import statistics
import sys
import time
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags
from PIL import Image

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf import files
from deeplab_tf import start_up
from deeplab_tf.data import bands
from deeplab_tf.data import image_files
from deeplab_tf.data import records
from deeplab_tf.data.json_fields import JsonObject
from deeplab_tf.data.json_fields import as_integer
from deeplab_tf.drawing import predictions
from deeplab_tf.errors import UserError
from deeplab_tf.export import asset_files
from deeplab_tf.export import connection as connections
from deeplab_tf.export.connection import INPUT
from deeplab_tf.export.connection import OUTPUT
from deeplab_tf.export.connection import REMEDY
from deeplab_tf.export.connection import SIGNATURE
from deeplab_tf.export.connection import Connection
from deeplab_tf.export.connection import NotFoundError
from deeplab_tf.export.connection import RefusedError
from deeplab_tf.export.grpc_api import Grpc
from deeplab_tf.export.rest_api import Rest
from deeplab_tf.settings import REQUIRED
from deeplab_tf.settings import setting

PROTOCOLS: dict[str, type[Rest] | type[Grpc]] = {"rest": Rest, "grpc": Grpc}

_MASK_BITS, _GREY_MODES = (8, 16), ("L", "I;16", "I")
_BIT_DEPTH = 24  # position of that byte in a PNG
_8_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_MAX_CLASSES = 2**16
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class Client:
    """A model behind TF Serving; threads may share it.

    Requests are not retried, since the server may have carried out a failed one.

    Attributes:
        name: Model, version and address, for messages.
    """

    def __init__(
        self,
        server: str,
        protocol: str = "rest",
        model_name: str = "deeplab",
        model_version: int | None = None,
        *,
        version_label: str | None = None,
        timeout: float = 60.0,
        max_answer_mib: float = 64.0,
        tls: bool = False,
        ca_certificates: str | None = None,
        auth_token: str | None = None,
    ):
        """Connects to nothing yet.

        Args:
            server: HOST:PORT.
            protocol: "rest" or "grpc".
            model_name: The name that the server gives to the model.
            model_version: The version to ask; None for the highest that is served.
            version_label: Label of the version to ask, such as "canary", in its place.
            timeout: Longest time for one request, from connecting to its last byte, in seconds.
            max_answer_mib: Largest answer to one request that is read, in MiB.
            tls: Whether to connect by TLS and check the server's certificate.
            ca_certificates: PEM file of the authorities to trust; None for those of the system.
            auth_token: Sent with each request, as `Authorization: Bearer ...`.

        Raises:
            UserError: A value is not allowed, or the certificates cannot be read.
        """
        if protocol not in PROTOCOLS:
            raise UserError(f"--protocol={protocol} must be {' or '.join(PROTOCOLS)}.")
        self._connection = Connection(
            server,
            model_name,
            model_version,
            version_label,
            timeout=timeout,
            max_answer_bytes=int(max_answer_mib * 2**20),
            tls=tls,
            ca_certificates=ca_certificates,
            auth_token=auth_token,
        )
        version = "" if model_version is None else f", version {model_version}"
        version += f", label {version_label}" if version_label else ""
        self.name = f"model {model_name}{version} at {server} ({protocol})"
        self._transport = PROTOCOLS[protocol](self._connection)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def predict(self, image_bytes: Sequence[bytes]) -> list[np.ndarray]:
        """Returns the labels of images, in one request.

        Args:
            image_bytes: JPEG or PNG files of 8 bits per channel, of any sizes.

        Returns:
            Class ids at each image's own size, int32 [H, W].

        Raises:
            RefusedError: The server does not accept the images: one of them is broken, or they
                are too many.
            UserError: There is no such server, model or version; or the answer does not come in
                time, is too large, or is not masks of the images.
        """
        if not image_bytes:
            return []
        masks = self._ask(lambda: self._transport.predict(list(image_bytes)))
        if len(masks) != len(image_bytes):
            raise UserError(
                f"{self.name} answers {len(image_bytes)} images with {len(masks)} masks; {REMEDY}."
            )
        return [self._decode(*pair) for pair in zip(masks, image_bytes, strict=True)]

    def require_model(self) -> None:
        """Makes sure, before any work, that there is a model that takes image files.

        Raises:
            UserError: There is none.
        """
        signatures = self._ask(self._transport.signatures)
        inputs, outputs = signatures.get(SIGNATURE, ((), ()))
        if list(inputs) != [INPUT] or OUTPUT not in outputs:
            raise UserError(
                f"{self.name} has no signature {SIGNATURE} from {INPUT} to {OUTPUT} among its "
                f"signatures {connections.printable(', '.join(sorted(signatures)))}; {REMEDY}."
            )

    def _ask(self, request: Callable[[], typing.Any]) -> typing.Any:
        """Calls a request; if the model is not found, says what is there instead."""
        try:
            return request()
        except NotFoundError as error:
            found = error
        try:
            versions = self._transport.versions()
        except NotFoundError:
            versions = []
        name, version = self._connection.model_name, self._connection.model_version
        if versions and version is not None:
            raise UserError(
                f"{self._connection.server} has no version {version} of the model {name}: give "
                f"--model_version={' or '.join(map(str, versions))}, or none for the highest."
            ) from found
        raise UserError(
            f"{self._connection.server} serves no model {name} "
            f"({connections.printable(found)}): give the --model_name that the server was started "
            "with, or wait until it has loaded."
        ) from found

    def _decode(self, mask: bytes, image_bytes: bytes) -> np.ndarray:
        """Decodes the mask of an image, if its header says that it is one."""
        size = _size(image_bytes)
        max_pixels = size[0] * size[1] if size else image_files.MAX_PIXELS
        try:
            with image_files.open_image(mask, name=OUTPUT, max_pixels=max_pixels) as png:
                problem = _mask_problem(png, mask, size)
                if not problem:
                    return np.asarray(png).astype(np.int32)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow and our checks raise
            problem = f"that cannot be read ({connections.printable(error)})"
        raise UserError(f"{self.name} answers with a {OUTPUT} {problem}; {REMEDY}.")


def _size(image_bytes: bytes) -> tuple[int, int] | None:
    """Returns width and height of an image file as stored; None if it is not one."""
    try:
        with image_files.open_image(image_bytes, max_pixels=sys.maxsize) as image:
            return image.size
    except UserError:
        return None


def _mask_problem(png: Image.Image, mask: bytes, size: tuple[int, int] | None) -> str:
    """Returns what is wrong with the header of a mask; empty if it fits an image of a size."""
    if png.format != "PNG" or mask[_BIT_DEPTH] not in _MASK_BITS or png.mode not in _GREY_MODES:
        return "that is not a grey PNG of 8 or 16 bits"
    if size is not None and png.size != size:
        return f"of {png.size[0]}x{png.size[1]} pixels for an image of {size[0]}x{size[1]}"
    return ""


@dataclasses.dataclass(frozen=True)
class _Image:
    pixels: np.ndarray  # as a viewer shows them, uint8 [H, W, 3]
    image_bytes: bytes  # the same as JPEG or PNG


@dataclasses.dataclass(frozen=True)
class _Answer:
    image: _Image
    label: np.ndarray  # int32 [H, W]
    milliseconds: float  # from request to labels, divided by the images in the request


def label_images(
    client: Client,
    images: str | Sequence[str],
    output_dir: str,
    *,
    palette: str | None = None,
    batch_size: int = 1,
    max_image_pixels: int = image_files.MAX_PIXELS,
) -> list[str]:
    """Writes the label PNG and the overlay of every image, with labels from a server.

    Args:
        client: The server.
        images: A file, a folder or a glob, or several of them.
        output_dir: Folder to write to, other than those of the images; made if missing.
        palette: `palette.json` of the export, which names the classes if `labels.txt` lies beside
            it; by default classes have numbers and VOC's colours.
        batch_size: Images per request.
        max_image_pixels: Larger images are refused.

    Returns:
        The label PNGs written, in the order of the sorted images.

    Raises:
        UserError: There is no image, or no server that answers as it should; or some images
            were unreadable or refused, which is raised after all others were labelled.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size={batch_size} must be 1 or more.")
    client.require_model()
    paths = image_files.find_images(images)
    names = predictions.output_names(paths)
    if files.real(output_dir) in {os.path.dirname(files.real(path)) for path in paths}:
        raise UserError(
            f"--output_dir={output_dir} holds some of the images: give another, so that none of "
            "them is overwritten."
        )
    writer = predictions.PredictionWriter(output_dir, *read_palette(palette))
    written, failures, latencies = [], [], []
    answers = _answers(client, paths, batch_size, max_image_pixels)
    for number, (path, name, answer) in enumerate(zip(paths, names, answers), start=1):
        progress = f"{number} of {len(paths)}  {path}"
        if isinstance(answer, Exception):
            failures.append(f"{path}: {answer}")
            print(f"{progress}: skipped, {answer}", flush=True)
            continue
        written.append(_write(writer, client.name, path, name, answer))
        latencies.append(answer.milliseconds)
        print(f"{progress} -> {written[-1]}  {answer.milliseconds:.0f} ms", flush=True)
    if latencies:
        print(
            f"{client.name}: {statistics.median(latencies):.0f} ms per image in the median, "
            f"{max(latencies):.0f} ms at most, with {batch_size} per request"
        )
    if failures:
        raise UserError(
            f"{len(failures)} of {len(paths)} images could not be labelled; the others are in "
            f"{output_dir}. Repair or remove:\n  " + "\n  ".join(failures)
        )
    return written


def _answers(
    client: Client, paths: Sequence[str], batch_size: int, max_pixels: int
) -> Iterator[_Answer | Exception]:
    """What comes back for every image, or why nothing does, in order."""
    for start in range(0, len(paths), batch_size):
        images = [_read_or_error(path, max_pixels) for path in paths[start : start + batch_size]]
        readable = [image for image in images if isinstance(image, _Image)]
        answers = iter(_request(client, readable))
        for image in images:
            yield next(answers) if isinstance(image, _Image) else image


def _request(client: Client, images: list[_Image]) -> list[_Answer | RefusedError]:
    """Labels images in one request; or each in its own, if they are refused together."""
    if not images:
        return []
    started = time.perf_counter()
    try:
        labels = client.predict([image.image_bytes for image in images])
    except RefusedError as error:
        if len(images) == 1:
            return [error]
        return [answer for image in images for answer in _request(client, [image])]
    milliseconds = 1000 * (time.perf_counter() - started) / len(images)
    return [
        _Answer(image, label, milliseconds) for image, label in zip(images, labels, strict=True)
    ]


def _read_or_error(path: str, max_pixels: int) -> _Image | Exception:
    """Reads an image before it is sent, since a broken one would spoil the whole request."""
    try:
        image_bytes = image_files.read_bytes(path)
        pixels = image_files.read_image(image_bytes, name=path, max_pixels=max_pixels)
        with image_files.open_image(image_bytes, name=path, max_pixels=max_pixels) as image:
            if _is_sent_as_it_is(image, image_bytes):
                return _Image(pixels, image_bytes)
    except (OSError, image_files.ImageFileError) as error:
        return error
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG")
    return _Image(pixels, png.getvalue())


def _is_sent_as_it_is(image: Image.Image, image_bytes: bytes) -> bool:
    """Whether the server decodes a file, and to the pixels that a viewer shows."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1 or image.mode not in _8_BIT_MODES:
        return False
    is_deep = image.format == "PNG" and image_bytes[_BIT_DEPTH] == 16
    return image.format in ("JPEG", "PNG") and not is_deep


def _write(
    writer: predictions.PredictionWriter, server: str, path: str, name: str, answer: _Answer
) -> str:
    """Writes the label of an image, if it fits the image and its classes."""
    size, label = answer.image.pixels.shape[:2], answer.label
    if label.shape != size:
        raise UserError(
            f"{server} answers {path}, {size[1]}x{size[0]} pixels, with a mask of "
            f"{label.shape[1]}x{label.shape[0]}; {REMEDY}."
        )
    if label.max() >= len(writer.colors):
        raise UserError(
            f"{server} finds class {label.max()} in {path}, but there are colours for "
            f"{len(writer.colors)} classes: give the palette.json of the served export by "
            "--palette."
        )
    try:
        return writer.write(name, answer.image.pixels, predictions.Prediction(label))
    except OSError as error:
        raise UserError(f"{path}: its label cannot be written: {error}.") from error


def read_palette(path: str | None) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Returns names and colours of the classes.

    Raises:
        UserError: The file is not what an export has in its assets.
    """
    if path is None:
        numbered = records.numbered_classes("served", 256)
        return numbered.class_names, numbered.colors
    path = os.path.expanduser(path)
    where = f"--palette={path}"
    content = files.read_json(path, "palette")
    fields = JsonObject(content, where, "Give assets/palette.json of the export.")
    if described := fields.items("bands", bands.MAX_BANDS, default=[]):
        raise UserError(
            f"{where} is of an export for images of {len(described)} bands, and this client sends "
            "RGB images. Use deeplab_tf.predict with --model=EXPORT, or send the images yourself, "
            "as docs/guides/tf_serving.md says."
        )
    found = fields.items("colors", _MAX_CLASSES)
    colors = tuple(color for color in map(_rgb, found) if color)
    if not colors or len(colors) < len(found):
        raise fields.error("colors", found, "a list of colours [R, G, B] in 0..255")
    labels_path = os.path.join(os.path.dirname(path), asset_files.LABELS)
    if not files.as_path(labels_path).exists():
        return records.numbered_classes("served", len(colors)).class_names, colors
    class_names = files.read_text(labels_path, "list of class names").removesuffix("\n").split("\n")
    if len(class_names) != len(colors):
        raise UserError(
            f"{where} has {len(colors)} colours, but {labels_path} names {len(class_names)} "
            "classes: take both from one export."
        )
    return tuple(class_names), colors


def _rgb(color: object) -> tuple[int, int, int] | None:
    """Returns a JSON value as a colour, or None if it is not one."""
    numbers = [as_integer(value) for value in color] if isinstance(color, list) else []
    if len(numbers) != 3 or any(value is None or not 0 <= value <= 255 for value in numbers):
        return None
    red, green, blue = (value or 0 for value in numbers)
    return red, green, blue


def read_auth_token(path: str | None) -> str | None:
    """Returns the token in a file, or that of the environment; None if there is neither.

    Raises:
        UserError: The file cannot be read.
    """
    if path is None:
        return os.environ.get(connections.TOKEN_VARIABLE) or None
    return files.read_text(os.path.expanduser(path), "file of a token").strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    server: str = setting(REQUIRED, "HOST:PORT of TF Serving.", is_common=True)
    protocol: str = setting("rest", "Protocol of the requests.", choices=tuple(PROTOCOLS))
    model_name: str = setting("deeplab", "Name of the model on the server.", may_be_empty=False)
    model_version: int | None = config.model_version("the highest on the server")
    version_label: str | None = setting(
        None,
        "Label of a version, as models.config of TF Serving gives it, in place of model_version.",
        example="canary",
    )
    images: tuple[str, ...] = setting(
        REQUIRED,
        "Images: files, folders or quoted globs; several separated by commas.",
        is_path=True,
        is_common=True,
    )
    output_dir: str = config.output_dir()
    palette: str | None = setting(
        None,
        "File assets/palette.json of the export, for the colours of the classes and, with "
        "labels.txt beside it, for their names.",
        default_help="VOC's colours, and numbers",
        is_path=True,
    )
    batch_size: int = setting(1, "Number of images in a request.", at_least=1)
    max_image_pixels: int = config.max_image_pixels(image_files.MAX_PIXELS)
    timeout: float = setting(
        60.0,
        "Longest time for a request, from connecting to the last byte of the answer.",
        above=0,
        at_most=connections.LONGEST_TIMEOUT,
        unit="seconds",
    )
    max_answer_mib: float | None = setting(
        None,
        "Largest answer to a request that is read.",
        default_help="64 for each image in a request",
        above=0,
        unit="MiB",
    )
    tls: bool = setting(False, "Whether to connect with TLS and check the server's certificate.")
    ca_certificates: str | None = setting(
        None,
        "PEM file of the certificate authorities to trust.",
        default_help="those of the system",
        is_path=True,
    )
    auth_token_file: str | None = setting(
        None,
        "File of a token, which is sent with each request as `Authorization: Bearer TOKEN`.",
        default_help=f"the environment variable {connections.TOKEN_VARIABLE}",
        is_path=True,
    )


def main(arguments: Arguments) -> None:
    if arguments.protocol == "grpc":
        start_up.start_tensorflow()  # which the stubs of TF Serving import
    auth_token = read_auth_token(arguments.auth_token_file)
    host = arguments.server.rpartition(":")[0].strip("[]")
    if auth_token and not arguments.tls and host not in _LOCAL_HOSTS:
        print("warning: without --tls the token is sent unencrypted.", file=sys.stderr, flush=True)
    with Client(
        arguments.server,
        arguments.protocol,
        arguments.model_name,
        arguments.model_version,
        version_label=arguments.version_label,
        timeout=arguments.timeout,
        max_answer_mib=arguments.max_answer_mib or 64 * arguments.batch_size,
        tls=arguments.tls,
        ca_certificates=arguments.ca_certificates,
        auth_token=auth_token,
    ) as client:
        label_images(
            client,
            arguments.images,
            arguments.output_dir,
            palette=arguments.palette,
            batch_size=arguments.batch_size,
            max_image_pixels=arguments.max_image_pixels,
        )


if __name__ == "__main__":
    command_line.run(main, starts_tensorflow=False)
