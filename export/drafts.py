"""A single exported file, which appears under its name only when it is whole and proved."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from deeplab_tf.errors import UserError


def check(output: str, suffix: str) -> None:
    """Lets a name through that can be written to, so that nobody waits for one that cannot.

    Args:
        output: The file.
        suffix: What it must end in, such as ".tflite".

    Raises:
        UserError: It cannot be written.
    """
    if not output.endswith(suffix) or os.path.isdir(output):
        raise UserError(f"--output={output} is no name of a file that ends in {suffix}.")
    folder = os.path.dirname(os.path.realpath(output))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(f"--output={output} cannot be written: {folder} is no folder to write to.")


def report_path(output: str) -> str:
    """Returns where the figures of a file lie: FILE.parity.json."""
    return os.path.splitext(output)[0] + ".parity.json"


@contextlib.contextmanager
def draft(output: str, content: bytes) -> Iterator[str]:
    """Writes a file under another name, and gives it its own when the block ends well.

    Args:
        output: The file; one that is there already is replaced.
        content: What it holds.

    Yields:
        The draft. The block proves it, and writes its report at the draft's `report_path`.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        # Beside the final place, since a rename is only atomic within one file system.
        parent = os.path.dirname(os.path.realpath(output))
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".new_export_") as folder:
            path = os.path.join(folder, os.path.basename(output))
            with open(path, "wb") as file:
                file.write(content)
            yield path
            os.replace(report_path(path), report_path(output))
            os.replace(path, output)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written: {error}.") from error
