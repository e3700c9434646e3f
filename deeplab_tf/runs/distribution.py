"""The devices and processes that a run trains on."""

import functools
import json
import math
import os
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened


def get_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the `tf.distribute` strategy of a name; a second call returns the same object.

    With several workers, this must be the first use of TensorFlow in the process.

    Args:
        name: "one_device": the first GPU, or the CPU. "mirrored": all local GPUs, or all logical
            CPU devices. "multi_worker": the devices of all processes in TF_CONFIG. "tpu": the TPU
            of TPU_NAME, or the local one; it follows TensorFlow's documentation and was never run.
            "auto": tpu if there is one, multi_worker if TF_CONFIG is set, mirrored if there is
            more than one GPU, otherwise one device.

    Returns:
        The strategy.

    Raises:
        UserError: There is no strategy of this name, or what it needs is missing.
    """
    strategies = {
        "one_device": _one_device,
        "mirrored": _mirrored,
        "multi_worker": _multi_worker,
        "tpu": _tpu,
    }
    if name == "auto":
        name = _automatic()
    if name not in strategies:
        raise UserError(f"--strategy={name} must be one of auto, {', '.join(strategies)}.")
    workers = num_workers()
    if workers > 1 and name != "multi_worker":
        raise UserError(
            f"--strategy={name}, but TF_CONFIG names {workers} workers: give "
            "--strategy=multi_worker, or unset TF_CONFIG."
        )
    return strategies[name]()


def num_workers() -> int:
    """Returns how many processes train together."""
    return _cluster()[0]


def worker_index() -> int:
    """Returns which of the workers this process is, counted from 0."""
    return _cluster()[1]


def is_chief() -> bool:
    """Whether this process is the worker that writes the run dir."""
    return worker_index() == 0


def of_all_workers(value: int) -> list[int]:
    """Returns the values of all workers; every worker has to call this."""
    if num_workers() == 1:
        return [int(value)]
    return _gather()(tf.constant([int(value)], tf.int64)).numpy().tolist()


def texts_of_all_workers(text: str) -> list[str]:
    """Returns the texts of all workers; every worker has to call this."""
    workers = num_workers()
    if workers == 1:
        return [text]
    content = text.encode()
    replicas = _multi_worker().num_replicas_in_sync // workers
    sizes = of_all_workers(len(content))[::replicas]
    # One length for all, of which there are few: each is compiled for.
    length = 8 * 2 ** math.ceil(math.log2(max(1, max(sizes) / 8)))
    padded = np.frombuffer(content.ljust(length), np.int64)
    gathered = _gather()(tf.constant(padded[np.newaxis])).numpy()[::replicas]
    return [row.tobytes()[:size].decode() for row, size in zip(gathered, sizes, strict=True)]


def local_devices(strategy: tf.distribute.Strategy) -> list[str]:
    """Returns the devices of a strategy that this process computes on."""
    return list(strategy.extended.worker_devices)


def distribute_batches(
    strategy: tf.distribute.Strategy, make_batches: Callable[[tuple[int, int]], tf.data.Dataset]
) -> Iterator:
    """Returns an iterator that gives every replica its part of every batch.

    Args:
        strategy: The strategy.
        make_batches: Function that returns one of several equal parts of every batch: of (2, 4),
            for example, the third quarter. It returns a dataset of dicts of tensors [B / parts,
            ...]. B must be a multiple of the number of replicas. Every worker asks for its own
            part only.

    Returns:
        Iterator of distributed batches of [B / replicas, ...].
    """
    if num_workers() == 1:
        return iter(strategy.experimental_distribute_dataset(make_batches((0, 1))))

    # TensorFlow's own sharding may distribute files, or whole batches, instead of parts of one.
    def parts_of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        here = strategy.num_replicas_in_sync // workers

        def parts(batch):
            return tf.data.Dataset.from_tensor_slices(
                {
                    name: tf.reshape(values, [here, values.shape[0] // here, *values.shape[1:]])
                    for name, values in batch.items()
                }
            )

        batches = make_batches((context.input_pipeline_id, workers))
        return batches.flat_map(parts).prefetch(tf.data.AUTOTUNE)

    return iter(strategy.distribute_datasets_from_function(parts_of_worker))


def _automatic() -> str:
    if os.environ.get("TF_CONFIG"):  # before devices are listed, which initializes TensorFlow
        return "multi_worker"
    if _has_tpu():
        return "tpu"
    return "mirrored" if len(tf.config.list_logical_devices("GPU")) > 1 else "one_device"


@functools.cache
def _one_device() -> tf.distribute.Strategy:
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else "/cpu:0")


@functools.cache
def _mirrored() -> tf.distribute.Strategy:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@functools.cache
def _multi_worker() -> tf.distribute.Strategy:
    if not os.environ.get("TF_CONFIG"):
        raise UserError(
            "--strategy=multi_worker needs the environment variable TF_CONFIG, which names the "
            "workers. python -m deeplab_tf.supervise --workers=N sets it."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise UserError(
            f"The workers of TF_CONFIG={os.environ['TF_CONFIG']} cannot connect: "
            f"{error.message.splitlines()[0]}. Start every worker, on a free port of an address "
            "that the others can reach."
        ) from error


@functools.cache
def _tpu() -> tf.distribute.Strategy:
    if not _has_tpu():
        raise UserError(
            "--strategy=tpu, but this machine has no TPU. Name one in the environment variable "
            "TPU_NAME, or give --strategy=auto."
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=os.environ.get("TPU_NAME", "local")
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise UserError(
            f"The TPU {os.environ.get('TPU_NAME', 'of this machine')} does not answer: "
            f"{str(error).splitlines()[0]}. A TPU needs the tensorflow-tpu package."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


@functools.cache
def _gather():
    strategy = _multi_worker()

    @tf.function
    def gather(value):
        everywhere = strategy.run(lambda value: value, args=(value,))
        return strategy.gather(everywhere, axis=0)

    return gather


def _has_tpu() -> bool:
    return bool(os.environ.get("TPU_NAME") or tf.config.list_physical_devices("TPU"))


# The errors for JSON of another shape, or with wrong numbers.
_NOT_A_CLUSTER = (
    AttributeError, LookupError, TypeError, ArithmeticError, ValueError, RecursionError,
)  # fmt: skip


def _cluster() -> tuple[int, int]:
    """The number of workers in TF_CONFIG, and the index of this process."""
    text = os.environ.get("TF_CONFIG") or '{"cluster": {"worker": ["here"]}}'
    try:
        config = json.loads(text)
        chiefs, workers = (config["cluster"].get(kind, []) for kind in ("chief", "worker"))
        task = config.get("task", {"type": "worker", "index": 0})
        index = int(task["index"]) + (len(chiefs) if task["type"] == "worker" else 0)
        if not 0 <= index < len(chiefs) + len(workers):
            raise ValueError(f"there is no task {task}")
    except _NOT_A_CLUSTER as error:
        raise UserError(
            f"TF_CONFIG={shortened(text)} does not describe this worker ({error!r:.100}). An "
            'example: {"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
            '"task": {"type": "worker", "index": 0}}; deeplab_tf.supervise sets it.'
        ) from error
    return len(chiefs) + len(workers), index
