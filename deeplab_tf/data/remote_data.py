"""Reads a dataset through a tf.data service, whose machines do the work (`data_service.py`)."""

import socket

import tensorflow as tf

from deeplab_tf.errors import UserError

_SECONDS_TO_ANSWER = 5.0


def through_service(dataset: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """Lets a tf.data service compute a dataset, instead of this process.

    With one worker the elements are those of the dataset, in its order. Several workers share the
    dataset's source: if that is the range of the epochs, each takes one whole epoch after the
    other, no epoch is seen twice, and their order depends on which worker is faster. What follows
    the source, a `skip` above all, happens on each worker.

    The graph of the dataset runs on the workers: they must find its files under the same paths.

    Args:
        dataset: An endless dataset.
        address: Of the dispatcher, `grpc://host:port`.

    Returns:
        Dataset of the same elements.

    Raises:
        UserError: The address is malformed, or nothing answers there.
    """
    check_answers(address, "data_service")
    # Without a job name, the job is this iterator's own. A name that was used before would continue
    # where the earlier run had stopped, with the earlier run's dataset.
    return dataset.apply(
        tf.data.experimental.service.distribute(
            tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            address,
            compression=None,  # compressing images takes longer than sending them
        )
    )


def check_answers(address: str, flag: str) -> None:
    """Raises a `UserError` that names the flag, unless something answers at `[grpc://]host:port`.

    TensorFlow itself would try again for an hour.
    """
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    if not (host and port.isdigit()):
        raise UserError(f"--{flag}={address} must be an address such as grpc://localhost:5050.")
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--{flag}={address}: nothing answers there ({error}). Start the service with `python "
            f"-m deeplab_tf.data_service --port={port}` on {host}, or correct the address."
        ) from error
