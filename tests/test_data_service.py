"""A tf.data service and what reads through it."""

import importlib.util
import itertools
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import batch_service
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import record_order
from deeplab_tf.data import remote_data
from deeplab_tf.data import transforms
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


def training_batches(source, start_step=0, service="", count=6):
    dataset = input_pipeline.training_batches(
        record_order.TrainingSet([source], "train"),
        transforms.TrainingCrop((65, 49), 255),
        batch_size=3,
        start_step=start_step,
        data_service=service,
    )
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        for key in other:
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.fixture
def without_numba(monkeypatch):
    """The pipeline in this process is the graph that a service runs."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


# The second one is a run that resumes: it must not get batches of the first one.
@pytest.mark.parametrize("start_step", [0, 2])
def test_a_service_gives_the_batches_of_the_pipeline_itself(
    command, tiny_records, without_numba, start_step
):
    through = training_batches(tiny_records, start_step, command[1])
    assert_equal(through, training_batches(tiny_records, start_step))


def test_what_fails_on_a_worker_fails_here_with_its_message(command):
    def fail(step):
        with tf.control_dependencies([tf.debugging.Assert(step < 0, ["image_7 is bad"])]):
            return {"step": step, "value": step}

    dataset = tf.data.Dataset.range(10).map(fail)
    with pytest.raises(tf.errors.OpError, match="image_7 is bad"):
        list(remote_data.through_service(dataset, command[1], first_step=0))


def test_several_workers_give_every_batch_once_and_in_order():
    def batch(step):
        return {"step": step, "value": 2 * step}

    dataset = tf.data.Dataset.range(5, tf.int64.max).map(batch)
    with batch_service.serve(port=0, workers=2) as address:
        through = remote_data.through_service(dataset, f"grpc://{address}", first_step=5)
        values = [int(batch["value"]) for batch in through.take(200)]
    assert values == list(range(10, 410, 2))


def test_a_batch_that_never_comes_is_one_message():
    steps = ({"step": step} for step in itertools.count(1))
    with pytest.raises(UserError, match="lost the batch of step 0"):
        list(remote_data.in_order(steps, 0))


def test_workers_join_a_dispatcher_that_runs_already():
    dataset = tf.data.Dataset.range(10).map(lambda step: {"step": step, "value": step})
    with batch_service.serve(port=0) as address:
        with batch_service.serve(dispatcher=f"grpc://{address}") as joined:
            assert joined == address
            through = remote_data.through_service(dataset, f"grpc://{address}", first_step=0)
            assert [int(batch["value"]) for batch in through] == list(range(10))


@pytest.mark.parametrize("address", ["localhost:{}", "grpc://localhost:{}"])
def test_an_address_where_nothing_answers_is_one_message(free_port, address):
    address = address.format(free_port)
    with pytest.raises(UserError, match=f"--data_service={address}.*--port={free_port}"):
        remote_data.through_service(tf.data.Dataset.range(2), address, first_step=0)
    with pytest.raises(UserError, match=f"--dispatcher={address}"):
        with batch_service.serve(dispatcher=address):
            pass


@pytest.mark.parametrize("address", ["localhost", "grpc://localhost", "grpc://localhost:http"])
def test_what_is_not_an_address_is_refused(address):
    with pytest.raises(UserError, match=f"--data_service={address} must be an address"):
        remote_data.through_service(tf.data.Dataset.range(2), address, first_step=0)


def test_a_port_that_is_taken_is_one_message():
    with batch_service.serve(port=0) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(UserError, match=f"--port={port} cannot be used"):
            with batch_service.serve(port):
                pass
    with batch_service.serve(port) as again:  # it is free again at once
        assert again == address


def test_a_service_without_workers_is_refused():
    with pytest.raises(UserError, match="--workers=0"):
        with batch_service.serve(port=0, workers=0):
            pass


def test_the_command_ends_cleanly_when_it_is_asked_to(command):
    process, _ = command
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120)[0] == "stopped\n"
    assert process.returncode == 0
