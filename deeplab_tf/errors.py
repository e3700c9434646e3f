"""The one error that a user is meant to read, and the exit code of a training that was stopped."""

import contextlib
import os
import sys
from collections.abc import Iterator

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again to resume


class UserError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do.

    The commands print the message without a traceback and exit with 1.

    Example:

    >>> import deeplab_tf
    >>> deeplab_tf.build_model("v5", "mobilenet_v2", num_classes=21)
    Traceback (most recent call last):
    deeplab_tf.errors.UserError: version is 'v5'; it must be one of v1, v2, v3, v3plus.
    """


@contextlib.contextmanager
def extra_for(purpose: str, extra: str) -> Iterator[None]:
    """Turns a failed import of an optional package into a message that says how to install it.

    Args:
        purpose: What the packages are needed for, such as "Reading .mat files".
        extra: The extra of `setup.py` that installs them.

    Raises:
        UserError: An import failed because a package is not installed.

    Example:
        >>> with extra_for("Reading .mat files", extra="mat"):
        ...     import a_missing_package
        Traceback (most recent call last):
        deeplab_tf.errors.UserError: Reading .mat files needs the package a_missing_package, which \
is not installed: pip install 'deeplab_tf[mat]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise UserError(
            f"{purpose} needs the package {package}, which is not installed: "
            f"pip install 'deeplab_tf[{extra}]'"
        ) from error


@contextlib.contextmanager
def quiet_when_unread() -> Iterator[None]:
    """Ends the process without a traceback if nobody reads its output, as behind `| head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def shortened(text: str, max_length: int = 100) -> str:
    """Shortens a text that a user gave, for a message.

    >>> shortened("abcdef", 3)
    'abc...'
    """
    return text if len(text) <= max_length else f"{text[:max_length]}..."
