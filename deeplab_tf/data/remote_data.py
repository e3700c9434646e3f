"""Reads a dataset through a tf.data service, whose machines do the work (`data_service.py`)."""

import socket
from collections.abc import Iterable
from collections.abc import Iterator

import tensorflow as tf

from deeplab_tf.errors import UserError

_SECONDS_TO_ANSWER = 5.0
_MAX_WAITING = 100  # batches that came before one of an earlier step


def through_service(dataset: tf.data.Dataset, address: str, *, first_step: int) -> tf.data.Dataset:
    """Lets a tf.data service compute the batches of a training, instead of this process.

    Each worker of the service takes one element after the other of the dataset's source, so that
    several share the work. Here their batches are put in order again.

    The graph of the dataset runs on the workers: they must find its files under the same paths.

    Args:
        dataset: An endless dataset of dicts with `step`, int64 [], which begins with a range and
          gives one batch for each of its elements.
        address: Of the dispatcher, `grpc://host:port`.
        first_step: The smallest of the steps, which follow each other.

    Returns:
        Dataset of the same elements in the order of their steps, without these.

    Raises:
        UserError: The address is malformed, or nothing answers there.
    """
    check_answers(address, "data_service")
    # Without a job name, the job is this iterator's own. A name that was used before would continue
    # where the earlier run had stopped, with the earlier run's dataset.
    remote = dataset.apply(
        tf.data.experimental.service.distribute(
            tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            address,
            compression=None,  # compressing images takes longer than sending them
        )
    )
    signature = dict(dataset.element_spec)
    del signature["step"]
    return tf.data.Dataset.from_generator(
        lambda: in_order(remote, first_step), output_signature=signature
    )


def in_order(batches: Iterable[dict], step: int) -> Iterator[dict]:
    """Yields batches in the order of their steps, from a step on.

    Raises:
        UserError: A step does not come: its worker has ended.
    """
    waiting = {}
    try:
        for batch in batches:
            waiting[int(batch.pop("step"))] = batch
            while step in waiting:
                yield waiting.pop(step)
                step += 1
            if len(waiting) > _MAX_WAITING:
                raise UserError(
                    f"The data service has lost the batch of step {step}: one of its workers "
                    "ended, or is far slower than the others. Run the same command again."
                )
    except tf.errors.NotFoundError as error:
        raise UserError(
            f"The data service lost this run, or does not find the records under the same path "
            f"({error.message.splitlines()[0]}). Run the same command again."
        ) from error


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
