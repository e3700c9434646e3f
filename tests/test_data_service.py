"""A tf.data service and what reads through it."""

import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import data_service
from deeplab_tf.data import remote_data
from deeplab_tf.errors import UserError


@pytest.fixture(scope="module")
def command():
    """The command as a user runs it, and the address that it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deeplab_tf.data_service", "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        process.stdout.readline()
        yield process, re.search("--data_service=(.*)", process.stdout.readline())[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def training_batches(source, first: int) -> tf.data.Dataset:
    """Made as those of `input_pipeline.py`, from example `first` on."""
    shards, num_examples = source.shards("train"), source.num_examples["train"]

    def epoch_of_records(epoch):
        tf.random.set_seed(None)
        return tf.data.TFRecordDataset(shards).shuffle(num_examples, seed=epoch)

    def augment(number, record):
        draws = tf.random.stateless_uniform([3], [0, number])
        return {"number": number, "record": record, "draws": draws}

    epochs = tf.data.Dataset.range(first // num_examples, tf.int64.max)
    dataset = epochs.flat_map(epoch_of_records).skip(first % num_examples)
    dataset = dataset.enumerate(start=first).map(augment, tf.data.AUTOTUNE)
    return dataset.batch(3, drop_remainder=True)


# The second one is a run that resumes: it must not get batches of the first one.
@pytest.mark.parametrize("first", [0, 6])
def test_one_worker_gives_the_batches_of_the_pipeline_itself(command, tiny_records, first):
    dataset = training_batches(tiny_records, first)
    through = remote_data.through_service(dataset, command[1])
    assert through.element_spec == dataset.element_spec
    for batch, expected in zip(
        through.take(6).as_numpy_iterator(), dataset.take(6).as_numpy_iterator(), strict=True
    ):
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key])


def test_what_fails_on_a_worker_fails_here_with_its_message(command):
    def fail(number):
        with tf.control_dependencies([tf.debugging.Assert(number < 0, ["image_7 is bad"])]):
            return tf.identity(number)

    dataset = tf.data.Dataset.range(10).map(fail)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_7 is bad"):
        list(remote_data.through_service(dataset, command[1]))


def test_several_workers_give_every_example_of_an_epoch_once():
    def epoch_of_examples(epoch):
        return tf.data.Dataset.range(10).map(lambda example: (epoch, example))

    dataset = tf.data.Dataset.range(tf.int64.max).flat_map(epoch_of_examples).batch(2)
    with data_service.serve(port=0, workers=2) as address:
        batches = remote_data.through_service(dataset, f"grpc://{address}").take(200)
        epochs, examples = (np.concatenate(column) for column in zip(*batches.as_numpy_iterator()))
    seen = list(zip(epochs.tolist(), examples.tolist()))
    assert len(set(seen)) == len(seen) == 400
    # Two workers are each within an epoch; all epochs but the last ones are complete.
    assert np.sum(np.bincount(epochs) == 10) >= 30


def test_workers_join_a_dispatcher_that_runs_already():
    with data_service.serve(port=0) as address:
        with data_service.serve(dispatcher=f"grpc://{address}") as joined:
            assert joined == address
            dataset = tf.data.Dataset.range(10)
            through = remote_data.through_service(dataset, f"grpc://{address}")
            assert sorted(through.as_numpy_iterator()) == list(range(10))


@pytest.mark.parametrize("address", ["localhost:{}", "grpc://localhost:{}"])
def test_an_address_where_nothing_answers_is_one_message(free_port, address):
    address = address.format(free_port)
    with pytest.raises(UserError, match=f"--data_service={address}.*--port={free_port}"):
        remote_data.through_service(tf.data.Dataset.range(2), address)
    with pytest.raises(UserError, match=f"--dispatcher={address}"):
        with data_service.serve(dispatcher=address):
            pass


@pytest.mark.parametrize("address", ["localhost", "grpc://localhost", "grpc://localhost:http"])
def test_what_is_not_an_address_is_refused(address):
    with pytest.raises(UserError, match=f"--data_service={address} must be an address"):
        remote_data.through_service(tf.data.Dataset.range(2), address)


def test_a_port_that_is_taken_is_one_message():
    with data_service.serve(port=0) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(UserError, match=f"--port={port} cannot be used"):
            with data_service.serve(port):
                pass
    with data_service.serve(port) as again:  # it is free again at once
        assert again == address


def test_a_service_without_workers_is_refused():
    with pytest.raises(UserError, match="--workers=0"):
        with data_service.serve(port=0, workers=0):
            pass


def test_the_command_ends_cleanly_when_it_is_asked_to(command):
    process, _ = command
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120)[0] == "stopped\n"
    assert process.returncode == 0
