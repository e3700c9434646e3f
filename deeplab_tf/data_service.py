"""Prepares training batches on this machine for a training on another.

    python -m deeplab_tf.data_service --host=HOST --port=5050

Runs a tf.data service: a dispatcher and workers that decode and augment for `deeplab_tf.train
--data_service=grpc://HOST:5050`. HOST is the name of this machine in the network. The machine needs
the records under the same path as the trainer. To add workers on another machine, start it there
with --host=OTHER_HOST --dispatcher=HOST:5050. Ctrl-C ends it.

Anyone who can reach the ports can run computations on this machine: keep them inside a trusted
network.
"""

import dataclasses
import signal
import threading

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.settings import setting

serve = command_line.lazy_function("deeplab_tf.data.batch_service", "serve")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    port: int = setting(
        5050,
        "Port of the dispatcher. 0: any free port.",
        at_least=0,
        at_most=65535,
        is_common=True,
    )
    workers: int = setting(
        1, "Number of workers in this process. One already uses all cores.", at_least=1
    )
    dispatcher: str = setting(
        "",
        "HOST:PORT of a running dispatcher for the workers to join.",
        default_help="a dispatcher is started here",
        is_common=True,
    )
    host: str = setting(
        "localhost",
        "Name or address under which the trainer reaches this machine.",
        may_be_empty=False,
        is_common=True,
    )


def main(arguments: Arguments) -> None:
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # a trainer on this machine wants them whole
    stopped = threading.Event()
    with serve(**dataclasses.asdict(arguments)) as address:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        print(f"The dispatcher is {address}. Workers in this process: {arguments.workers}.")
        print(f"Train with --data_service=grpc://{address}", flush=True)
        stopped.wait()
    print("stopped")


if __name__ == "__main__":
    command_line.run(main)
